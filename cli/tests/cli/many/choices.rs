//! What can be asked for: masks, known cameras, pairs, matches, a thinner cloud; and what cannot.

use super::*;
use crate::poses::{pose, rotation_between};

#[test]
fn a_run_says_first_what_it_will_take() {
    let sandbox = sandbox(3);
    let said = run(&sandbox, "-o 1.ply --work work").stderr;
    // About 14 bytes for a pixel of 112x84 and a pair.
    let first = "3 images, 3 pairs, all to be computed; about 396 kB of disk space in work; the time left is estimated";
    assert!(said.starts_with(first), "{said}");
    let said = run(&sandbox, "-o 2.ply --work work").stderr;
    assert!(
        said.starts_with("3 images, 3 pairs, all of them computed before\n"),
        "{said}"
    );
    sandbox.copy_demo([4]);
    let said = run(&sandbox, "-o 3.ply --work work").stderr;
    assert!(
        said.starts_with("4 images, 6 pairs, 3 of them to be computed; about 396 kB"),
        "{said}"
    );
    assert_eq!(run(&sandbox, "-o 4.ply -q --work work").stderr, "");
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
    outcome.assert_says("stranger.png is left out: no sound pair");
    assert!(sandbox.json("cameras.json")["images"][3]["world_from_camera"].is_null());
    let points = &summary["points"];
    assert!(
        points["not_finite"].as_u64().unwrap() > 0 && points["kept"].as_u64().unwrap() > 12_500,
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
    assert_eq!(points(&whole) - points(&masked), 112 * 84);
    assert_eq!(
        (&whole["points"]["masked"], &masked["points"]["masked"]),
        (&json!(0), &json!(112 * 84))
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
        // Of the files' pixels the network saw a sixth on either side.
        for (seen, whole) in tensor("first").iter().zip(tensor("first_file")) {
            let [seen, whole] = [i32::from_le_bytes(*seen) as f32, f32::from_le_bytes(whole)];
            assert!(
                (whole - (6.0 * seen + 2.5)).abs() < 1e-3,
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
