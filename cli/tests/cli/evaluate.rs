//! Cameras compared with a reference.

use serde_json::Value;

use super::sandbox::Sandbox;

/// A sandbox with the predictions `five` of five images, and their cameras in every format.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_predictions("outlier5", "five");
    sandbox.succeed("align five --cameras cameras.json -o poses.txt -o model --format colmap-text");
    sandbox.succeed("align five -o nerf --format nerfstudio");
    sandbox
}

fn auc(outcome: &super::sandbox::Outcome, degrees: &str) -> f64 {
    outcome.json()["auc"][degrees].as_f64().unwrap()
}

#[test]
fn every_format_of_the_same_cameras_agrees_with_every_other() {
    let sandbox = sandbox();
    let all = [
        "cameras.json",
        "poses.txt",
        "model",
        "nerf/transforms.json",
        "five",
        "five/scene.json",
    ];
    for estimate in all {
        let outcome = sandbox.succeed(&format!("evaluate {estimate} cameras.json --json"));
        let found = outcome.json();
        assert_eq!(
            (&found["registered"], &found["pairs"]),
            (&5.into(), &10.into()),
            "{estimate}"
        );
        assert!(auc(&outcome, "5") > 0.999, "{estimate}: {found}");
        assert!(
            found["trajectory"]["rmse"].as_f64().unwrap() < 1e-5,
            "{estimate}: {found}"
        );
        // A trajectory has no focal lengths.
        let focal = &found["median_focal_error"];
        assert_eq!(focal.is_null(), estimate == "poses.txt", "{estimate}");
        assert!(focal.as_f64().unwrap_or(0.0) < 1e-6, "{estimate}: {focal}");
    }
    let outcome = sandbox.succeed("evaluate model poses.txt");
    let table = String::from_utf8(outcome.stdout).unwrap();
    for part in [
        "pose AUC@5/10/20/30   100.0",
        "5 of 5 images, 10 pairs",
        "RMSE 0.0000",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[test]
fn known_poses_are_read_from_every_format_of_the_same_cameras() {
    let sandbox = sandbox();
    std::fs::create_dir_all(sandbox.path("colmap/dense/sparse")).unwrap();
    for name in ["cameras.txt", "images.txt", "points3D.txt"] {
        let text = sandbox.read(&format!("model/sparse/0/{name}"));
        sandbox.write(&format!("colmap/dense/sparse/{name}"), text);
    }
    for poses in [
        "nerf/transforms.json",
        "nerf",
        "poses.txt",
        "colmap",
        "cameras.json",
    ] {
        sandbox.succeed(&format!("align five --cameras k.json --poses {poses}"));
        let found = sandbox
            .succeed(&format!("evaluate k.json {poses} --json"))
            .json();
        let trajectory = &found["trajectory"];
        assert!(
            trajectory["rmse"].as_f64().unwrap() < 1e-9,
            "{poses}: {found}"
        );
        // They are held, in their own world.
        assert!(
            (trajectory["scale"].as_f64().unwrap() - 1.0).abs() < 1e-9,
            "{poses}: {found}"
        );
        let shift = trajectory["reference_from_cameras"][0][3].as_f64().unwrap();
        assert!(shift.abs() < 1e-9, "{poses}: {found}");
    }
}

#[test]
fn images_of_one_side_alone_are_named_and_count_as_unregistered() {
    let sandbox = sandbox();
    let mut cameras = sandbox.json("cameras.json");
    let images = cameras["images"].as_array_mut().unwrap();
    images[0]["name"] = "photos/left/000.jpg".into();
    images[1]["name"] = "stranger.png".into();
    images[2]["world_from_camera"] = Value::Null;
    sandbox.write("some.json", cameras.to_string());
    let outcome = sandbox.succeed("evaluate some.json cameras.json --plot errors.svg --json");
    outcome.assert_says("are not in cameras.json: stranger.png");
    outcome.assert_says("1 images are not in some.json, and count as unregistered: 001.png");
    let found = outcome.json();
    assert_eq!(found["registered"], 3);
    assert_eq!(
        (
            &found["images"][0]["registered"],
            &found["images"][1]["listed"]
        ),
        (&true.into(), &false.into())
    );
    // Three of ten pairs have poses.
    assert!((auc(&outcome, "30") - 0.3).abs() < 1e-3, "{found}");
    assert!((found["auc_registered"]["5"].as_f64().unwrap() - 1.0).abs() < 1e-3);
    let svg = String::from_utf8(sandbox.read("errors.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn what_cannot_be_compared_is_refused_with_one_message() {
    let sandbox = sandbox();
    let good = sandbox.json("cameras.json");
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut cameras = good.clone();
        change(cameras["images"].as_array_mut().unwrap());
        cameras.to_string()
    };
    sandbox.write("empty.json", "");
    sandbox.write("list.json", "[1, 2]");
    sandbox.write("none.json", changed(&|images| images.clear()));
    sandbox.write("one.json", changed(&|images| images.truncate(1)));
    sandbox.write(
        "twice.json",
        changed(&|images| images[1]["name"] = "000.png".into()),
    );
    sandbox.write(
        "strangers.json",
        changed(&|images| {
            for (index, image) in images.iter_mut().enumerate() {
                image["name"] = format!("IMG_{index}.jpg").into();
            }
        }),
    );
    sandbox.write(
        "scaled.json",
        changed(&|images| images[3]["world_from_camera"][0] = serde_json::json!([3, 0, 0, 0])),
    );
    sandbox.write(
        "unregistered.json",
        changed(&|images| {
            images
                .iter_mut()
                .for_each(|image| image["world_from_camera"] = Value::Null);
        }),
    );
    sandbox.write("short.txt", "0 1 2 3\n");
    sandbox.write(
        "times.txt",
        "0.5 0 0 0 0 0 0 1\n1.5 1 0 0 0 0 0 1\n2.5 2 0 0 0 0 0 1\n",
    );
    std::fs::create_dir(sandbox.path("nothing")).unwrap();
    for (line, code, parts) in [
        (
            "evaluate missing.json cameras.json",
            3,
            &["missing.json", "no such file"][..],
        ),
        (
            "evaluate empty.json cameras.json",
            3,
            &["empty.json", "no poses"],
        ),
        ("evaluate list.json cameras.json", 3, &["list.json"]),
        (
            "evaluate nothing cameras.json",
            3,
            &["nothing: not a COLMAP model"],
        ),
        (
            "evaluate none.json cameras.json",
            3,
            &[
                "none.json",
                "no image of it is in cameras.json",
                "lists no image",
            ],
        ),
        (
            "evaluate strangers.json cameras.json",
            3,
            &[
                "strangers.json: no image of it is in cameras.json",
                "IMG_0.jpg",
                "000.png",
            ],
        ),
        (
            "evaluate twice.json cameras.json",
            3,
            &["twice.json: 000.png is listed twice"],
        ),
        (
            "evaluate scaled.json cameras.json",
            3,
            &["scaled.json: 003.png: its pose is not a rotation"],
        ),
        (
            "evaluate cameras.json one.json",
            3,
            &["one.json: a comparison needs the poses of two images; it has 1"],
        ),
        (
            "evaluate cameras.json unregistered.json",
            3,
            &["unregistered.json", "it has 0"],
        ),
        (
            "evaluate short.txt cameras.json",
            3,
            &["short.txt: line 1: expected timestamp tx ty tz"],
        ),
        (
            "evaluate times.txt cameras.json",
            3,
            &["times.txt", "timestamps are no indices"],
        ),
        (
            "evaluate cameras.json cameras.json --plot errors.jpg",
            2,
            &["errors.jpg: the drawing is an SVG; name it .svg"],
        ),
        (
            "evaluate cameras.json poses.txt --plot missing/e.svg",
            2,
            &["missing"],
        ),
        ("evaluate cameras.json", 2, &["REFERENCE"]),
    ] {
        sandbox.refuse(line, code, parts);
    }
    // Poses that are not there are no reason to refuse: all pairs count as 180 degrees.
    let outcome = sandbox.succeed("evaluate unregistered.json cameras.json --json");
    assert_eq!(auc(&outcome, "30"), 0.0);
    assert!(outcome.json()["trajectory"].is_null());
}
