//! What a work folder keeps: between runs, after an interrupt, after a power loss.

use super::*;

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
    sandbox.copy_demo([4]);
    let more = run(&sandbox, "-o 3.ply --work work").json();
    assert_eq!((pairs(&more), &more["encoded"]), ([3, 6], &1.into()));
    for (number, name) in [(1, "c"), (2, "b"), (3, "a")] {
        sandbox.copy_demo_as(number, &format!("elsewhere/{name}.jpg"));
    }
    let kept = fs::read_dir(sandbox.path("work/pairs")).unwrap().count();
    let line = "reconstruct elsewhere --model tiny --res 112 --json --no-refine --matches";
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
                "-o 6.ply --work work --res 84x70 --graph oneref-0"
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
    let line = "reconstruct photos --model tiny --res 112 --json -o cloud.ply --work work";
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
    outcome.assert_says("work: was kept by another version of this program (work version 1, ");
    assert!(
        !run(&sandbox, "-o cloud.ply --work work")
            .stderr
            .contains("version")
    );
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
        let mut child = sandbox.start(&line);
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
        send("-INT", &child);
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
