//! Alignment of stored predictions.

use serde_json::Value;

use super::sandbox::{Sandbox, fixture, ply};

/// A sandbox with the folder `pair` of stored predictions.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("two_view", "pair");
    sandbox
}

#[test]
fn a_folder_of_predictions_becomes_cameras_depths_and_a_cloud() {
    let sandbox = sandbox();
    let outputs =
        "-o cloud.ply --cameras cameras.json --depth maps --depth-tensors depths.safetensors";
    let outcome = sandbox.succeed(&format!("align pair {outputs} --min-confidence 2 --json"));
    outcome.assert_says("2 of 2 images placed, by 1 of 1 pairs");

    let summary = outcome.json();
    assert_eq!(summary["pairs"][0]["verdict"], "used");
    assert_eq!(summary["views"][1]["placed"], true);
    assert!(
        summary["views"][1]["inlier_share"].as_f64().unwrap() > 0.8,
        "{summary}"
    );
    let kept = summary["points"]["kept"].as_u64().unwrap() as usize;
    assert!(kept > 128 * 96 && kept < 2 * 128 * 96, "{summary}");
    assert_eq!(ply(&sandbox.read("cloud.ply")).positions.len(), kept);

    let cameras = sandbox.json("cameras.json");
    assert_eq!(cameras["depths"], "depths.safetensors");
    for image in cameras["images"].as_array().unwrap() {
        assert_eq!((&image["width"], &image["cx"]), (&128.into(), &63.5.into()));
        assert!(image["world_from_camera"].is_array());
    }
    let depths = sandbox.read("depths.safetensors");
    let depths = safetensors::SafeTensors::deserialize(&depths).unwrap();
    assert_eq!(depths.tensor("000.png.depth").unwrap().shape(), [96, 128]);
    assert_eq!(
        depths.tensor("001.png.confidence").unwrap().shape(),
        [96, 128]
    );
    assert!(sandbox.path("maps/001.depth.npy").is_file());
}

#[test]
fn one_run_writes_a_scene_for_several_programs() {
    let sandbox = sandbox();
    let outcome = sandbox
        .succeed("align pair -o cloud.glb -o a.ply -o poses.txt -o model --format colmap --json");
    let summary = outcome.json();
    assert_eq!(
        summary["outputs"]["cloud"],
        serde_json::json!(["cloud.glb", "a.ply"])
    );
    assert_eq!(summary["outputs"]["colmap"], "model");
    let export = |format: &str| {
        let exports = summary["exports"].as_array().unwrap();
        exports
            .iter()
            .find(|export| export["format"] == format)
            .unwrap_or_else(|| panic!("{summary}"))
    };
    assert_eq!(
        (&export("tum")["poses"], &export("colmap")["images"]),
        (&2.into(), &2.into())
    );
    assert!(
        export("colmap")["points"].as_u64().unwrap() > 200,
        "{summary}"
    );
    assert!(
        export("colmap")["mean_error_px"].as_f64().unwrap() < 1.0,
        "{summary}"
    );
    for name in ["cameras.bin", "images.bin", "points3D.bin"] {
        assert!(
            sandbox.path("model/sparse/0").join(name).is_file(),
            "{name}"
        );
    }
    let image = image::load_from_memory(&sandbox.read("model/images/001.png")).unwrap();
    assert_eq!((image.width(), image.height()), (128, 96));

    // The images just written are files to link to.
    let line = "align pair -o nerf --format nerfstudio --images model/images --no-refine";
    sandbox.succeed(line);
    let place = sandbox.path("nerf/images/000.png");
    assert_eq!(
        std::fs::symlink_metadata(&place).unwrap().is_symlink(),
        cfg!(unix)
    );
    assert_eq!(
        sandbox.read("nerf/images/000.png"),
        sandbox.read("model/images/000.png")
    );
    assert_eq!(
        sandbox.json("nerf/transforms.json")["frames"][1]["fl_x"].as_f64(),
        summary["views"][1]["focal"].as_f64()
    );
    sandbox.succeed(
        "align pair -o copied --format colmap-text --images model/images --copy-images --no-refine",
    );
    assert!(
        !std::fs::symlink_metadata(sandbox.path("copied/images/000.png"))
            .unwrap()
            .is_symlink()
    );

    let plain = "align pair -o plain.glb --no-frustums";
    sandbox.succeed(plain);
    assert!(sandbox.read("plain.glb").len() < sandbox.read("cloud.glb").len());
}

