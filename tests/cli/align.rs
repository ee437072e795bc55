//! Alignment of stored predictions.

use super::sandbox::{Sandbox, fixture, ply};

/// A sandbox with the folder `pair` of stored predictions.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("pair")).unwrap();
    for name in ["scene.json", "views.safetensors", "pairs.safetensors"] {
        sandbox.copy(&format!("golden/multiview/two_view/{name}"), &format!("pair/{name}"));
    }
    sandbox
}

#[test]
fn a_folder_of_predictions_becomes_cameras_depths_and_a_cloud() {
    let sandbox = sandbox();
    let outputs = "-o cloud.ply --cameras cameras.json --depth maps --depth-tensors depths.safetensors";
    let outcome = sandbox.succeed(&format!("align pair {outputs} --min-confidence 2 --json"));
    assert!(outcome.stderr.contains("2 of 2 pictures placed, by 1 of 1 pairs"), "{}", outcome.stderr);

    let summary = outcome.json();
    assert_eq!(summary["pairs"][0]["verdict"], "used");
    assert_eq!(summary["views"][1]["placed"], true);
    assert!(summary["views"][1]["inlier_share"].as_f64().unwrap() > 0.8, "{summary}");
    let kept = summary["points"]["kept"].as_u64().unwrap() as usize;
    assert!(kept > 128 * 96 && kept < 2 * 128 * 96, "{summary}");
    assert_eq!(ply(&sandbox.read("cloud.ply")).positions.len(), kept);

    let cameras = sandbox.json("cameras.json");
    assert_eq!(cameras["depths"], "depths.safetensors");
    for image in cameras["images"].as_array().unwrap() {
        assert_eq!((&image["width"], &image["cx"]), (&128.into(), &63.5.into()));
        assert!(image["world_from_camera"].is_array());
    }
    let depths = sandbox.read("depths.safetensors");
    let depths = safetensors::SafeTensors::deserialize(&depths).unwrap();
    assert_eq!(depths.tensor("000.png.depth").unwrap().shape(), [96, 128]);
    assert_eq!(depths.tensor("001.png.confidence").unwrap().shape(), [96, 128]);
    assert!(sandbox.path("maps/001.depth.npy").is_file());
}

#[test]
fn a_shared_focal_length_is_one() {
    let sandbox = sandbox();
    sandbox.succeed("align pair --cameras cameras.json --shared-focal");
    let cameras = sandbox.json("cameras.json");
    assert_eq!(cameras["images"][0]["fx"], cameras["images"][1]["fx"]);
    assert!(cameras.get("depths").is_none());
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let sandbox = sandbox();
    sandbox.refuse("align nowhere -o cloud.ply", 3, &["nowhere/scene.json", "no such file"]);
    sandbox.refuse("align pair", 2, &["--output"]);
    sandbox.refuse("align pair -o cloud.ply --cameras cloud.ply", 2, &["cloud.ply", "named for two outputs"]);
    sandbox.refuse("align pair --cameras pair/scene.json", 2, &["pair/scene.json", "it is an input"]);
    sandbox.refuse("align pair -o - --json", 2, &["both want standard output"]);
    let scene = std::fs::read_to_string(fixture("golden/multiview/two_view/scene.json")).unwrap();
    sandbox.write("pair/scene.json", scene.replace("\"pairs\"", "\"others\""));
    sandbox.refuse("align pair -o cloud.ply", 3, &["pair/scene.json", "pairs"]);
}
