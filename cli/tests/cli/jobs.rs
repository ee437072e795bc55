//! Plans and the workers that run their shards, with the bundled network.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mast3r::geometry::Geodetic;
use serde_json::Value;

use super::frames::exif;
use super::sandbox::{Outcome, Sandbox};

const NETWORK: &str = "--model tiny --res 112";

/// A sandbox with the demonstration's four images in `photos`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_demo(1..=4);
    sandbox
}

/// Every file of a folder's parts that hold results, by its name.
fn results(sandbox: &Sandbox, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let parts = ["views", "features", "pairs", "scene.json"];
    let root = sandbox.path(folder);
    let contents = sandbox.contents();
    let files = contents.keys().filter(|path| {
        path.is_file() && parts.iter().any(|part| path.starts_with(root.join(part)))
    });
    let named = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_path_buf();
        (name, fs::read(path).unwrap())
    };
    files.map(named).collect()
}

/// The lines of JSON of a run.
fn events(outcome: &Outcome) -> Vec<Value> {
    let lines = String::from_utf8(outcome.stdout.clone()).unwrap();
    let line = |line: &str| serde_json::from_str(line).unwrap();
    lines.lines().map(line).collect()
}

/// How many items of `kind` came to `state`.
fn count(events: &[Value], kind: &str, state: &str) -> usize {
    let is_it = |event: &&Value| event["event"] == kind && event["state"] == state;
    events.iter().filter(is_it).count()
}

#[test]
fn shards_give_what_one_run_gives() {
    let sandbox = sandbox();
    let single = format!("reconstruct photos {NETWORK} --no-refine --work single -o single.ply");
    sandbox.succeed(&single);

    let line = format!("plan photos {NETWORK} --work work --shards 3 --json");
    let summary = sandbox.succeed(&line).json();
    assert_eq!(
        (&summary["images"], &summary["shards"]),
        (&4.into(), &3.into())
    );
    let plan = sandbox.read("work/plan.json");
    sandbox.succeed(&line);
    assert_eq!(sandbox.read("work/plan.json"), plan);

    // Pairs need all encodings, and the alignment all pairs.
    let encode = |shard: usize| format!("run --work work --shard {shard} --stage encode");
    let pairs = |shard: usize| format!("run --work work --shard {shard} --stage pairs");
    let first = events(&sandbox.succeed(&encode(1)));
    assert_eq!(count(&first, "image", "computed"), 1);
    assert_eq!(first.last().unwrap()["event"], "stage");
    let missing = "2 of 3 shards are missing from the stage encode: 0, 2";
    sandbox.refuse(&pairs(0), 5, &[missing]);
    sandbox.refuse("align work -o early.ply", 5, &[missing]);
    for shard in [2, 0] {
        sandbox.succeed(&encode(shard));
    }
    let computed = events(&sandbox.succeed(&pairs(2)));
    assert_eq!(count(&computed, "pair", "computed"), 2);
    assert!(computed[0]["matches"].as_u64().unwrap() > 0, "{computed:?}");
    sandbox.refuse(
        "align work -o early.ply",
        5,
        &["2 of 3 shards are missing from the stage pairs: 0, 1"],
    );
    for shard in [0, 1] {
        sandbox.succeed(&pairs(shard));
    }
    // Twice does no harm, and computes nothing.
    let again = events(&sandbox.succeed("run --work work"));
    assert_eq!(count(&again, "image", "kept"), 4);
    assert_eq!(count(&again, "pair", "kept"), 6);
    assert_eq!(again.len(), 4 + 6 + 2 * 3);
    sandbox.succeed("align work -o shards.ply");
    assert!(results(&sandbox, "work") == results(&sandbox, "single"));
    assert_eq!(sandbox.read("shards.ply"), sandbox.read("single.ply"));

    // A reconstruction goes on from there.
    let line = format!("reconstruct photos {NETWORK} --no-refine --work work -o on.ply --json");
    let summary = sandbox.succeed(&line).json();
    assert_eq!(
        (&summary["encoded"], &summary["computed"]),
        (&0.into(), &0.into())
    );

    // What is lost is made again, features for the pairs that need them.
    let lose = |folder: &str| {
        let files = fs::read_dir(sandbox.path("work").join(folder)).unwrap();
        files.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
    };
    lose("features");
    lose("pairs");
    for shard in 0..3 {
        sandbox.succeed(&pairs(shard));
    }
    sandbox.succeed("align work -o healed.ply");
    assert_eq!(sandbox.read("healed.ply"), sandbox.read("single.ply"));
}

#[test]
fn images_that_cannot_be_used_are_named_and_take_no_part() {
    let sandbox = sandbox();
    let single = format!("reconstruct photos {NETWORK} --no-refine --work single -o single.ply");
    sandbox.succeed(&single);
    let whole = sandbox.read("photos/demo_2.jpg");
    // One whose header is right, one that is no image, and one that changes.
    sandbox.write("photos/demo_11.jpg", &whole[..whole.len() / 2]);
    sandbox.write("photos/demo_0.jpg", "no image");
    sandbox.write("photos/demo_9.jpg", &whole);
    let outcome = sandbox.succeed(&format!(
        "plan photos {NETWORK} --work work --shards 2 --json"
    ));
    assert_eq!(outcome.json()["unusable"].as_array().unwrap().len(), 1);
    sandbox.write("photos/demo_9.jpg", sandbox.read("photos/demo_1.jpg"));
    let outcome = sandbox.succeed("run --work work");
    for name in ["demo_0.jpg", "demo_9.jpg: has changed", "demo_11.jpg"] {
        outcome.assert_says(name);
    }
    let events = events(&outcome);
    assert_eq!(count(&events, "image", "failed"), 3, "{events:?}");
    assert_eq!(count(&events, "pair", "computed"), 6);
    let outcome = sandbox.succeed("align work -o shards.ply");
    outcome.assert_says("demo_11.jpg");
    assert!(results(&sandbox, "work") == results(&sandbox, "single"));
    assert_eq!(sandbox.read("shards.ply"), sandbox.read("single.ply"));
}