#[test]
fn outputs_that_cannot_be_are_refused_before_anything_is_written() {
    let sandbox = sandbox();
    sandbox.refuse(
        "align pair -o model",
        2,
        &["model", "no extension", "colmap"],
    );
    sandbox.refuse(
        "align pair -o model --format obj",
        2,
        &["unknown format obj", "nerfstudio"],
    );
    sandbox.refuse(
        "align pair -o cloud.ply --format colmap",
        2,
        &["--format colmap", "extension"],
    );
    sandbox.refuse(
        "align pair -o model --format colmap --copy-images",
        2,
        &["--images"],
    );
    sandbox.refuse(
        "align pair -o model --format colmap --images nowhere",
        3,
        &["nowhere/000.png", "no such file"],
    );
    sandbox.copy("images/odd_161x107.png", "000.png");
    sandbox.copy("images/odd_161x107.png", "001.png");
    let parts = ["000.png", "161x107", "128x96"];
    sandbox.refuse("align pair -o model --format colmap --images .", 2, &parts);
    sandbox.succeed("align pair -o model --format colmap");
    let parts = ["model/sparse/0", "a model is there already"];
    sandbox.refuse(
        "align pair -o cloud.ply -o model --format colmap",
        2,
        &parts,
    );
}

#[test]
fn a_model_for_colmap_holds_what_the_cameras_file_says() {
    let sandbox = sandbox();
    sandbox
        .succeed("align pair -o model --format colmap-text --cameras cameras.json --consistency 2 --min-confidence 3 --separate-cameras");
    let text = |name: &str| {
        String::from_utf8(sandbox.read(&format!("model/sparse/0/{name}.txt"))).unwrap()
    };
    let lines = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.split(' ').map(String::from).collect())
            .collect()
    };
    let number = |text: &String| text.parse::<f64>().unwrap();
    let cameras = lines(&text("cameras"));
    assert_eq!(
        (cameras.len(), &cameras[1][..4]),
        (2, &["2", "PINHOLE", "128", "96"].map(String::from)[..])
    );
    assert_eq!(cameras[0][6..], ["64", "48"]);

    let (images, points) = (lines(&text("images")), lines(&text("points3D")));
    assert_eq!(
        (images.len(), &images[0][9], &images[2][8]),
        (4, &"000.png".to_string(), &"2".to_string())
    );
    assert!(points.len() > 200, "{} points", points.len());
    let json = sandbox.json("cameras.json");
    let (mut gaps, mut observations) = (0.0, 0.0);
    for point in &points {
        let [x, y, z] = [1, 2, 3].map(|column| number(&point[column]));
        let track = point[8..].as_chunks::<2>().0;
        assert_eq!(track.len(), 2);
        for [image, place] in track {
            let (image, place) = (number(image) as usize - 1, number(place) as usize);
            let keypoint = &images[2 * image + 1][3 * place..][..3];
            assert_eq!(keypoint[2], point[0]);
            // The point of the world is seen at its keypoint, half a pixel from where our pixels
            // count from.
            let pose = &json["images"][image]["world_from_camera"];
            let value = |row: usize, column: usize| pose[row][column].as_f64().unwrap();
            let apart = [x - value(0, 3), y - value(1, 3), z - value(2, 3)];
            let seen =
                [0, 1, 2].map(|axis| (0..3).map(|row| value(row, axis) * apart[row]).sum::<f64>());
            let focal = json["images"][image]["fx"].as_f64().unwrap();
            let pixel = [
                focal * seen[0] / seen[2] + 64.0,
                focal * seen[1] / seen[2] + 48.0,
            ];
            let gap = (pixel[0] - number(&keypoint[0])).hypot(pixel[1] - number(&keypoint[1]));
            assert!(gap <= 3.0, "{point:?}: {gap} px");
            (gaps, observations) = (gaps + gap, observations + 1.0);
        }
    }
    assert!(
        gaps / observations < 0.5,
        "{} px on average",
        gaps / observations
    );
}

