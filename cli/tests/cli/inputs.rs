//! Which files are inputs, and which image is which, from what people have: rigs of cameras whose
//! file names are equal, folders of phones, lists from Windows.

use std::fs;

use serde_json::Value;

use super::poses::{assert_equal_poses, gap, poses_by_name};
use super::sandbox::Sandbox;

/// What is about names needs no accurate cameras.
const SMALL: &str = "--model tiny --res 112 --no-refine";

/// Copies images of the demonstration, counted from 1, to these places.
fn place(sandbox: &Sandbox, places: &[(usize, &str)]) {
    for (number, place) in places {
        sandbox.copy_demo_as(*number, place);
    }
}

/// Two cameras that name their images alike.
fn rig() -> Sandbox {
    let sandbox = Sandbox::new();
    place(
        &sandbox,
        &[
            (1, "rig/left/0.jpg"),
            (2, "rig/left/1.jpg"),
            (3, "rig/right/0.jpg"),
            (4, "rig/right/1.jpg"),
        ],
    );
    sandbox
}

/// The folder `pair` of stored predictions of `000.png` and `001.png`.
pub fn predictions() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("two_view", "pair");
    sandbox
}

#[test]
fn images_of_equal_file_names_are_told_apart_by_their_folders() {
    let sandbox = rig();
    let line = "--model tiny --res 224 --no-refine --work work -q";
    sandbox.succeed(&format!(
        "reconstruct rig/left rig/right {line} --cameras 1.json --depth depth -o m --format colmap-text"
    ));
    let first = poses_by_name(&sandbox.json("1.json"));
    let mut names: Vec<&String> = first.keys().collect();
    names.sort();
    assert_eq!(
        names,
        ["left/0.jpg", "left/1.jpg", "right/0.jpg", "right/1.jpg"]
    );

    // The poses are those of the same images, in whatever order folders and list are.
    sandbox.succeed(&format!(
        "reconstruct rig/right rig/left {line} --cameras 2.json --poses 1.json"
    ));
    let second = poses_by_name(&sandbox.json("2.json"));
    assert_equal_poses(&first, &second, 1e-9);
    // Of one camera alone, whose images then have short names.
    sandbox.succeed(&format!(
        "reconstruct rig/right {line} --cameras 3.json --poses 1.json"
    ));
    let alone = poses_by_name(&sandbox.json("3.json"));
    assert!(gap(&first["right/0.jpg"], &alone["0.jpg"]) < 1e-9);

    // The model has the folders too, and so has what lies beside it.
    let images = String::from_utf8(sandbox.read("m/sparse/0/images.txt")).unwrap();
    assert!(
        names
            .iter()
            .all(|name| images.contains(&format!(" {name}\n"))),
        "{images}"
    );
    assert_eq!(
        sandbox.read("m/images/right/0.jpg"),
        sandbox.read("rig/right/0.jpg")
    );
    sandbox.succeed(&format!(
        "reconstruct rig/right rig/left {line} --cameras 4.json --poses m --intrinsics m"
    ));
    let by_model = poses_by_name(&sandbox.json("4.json"));
    assert_equal_poses(&first, &by_model, 1e-6);

    for image in sandbox.json("1.json")["images"].as_array().unwrap() {
        let name = image["name"].as_str().unwrap();
        assert_eq!(image["depth_file"], name.replace(".jpg", ".depth.npy"));
        assert!(
            sandbox
                .path("depth")
                .join(image["depth_file"].as_str().unwrap())
                .is_file(),
            "{name}"
        );
    }

    // The same names from the folder that was kept.
    sandbox.succeed(
        "align work -q --images rig -o n --format nerfstudio --cameras 5.json --poses 1.json",
    );
    assert!(
        poses_by_name(&sandbox.json("5.json"))
            .keys()
            .all(|name| first.contains_key(name))
    );
    let frames = sandbox.json("n/transforms.json")["frames"].clone();
    let path = frames[3]["file_path"].as_str().unwrap().to_owned();
    assert!(
        path.starts_with("images/right/") || path.starts_with("images/left/"),
        "{path}"
    );
    assert!(sandbox.path("n").join(path).exists());

    let line = format!("reconstruct rig/left rig/right {line} --cameras c.json");
    let entry = r#"{"name": "0.jpg", "width": 1, "height": 1}"#;
    sandbox.write("short.json", format!(r#"{{"images": [{entry}]}}"#));
    sandbox.refuse(
        &format!("{line} --poses short.json"),
        3,
        &["short.json: 0.jpg may be left/0.jpg or right/0.jpg"],
    );
    sandbox.write("pairs.txt", "left/0.jpg 0.jpg\n");
    sandbox.refuse(
        &format!("{line} --pairs pairs.txt"),
        3,
        &["0.jpg may be rig/left/0.jpg or rig/right/0.jpg"],
    );
}

#[test]
fn masks_are_for_the_images_of_their_folders_or_for_all() {
    let sandbox = rig();
    // The size of the demonstration's images; the upper half counts.
    let mask = image::GrayImage::from_fn(672, 504, |_, y| {
        image::Luma([if y < 252 { 255 } else { 0 }])
    });
    for name in ["masks/left", "masks/other", "short", "half"] {
        fs::create_dir_all(sandbox.path(name)).unwrap();
    }
    for name in [
        "masks/left/0.png",
        "masks/other/9.png",
        "short/0.png",
        "half/mask.png",
    ] {
        mask.save(sandbox.path(name)).unwrap();
    }
    let line = format!("reconstruct rig/left rig/right {SMALL} --work work -o c.ply --json");
    let run = |rest: &str| {
        let outcome = sandbox.succeed(&format!("{line} {rest}"));
        (
            outcome.json()["points"]["kept"].as_u64().unwrap(),
            outcome.stderr,
        )
    };
    let whole = 4 * 112 * 84;
    let (kept, stderr) = run("--masks masks");
    assert_eq!(kept, whole - 112 * 84 / 2);
    assert!(
        stderr.contains("--masks: no image has the name of other/9.png"),
        "{stderr}"
    );
    assert_eq!(run("--masks half/mask.png").0, whole / 2);
    sandbox.refuse(
        &format!("{line} --masks short"),
        3,
        &["short: 0.png may be left/0.jpg or right/0.jpg"],
    );
    sandbox.refuse(
        &format!("{line} --masks half"),
        3,
        &["half: its only mask (mask.png) is not named after an image"],
    );
}

#[test]
fn cameras_and_summary_say_which_depth_file_is_whose() {
    let sandbox = Sandbox::new();
    place(&sandbox, &[(1, "p/a.jpg")]);
    image::open(sandbox.path("p/a.jpg"))
        .unwrap()
        .save(sandbox.path("p/a.png"))
        .unwrap();
    place(&sandbox, &[(2, "p/a.jpg")]);
    let outcome = sandbox.succeed(&format!(
        "reconstruct p {SMALL} --depth d --cameras c.json --json"
    ));
    let (summary, cameras) = (outcome.json(), sandbox.json("c.json"));
    for (index, [name, file]) in [["a.jpg", "a.depth.npy"], ["a.png", "a-2.depth.npy"]]
        .into_iter()
        .enumerate()
    {
        for list in [&summary["views"], &cameras["images"]] {
            assert_eq!(
                [&list[index]["name"], &list[index]["depth_file"]],
                [name, file]
            );
        }
        assert!(sandbox.path("d").join(file).is_file());
    }
    assert_eq!(cameras["depth_folder"], "d");
}

#[test]
fn what_a_folder_holds_beside_images_is_named() {
    let sandbox = Sandbox::new();
    place(
        &sandbox,
        &[
            (1, "f/IMG_1.jpg"),
            (2, "f/IMG_2.JPG"),
            (3, "f/IMG_4.jfif"),
            (4, "f/IMG_5"),
        ],
    );
    let unread = b"\0\0\0\x0cjP  \r\n\x87\n";
    fs::create_dir(sandbox.path("g")).unwrap();
    sandbox.write("f/IMG_3.JP2", unread);
    sandbox.write("g/IMG_3.JP2", unread);
    let outcome = sandbox.succeed(&format!("reconstruct f {SMALL} --json -o o.ply"));
    assert_eq!(outcome.json()["views"].as_array().unwrap().len(), 4);
    outcome.assert_says("f: not used: 1 JPEG 2000 ");
    let parts = [
        "g: no images that can be read are in this folder",
        "(IMG_3.JP2); convert them to JPEG or PNG",
    ];
    sandbox.refuse("reconstruct g --model tiny -o p.ply", 3, &parts);

    // A file of it counts once, before or after it; copies are mentioned.
    let line = format!("{SMALL} --json -o o.ply");
    for inputs in ["f f/IMG_1.jpg", "f/IMG_1.jpg f"] {
        let outcome = sandbox.succeed(&format!("reconstruct {inputs} {line}"));
        assert_eq!(outcome.json()["views"].as_array().unwrap().len(), 4);
        outcome.assert_says("f/IMG_1.jpg is given 2 times and used once");
    }
    let outcome = sandbox.run("reconstruct f/IMG_1.jpg ./f/IMG_1.jpg --model tiny -o p.ply");
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    outcome.assert_says("given 2 times");
    outcome.assert_says("1 image: ");
    place(&sandbox, &[(1, "same/a.jpg"), (1, "same/b.jpg")]);
    let outcome = sandbox.run(&format!("reconstruct same {line}"));
    outcome.assert_says("all 2 images are identical (a.jpg, b.jpg)");
}

#[test]
fn encode_takes_folders_patterns_and_lists() {
    let sandbox = Sandbox::new();
    for name in ["l/x.png", "r/x.png", "r/y.png"] {
        fs::create_dir_all(sandbox.path(name).parent().unwrap()).unwrap();
        sandbox.copy("images/portrait.png", name);
    }
    sandbox.write("list.txt", "\u{feff}r/x.png\r\nl/x.png\r\n");
    let names = |inputs: &str| -> Vec<String> {
        let outcome = sandbox.succeed(&format!(
            "encode {inputs} --weights dune.pth --res 56x42 -o f --json"
        ));
        let index = sandbox.json("f/index.json");
        let tensors = index["tensors"].as_array().unwrap();
        assert_eq!(outcome.json()["images"], tensors.len());
        for tensor in tensors {
            assert!(
                sandbox
                    .path("f")
                    .join(tensor["file"].as_str().unwrap())
                    .is_file(),
                "{tensor}"
            );
        }
        tensors
            .iter()
            .map(|tensor| tensor["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("l r"), ["l/x.png", "r/x.png", "r/y.png"]);
    assert_eq!(names("r/*.png"), ["x.png", "y.png"]);
    assert_eq!(names("@list.txt"), ["r/x.png", "l/x.png"]);
    assert_eq!(names("r r/x.png"), ["x.png", "y.png"]);
}

#[test]
fn lists_of_notepad_and_powershell_are_read() {
    let sandbox = predictions();
    place(&sandbox, &[(1, "a.jpg"), (2, "b.jpg")]);
    let utf16 = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    sandbox.write("bom.txt", "\u{feff}a.jpg\r\nb.jpg\r\n");
    sandbox.write("utf16.txt", utf16("a.jpg\r\nb.jpg\r\n"));
    sandbox.write("pairs.txt", utf16("a.jpg b.jpg\r\n"));
    for line in ["@bom.txt", "@utf16.txt", "a.jpg b.jpg --pairs pairs.txt"] {
        sandbox.succeed(&format!("reconstruct {line} {SMALL} --work work -o o.ply"));
    }
    // What cannot be seen is shown.
    sandbox.write("odd.txt", "a.jpg\nb\u{200b}.jpg\n");
    sandbox.refuse(
        "reconstruct @odd.txt --model tiny -o p.ply",
        3,
        &["b\\u{200b}.jpg: no such file"],
    );
    sandbox.write("odd.txt", "a.jpg b\u{200b}.jpg\n");
    sandbox.refuse(
        "reconstruct a.jpg b.jpg --model tiny -o p.ply --pairs odd.txt",
        3,
        &["no image is named b\\u{200b}.jpg"],
    );

    sandbox.succeed("align pair --cameras first.json -o model --format colmap-text");
    let cameras = String::from_utf8(sandbox.read("first.json")).unwrap();
    sandbox.write("windows.json", utf16(&cameras.replace('\n', "\r\n")));
    sandbox
        .succeed("align pair --cameras second.json --poses windows.json --intrinsics windows.json");
    for name in ["images", "cameras"] {
        let path = format!("model/sparse/0/{name}.txt");
        let text = String::from_utf8(sandbox.read(&path)).unwrap();
        sandbox.write(&path, format!("\u{feff}{}", text.replace('\n', "\r\n")));
    }
    sandbox.succeed("align pair --cameras third.json --poses model --intrinsics model");
    let [first, second, third] =
        ["first.json", "second.json", "third.json"].map(|name| poses_by_name(&sandbox.json(name)));
    assert_equal_poses(&first, &second, 1e-9);
    assert_equal_poses(&first, &third, 1e-9);
}

#[test]
fn names_from_outside_stay_in_their_folder_and_numbers_are_checked() {
    let sandbox = predictions();
    let text = String::from_utf8(sandbox.read("pair/scene.json")).unwrap();
    sandbox.copy("images/odd_161x107.png", "secret.png");
    fs::create_dir(sandbox.path("photos")).unwrap();
    let absolute = sandbox.path("secret.png").to_string_lossy().into_owned();
    for name in [
        "../secret.png",
        "a/../../secret.png",
        &absolute,
        "..\\\\secret.png",
        "a\\u0000.png",
        "",
    ] {
        sandbox.write("pair/scene.json", text.replace("000.png", name));
        let line = "align pair -o model --format colmap --images photos";
        sandbox.refuse(
            line,
            3,
            &["pair/scene.json: ", "is not a name for an image"],
        );
    }
    let mut scene: Value = serde_json::from_str(&text).unwrap();
    let mut refuse = |key: &str, value: Value, part: &str| {
        let mut crop = serde_json::json!({
            "file_width": 256, "file_height": 192, "resized_width": 128, "resized_height": 96,
            "left": 0, "top": 0, "width": 128, "height": 96,
        });
        crop[key] = value;
        scene["images"][1]["crop"] = crop;
        sandbox.write("pair/scene.json", scene.to_string());
        sandbox.refuse("align pair -o c.ply", 3, &["pair/scene.json", part]);
    };
    refuse(
        "resized_width",
        0.into(),
        "001.png: its resized size is 0x96",
    );
    refuse("file_height", 0.into(), "001.png: its file size is 256x0");
    refuse(
        "file_width",
        4_000_000_000_u32.into(),
        "001.png: its file size is 4000000000x192",
    );
    refuse(
        "left",
        1.into(),
        "001.png: its box of 128x96 at 1,0 is not inside its resized size 128x96",
    );
    refuse("top", u32::MAX.into(), "is not inside its resized size");
    refuse("left", (-1).into(), "is not a list of images and pairs");
    scene["images"][1].as_object_mut().unwrap().remove("crop");
    scene["images"][1]["width"] = 100_000.into();
    sandbox.write("pair/scene.json", scene.to_string());
    sandbox.refuse(
        "align pair -o c.ply",
        3,
        &["001.png: its framed size is 100000x96"],
    );
}

#[test]
fn exif_focal_lengths_that_are_overruled_are_named() {
    let sandbox = predictions();
    fs::create_dir(sandbox.path("photos")).unwrap();
    let save = |name: &str, millimetres: u8| {
        let exif = [
            &b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x01\0\x05\xa4\x03\0\x01\0\0\0"[..],
            &[millimetres],
            b"\0\0\0\0\0\0\0",
        ]
        .concat();
        let mut png = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
        image::RgbImage::new(128, 96)
            .write_with_encoder(encoder)
            .unwrap();
        sandbox.write(&format!("photos/{name}"), png);
    };
    save("000.png", 32);
    save("001.png", 120);
    let outcome =
        sandbox.succeed("align pair --cameras c.json --images photos --exif-focal --json");
    outcome.assert_says("--exif-focal: overruled for 1 of 2 images");
    outcome.assert_says("001.png (EXIF 444 px, found ");
    let views = &outcome.json()["views"];
    assert!(
        views[0]["overruled_focal"].is_null()
            && views[1]["overruled_focal"].as_f64().unwrap() > 440.0,
        "{views}"
    );
}

#[cfg(unix)]
#[test]
fn links_to_nothing_are_named_as_such() {
    use std::os::unix::fs::symlink;
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("annex")).unwrap();
    for name in ["a.jpg", "b.jpg"] {
        symlink("../objects/ab12", sandbox.path("annex").join(name)).unwrap();
    }
    symlink("nowhere", sandbox.path("gone")).unwrap();
    let part = "a symbolic link to ../objects/ab12, which does not exist";
    sandbox.refuse(
        "reconstruct annex --model tiny -o c.ply",
        3,
        &[
            "annex: ",
            "2 broken links (a.jpg, b.jpg)",
            "../objects/ab12",
        ],
    );
    sandbox.refuse(
        "reconstruct annex/a.jpg annex/b.jpg --model tiny -o c.ply",
        3,
        &["annex/a.jpg: ", part],
    );
    sandbox.refuse(
        "reconstruct annex/*.jpg --model tiny -o c.ply",
        3,
        &["annex/a.jpg: ", part],
    );
    sandbox.refuse(
        "encode annex/a.jpg --weights dune.pth -o f",
        3,
        &["annex/a.jpg: ", part],
    );
    for line in [
        "reconstruct gone --model tiny -o c.ply",
        "reconstruct gone/a.jpg gone/b.jpg --model tiny -o c.ply",
        "reconstruct a.png b.png --model tiny -o c.ply --pairs gone",
        "reconstruct a.png b.png --model tiny -o c.ply --masks gone",
        "reconstruct a.png b.png --model tiny -o c.ply --poses gone",
    ] {
        sandbox.refuse(line, 3, &["symbolic link to nowhere, which does not exist"]);
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    sandbox.write("lfs.jpg", pointer);
    sandbox.refuse(
        "reconstruct a.png lfs.jpg --model tiny -o c.ply",
        3,
        &["lfs.jpg: a placeholder of Git LFS", "git lfs pull"],
    );
}
