//! What becomes of a run's outputs: the same for two images as for many, and when some cannot be.

use std::fs;

use mast3r::alignment::{Pair, PairEvidence};
use serde_json::{Value, json};

use super::sandbox::{Outcome, Sandbox, in_repository, start};

/// A sandbox with a folder `photos` of the first `count` images of the demonstration, and their
/// cameras `known.json`.
pub fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_demo(1..=count);
    let cameras = in_repository("assets/demo_cameras.json");
    fs::copy(cameras, sandbox.path("known.json")).unwrap();
    sandbox
}

pub fn run(sandbox: &Sandbox, rest: &str) -> Outcome {
    sandbox.succeed(&format!(
        "reconstruct photos --model tiny --res 224 --json --no-refine {rest}"
    ))
}

/// The lines of numbers of a text file with comments.
pub fn numbers(sandbox: &Sandbox, name: &str) -> Vec<Vec<f64>> {
    let text = String::from_utf8(sandbox.read(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.split(' ')
                .filter_map(|word| word.parse().ok())
                .collect()
        })
        .collect()
}

#[test]
fn two_images_make_the_colmap_model_of_a_complete_graph() {
    let sandbox = sandbox(2);
    let summary = run(&sandbox, "-o direct --format colmap").json();
    run(&sandbox, "-o graph --format colmap --graph complete");
    for name in ["cameras.bin", "images.bin", "points3D.bin"] {
        let [direct, graph] =
            ["direct", "graph"].map(|folder| sandbox.read(&format!("{folder}/sparse/0/{name}")));
        assert!(direct == graph, "{name} differs");
    }
    let points = |summary: &Value| summary["exports"][0]["points"].as_u64().unwrap();
    assert!(points(&summary) > 300, "{summary}");
    run(&sandbox, "-o text --format colmap-text --symmetric");
    assert_eq!(
        numbers(&sandbox, "text/sparse/0/points3D.txt").len() as u64,
        points(&summary)
    );
    // Raw predictions are of two images alone, whose scene has matches too.
    let raw = run(
        &sandbox,
        "-o raw --format colmap --predictions raw.safetensors --symmetric",
    )
    .json();
    assert!(
        points(&raw) > 300 && sandbox.path("raw.safetensors").is_file(),
        "{raw}"
    );
}

#[test]
fn undistorted_images_need_a_folder_that_they_can_go_to() {
    let sandbox = sandbox(2);
    let refuse = |rest: &str, words: &[&str]| {
        sandbox.refuse(&format!("reconstruct photos --model tiny {rest}"), 2, words);
    };
    let reason = "--undistort: no output is a folder with images";
    refuse(
        "-o cloud.ply -o poses.txt --undistort",
        &[reason, "--format colmap"],
    );
    refuse("-o poses --format tum --undistort", &[reason]);
    refuse("-o - --undistort", &[reason]);
    refuse("--cameras cameras.json --undistort", &["--output"]);
    refuse("-o model --undistort", &["model: no extension"]);
    // Where the images are, undistorted ones would take their place.
    fs::create_dir(sandbox.path("project")).unwrap();
    fs::rename(sandbox.path("photos"), sandbox.path("project/images")).unwrap();
    let line = "reconstruct project/images --model tiny -o project --format nerfstudio --undistort";
    sandbox.refuse(
        line,
        2,
        &[
            "demo_1.jpg: the image itself is there",
            "name another folder",
        ],
    );
}