#[test]
fn workers_may_be_killed_and_may_share_a_shard() {
    let sandbox = sandbox();
    let single = format!("reconstruct photos {NETWORK} --no-refine --work single -o single.ply");
    sandbox.succeed(&single);
    sandbox.succeed(&format!("plan photos {NETWORK} --work work"));
    let start = || {
        let mut command = sandbox.command("run --work work --threads 1");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut killed = start();
    let deadline = Instant::now() + Duration::from_secs(120);
    let has_pairs = || {
        fs::read_dir(sandbox.path("work/pairs")).is_ok_and(|mut files| {
            files.any(|file| !file.unwrap().file_name().to_string_lossy().starts_with('.'))
        })
    };
    while !has_pairs() {
        assert!(Instant::now() < deadline, "no pair was kept in time");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut both = [start(), start()];
    for worker in &mut both {
        assert!(worker.wait().unwrap().success());
    }
    sandbox.succeed("align work -o shards.ply");
    assert!(results(&sandbox, "work") == results(&sandbox, "single"));
    assert_eq!(sandbox.read("shards.ply"), sandbox.read("single.ply"));
}

#[test]
fn refuses_plans_that_no_worker_could_follow() {
    let sandbox = sandbox();
    let plan = format!("plan photos {NETWORK} --work work");
    sandbox.refuse("run --work photos", 2, &["there is no plan"]);
    sandbox.refuse(&format!("{plan} --shards 0"), 2, &["1 or more"]);
    let joint = "plan photos --model da3-small --weights random:0 --work work";
    sandbox.refuse(joint, 2, &["networks of image pairs"]);
    sandbox.succeed(&format!("{plan} --workers cuda --precision bf16"));
    sandbox.refuse(
        "run --work work --device cpu",
        2,
        &["the plan is for cuda", "machines of one kind"],
    );
    sandbox.succeed(&plan);
    sandbox.refuse("run --work work --shard 1", 2, &["there is no shard 1"]);
    let other = "run --work work --precision bf16";
    sandbox.refuse(other, 2, &["the plan has f32"]);
}

#[test]
fn an_estimate_says_what_a_run_takes_and_writes_nothing() {
    let sandbox = sandbox();
    let before = sandbox.contents();
    let outcome = sandbox.succeed(&format!("reconstruct photos {NETWORK} --estimate --json"));
    assert!(sandbox.contents() == before);
    let summary = outcome.json();
    assert_eq!(summary["images"], 4);
    assert_eq!(summary["pairs"], serde_json::json!([6, 6]));
    for part in ["measured now", "a stored figure for the alignment"] {
        outcome.assert_says(part);
    }
    for seconds in ["encode_image", "pair"] {
        assert!(
            summary["measured"][seconds].as_f64().unwrap() > 0.0,
            "{summary}"
        );
    }
    let planned = format!("plan photos {NETWORK} --work work --estimate --json");
    let planned = sandbox.succeed(&planned).json();
    assert_eq!(planned["disk_bytes"], summary["disk_bytes"]);
    assert!(sandbox.contents() == before);

    // The folder takes what was said, but for headers and matches.
    sandbox.succeed(&format!(
        "reconstruct photos {NETWORK} --no-refine --work work -o a.ply"
    ));
    let files = results(&sandbox, "work");
    let bytes: usize = files.values().map(Vec::len).sum();
    let said = summary["disk_bytes"][1].as_f64().unwrap();
    assert!((bytes as f64 / said - 1.0).abs() < 0.1, "{bytes} of {said}");
}

#[test]
fn nearest_images_need_positions() {
    let sandbox = sandbox();
    sandbox.refuse(
        &format!("reconstruct photos {NETWORK} --nearest 2 -o cloud.ply"),
        2,
        &["--nearest: no image has a GPS position"],
    );
    for (number, metres) in [(1, 0.0), (2, 100.0), (3, 1.0), (4, 101.0)] {
        let position = Geodetic {
            latitude: 48.0 + metres / 111_200.0,
            longitude: 11.0,
            altitude: 0.0,
        };
        let name = format!("photos/demo_{number}.jpg");
        let data = [b"Exif\0\0".to_vec(), exif(position, false)].concat();
        let length = (data.len() as u16 + 2).to_be_bytes();
        let whole = sandbox.read(&name);
        let with = [&whole[..2], &[0xff, 0xe1], &length, &data, &whole[2..]].concat();
        sandbox.write(&name, with);
    }
    // Two and two, and the shortest between them.
    let line = format!("plan photos {NETWORK} --nearest 1 --work work");
    sandbox.succeed(&line);
    assert_eq!(
        sandbox.json("work/plan.json")["pairs"],
        serde_json::json!({ "list": [[0, 2], [1, 2], [1, 3]] })
    );
}
