//! More than two images, with the bundled network: the demonstration's four, and what is kept
//! between runs.

use std::fs;
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sandbox::{Outcome, Sandbox, fixture, in_repository, ply};

/// Largest error of a camera's rotation, degrees, and of its place, as a share of its distance from
/// the first; the largest found is 2.1 and 0.03.
const LARGEST_ROTATION: f64 = 3.0;
const LARGEST_OFFSET: f64 = 0.06;
/// Largest error of a focal length; the largest found is 0.011.
const LARGEST_FOCAL: f64 = 0.05;

type Pose = [[f64; 4]; 4];

/// A sandbox with a folder `photos` of the first `count` images of the demonstration.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("photos")).unwrap();
    (1..=count).for_each(|number| add(&sandbox, number));
    sandbox
}

fn add(sandbox: &Sandbox, number: usize) {
    let asset = in_repository(&format!("assets/demo_{number}.jpg"));
    fs::copy(asset, sandbox.path(&format!("photos/demo_{number}.jpg"))).unwrap();
}

/// At a size below the network's usual one unless `rest` says which, and with cameras as they are
/// aligned: most tests need no more.
fn run(sandbox: &Sandbox, rest: &str) -> Outcome {
    let size = if rest.contains("--res") {
        ""
    } else {
        "--res 224"
    };
    sandbox.succeed(&format!(
        "reconstruct photos --model tiny --json --no-refine {size} {rest}"
    ))
}

/// Pairs computed and pairs in all.
fn pairs(summary: &Value) -> [usize; 2] {
    [
        summary["computed"].as_u64().unwrap() as usize,
        summary["pairs"].as_array().unwrap().len(),
    ]
}

/// The pose of a camera in the first camera's frame.
fn pose(image: &Value) -> Pose {
    serde_json::from_value(image["world_from_camera"].clone()).unwrap()
}