#[test]
fn an_output_that_fails_leaves_the_others() {
    let sandbox = sandbox(1);
    // Two images from one place, so that a model has no points.
    for name in ["a.jpg", "b.jpg"] {
        sandbox.copy_demo_as(1, &format!("photos/{name}"));
    }
    let rest = "-o first.ply -o model --format colmap -o last.glb --cameras cameras.json --depth depth --preview p.png \
                --matches m.csv -o poses.txt";
    let outcome = sandbox.run(&format!(
        "reconstruct photos --model tiny --res 112 --json {rest}"
    ));
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    for name in [
        "first.ply",
        "last.glb",
        "cameras.json",
        "depth",
        "p.png",
        "m.csv",
        "poses.txt",
    ] {
        assert!(sandbox.path(name).exists(), "{name}\n{}", outcome.stderr);
    }
    assert!(!sandbox.path("model").exists());
    let errors = outcome.errors();
    assert!(
        errors.len() == 1
            && errors[0].starts_with("error: model: a COLMAP model would have no points"),
        "{errors:?}"
    );
    let summary = outcome.json();
    assert_eq!(
        (&summary["failed"][0]["what"], &summary["failed"][0]["path"]),
        (&json!("colmap"), &json!("model"))
    );
    assert_eq!(
        summary["outputs"]["cloud"],
        json!(["first.ply", "last.glb"])
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_for_one_output_leaves_the_others() {
    let sandbox = sandbox(2);
    sandbox.copy_predictions("two_view", "pair");
    std::os::unix::fs::symlink("/dev/full", sandbox.path("full")).unwrap();
    fs::rename(sandbox.path("full"), sandbox.path("full.ply")).unwrap();
    let results =
        "-o full.ply -o cloud.ply --matches /dev/full --cameras cameras.json --preview preview.png";
    for (command, extra) in [
        (
            "reconstruct photos --model tiny --res 112 --no-refine",
            "--predictions raw.safetensors",
        ),
        (
            "reconstruct photos --model tiny --res 112 --no-refine --graph complete",
            "--depth-tensors depths.safetensors",
        ),
        ("align pair", "--depth depth"),
    ] {
        let outcome = sandbox.run(&format!("{command} {results} {extra}"));
        assert_eq!(outcome.code, Some(1), "{command}: {}", outcome.stderr);
        let errors = outcome.errors();
        let full = |path: &str| format!("error: {path}: No space left on device (os error 28)");
        assert_eq!(errors, [full("full.ply"), full("/dev/full")], "{command}");
        for name in [
            "cloud.ply",
            "cameras.json",
            "preview.png",
            extra.split(' ').nth(1).unwrap(),
        ] {
            let path = sandbox.path(name);
            assert!(path.exists(), "{command}: {name}");
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
        }
    }
    // A cloud on standard output that cannot be written, and one whose reader goes away.
    for (device, code) in [("/dev/full", 1), ("closed", 0)] {
        let mut command = sandbox
            .command("reconstruct photos --model tiny --res 112 --no-refine -o - --cameras cameras.json -o last.glb");
        let outcome = match device {
            "closed" => {
                let mut child = start(&mut command);
                drop(child.stdout.take());
                Outcome::of(child)
            }
            device => {
                let device = fs::OpenOptions::new().write(true).open(device).unwrap();
                Outcome::new(command.stdout(device).output().unwrap())
            }
        };
        assert_eq!(outcome.code, Some(code), "{device}: {}", outcome.stderr);
        assert_eq!(
            outcome
                .stderr
                .contains("error: standard output: No space left"),
            code == 1,
            "{}",
            outcome.stderr
        );
        for name in ["cameras.json", "last.glb"] {
            fs::remove_file(sandbox.path(name))
                .unwrap_or_else(|error| panic!("{device}: {name}: {error}"));
        }
    }
    // Features are written before their preview, which fails alone.
    let line = "encode photos/demo_1.jpg --model tiny -o f.safetensors --pca /dev/full --json";
    let outcome = sandbox.run(line);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    outcome.assert_says("error: /dev/full: No space left");
    assert_eq!(
        outcome.json()["outputs"],
        json!({ "features": "f.safetensors" })
    );
    assert!(sandbox.path("f.safetensors").is_file());
}

#[test]
fn without_cameras_two_images_and_three_fail_alike() {
    let sandbox = Sandbox::new();
    sandbox.copy("images/square.png", "c.png");
    let line = "--weights net.pth --res 56x42 --matches m.csv --cameras c.json -o poses.txt --json";
    let mut keys = Vec::new();
    for (images, has_points) in [("a.png b.png", true), ("a.png b.png c.png", false)] {
        let outcome = sandbox.run(&format!("reconstruct {images} {line} -o cloud.ply"));
        assert_eq!(outcome.code, Some(3), "{images}: {}", outcome.stderr);
        let errors = outcome.errors();
        assert!(
            errors[0].starts_with("error: poses.txt: a trajectory needs camera poses"),
            "{errors:?}"
        );
        assert!(
            errors[errors.len() - 1].starts_with("error: no relative pose: "),
            "{errors:?}"
        );
        // The first image's points and the second's in its frame need no cameras.
        assert_eq!(sandbox.path("cloud.ply").exists(), has_points, "{images}");
        assert!(!sandbox.path("poses.txt").exists(), "{images}");
        for name in ["m.csv", "c.json"] {
            fs::remove_file(sandbox.path(name))
                .unwrap_or_else(|error| panic!("{images}: {name}: {error}"));
        }
        let _ = fs::remove_file(sandbox.path("cloud.ply"));
        let summary = outcome.json();
        assert!(summary["cameras_error"].is_string(), "{summary}");
        assert_eq!(
            summary["failed"].as_array().unwrap().last().unwrap()["what"],
            "cameras"
        );
        keys.push(
            summary
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<String>>(),
        );
    }
    assert_eq!(keys[0], keys[1]);
    // Nothing that can be written: the errors say everything.
    sandbox.refuse(
        "reconstruct a.png b.png --weights net.pth --res 56x42 -o poses.txt",
        3,
        &["no relative pose"],
    );
    sandbox.refuse(
        "reconstruct a.png b.png c.png --weights net.pth --res 56x42 -o cloud.ply",
        3,
        &["no relative pose"],
    );
}

/// The names of an object's members, and of the members of the first of each list in it.
fn schema(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in value.as_object().unwrap() {
        names.push(name.clone());
        let inner = value.get(0).unwrap_or(value);
        // Outputs are named by their kinds.
        if name != "outputs" {
            names.extend(
                inner
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(inner, _)| format!("{name}.{inner}")),
            );
        }
    }
    names
}

#[test]
fn summaries_have_one_schema() {
    let sandbox = sandbox(3);
    let two = "reconstruct photos/demo_1.jpg photos/demo_2.jpg --model tiny --res 224 --json -o c.ply --symmetric --no-refine";
    let two = sandbox.succeed(two).json();
    let many = run(&sandbox, "-o c.ply --work work").json();
    let align = sandbox.succeed("align work --json -o c.ply").json();
    assert_eq!(schema(&two), schema(&many));
    let of_network = ["model", "weights", "precision", "encoded", "computed"];
    let expected = schema(&many)
        .into_iter()
        .filter(|name| !of_network.contains(&&**name) && !name.starts_with("seconds."));
    let found = schema(&align)
        .into_iter()
        .filter(|name| !name.starts_with("seconds."));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    // What the members mean is the same too.
    assert_eq!(
        (&two["pairs"][0]["pair"], &two["pairs"][0]["verdict"]),
        (&json!([0, 1]), &json!("used"))
    );
    assert_eq!((&two["encoded"], &two["computed"]), (&json!(2), &json!(1)));
    for (summary, views) in [(&two, 2), (&many, 3)] {
        for view in 0..views {
            let view = &summary["views"][view];
            assert!(
                view["inlier_share"].as_f64().unwrap() > 0.5 && view["placed"] == true,
                "{view}"
            );
            assert!(
                view["reprojection_px"]
                    .as_f64()
                    .is_some_and(|px| px > 0.0 && px < 3.0),
                "{view}"
            );
            assert_eq!(
                (&view["width"], &view["height"]),
                (&json!(224), &json!(168))
            );
            assert!(
                view["world_from_camera"][3] == json!([0.0, 0.0, 0.0, 1.0]),
                "{view}"
            );
        }
    }
}

#[test]
fn an_alignment_is_drawn_as_a_reconstruction_is() {
    let sandbox = sandbox(3);
    run(
        &sandbox,
        "--work work --preview one.png --preview-size 320x240 --preview-angle -20,30",
    );
    sandbox.succeed("align work --preview two.png --preview-size 320x240 --preview-angle -20,30");
    assert!(sandbox.read("one.png") == sandbox.read("two.png"));
    sandbox.refuse("align work --preview two.jpg", 2, &["two.jpg", "PNG"]);
    sandbox.refuse("align work -o c.ply --preview-size 9x9", 2, &["--preview"]);
}

/// Overwrites some numbers of the tensor `name` in a safetensors file by NaN, of so many bytes
/// each.
fn spoil(sandbox: &Sandbox, file: &str, name: &str, nan: &[u8]) {
    let mut bytes = sandbox.read(file);
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = 8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    for number in 0..30 {
        bytes[start + number * nan.len()..][..nan.len()].copy_from_slice(nan);
    }
    // Without its checksum, which would tell damage, the file counts as it is.
    if let Some(place) = bytes.windows(7).position(|word| word == b"\"crc32\"") {
        bytes[place + 1..place + 6].copy_from_slice(b"other");
    }
    sandbox.write(file, bytes);
}

#[test]
fn a_pair_that_is_not_finite_is_named_and_left_out() {
    let sandbox = sandbox(4);
    let before = run(&sandbox, "--work work -o c.ply").json();
    assert_eq!(before["pairs"][1]["pair"], json!([0, 2]));
    let file = |pair: usize| {
        format!(
            "work/{}",
            sandbox.json("work/scene.json")["pair_files"][pair]
                .as_str()
                .unwrap()
        )
    };
    // As another program may have predicted it: this one keeps no such pair.
    let (file, pair) = (
        file(1),
        Pair {
            first: 0,
            second: 1,
        },
    );
    let mut evidence = PairEvidence::read(pair, &sandbox.path(&file), false).unwrap();
    evidence.forward[1].points[..10].fill([f32::NAN; 3]);
    sandbox.write(&file, evidence.to_safetensors().unwrap());
    for command in [
        "align work",
        "reconstruct photos --model tiny --res 224 --work work",
    ] {
        let outcome = sandbox.succeed(&format!("{command} -o c.ply --json"));
        let summary = outcome.json();
        let verdicts: Vec<&str> = summary["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| pair["verdict"].as_str().unwrap())
            .collect();
        assert_eq!(
            verdicts,
            ["used", "not_finite", "used", "used", "used", "used"],
            "{command}"
        );
        let message = "the pair demo_1.jpg, demo_3.jpg is left out: its predictions are not finite";
        outcome.assert_says(message);
        outcome.assert_says("4 of 4 images placed");
    }
}

#[test]
fn predictions_of_which_no_pair_is_finite_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("two_view", "pair");
    spoil(
        &sandbox,
        "pair/pairs.safetensors",
        "1-0.first.descriptor_confidence",
        &[0x00, 0x7e],
    );
    sandbox.refuse(
        "align pair -o c.ply",
        4,
        &[
            "000.png and 001.png: ",
            "confidences of the second view",
            "not finite",
        ],
    );
}

#[test]
fn manual_pages_make_their_folder() {
    let sandbox = Sandbox::new();
    sandbox.succeed("man --folder pages/man1");
    assert!(sandbox.path("pages/man1/mast3r-align.1").is_file());
    sandbox.write("file", "");
    sandbox.refuse("man --folder file", 1, &["file: "]);
}

#[test]
#[cfg(target_os = "linux")]
fn refused_memory_ends_the_run_with_a_message() {
    let sandbox = sandbox(2);
    let before = sandbox.contents();
    let limited = |line: &str| {
        let mut command = std::process::Command::new("sh");
        command.args([
            "-c",
            "ulimit -v 600000 && exec \"$0\" \"$@\"",
            super::sandbox::PROGRAM,
        ]);
        command.args(line.split(' ')).current_dir(sandbox.path("."));
        sandbox.keep_apart(&mut command);
        Outcome::new(command.output().unwrap())
    };
    let outcome = limited(
        "reconstruct photos --model tiny --res 1120 --threads 1 -o cloud.ply --preview p.png",
    );
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    outcome.assert_says("error: out of memory: the system refused ");
    // Memory, or a thread's stack.
    assert!(
        outcome.stderr.contains("--res") || outcome.stderr.contains("smaller images"),
        "{}",
        outcome.stderr
    );
    assert_eq!(sandbox.contents(), before, "{}", outcome.stderr);
}

#[test]
fn more_threads_than_are_of_use_are_not_started() {
    let sandbox = sandbox(2);
    let outcome = run(&sandbox, "-o c.ply --threads 1000");
    outcome.assert_says("--threads 1000: ");
    let alone = run(&sandbox, "-o d.ply --threads 1");
    alone.assert_lacks("--threads");
    assert!(sandbox.read("c.ply") == sandbox.read("d.ply"));
}