#[test]
fn known_cameras_are_taken_from_a_file_and_kept() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras first.json");
    sandbox.succeed("align pair --cameras second.json --intrinsics first.json --poses first.json");
    let [first, second] = ["first.json", "second.json"].map(|name| sandbox.json(name));
    for (first, second) in first["images"]
        .as_array()
        .unwrap()
        .iter()
        .zip(second["images"].as_array().unwrap())
    {
        assert_eq!([&first["fx"], &first["fy"]], [&second["fx"], &second["fy"]]);
        // A matrix of a rotation and the rotation that is made of it differ by rounding.
        let pose = |image: &Value| -> Vec<f64> {
            let rows: Vec<Vec<f64>> =
                serde_json::from_value(image["world_from_camera"].clone()).unwrap();
            rows.concat()
        };
        assert!(
            pose(first)
                .iter()
                .zip(pose(second))
                .all(|(a, b)| (a - b).abs() < 1e-12),
            "{first}\n{second}"
        );
    }
    sandbox.refuse(
        "align pair --cameras c.json --poses none.json",
        3,
        &["none.json", "no such file"],
    );
    sandbox.refuse(
        "align pair --cameras first.json --poses first.json",
        2,
        &["first.json", "it is an input"],
    );
    let renamed = String::from_utf8(sandbox.read("first.json"))
        .unwrap()
        .replace(".png", ".jpg");
    sandbox.write("other.json", renamed);
    sandbox.refuse(
        "align pair --cameras c.json --intrinsics other.json",
        3,
        &[
            "other.json",
            "it has nothing on these images (000.png and 1 more); it lists 000.jpg and 1 more",
        ],
    );
}

#[test]
fn known_cameras_are_taken_from_a_colmap_model() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras first.json -o model --format colmap");
    sandbox.succeed("align pair --cameras second.json --intrinsics model --poses model/sparse/0");
    let [first, second] = ["first.json", "second.json"].map(|name| sandbox.json(name));
    for view in 0..2 {
        let [first, second] = [&first, &second].map(|cameras| &cameras["images"][view]);
        let values = |image: &Value| -> Vec<f64> {
            let rows: Vec<Vec<f64>> =
                serde_json::from_value(image["world_from_camera"].clone()).unwrap();
            let focal = image["fx"].as_f64().unwrap();
            rows.concat().into_iter().chain([focal]).collect()
        };
        assert!(
            values(first)
                .iter()
                .zip(values(second))
                .all(|(a, b)| (a - b).abs() < 1e-9),
            "{first}\n{second}"
        );
    }
    sandbox.succeed("align pair --cameras third.json --poses model --pose-mode init");
    assert_ne!(sandbox.json("third.json")["images"][1], first["images"][1]);

    // A model with an image more, in a folder as COLMAP has them, without points.
    std::fs::create_dir(sandbox.path("text")).unwrap();
    sandbox.write("text/cameras.txt", "1 SIMPLE_RADIAL 128 96 110 64 48 0.1\n");
    let images = |names: [&str; 2]| {
        names
            .map(|name| format!("1 1 0 0 0 0 0 0 1 {name}\n\n"))
            .concat()
    };
    sandbox.write(
        "text/images.txt",
        images(["left/000.png", "left/other.png"]),
    );
    let outcome = sandbox.succeed("align pair --cameras fourth.json --poses text");
    outcome.assert_says("--poses: no image is named left/other.png\n");
    let line = "align pair --cameras c.json";
    // What is radial is for the refinement alone, and the rest for nothing.
    sandbox.refuse(
        &format!("{line} --intrinsics text"),
        3,
        &[
            "text: 000.png: its camera has lens distortion",
            "--no-refine",
        ],
    );
    sandbox.write("text/cameras.txt", "1 FOV 128 96 110 110 64 48 0.1\n");
    sandbox.refuse(
        &format!("{line} --intrinsics text"),
        3,
        &[
            "text: left/000.png: its camera (FOV) has distortion",
            "undistort first",
        ],
    );
    sandbox.write("text/cameras.txt", "1 PINHOLE 128 128 110 110 64 64\n");
    sandbox.refuse(
        &format!("{line} --intrinsics text"),
        3,
        &["is of 128x128 pixels, and the image has 128x96"],
    );
    sandbox.write("text/images.txt", images(["a.png", "b.png"]));
    sandbox.refuse(
        &format!("{line} --poses text"),
        3,
        &["text: it has nothing on these images"],
    );
    sandbox.write("text/images.txt", "one two\n");
    sandbox.refuse(
        &format!("{line} --poses text"),
        3,
        &[
            "text/images.txt: line 1: expected IMAGE_ID QW QX",
            "found \"one two\"",
        ],
    );
    sandbox.refuse(
        &format!("{line} --poses pair"),
        3,
        &["pair: not a COLMAP model"],
    );
    sandbox.refuse(&format!("{line} --pose-mode init"), 2, &["--poses"]);
}