fn centre(pose: Pose) -> [f64; 3] {
    [0, 1, 2].map(|row| pose[row][3])
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn rotation_between(a: Pose, b: Pose) -> f64 {
    let trace: f64 = (0..3)
        .flat_map(|i| (0..3).map(move |j| a[i][j] * b[i][j]))
        .sum();
    ((trace - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees()
}

#[test]
fn four_images_become_the_house_that_they_show() {
    let sandbox = sandbox(4);
    let outcome = run(
        &sandbox,
        "-o cloud.ply --cameras cameras.json --preview preview.png --depth depth",
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
    assert!(
        outcome
            .stderr
            .contains("4 of 4 images placed, by 6 of 6 pairs"),
        "{}",
        outcome.stderr
    );
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
    assert!(
        outcome.stderr.contains("4 cameras refined by"),
        "{}",
        outcome.stderr
    );
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
    assert!(
        outcome
            .stderr
            .contains("4 images of one camera, 4 of them undistorted"),
        "{}",
        outcome.stderr
    );
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

#[test]
fn what_a_work_folder_holds_is_not_computed_again() {
    let sandbox = sandbox(3);
    assert_eq!(pairs(&run(&sandbox, "-o 1.ply --work work").json()), [3, 3]);
    let again = run(&sandbox, "-o 2.ply --work work --min-confidence 1").json();
    assert_eq!((pairs(&again), &again["encoded"]), ([0, 3], &0.into()));
    assert_eq!(sandbox.read("1.ply"), sandbox.read("2.ply"));
    run(&sandbox, "-o other.ply --work other");
    assert_eq!(sandbox.read("1.ply"), sandbox.read("other.ply"));
    sandbox.succeed("align work -o aligned.ply");
    assert_eq!(sandbox.read("1.ply"), sandbox.read("aligned.ply"));

    // One image more: its pairs alone. By other names and in another folder: nothing.
    add(&sandbox, 4);
    let more = run(&sandbox, "-o 3.ply --work work").json();
    assert_eq!((pairs(&more), &more["encoded"]), ([3, 6], &1.into()));
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    for (number, name) in [(1, "c"), (2, "b"), (3, "a")] {
        fs::copy(
            sandbox.path(&format!("photos/demo_{number}.jpg")),
            sandbox.path(&format!("elsewhere/{name}.jpg")),
        )
        .unwrap();
    }
    let kept = fs::read_dir(sandbox.path("work/pairs")).unwrap().count();
    let line = "reconstruct elsewhere --model tiny --res 224 --json --no-refine --matches";
    let renamed = sandbox
        .succeed(&format!("{line} 4.csv -o 4.ply --work work"))
        .json();
    assert_eq!((pairs(&renamed), &renamed["encoded"]), ([0, 3], &0.into()));
    // In the other order a pair is the same file, and means the same as if it had been computed in
    // that order.
    assert_eq!(
        fs::read_dir(sandbox.path("work/pairs")).unwrap().count(),
        kept
    );
    sandbox.succeed(&format!("{line} 5.csv -o 5.ply --work reversed"));
    sandbox.succeed("align work -o 6.ply --matches 6.csv");
    for kind in ["ply", "csv"] {
        let [kept, computed, aligned] = [4, 5, 6].map(|run| sandbox.read(&format!("{run}.{kind}")));
        assert!(kept == computed && kept == aligned, "{kind}");
    }
    // What results depend on is computed anew.
    assert_eq!(
        pairs(
            &run(
                &sandbox,
                "-o 5.ply --work work --match-step 16 --graph oneref-0"
            )
            .json()
        ),
        [3, 3]
    );
    assert_eq!(
        pairs(
            &run(
                &sandbox,
                "-o 6.ply --work work --res 168x126 --graph oneref-0"
            )
            .json()
        ),
        [3, 3]
    );
}

#[test]
#[cfg(unix)]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let sandbox = sandbox(4);
    let line = "reconstruct photos --model tiny --res 224 --json -o cloud.ply --work work";
    let mut child = sandbox
        .command(line)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let complete = || {
        let names = fs::read_dir(sandbox.path("work/pairs"))
            .into_iter()
            .flatten();
        names
            .filter(|name| {
                !name
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with('.')
            })
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    while complete() < 2 {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "no pair was kept in time"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = complete();
    assert!(
        !sandbox.path("cloud.ply").exists() && (2..6).contains(&kept),
        "{kept} pairs are kept"
    );
    // As if the end had come in the middle of a file.
    sandbox.write("work/pairs/.mast3r-abcdef.part", "half");
    let leftover = fs::File::options()
        .write(true)
        .open(sandbox.path("work/pairs/.mast3r-abcdef.part"))
        .unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    leftover.set_modified(long_ago).unwrap();

    assert_eq!(
        pairs(&run(&sandbox, "-o cloud.ply --work work").json()),
        [6 - kept, 6]
    );
    assert!(!sandbox.path("work/pairs/.mast3r-abcdef.part").exists());
    run(&sandbox, "-o whole.ply --work whole");
    assert_eq!(sandbox.read("cloud.ply"), sandbox.read("whole.ply"));
}

#[test]
fn a_work_folder_rounds_and_nothing_else() {
    let sandbox = sandbox(3);
    run(&sandbox, "--work work --cameras with.json");
    run(&sandbox, "--cameras without.json");
    let [with, without] = ["with.json", "without.json"].map(|file| sandbox.json(file));
    let poses = |cameras: &Value| -> Vec<f64> {
        let images = cameras["images"].as_array().unwrap().iter();
        images
            .flat_map(|image| image["world_from_camera"].as_array().unwrap())
            .flat_map(|row| row.as_array().unwrap())
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    let (with, without) = (poses(&with), poses(&without));
    assert_eq!(with.len(), without.len());
    for (with, without) in with.iter().zip(&without) {
        assert!((with - without).abs() < 1e-3, "{with} {without}");
    }
    assert_ne!(with, without);
}

/// What may have become of a file whose writing a power loss cut short; `dice` choose.
fn damaged(mut bytes: Vec<u8>, dice: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let kept = dice(bytes.len().max(1));
    match dice(5) {
        0 => bytes.clear(),
        1 => bytes.truncate(kept),
        2 => bytes[kept..].fill(0),
        3 => bytes.fill(0),
        // One page.
        _ => bytes
            .iter_mut()
            .skip(kept)
            .take(4096)
            .for_each(|byte| *byte = 0),
    }
    bytes
}

/// The files of a work folder, the newest first.
fn newest(sandbox: &Sandbox, work: &Path) -> Vec<PathBuf> {
    let files = sandbox
        .contents()
        .into_iter()
        .filter(|(path, _)| path.starts_with(work) && path.is_file());
    let mut files: Vec<_> = files.map(|(path, (_, written))| (written, path)).collect();
    files.sort();
    files.into_iter().rev().map(|(_, path)| path).collect()
}

/// Damages the newest files of a work folder at random and runs again, so many times.
fn survives_power_losses(times: u64) {
    let sandbox = sandbox(3);
    run(&sandbox, "-o whole.ply --work work");
    let (whole, work) = (sandbox.read("whole.ply"), sandbox.path("work"));
    let files = newest(&sandbox, &work);
    assert_eq!(
        files.len(),
        3 + 3 + 3 + 2,
        "views, features, pairs, scene.json and work.json: {files:?}"
    );
    let before: Vec<(PathBuf, Vec<u8>)> = files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    for seed in 0..times {
        let mut state = seed;
        let mut dice = |sides: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % sides
        };
        let mut lost = Vec::new();
        for path in newest(&sandbox, &work)
            .into_iter()
            .take(1 + dice(before.len()))
        {
            let bytes = fs::read(&path).unwrap();
            let after = damaged(bytes.clone(), &mut dice);
            if after != bytes {
                fs::write(&path, after).unwrap();
                lost.push(path);
            }
        }
        let outcome = run(&sandbox, "-o again.ply --work work");
        assert!(
            sandbox.read("again.ply") == whole,
            "round {seed}: another scene after damage to {lost:?}"
        );
        let summary = outcome.json();
        let lost_pairs: Vec<&PathBuf> = lost
            .iter()
            .filter(|path| path.starts_with(work.join("pairs")))
            .collect();
        assert_eq!(
            pairs(&summary),
            [lost_pairs.len(), 3],
            "round {seed}: {lost:?}\n{}",
            outcome.stderr
        );
        for path in lost_pairs {
            let line = format!(
                "{}: ",
                path.strip_prefix(sandbox.path("")).unwrap().display()
            );
            assert!(
                outcome.stderr.lines().any(|said| said.contains(&line)),
                "round {seed}: {path:?}\n{}",
                outcome.stderr
            );
        }
        // Features that no pair needed are not looked at.
        for (path, bytes) in before
            .iter()
            .filter(|(path, _)| !path.starts_with(work.join("features")))
        {
            assert!(
                fs::read(path).unwrap() == *bytes,
                "round {seed}: {path:?} is not whole"
            );
        }
        // Restores what was not needed.
        before
            .iter()
            .for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

#[test]
fn a_power_loss_costs_the_damaged_files_alone() {
    survives_power_losses(5);
}

#[test]
#[ignore = "takes minutes"]
fn fifty_power_losses_cost_the_damaged_files_alone() {
    survives_power_losses(50);
}

#[test]
fn a_damaged_pair_is_not_aligned() {
    let sandbox = sandbox(3);
    run(&sandbox, "-o cloud.ply --work work");
    let pair = fs::read_dir(sandbox.path("work/pairs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&pair).unwrap();
    let end = bytes.len();
    bytes[end - 4096..].fill(0);
    fs::write(&pair, bytes).unwrap();
    sandbox.refuse(
        "align work -o aligned.ply",
        3,
        &["work/pairs/", "does not match its checksum", "made anew"],
    );
}

#[test]
fn a_folder_of_another_version_is_computed_anew_with_a_word() {
    let sandbox = sandbox(3);
    fs::create_dir_all(sandbox.path("work/pairs")).unwrap();
    sandbox.write(
        "work/pairs/0123456789abcdef0123456789abcdef.safetensors",
        "of version 1",
    );
    let outcome = run(&sandbox, "-o cloud.ply --work work");
    assert_eq!(pairs(&outcome.json()), [3, 3]);
    assert!(
        outcome
            .stderr
            .contains("work: was kept by another version of this program (work version 1, "),
        "{}",
        outcome.stderr
    );
    assert!(
        !run(&sandbox, "-o cloud.ply --work work")
            .stderr
            .contains("version")
    );
}

#[test]
fn a_run_says_first_what_it_will_take() {
    let sandbox = sandbox(3);
    let said = run(&sandbox, "-o 1.ply --work work").stderr;
    // About 14 bytes for a pixel of 224x168 and a pair.
    let first = "3 images, 3 pairs, all to be computed; about 1.6 MB of disk space in work; the time left is estimated";
    assert!(said.starts_with(first), "{said}");
    let said = run(&sandbox, "-o 2.ply --work work").stderr;
    assert!(
        said.starts_with("3 images, 3 pairs, all of them computed before\n"),
        "{said}"
    );
    add(&sandbox, 4);
    let said = run(&sandbox, "-o 3.ply --work work").stderr;
    assert!(
        said.starts_with("4 images, 6 pairs, 3 of them to be computed; about 1.6 MB"),
        "{said}"
    );
    assert_eq!(run(&sandbox, "-o 4.ply -q --work work").stderr, "");
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_says_how_to_go_on() {
    let sandbox = sandbox(4);
    for (rest, advice) in [
        (
            "--work work",
            "interrupted; run the same command again to go on: work keeps what was computed\n",
        ),
        (
            "",
            "interrupted; nothing is kept: with --work FOLDER the same command can go on where it was ended\n",
        ),
        ("-q", ""),
    ] {
        let line = format!("reconstruct photos --model tiny -o cloud.ply {rest}");
        let mut child = sandbox
            .command(&line)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its temporary file says that the handler of interrupts is in place, its first line that
        // computing begins.
        let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        if rest == "-q" {
            let is_begun = |path: &PathBuf| {
                path.extension()
                    .is_some_and(|extension| extension == "part")
            };
            let deadline = Instant::now() + Duration::from_secs(120);
            while !sandbox.contents().keys().any(is_begun) {
                assert!(
                    Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                    "nothing was begun in time"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        } else {
            said.read_line(&mut first).unwrap();
            assert!(first.starts_with("4 images, 6 pairs"), "{first}");
        }
        let killed = std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let mut last = String::new();
        said.read_to_string(&mut last).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), last.as_str()),
            (Some(130), advice),
            "{line}"
        );
        assert!(!sandbox.path("cloud.ply").exists());
    }
}

#[test]
fn an_image_of_something_else_is_named_and_left_out() {
    let sandbox = sandbox(3);
    fs::copy(
        fixture("images/large_601x433.png"),
        sandbox.path("photos/stranger.png"),
    )
    .unwrap();
    let outcome = run(
        &sandbox,
        "--cameras cameras.json -o cloud.ply --consistency 2",
    );
    let summary = outcome.json();
    let placed: Vec<bool> = summary["views"]
        .as_array()
        .unwrap()
        .iter()
        .map(|view| view["placed"].as_bool().unwrap())
        .collect();
    assert_eq!(placed, [true, true, true, false]);
    assert!(
        outcome
            .stderr
            .contains("stranger.png is left out: no sound pair"),
        "{}",
        outcome.stderr
    );
    assert!(sandbox.json("cameras.json")["images"][3]["world_from_camera"].is_null());
    let points = &summary["points"];
    assert!(
        points["not_finite"].as_u64().unwrap() > 0 && points["kept"].as_u64().unwrap() > 50_000,
        "{points}"
    );
}

#[test]
fn masks_leave_out_what_they_are_black_over() {
    let sandbox = sandbox(3);
    fs::create_dir(sandbox.path("masks")).unwrap();
    // The upper half of one image, the left half of another; the third has none.
    let (width, height) = (672, 504);
    let save = |name: &str, is_white: fn(u32, u32) -> bool| {
        let mask = image::GrayImage::from_fn(width, height, |x, y| {
            image::Luma([if is_white(x, y) { 255 } else { 0 }])
        });
        mask.save(sandbox.path(&format!("masks/{name}"))).unwrap();
    };
    save("demo_1.png", |_, y| y < 252);
    save("demo_2.jpg.png", |x, _| x < 336);
    let whole = run(&sandbox, "-o whole.ply --work work").json();
    let masked = run(&sandbox, "-o masked.ply --work work --masks masks").json();
    assert_eq!(pairs(&masked), [0, 3]);
    let points = |summary: &Value| summary["points"]["kept"].as_u64().unwrap();
    assert_eq!(points(&whole) - points(&masked), 224 * 168);
    assert_eq!(
        (&whole["points"]["masked"], &masked["points"]["masked"]),
        (&json!(0), &json!(224 * 168))
    );
    assert_eq!(masked["points"]["not_finite"], 0);
    let matches = |summary: &Value| summary["pairs"][0]["matches"].as_u64().unwrap();
    assert!(
        matches(&masked) > 50 && matches(&masked) < matches(&whole) / 2,
        "{masked}"
    );
    assert_eq!(masked["pairs"][0]["verdict"], "used");

    let line = "reconstruct photos --model tiny -o c.ply --masks masks";
    image::GrayImage::new(100, 80)
        .save(sandbox.path("masks/demo_3.png"))
        .unwrap();
    fs::write(sandbox.path("masks/demo_1.png"), b"none").unwrap();
    sandbox.refuse(
        line,
        3,
        &[
            "masks/demo_3.png: the mask has 100x80 pixels and demo_3.jpg has 672x504",
            "masks/demo_1.png: a text file",
        ],
    );
    fs::rename(sandbox.path("photos"), sandbox.path("others")).unwrap();
    sandbox.refuse(
        "reconstruct others/demo_1.jpg a.png --model tiny -o c.ply --masks others/none",
        3,
        &["others/none"],
    );
}

#[test]
fn a_cloud_is_thinned_as_asked() {
    let sandbox = sandbox(3);
    let counts = |rest: &str| {
        let summary = run(&sandbox, &format!("-o c.ply --work work {rest}")).json();
        let points = &summary["points"];
        assert_eq!(
            points["kept"],
            ply(&sandbox.read("c.ply")).positions.len(),
            "{rest}"
        );
        ["total", "thinned", "kept"].map(|name| points[name].as_u64().unwrap())
    };
    let [total, thinned, all] = counts("");
    assert_eq!((thinned, all), (0, total));
    let [_, thinned, few] = counts("--max-points 1000");
    assert_eq!((thinned, few), (all - 1000, 1000));
    let [_, thinned, coarse] = counts("--voxel 0.05");
    assert!(
        coarse > 100 && coarse < all / 4 && thinned == all - coarse,
        "{coarse} of {all}"
    );
    let [_, thinned, both] = counts("--voxel 0.05 --max-points 50 --min-confidence 1.5");
    assert!(both == 50 && thinned < all, "{thinned} of {all}");
    let line = "reconstruct photos --model tiny -o d.ply";
    sandbox.refuse(
        &format!("{line} --voxel 0"),
        2,
        &["--voxel: the side of a voxel", "above 0"],
    );
    sandbox.refuse(
        &format!("{line} --max-points 0"),
        2,
        &["--max-points: the most points to keep must be at least 1"],
    );
}

#[test]
fn known_cameras_stay_as_they_are() {
    let sandbox = sandbox(3);
    let truth = in_repository("assets/demo_cameras.json");
    fs::copy(truth, sandbox.path("known.json")).unwrap();
    run(
        &sandbox,
        "--cameras found.json -o scene --format colmap --poses known.json --intrinsics known.json",
    );
    let (found, known) = (sandbox.json("found.json"), sandbox.json("known.json"));
    for view in 0..3 {
        let [found, known] = [&found, &known].map(|cameras| &cameras["images"][view]);
        let gap = rotation_between(pose(found), pose(known));
        // The file's numbers are rounded to six digits.
        assert!(gap < 0.05, "view {}: {gap} degrees", view + 1);
        let focal = found["file"]["fx"].as_f64().unwrap() / known["fx"].as_f64().unwrap();
        assert!((focal - 1.0).abs() < 1e-6, "view {}: {focal}", view + 1);
    }
    assert!(
        sandbox.path("scene/sparse/0/points3D.bin").is_file()
            && sandbox.path("scene/images/demo_2.jpg").exists()
    );
}

#[test]
fn matches_of_all_pairs_are_written() {
    let sandbox = sandbox(3);
    fs::copy(
        sandbox.path("photos/demo_2.jpg"),
        sandbox.path("photos/a, b.jpg"),
    )
    .unwrap();
    let summary = run(
        &sandbox,
        "--matches m.csv --cameras c.json --work work --graph oneref-1",
    )
    .json();
    run(
        &sandbox,
        "--matches m.safetensors --work work --graph oneref-1",
    );
    let csv = String::from_utf8(sandbox.read("m.csv")).unwrap();
    let (header, lines) = csv.split_once('\n').unwrap();
    assert_eq!(
        header,
        "x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2,image1,image2"
    );
    let lines: Vec<&str> = lines.lines().collect();
    let counts: Vec<usize> = summary["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| usize::try_from(pair["matches"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(
        (counts.len(), counts.iter().sum::<usize>()),
        (3, lines.len())
    );
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.ends_with(",\"a, b.jpg\",demo_1.jpg"))
            .count(),
        counts[0]
    );

    let bytes = sandbox.read("m.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 15);
    let numbers = |name: &str| {
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .to_vec()
    };
    for (pair, count) in ["0-1", "1-2", "1-3"].iter().zip(counts) {
        let tensor = |name: &str| numbers(&format!("{pair}.{name}"));
        assert_eq!(tensor("confidence").len(), count);
        // Of the files' pixels the network saw a third on either side.
        for (seen, whole) in tensor("first").iter().zip(tensor("first_file")) {
            let [seen, whole] = [i32::from_le_bytes(*seen) as f32, f32::from_le_bytes(whole)];
            assert!(
                (whole - (3.0 * seen + 1.0)).abs() < 1e-3,
                "{pair}: {seen} is {whole}"
            );
        }
    }
}

#[test]
fn pairs_are_those_asked_for() {
    let sandbox = sandbox(4);
    sandbox.write(
        "pairs.txt",
        "# ours\ndemo_1.jpg demo_2.jpg\nphotos/demo_3.jpg demo_1.jpg\ndemo_2.jpg demo_1.jpg\n",
    );
    for (rest, expected) in [
        ("--pairs pairs.txt", vec![[0, 1], [0, 2]]),
        ("--window 1", vec![[0, 1], [1, 2], [2, 3]]),
        ("--graph swin-1", vec![[0, 1], [0, 3], [1, 2], [2, 3]]),
        ("--graph oneref-1", vec![[0, 1], [1, 2], [1, 3]]),
        (
            "--graph retrieval-4-1",
            vec![[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]],
        ),
    ] {
        let summary = run(&sandbox, &format!("--cameras c.json --work work {rest}")).json();
        let found: Vec<[u64; 2]> = summary["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| serde_json::from_value(pair["pair"].clone()).unwrap())
            .collect();
        assert_eq!(found, expected, "{rest}");
    }
    // As many features in memory as there is room for, down to none.
    run(&sandbox, "-o all.ply");
    run(&sandbox, "-o none.ply --memory 0");
    assert_eq!(sandbox.read("all.ply"), sandbox.read("none.ply"));
}

#[test]
fn what_cannot_be_reconstructed_is_refused_before_anything_is_computed() {
    let sandbox = sandbox(3);
    fs::create_dir(sandbox.path("empty")).unwrap();
    fs::create_dir(sandbox.path("mixed")).unwrap();
    fs::create_dir(sandbox.path("foreign")).unwrap();
    sandbox.write("foreign/scene.json", "{}");
    fs::create_dir_all(sandbox.path("later/pairs")).unwrap();
    sandbox.write("later/scene.json", "{\"version\": 3}");
    sandbox.write("mixed/notes.txt", "not an image, and not taken for one");
    sandbox.write("mixed/broken.jpg", "Dear diary,\n");
    sandbox.write(
        "list.txt",
        "photos/demo_1.jpg\nphotos/missing.jpg\nphotos/demo_2.jpg\n",
    );
    sandbox.write("pairs.txt", "demo_1.jpg demo_9.jpg\n");
    let photos = "reconstruct photos --model tiny -o c.ply";
    for (line, code, parts) in [
        (
            "reconstruct photos/demo_1.jpg --model tiny -o c.ply".to_string(),
            2,
            &["1 image: ", "two views of a scene or more"][..],
        ),
        (
            "reconstruct nowhere --model tiny -o c.ply".into(),
            3,
            &["nowhere: no such file or folder"],
        ),
        (
            "reconstruct empty --model tiny -o c.ply".into(),
            3,
            &["empty: no images that can be read are in this folder: it is empty"],
        ),
        (
            "reconstruct photos mixed --model tiny -o c.ply -q".into(),
            3,
            &["mixed/broken.jpg: ", "a text file, not an image"],
        ),
        (
            "reconstruct photos/*.png --model tiny -o c.ply".into(),
            3,
            &["photos/*.png: no file matches this pattern"],
        ),
        (
            "reconstruct @list.txt --model tiny -o c.ply".into(),
            3,
            &["photos/missing.jpg: no such file"],
        ),
        (
            "reconstruct @none.txt --model tiny -o c.ply".into(),
            3,
            &["none.txt: no such file"],
        ),
        (
            format!("{photos} --pairs pairs.txt"),
            3,
            &["pairs.txt: no image is named demo_9.jpg; 3 images are given"],
        ),
        (
            format!("{photos} --pairs none.txt"),
            3,
            &["none.txt: no such file"],
        ),
        (
            format!("{photos} --graph swing-3"),
            2,
            &["\"swing-3\" is not a graph; give auto, complete"],
        ),
        (
            format!("{photos} --graph oneref-3"),
            2,
            &["--graph: graph oneref-3: there is no view 3"],
        ),
        (
            format!("{photos} --graph complete --window 2"),
            2,
            &["cannot be used with"],
        ),
        (format!("{photos} --window 0"), 2, &["--window"]),
        (format!("{photos} --memory -1"), 2, &["--memory"]),
        (
            format!("{photos} --predictions p.safetensors"),
            2,
            &[
                "--predictions is of two images alone; --work FOLDER keeps maps and matches of every pair",
            ],
        ),
        (
            format!("{photos} --masks list.txt"),
            3,
            &["list.txt: a text file, not an image"],
        ),
        (
            format!("{photos} --intrinsics nan"),
            2,
            &[
                "--intrinsics: focal lengths are numbers of pixels, for ",
                "got NaN",
            ],
        ),
        (
            format!("{photos} --intrinsics 1e9"),
            2,
            &[
                "--intrinsics: focal lengths are numbers of pixels, for ",
                "1000000000",
            ],
        ),
        (
            format!("{photos} --intrinsics 99,99,1e6,9"),
            2,
            &["--intrinsics: the principal point (1000000, 9) is nowhere"],
        ),
        (
            format!("{photos} --match-step 0"),
            2,
            &["--match-step", "expected a whole number, 1 or more"],
        ),
        (
            format!("{photos} --work later"),
            3,
            &[
                "later/scene.json: is of layout 3",
                "use the program that made it",
            ],
        ),
        (
            format!("{photos} --work missing/work"),
            2,
            &["missing/work", "its parent does not exist"],
        ),
        (
            format!("{photos} --work pairs.txt"),
            2,
            &["pairs.txt: it is a file; name a folder"],
        ),
        (
            format!("{photos} --work foreign"),
            2,
            &["foreign: it holds predictions that this program did not make"],
        ),
    ] {
        // What clap refuses has a message of its own form.
        let by_clap = ["--graph swing", "--window", "--memory", "--match-step"];
        match by_clap.iter().any(|option| line.contains(option)) {
            true => {
                let outcome = sandbox.run(&line);
                assert_eq!(outcome.code, Some(code), "{line}\n{}", outcome.stderr);
                assert!(
                    parts.iter().all(|part| outcome.stderr.contains(part)),
                    "{line}\n{}",
                    outcome.stderr
                );
            }
            false => sandbox.refuse(&line, code, parts),
        }
    }
}
