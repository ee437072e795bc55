//! Pages of scenes, and `mast3r view`.

use std::fs;

use serde_json::Value;

use super::sandbox::{Outcome, Sandbox, ply};

/// A sandbox with the folder `pair` of stored predictions, and of its scene `cloud.ply`,
/// `cloud.glb` and `scene.html`.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("two_view", "pair");
    sandbox.succeed("align pair -o cloud.ply -o cloud.glb -o scene.html --min-confidence 2");
    sandbox
}

/// What a page says of its scene.
fn description(page: &[u8]) -> Value {
    let page = str::from_utf8(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    let (_, start) = page.split_once("id=\"scene\">").unwrap();
    serde_json::from_str(start.split_once("</script>").unwrap().0).unwrap()
}

fn points(description: &Value) -> u64 {
    let blocks = description["blocks"].as_array().unwrap();
    blocks
        .iter()
        .map(|block| block["count"].as_u64().unwrap())
        .sum()
}

#[test]
fn clouds_and_folders_become_the_page_of_their_scene() {
    let sandbox = sandbox();
    let kept = ply(&sandbox.read("cloud.ply")).positions.len() as u64;
    let exported = description(&sandbox.read("scene.html"));
    assert_eq!(points(&exported), kept);
    for (scene, cameras) in [("cloud.ply", 0), ("cloud.glb", 2)] {
        let outcome = sandbox.succeed(&format!("view {scene} -o page.html --no-open"));
        assert_eq!(outcome.stdout, b"page.html\n");
        let page = description(&sandbox.read("page.html"));
        assert_eq!(points(&page), kept, "{scene}");
        assert_eq!(page["levels"], exported["levels"], "{scene}");
        assert_eq!(page["extent"], exported["extent"], "{scene}");
        assert_eq!(page["cameras"].as_array().unwrap().len(), cameras);
        for camera in 0..cameras {
            let pose = |page: &Value| -> Vec<f64> {
                let rows = page["cameras"][camera]["entry"]["world_from_camera"].as_array();
                let rows = rows.unwrap().iter().flat_map(|row| row.as_array().unwrap());
                rows.map(|value| value.as_f64().unwrap()).collect()
            };
            for (found, expected) in pose(&page).iter().zip(pose(&exported)) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
            let focal = |page: &Value| page["cameras"][camera]["entry"]["fx"].as_f64().unwrap();
            assert!((focal(&page) / focal(&exported) - 1.0).abs() < 1e-6);
        }
    }
    sandbox.succeed("view pair -o page.html --no-open --min-confidence 2");
    let mut page = description(&sandbox.read("page.html"));
    page["title"] = exported["title"].clone();
    assert_eq!(page, exported);
}

#[test]
fn rules_for_points_apply_to_pages() {
    let sandbox = sandbox();
    sandbox.succeed("view cloud.ply -o page.html --no-open --max-points 100");
    assert_eq!(points(&description(&sandbox.read("page.html"))), 100);
    sandbox.succeed("align pair -o page.html --max-points 70 --no-frustums");
    let page = description(&sandbox.read("page.html"));
    assert_eq!(
        (points(&page), page["cameras"].as_array().unwrap().len()),
        (70, 0)
    );
}

#[test]
fn a_scene_in_metres_stays_so_through_its_files() {
    let sandbox = sandbox();
    assert_eq!(description(&sandbox.read("scene.html"))["metric"], false);
    let mut scene = sandbox.json("pair/scene.json");
    scene["metric"] = true.into();
    sandbox.write("pair/scene.json", scene.to_string());
    sandbox.succeed("align pair -o cloud.ply -o cloud.glb");
    for scene in ["pair", "cloud.ply", "cloud.glb"] {
        sandbox.succeed(&format!("view {scene} -o page.html --no-open"));
        let page = description(&sandbox.read("page.html"));
        assert_eq!(page["metric"], true, "{scene}");
    }
}

#[test]
fn without_a_name_the_page_is_a_temporary_file_that_stays() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("temporary")).unwrap();
    let mut command = sandbox.command("view cloud.ply --no-open");
    for name in ["TMPDIR", "TMP", "TEMP"] {
        command.env(name, sandbox.path("temporary"));
    }
    let outcome = Outcome::new(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let path = String::from_utf8(outcome.stdout).unwrap();
    let path = std::path::Path::new(path.trim());
    assert!(path.starts_with(sandbox.path("temporary")), "{path:?}");
    assert_eq!(path.file_name().unwrap(), "cloud.html");
    assert_eq!(description(&fs::read(path).unwrap())["title"], "cloud");
}