#[test]
fn known_numbers_are_for_all_images() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras cameras.json --intrinsics 110,112,60,50");
    for image in sandbox.json("cameras.json")["images"].as_array().unwrap() {
        let number = |name: &str| image[name].as_f64().unwrap();
        assert_eq!(
            ["fx", "fy", "cx", "cy"].map(number),
            [110.0, 112.0, 60.0, 50.0]
        );
    }
    sandbox.succeed("align pair --cameras second.json --intrinsics 110");
    assert_eq!(sandbox.json("second.json")["images"][1]["fx"], 110.0);
    let line = "align pair --cameras c.json";
    sandbox.refuse(
        &format!("{line} --intrinsics 110 --shared-focal"),
        2,
        &["--shared-focal", "cannot be used with"],
    );
    sandbox.refuse(
        &format!("{line} --intrinsics 110,112"),
        2,
        &["2 numbers; give F or FX,FY,CX,CY"],
    );
    sandbox.refuse(
        &format!("{line} --intrinsics -110"),
        2,
        &["from 3 to 12800; got -110"],
    );
    sandbox.refuse(
        &format!("{line} --intrinsics nothing"),
        3,
        &["nothing: no such file"],
    );
    let scene = std::fs::read_to_string(sandbox.path("pair/scene.json")).unwrap();
    let mut scene: Value = serde_json::from_str(&scene).unwrap();
    let size = |factor: u32| {
        serde_json::json!({
            "file_width": 128 * factor, "file_height": 96 * factor, "resized_width": 128, "resized_height": 96,
            "left": 0, "top": 0, "width": 128, "height": 96,
        })
    };
    (scene["images"][0]["crop"], scene["images"][1]["crop"]) = (size(2), size(3));
    sandbox.write("pair/scene.json", scene.to_string());
    sandbox.refuse(
        &format!("{line} --intrinsics 220"),
        2,
        &["000.png (256x192) and 001.png (384x288)", "in pixels"],
    );
    scene["images"][1]["crop"] = size(2);
    sandbox.write("pair/scene.json", scene.to_string());
    sandbox.succeed("align pair --cameras third.json --intrinsics 220");
    assert_eq!(sandbox.json("third.json")["images"][1]["fx"], 110.0);
}

/// A folder `photos` with black files of both images.
fn add_black_photos(sandbox: &Sandbox) {
    std::fs::create_dir(sandbox.path("photos")).unwrap();
    for name in ["000.png", "001.png"] {
        image::RgbImage::new(128, 96)
            .save(sandbox.path("photos").join(name))
            .unwrap();
    }
}

#[test]
fn cameras_stay_where_images_have_no_keypoints() {
    let sandbox = sandbox();
    add_black_photos(&sandbox);
    sandbox.succeed("align pair --cameras plain.json");
    let outcome =
        sandbox.succeed("align pair --cameras refined.json --images photos --refine --json");
    outcome.assert_says("cameras are not refined: fewer than two images");
    assert!(outcome.json()["refinement"]["refused"].is_string());
    assert_eq!(sandbox.json("plain.json"), sandbox.json("refined.json"));
}

#[test]
fn exif_is_read_from_the_images_and_what_lacks_it_is_named() {
    let sandbox = sandbox();
    add_black_photos(&sandbox);
    let outcome =
        sandbox.succeed("align pair --cameras plain.json --images photos --exif-focal -v");
    outcome.assert_says("photos/001.png: no FocalLengthIn35mmFilm");
    outcome.assert_says("--exif-focal: no image has FocalLengthIn35mmFilm");
    // One entry that leads to a directory of one, the focal length in 35 mm film: 32 mm, 118 pixels
    // of such an image.
    let exif = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\
        \x01\0\x05\xa4\x03\0\x01\0\0\0\x20\0\0\0\0\0\0\0";
    for name in ["000.png", "001.png"] {
        let mut png = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif.to_vec()).unwrap();
        image::RgbImage::new(128, 96)
            .write_with_encoder(encoder)
            .unwrap();
        sandbox.write(&format!("photos/{name}"), png);
    }
    let outcome =
        sandbox.succeed("align pair --cameras stated.json --images photos --exif-focal -v");
    outcome.assert_lacks("FocalLengthIn35mmFilm");
    let focal = |name: &str| sandbox.json(name)["images"][0]["fx"].as_f64().unwrap();
    let [plain, stated] = ["plain.json", "stated.json"].map(focal);
    assert!(
        plain != stated && (stated / plain - 1.0).abs() < 0.02,
        "{plain} and {stated}"
    );
    sandbox.refuse(
        "align pair --cameras c.json --exif-focal",
        2,
        &["--exif-focal", "--images"],
    );
    sandbox.refuse(
        "align pair --cameras c.json --refine",
        2,
        &["--refine", "--images"],
    );
    sandbox.refuse(
        "align pair --cameras c.json --images photos --no-refine",
        2,
        &["--images: it is for a scene"],
    );
}

