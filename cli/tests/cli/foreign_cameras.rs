//! Cameras of other programs: COLMAP, nerfstudio, trajectories.

use std::collections::HashMap;
use std::fs;

use super::inputs::predictions;
use super::poses::{Pose, assert_equal_poses, gap, poses_by_name};

/// The second camera in the first one's frame, whose axes are those of all cameras.
fn second_from_first(poses: &HashMap<String, Pose>) -> Pose {
    let [first, second] = ["000.png", "001.png"].map(|name| poses[name]);
    let mut relative = [[0.0; 4]; 4];
    for (row, values) in relative.iter_mut().enumerate().take(3) {
        for (column, value) in values.iter_mut().enumerate() {
            let shift = |index: usize| if column == 3 { first[index][3] } else { 0.0 };
            *value = (0..3)
                .map(|index| first[index][row] * (second[index][column] - shift(index)))
                .sum();
        }
    }
    relative
}

#[test]
fn models_of_cameras_that_are_not_supported_still_have_poses() {
    let sandbox = predictions();
    sandbox.succeed("align pair --cameras first.json -o model --format colmap");
    let place = |name: &str| format!("model/sparse/0/{name}.bin");
    // COLMAP 4's SIMPLE_DIVISION, which bends, and a model of a version to come.
    for (model, parameters, part) in [
        (
            12_u32,
            &[100.0, 64.0, 48.0, 0.1][..],
            "(SIMPLE_DIVISION) has distortion",
        ),
        (77, &[1.0], "model number 77 is not supported"),
    ] {
        let camera = |id: u32| {
            let sizes = [128_u64, 96].map(u64::to_le_bytes).concat();
            let numbers: Vec<u8> = parameters
                .iter()
                .flat_map(|value: &f64| value.to_le_bytes())
                .collect();
            [
                id.to_le_bytes().to_vec(),
                model.to_le_bytes().to_vec(),
                sizes,
                numbers,
            ]
            .concat()
        };
        sandbox.write(
            &place("cameras"),
            [2_u64.to_le_bytes().to_vec(), camera(1), camera(2)].concat(),
        );
        sandbox.succeed("align pair --cameras second.json --poses model");
        let [first, second] =
            ["first.json", "second.json"].map(|name| poses_by_name(&sandbox.json(name)));
        assert_equal_poses(&first, &second, 1e-9);
        sandbox.refuse(
            "align pair --cameras c.json --intrinsics model",
            3,
            &[part, "undistort first"],
        );
    }
    // Without the lines of keypoints, and where undistorted models lie.
    sandbox.succeed("align pair -o text --format colmap-text");
    fs::create_dir_all(sandbox.path("dense/sparse")).unwrap();
    fs::copy(
        sandbox.path("text/sparse/0/cameras.txt"),
        sandbox.path("dense/sparse/cameras.txt"),
    )
    .unwrap();
    let images = String::from_utf8(sandbox.read("text/sparse/0/images.txt")).unwrap();
    let images: Vec<&str> = images
        .lines()
        .filter(|line| line.ends_with(".png"))
        .collect();
    sandbox.write("dense/sparse/images.txt", images.join("\n"));
    fs::remove_dir_all(sandbox.path("text")).unwrap();
    sandbox.succeed("align pair --cameras third.json --poses . --intrinsics dense");
    let [first, third] =
        ["first.json", "third.json"].map(|name| poses_by_name(&sandbox.json(name)));
    assert_equal_poses(&first, &third, 1e-9);
}

#[test]
fn poses_of_other_programs_are_taken() {
    let sandbox = predictions();
    sandbox.succeed("align pair --cameras first.json -o poses.txt -o nerf --format nerfstudio");
    let first = poses_by_name(&sandbox.json("first.json"));
    sandbox.succeed("align pair --cameras second.json --poses poses.txt");
    let second = poses_by_name(&sandbox.json("second.json"));
    assert_equal_poses(&first, &second, 1e-9);
    // nerfstudio's world has other axes; names may lack their extensions.
    let transforms = String::from_utf8(sandbox.read("nerf/transforms.json")).unwrap();
    for (text, list) in [
        (transforms.clone(), "nerf"),
        (transforms.replace(".png", ""), "nerf/transforms.json"),
    ] {
        sandbox.write("nerf/transforms.json", text);
        sandbox.succeed(&format!(
            "align pair --cameras third.json --poses {list} --intrinsics {list}"
        ));
        let third = poses_by_name(&sandbox.json("third.json"));
        assert!(
            gap(&second_from_first(&first), &second_from_first(&third)) < 1e-9,
            "{third:?}"
        );
        let focal = |name: &str| sandbox.json(name)["images"][0]["fx"].as_f64().unwrap();
        assert!((focal("first.json") - focal("third.json")).abs() < 1e-9);
    }
    sandbox.write("notes.txt", "Dear diary,\n");
    sandbox.refuse(
        "align pair --cameras c.json --poses notes.txt",
        3,
        &["notes.txt: line 1: expected timestamp tx ty tz"],
    );

    // Images that are named after times have them in trajectories.
    let scene = String::from_utf8(sandbox.read("pair/scene.json")).unwrap();
    let scene = scene
        .replace("000.png", "1403636579.763555584.png")
        .replace("001.png", "1403636579.813555479.png");
    sandbox.write("pair/scene.json", scene);
    sandbox.succeed("align pair --cameras first.json -o times.txt");
    let times = String::from_utf8(sandbox.read("times.txt")).unwrap();
    assert!(
        times.contains("\n1403636579.763555584 ") && times.contains("\n1403636579.813555479 "),
        "{times}"
    );
    let reversed: Vec<&str> = times.lines().rev().collect();
    sandbox.write("reversed.txt", reversed.join("\n"));
    sandbox.succeed("align pair --cameras second.json --poses reversed.txt");
    let [first, second] =
        ["first.json", "second.json"].map(|name| poses_by_name(&sandbox.json(name)));
    assert_equal_poses(&first, &second, 1e-9);
}
