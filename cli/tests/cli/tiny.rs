//! The bundled network: the first thing that a new user runs, with no file but the demonstration
//! images.

use std::path::Path;

use serde_json::Value;

use super::poses::{Pose, centre, dot, pose, rotation_between};
use super::sandbox::{Sandbox, in_repository, ply};

fn asset(name: &str) -> String {
    let path = in_repository("assets").join(name);
    path.to_str().unwrap().to_string()
}

/// Angle between the directions from the first camera, which is the origin, to the second.
fn direction_between(a: Pose, b: Pose) -> f64 {
    let (a, b) = (centre(a), centre(b));
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    cosine.clamp(-1.0, 1.0).acos().to_degrees()
}

#[test]
fn the_demonstration_images_become_the_scene_that_is_in_them() {
    let sandbox = Sandbox::new();
    let (first, second) = (asset("demo_1.jpg"), asset("demo_2.jpg"));
    sandbox.succeed(&format!(
        "reconstruct {first} {second} --model tiny -o cloud.ply --cameras cameras.json"
    ));
    let cloud = ply(&sandbox.read("cloud.ply"));
    assert_eq!(cloud.positions.len(), 2 * 336 * 252);

    let (found, truth) = (
        sandbox.json("cameras.json"),
        Path::new(&asset("demo_cameras.json")).to_path_buf(),
    );
    let truth: Value = serde_json::from_slice(&std::fs::read(truth).unwrap()).unwrap();
    let (found, truth) = (&found["images"], &truth["images"]);
    let (solved, true_pose) = (pose(&found[1]), pose(&truth[1]));
    let (rotation, direction) = (
        rotation_between(solved, true_pose),
        direction_between(solved, true_pose),
    );
    println!("rotation {rotation:.2} degrees off, translation direction {direction:.2}");
    assert!(rotation < 3.0, "rotation {rotation} degrees off");
    assert!(
        direction < 5.0,
        "translation direction {direction} degrees off"
    );
    for view in [0, 1] {
        let focal =
            found[view]["file"]["fx"].as_f64().unwrap() / truth[view]["fx"].as_f64().unwrap();
        println!(
            "focal length of view {}: {focal:.3} of the true one",
            view + 1
        );
        assert!(
            (focal - 1.0).abs() < 0.1,
            "focal length of view {} is {focal} of the true one",
            view + 1
        );
    }
}

#[test]
fn every_command_runs_the_bundled_network_without_a_file() {
    let sandbox = Sandbox::new();
    for name in ["a.png", "b.png", "net.pth", "dune.pth"] {
        std::fs::remove_file(sandbox.path(name)).unwrap();
    }
    let (first, second) = (asset("demo_1.jpg"), asset("demo_2.jpg"));
    sandbox.succeed(&format!(
        "encode {first} {second} --model tiny --res 84x70 -o features.safetensors"
    ));
    let bench =
        sandbox.succeed("bench --model tiny --res 84x70 --runs 1 --warmup 0 --export-json -");
    assert!(
        bench.json()["results"][0]["weights"]
            .as_str()
            .unwrap()
            .starts_with("tiny (bundled)")
    );
    let profile = sandbox.succeed(&format!(
        "profile {first} {second} --model tiny --res 84x70 --runs 1 --export-json -"
    ));
    assert!(
        profile.json()["weights"]
            .as_str()
            .unwrap()
            .starts_with("tiny (bundled)")
    );
    // Random weights of the same dimensions are still there to be asked for.
    let random =
        "bench --model tiny --weights random:1 --res 84x70 --runs 1 --warmup 0 --export-json -";
    assert_eq!(
        sandbox.succeed(random).json()["results"][0]["weights"],
        "random, seed 1"
    );
}