#[test]
fn a_shared_focal_length_is_one() {
    let sandbox = sandbox();
    let outcome = sandbox.succeed(
        "align pair --cameras cameras.json -o model --format colmap-text --shared-focal --json",
    );
    let export = &outcome.json()["exports"][0];
    assert_eq!(
        (&export["images"], &export["cameras"]),
        (&2.into(), &1.into())
    );
    let text = |name: &str| {
        String::from_utf8(sandbox.read(&format!("model/sparse/0/{name}.txt"))).unwrap()
    };
    assert_eq!(
        text("cameras")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count(),
        1
    );
    for name in ["000.png", "001.png"] {
        assert_eq!(
            text("images")
                .lines()
                .filter(|line| line.ends_with(&format!(" 1 {name}")))
                .count(),
            1
        );
    }
    let cameras = sandbox.json("cameras.json");
    assert_eq!(cameras["images"][0]["fx"], cameras["images"][1]["fx"]);
    assert!(cameras.get("depths").is_none());
}

#[test]
fn images_of_one_size_share_a_focal_length_unless_their_cameras_are_separate() {
    let sandbox = sandbox();
    let focals = |options: &str| {
        sandbox.succeed(&format!("align pair --cameras cameras.json {options}"));
        let cameras = sandbox.json("cameras.json");
        [0, 1].map(|image| cameras["images"][image]["fx"].as_f64().unwrap())
    };
    let [shared, separate] = ["", "--separate-cameras"].map(focals);
    assert_eq!(shared[0], shared[1]);
    assert!(
        separate[0] != separate[1] && (separate[0] / separate[1] - 1.0).abs() < 0.05,
        "{separate:?}"
    );
    sandbox.refuse(
        "align pair --cameras c.json --shared-focal --separate-cameras",
        2,
        &["cannot be used with"],
    );
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let sandbox = sandbox();
    sandbox.refuse(
        "align nowhere -o cloud.ply",
        3,
        &["nowhere: no such folder"],
    );
    sandbox.refuse(
        "align pair/scene.json -o cloud.ply",
        3,
        &["pair/scene.json: it is a file; name a folder"],
    );
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.refuse(
        "align empty -o cloud.ply",
        3,
        &["empty: it holds no predictions; name a folder with scene.json"],
    );
    sandbox.refuse("align pair", 2, &["--output"]);
    sandbox.refuse(
        "align pair -o cloud.ply --cameras cloud.ply",
        2,
        &["cloud.ply", "named for two outputs"],
    );
    sandbox.refuse(
        "align pair --cameras pair/scene.json",
        2,
        &["pair/scene.json", "it is an input"],
    );
    sandbox.refuse("align pair -o - --json", 2, &["both want standard output"]);
    let scene = std::fs::read_to_string(fixture("golden/multiview/two_view/scene.json")).unwrap();
    for (from, to, parts) in [
        ("\"pairs\"", "\"others\"", &["pair/scene.json", "pairs"][..]),
        (
            "\"pairs\"",
            "\"pairs\": [], \"others\"",
            &["pair/scene.json: it lists no pairs"],
        ),
        (
            "\"pairs\"",
            "\"version\": 3, \"pairs\"",
            &[
                "pair/scene.json: is of layout 3",
                "use the program that made it",
            ],
        ),
    ] {
        sandbox.write("pair/scene.json", scene.replacen(from, to, 1));
        sandbox.refuse("align pair -o cloud.ply", 3, parts);
    }
}
