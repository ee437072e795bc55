//! Alignment of stored predictions.

use serde_json::Value;

use super::sandbox::{Sandbox, fixture, ply};

/// A sandbox with the folder `pair` of stored predictions.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("pair")).unwrap();
    for name in ["scene.json", "views.safetensors", "pairs.safetensors"] {
        sandbox.copy(&format!("golden/multiview/two_view/{name}"), &format!("pair/{name}"));
    }
    sandbox
}

#[test]
fn a_folder_of_predictions_becomes_cameras_depths_and_a_cloud() {
    let sandbox = sandbox();
    let outputs = "-o cloud.ply --cameras cameras.json --depth maps --depth-tensors depths.safetensors";
    let outcome = sandbox.succeed(&format!("align pair {outputs} --min-confidence 2 --json"));
    assert!(outcome.stderr.contains("2 of 2 pictures placed, by 1 of 1 pairs"), "{}", outcome.stderr);

    let summary = outcome.json();
    assert_eq!(summary["pairs"][0]["verdict"], "used");
    assert_eq!(summary["views"][1]["placed"], true);
    assert!(summary["views"][1]["inlier_share"].as_f64().unwrap() > 0.8, "{summary}");
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
    assert_eq!(depths.tensor("001.png.confidence").unwrap().shape(), [96, 128]);
    assert!(sandbox.path("maps/001.depth.npy").is_file());
}

#[test]
fn a_model_for_colmap_holds_what_the_cameras_file_says() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --colmap model --cameras cameras.json --consistency 2 --min-confidence 3");
    let text = |name: &str| String::from_utf8(sandbox.read(&format!("model/{name}.txt"))).unwrap();
    let lines = |text: &str| -> Vec<Vec<String>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(' ').map(String::from).collect()).collect()
    };
    let number = |text: &String| text.parse::<f64>().unwrap();
    let cameras = lines(&text("cameras"));
    assert_eq!((cameras.len(), &cameras[1][..4]), (2, &["2", "PINHOLE", "128", "96"].map(String::from)[..]));
    assert_eq!(cameras[0][6..], ["64", "48"]);

    let (images, points) = (lines(&text("images")), lines(&text("points3D")));
    assert_eq!((images.len(), &images[0][9], &images[2][8]), (4, &"000.png".to_string(), &"2".to_string()));
    assert!(points.len() > 500, "{} points", points.len());
    let json = sandbox.json("cameras.json");
    let mut in_two = 0;
    for point in &points {
        let [x, y, z] = [1, 2, 3].map(|column| number(&point[column]));
        let track = point[8..].as_chunks::<2>().0;
        in_two += usize::from(track.len() == 2);
        for [image, place] in track {
            let (image, place) = (number(image) as usize - 1, number(place) as usize);
            let keypoint = &images[2 * image + 1][3 * place..][..3];
            assert_eq!(keypoint[2], point[0]);
            // The point of the world is seen at its keypoint, half a pixel from where our pixels count from.
            let pose = &json["images"][image]["world_from_camera"];
            let value = |row: usize, column: usize| pose[row][column].as_f64().unwrap();
            let apart = [x - value(0, 3), y - value(1, 3), z - value(2, 3)];
            let seen = [0, 1, 2].map(|axis| (0..3).map(|row| value(row, axis) * apart[row]).sum::<f64>());
            let focal = json["images"][image]["fx"].as_f64().unwrap();
            let pixel = [focal * seen[0] / seen[2] + 64.0, focal * seen[1] / seen[2] + 48.0];
            let gap = (pixel[0] - number(&keypoint[0])).hypot(pixel[1] - number(&keypoint[1]));
            assert!(gap < 0.01, "{point:?}: {gap} px");
        }
    }
    assert!(in_two > points.len() / 4, "{in_two} of {} are seen twice", points.len());
}

#[test]
fn known_cameras_are_taken_from_a_file_and_kept() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras first.json");
    sandbox.succeed("align pair --cameras second.json --intrinsics first.json --poses first.json");
    let [first, second] = ["first.json", "second.json"].map(|name| sandbox.json(name));
    for (first, second) in first["images"].as_array().unwrap().iter().zip(second["images"].as_array().unwrap()) {
        assert_eq!([&first["fx"], &first["fy"]], [&second["fx"], &second["fy"]]);
        // A matrix of a rotation and the rotation that is made of it differ by rounding.
        let pose = |image: &Value| -> Vec<f64> {
            let rows: Vec<Vec<f64>> = serde_json::from_value(image["world_from_camera"].clone()).unwrap();
            rows.concat()
        };
        assert!(pose(first).iter().zip(pose(second)).all(|(a, b)| (a - b).abs() < 1e-12), "{first}\n{second}");
    }
    sandbox.refuse("align pair --cameras c.json --poses none.json", 3, &["none.json", "no such file"]);
    sandbox.refuse("align pair --cameras first.json --poses first.json", 2, &["first.json", "it is an input"]);
    let renamed = String::from_utf8(sandbox.read("first.json")).unwrap().replace(".png", ".jpg");
    sandbox.write("other.json", renamed);
    sandbox.refuse("align pair --cameras c.json --intrinsics other.json", 3, &["other.json", "knows them by name"]);
}

#[test]
fn a_shared_focal_length_is_one() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras cameras.json --shared-focal");
    let cameras = sandbox.json("cameras.json");
    assert_eq!(cameras["images"][0]["fx"], cameras["images"][1]["fx"]);
    assert!(cameras.get("depths").is_none());
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let sandbox = sandbox();
    sandbox.refuse("align nowhere -o cloud.ply", 3, &["nowhere/scene.json", "no such file"]);
    sandbox.refuse("align pair", 2, &["--output"]);
    sandbox.refuse("align pair -o cloud.ply --cameras cloud.ply", 2, &["cloud.ply", "named for two outputs"]);
    sandbox.refuse("align pair --cameras pair/scene.json", 2, &["pair/scene.json", "it is an input"]);
    sandbox.refuse("align pair -o - --json", 2, &["both want standard output"]);
    let scene = std::fs::read_to_string(fixture("golden/multiview/two_view/scene.json")).unwrap();
    sandbox.write("pair/scene.json", scene.replace("\"pairs\"", "\"others\""));
    sandbox.refuse("align pair -o cloud.ply", 3, &["pair/scene.json", "pairs"]);
}
