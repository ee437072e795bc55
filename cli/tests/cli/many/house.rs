//! Cameras of the demonstration's house, against those that it was rendered with.

use super::*;
use crate::poses::{centre, dot, pose, rotation_between};

/// Largest error of a camera's rotation, degrees, and of its place, as a share of its distance from
/// the first; the largest found is 2.1 and 0.03.
const LARGEST_ROTATION: f64 = 3.0;
const LARGEST_OFFSET: f64 = 0.06;
/// Largest error of a focal length; the largest found is 0.011.
const LARGEST_FOCAL: f64 = 0.05;

#[test]
fn four_images_become_the_house_that_they_show() {
    let sandbox = sandbox(4);
    let outcome = run(
        &sandbox,
        "--res 224 -o cloud.ply --cameras cameras.json --preview preview.png --depth depth",
    );
    let summary = outcome.json();
    assert_eq!(pairs(&summary), [6, 6]);
    assert!(
        summary["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|pair| pair["verdict"] == "used"),
        "{summary}"
    );
    outcome.assert_says("4 of 4 images placed, by 6 of 6 pairs");
    for stage in [
        "load", "encode", "pairs", "decode", "match", "align", "write", "total",
    ] {
        assert!(
            summary["seconds"][stage]
                .as_f64()
                .is_some_and(|seconds| seconds > 0.0),
            "{stage}: {summary}"
        );
    }
    assert_eq!(
        ply(&sandbox.read("cloud.ply")).positions.len(),
        4 * 224 * 168
    );
    assert!(image::load_from_memory(&sandbox.read("preview.png")).is_ok());
    assert!(sandbox.path("depth/demo_4.depth.png").is_file());

    let truth = fs::read(in_repository("assets/demo_cameras.json")).unwrap();
    let truth: Value = serde_json::from_slice(&truth).unwrap();
    let (found, truth) = (&sandbox.json("cameras.json")["images"], &truth["images"]);
    let centres = [found, truth].map(|images| [1, 2, 3].map(|view| centre(pose(&images[view]))));
    let inner = |a: [[f64; 3]; 3], b: [[f64; 3]; 3]| {
        a.into_iter().zip(b).map(|(a, b)| dot(a, b)).sum::<f64>()
    };
    let scale = inner(centres[0], centres[1]) / inner(centres[0], centres[0]);
    for view in 1..4 {
        let rotation = rotation_between(pose(&found[view]), pose(&truth[view]));
        let (a, b) = (centres[0][view - 1], centres[1][view - 1]);
        let gap = [0, 1, 2].map(|axis| scale * a[axis] - b[axis]);
        let offset = (dot(gap, gap) / dot(b, b)).sqrt();
        let focal =
            found[view]["file"]["fx"].as_f64().unwrap() / truth[view]["fx"].as_f64().unwrap() - 1.0;
        println!(
            "view {}: rotation {rotation:.2} degrees, place {offset:.3}, focal length {focal:.3}",
            view + 1
        );
        assert!(
            rotation < LARGEST_ROTATION,
            "view {}: rotation {rotation} degrees off",
            view + 1
        );
        assert!(
            offset < LARGEST_OFFSET,
            "view {}: place {offset} of its distance off",
            view + 1
        );
        assert!(
            focal.abs() < LARGEST_FOCAL,
            "view {}: focal length {focal} off",
            view + 1
        );
    }
}

#[test]
fn refined_cameras_of_the_house_are_those_that_it_was_rendered_with() {
    let sandbox = sandbox(4);
    let refined = |rest: &str| {
        sandbox.succeed(&format!(
            "reconstruct photos --model tiny --json --res 224 {rest}"
        ))
    };
    let outcome = refined("--cameras cameras.json -o model --format colmap-text");
    outcome.assert_says("4 cameras refined by");
    let refinement = &outcome.json()["refinement"];
    assert_eq!(
        (&refinement["refused"], &refinement["cameras"]),
        (&Value::Null, &1.into())
    );
    assert!(
        refinement["mean_error_px"].as_f64().unwrap() < 0.5,
        "{refinement}"
    );
    for view in refinement["views"].as_array().unwrap() {
        assert!(
            view["after_px"].as_f64() < view["before_px"].as_f64(),
            "{refinement}"
        );
    }
    let truth = fs::read(in_repository("assets/demo_cameras.json")).unwrap();
    let truth: Value = serde_json::from_slice(&truth).unwrap();
    let (found, truth) = (&sandbox.json("cameras.json")["images"], &truth["images"]);
    for view in 1..4 {
        let rotation = rotation_between(pose(&found[view]), pose(&truth[view]));
        let focal =
            found[view]["file"]["fx"].as_f64().unwrap() / truth[view]["fx"].as_f64().unwrap() - 1.0;
        assert!(
            rotation < 0.2,
            "view {}: rotation {rotation} degrees off",
            view + 1
        );
        assert!(
            focal.abs() < 0.01,
            "view {}: focal length {focal} off",
            view + 1
        );
        assert!(found[view]["radial"][0].as_f64().unwrap().abs() < 0.02);
    }
    let cameras = String::from_utf8(sandbox.read("model/sparse/0/cameras.txt")).unwrap();
    assert!(cameras.contains("\n1 SIMPLE_RADIAL 672 504 "), "{cameras}");

    // Known afterwards, they stay as they are, lens distortion included; without the refinement
    // that knows it they are refused.
    let rest =
        "--cameras again.json --intrinsics cameras.json -o flat --format colmap-text --undistort";
    let outcome = refined(rest);
    outcome.assert_says("4 images of one camera, 4 of them undistorted");
    let lenses = |name: &str| {
        let images = sandbox.json(name)["images"].take();
        let lens = |image: &Value| [&image["file"], &image["radial"]].map(Value::clone);
        images
            .as_array()
            .unwrap()
            .iter()
            .map(lens)
            .collect::<Vec<_>>()
    };
    assert_eq!(lenses("cameras.json"), lenses("again.json"));
    let cameras = String::from_utf8(sandbox.read("flat/sparse/0/cameras.txt")).unwrap();
    assert!(
        cameras.contains("\n1 PINHOLE 672 504 ") && !cameras.contains("RADIAL"),
        "{cameras}"
    );
    let export = &outcome.json()["exports"][0];
    assert_eq!(export["images_undistorted"], 4);
    assert!(export["mean_error_px"].as_f64().unwrap() < 0.5, "{export}");
    let flat = sandbox.read("flat/images/demo_1.jpg");
    assert!(flat != sandbox.read("photos/demo_1.jpg") && flat.starts_with(b"\xff\xd8"));
    sandbox.refuse(
        "reconstruct photos --model tiny --no-refine --cameras other.json --intrinsics cameras.json",
        3,
        &["cameras.json: demo_1.jpg: its camera has lens distortion", "--no-refine"],
    );
}
