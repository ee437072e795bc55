//! Networks of all images together, with random weights: any number of images of mixed shapes, in
//! one go and in groups, with and without known cameras.

use std::fs;

use serde_json::Value;

use super::sandbox::{Outcome, Sandbox, npy, ply};

const NETWORK: &str = "--model da3-small --weights random:0 --res 56 --json";

/// A folder `photos` of `count` images, every third one upright.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("photos")).unwrap();
    for number in 0..count {
        let image = if number % 3 == 2 {
            "images/portrait.png"
        } else {
            "images/odd_161x107.png"
        };
        sandbox.copy(image, &format!("photos/{number:02}.png"));
    }
    sandbox
}

fn run(sandbox: &Sandbox, rest: &str) -> Outcome {
    sandbox.succeed(&format!("reconstruct photos {NETWORK} {rest}"))
}

fn cameras(file: &Value) -> Vec<Vec<f64>> {
    let images = file["images"].as_array().unwrap();
    let numbers = |image: &Value| {
        let rows = image["world_from_camera"].as_array().unwrap();
        let row = |row: &Value| row.as_array().unwrap().clone();
        let numbers = rows.iter().flat_map(row);
        numbers.map(|number| number.as_f64().unwrap()).collect()
    };
    images.iter().map(numbers).collect()
}

#[test]
fn any_number_of_mixed_images_is_reconstructed_with_a_clear_report() {
    for count in [1, 2, 7, 40] {
        let sandbox = sandbox(count);
        // Forty images are more than fit in so little memory.
        let rest = "-o cloud.ply --cameras cameras.json --depth-tensors depth.safetensors --no-refine --memory 0.02";
        let outcome = run(&sandbox, rest);
        let summary = outcome.json();
        let views = summary["views"].as_array().unwrap();
        assert_eq!(views.len(), count);
        assert!(views.iter().all(|view| view["placed"] == true), "{summary}");
        let images = if count == 1 {
            "1 image"
        } else {
            &format!("{count} images")
        };
        let images = format!("{images} predicted together; scale relative;");
        outcome.assert_says(&images);
        let mixed = outcome.stderr.contains("images have several sizes");
        assert_eq!(mixed, count > 2, "{}", outcome.stderr);
        let found = cameras(&sandbox.json("cameras.json"));
        assert_eq!(found.len(), count);
        assert!(found.iter().flatten().all(|number| number.is_finite()));
        let points = ply(&sandbox.read("cloud.ply")).positions;
        assert!(points.len() > 100 && points.iter().flatten().all(|x| x.is_finite()));
    }
}

#[test]
fn depth_is_unknown_outside_of_what_all_images_have() {
    let sandbox = sandbox(3);
    run(&sandbox, "--depth depth --no-refine");
    let known = |name: &str| {
        let (shape, depth) = npy(&sandbox.read(name));
        let known = depth
            .iter()
            .filter(|depth| depth.is_finite() && **depth > 0.0);
        (shape, known.count())
    };
    let (landscape, portrait) = (known("depth/00.depth.npy"), known("depth/02.depth.npy"));
    let shared = landscape.0[0].min(portrait.0[0]) * landscape.0[1].min(portrait.0[1]);
    assert_ne!(landscape.0, portrait.0);
    assert_eq!([landscape.1, portrait.1], [shared; 2]);
}

#[test]
fn known_cameras_are_taken_whole_and_stay() {
    let sandbox = sandbox(4);
    run(&sandbox, "--cameras first.json --no-refine");
    let known = "--poses first.json --intrinsics first.json --no-refine";
    run(&sandbox, &format!("{known} --cameras second.json"));
    let [first, second] = ["first.json", "second.json"].map(|name| cameras(&sandbox.json(name)));
    for (first, second) in first.iter().flatten().zip(second.iter().flatten()) {
        assert!((first - second).abs() < 1e-6, "{first}, {second}");
    }
    let line = format!("reconstruct photos {NETWORK} --poses first.json -o x.ply");
    let outcome = sandbox.run(&line);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let missing = outcome.stderr.contains("those of 00.png are missing");
    assert!(
        missing && !sandbox.path("x.ply").exists(),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_needs_pairs_is_refused() {
    let sandbox = sandbox(2);
    for option in ["--work w", "--window 2", "--graph complete"] {
        let line = format!("reconstruct photos {NETWORK} -o x.ply {option}");
        let name = option.split(' ').next().unwrap();
        sandbox.refuse(&line, 2, &[name, "predicts all images together"]);
    }
    let line = format!("reconstruct photos {NETWORK} --matches m.csv");
    sandbox.refuse(&line, 2, &["has no matches"]);
}