/// A sandbox whose `bin` has a program that the system opens files with: a script.
#[cfg(target_os = "linux")]
fn with_opener(script: &str) -> Sandbox {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("bin")).unwrap();
    sandbox.write("bin/xdg-open", format!("#!/bin/sh\n{script}\n"));
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(sandbox.path("bin/xdg-open"), executable).unwrap();
    sandbox
}

#[cfg(target_os = "linux")]
#[test]
fn the_page_is_opened_in_the_browser() {
    let sandbox = with_opener("echo \"$1\" > opened");
    for (scene, page) in [
        ("cloud.ply -o page.html", "page.html"),
        ("scene.html", "scene.html"),
    ] {
        let mut command = sandbox.command(&format!("view {scene}"));
        let path = format!("{}:/bin:/usr/bin", sandbox.path("bin").display());
        let outcome = Outcome::new(command.env("PATH", path).output().unwrap());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let opened = String::from_utf8(sandbox.read("opened")).unwrap();
        let expected = sandbox.path(page).canonicalize().unwrap();
        assert_eq!(fs::canonicalize(opened.trim()).unwrap(), expected);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_browser_that_does_not_start_is_one_error() {
    let sandbox = with_opener("echo no display >&2; exit 3");
    let mut command = sandbox.command("view cloud.ply -o page.html");
    let outcome = Outcome::new(command.env("PATH", sandbox.path("bin")).output().unwrap());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let expected =
        "error: page.html: no browser could be started; open the file by hand: xdg-open: ";
    assert!(outcome.stderr.starts_with(expected), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1);
    description(&sandbox.read("page.html"));
}

#[test]
fn scenes_that_cannot_be_shown_are_refused() {
    let sandbox = sandbox();
    for name in ["cloud.ply", "cloud.glb"] {
        let bytes = sandbox.read(name);
        sandbox.write(&format!("short-{name}"), &bytes[..bytes.len() - 1000]);
    }
    sandbox.write(
        "empty.ply",
        "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n",
    );
    sandbox.write(
        "unknown.ply",
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\nnan 0 0\n",
    );
    sandbox.write("other.ply", "solid cube\n");
    sandbox.write("other.glb", "{}");
    sandbox.write("notes.txt", "hello");
    fs::create_dir(sandbox.path("empty")).unwrap();
    for (line, code, part) in [
        ("nothing.ply", 3, "nothing.ply: "),
        ("nothing.html", 3, "nothing.html: "),
        ("nothing", 3, "nothing: "),
        ("short-cloud.ply", 3, "short-cloud.ply: it is truncated: "),
        ("short-cloud.glb", 3, "short-cloud.glb: it is truncated: "),
        ("empty.ply", 3, "empty.ply: it has no points"),
        ("unknown.ply", 3, "none of its points is finite"),
        ("other.ply", 3, "other.ply: it is not a PLY file"),
        ("other.glb", 3, "other.glb: it is not a GLB file"),
        ("notes.txt", 2, "notes.txt: unknown kind of scene"),
        ("empty", 3, "empty: it holds no predictions"),
        ("cloud.ply -o no/page.html", 2, "no/page.html"),
        ("cloud.ply -o page.txt", 2, "a page ends in .html"),
        ("cloud.ply -o page.html --max-points 0", 2, "--max-points"),
        (
            "cloud.ply -o page.html --min-confidence 1e9",
            2,
            "keeps none",
        ),
        ("scene.html -o page.html", 2, "it is a page already"),
        ("scene.html --voxel 1", 2, "it is a page already"),
    ] {
        let line = format!("view {line} --no-open");
        sandbox.refuse(&line, code, &[part]);
    }
}

#[test]
fn a_page_that_cannot_be_written_is_named_and_leaves_nothing() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("folder.html")).unwrap();
    sandbox.refuse("align pair -o folder.html", 2, &["folder.html"]);
    sandbox.refuse("align pair -o no/page.html", 2, &["no/page.html"]);
    sandbox.refuse(
        "align pair -o page.html --min-confidence 1e9",
        2,
        &["page.html", "keeps none"],
    );
}
