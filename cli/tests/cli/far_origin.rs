//! Scenes in coordinates far from the world's origin, such as UTM and ECEF.

use serde_json::{Value, json};

use super::outputs::{numbers, run, sandbox};
use super::sandbox::{Sandbox, ply};

/// Writes `NAME.json`, the cameras of `known.json` round a model of the house, at a twentieth of
/// its size, moved by `shift`.
fn shift_cameras(sandbox: &Sandbox, name: &str, shift: [f64; 3]) {
    let mut cameras = sandbox.json("known.json");
    for image in cameras["images"].as_array_mut().unwrap() {
        for (row, shift) in shift.into_iter().enumerate() {
            let value = &mut image["world_from_camera"][row][3];
            *value = json!(0.05 * value.as_f64().unwrap() + shift);
        }
    }
    sandbox.write(&format!("{name}.json"), cameras.to_string());
}

/// The JSON of a `.glb`.
fn glb(bytes: &[u8]) -> Value {
    let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[20..20 + length]).unwrap()
}

#[test]
fn a_scene_far_from_the_origin_keeps_its_shape() {
    let sandbox = sandbox(4);
    let outputs = |name: &str| {
        format!(
            "-o {name}.ply -o {name}.glb -o {name} --format nerfstudio -o {name}.txt --preview {name}.png --consistency 2 \
             --cameras {name}-out.json --poses {name}.json --intrinsics known.json --work work"
        )
    };
    shift_cameras(&sandbox, "local", [0.0; 3]);
    let local = run(&sandbox, &outputs("local")).json();
    assert!(!ply(&sandbox.read("local.ply")).is_double);
    assert_eq!(local["origin"], json!([0.0, 0.0, 0.0]));
    assert_eq!(
        glb(&sandbox.read("local.glb"))["nodes"][0]["name"],
        "points"
    );
    let voxels = |name: &str| {
        let line = format!(
            "-o v.ply --voxel 0.05 --poses {name}.json --intrinsics known.json --work work"
        );
        run(&sandbox, &line).json()["points"]["kept"]
            .as_f64()
            .unwrap()
    };
    let local_voxels = voxels("local");
    for (name, shift) in [
        ("utm", [500_000.0, 4_000_000.0, 300.0]),
        ("ecef", [4_201_000.25, 172_460.5, -4_780_100.75]),
    ] {
        shift_cameras(&sandbox, name, shift);
        let outcome = run(&sandbox, &outputs(name));
        let far = outcome.json();
        outcome.assert_says("far from the world's origin");
        // Contradictions are found as near the origin, but for points on the verge of one.
        let [one, two] =
            [&local, &far].map(|summary| summary["points"]["contradicted"].as_f64().unwrap());
        assert!(
            (one - two).abs() <= 1e-3 * one,
            "{name}: {one} and {two} contradicted"
        );
        assert!(ply(&sandbox.read(&format!("{name}.ply"))).is_double);
        let ratio = voxels(name) / local_voxels;
        assert!((ratio - 1.0).abs() < 0.05, "{name}: {ratio} of the voxels");

        // Given poses come back exactly, whatever they are relative to in between.
        let [given, found] =
            [format!("{name}.json"), format!("{name}-out.json")].map(|name| sandbox.json(&name));
        for view in 0..4 {
            for row in 0..3 {
                let at = |cameras: &Value| {
                    cameras["images"][view]["world_from_camera"][row][3]
                        .as_f64()
                        .unwrap()
                };
                assert_eq!(at(&given), at(&found), "{name}: view {view}");
            }
        }
        let trajectory = numbers(&sandbox, &format!("{name}.txt"));
        assert_eq!(trajectory[0][1..4], shift);

        let origin: [f64; 3] = serde_json::from_value(far["origin"].clone()).unwrap();
        assert!(
            origin
                .iter()
                .zip(shift)
                .all(|(origin, shift)| (origin - shift).abs() < 40.0),
            "{origin:?}"
        );
        // Readers that keep float32 have the very origin.
        assert!(
            origin
                .iter()
                .all(|value| f64::from(*value as f32) == *value),
            "{origin:?}"
        );
        let model = glb(&sandbox.read(&format!("{name}.glb")));
        let world = &model["nodes"][model["scenes"][0]["nodes"][0].as_u64().unwrap() as usize];
        assert_eq!(
            (&world["name"], &world["extras"]["world_origin"]),
            (&json!("world"), &far["origin"])
        );
        assert_eq!(
            world["translation"],
            json!([origin[0], 0.0 - origin[1], 0.0 - origin[2]])
        );
        assert_eq!(world["children"], json!([0, 1, 2, 3, 4]));
        let high: [f64; 3] = serde_json::from_value(model["accessors"][0]["max"].clone()).unwrap();
        assert!(high.iter().all(|value| value.abs() < 100.0), "{high:?}");

        let transforms = sandbox.json(&format!("{name}/transforms.json"));
        let applied: [[f64; 4]; 3] =
            serde_json::from_value(transforms["applied_transform"].clone()).unwrap();
        let place = |row: usize| {
            transforms["frames"][0]["transform_matrix"][row][3]
                .as_f64()
                .unwrap()
        };
        for (row, applied) in applied.iter().enumerate() {
            let moved = (0..3).map(|axis| applied[axis] * shift[axis]).sum::<f64>() + applied[3];
            assert!(
                (moved - place(row)).abs() < 1e-8 && moved.abs() < 100.0,
                "{name}: {moved} and {}",
                place(row)
            );
        }
        let pixels = |name: &str| {
            image::load_from_memory(&sandbox.read(name))
                .unwrap()
                .into_rgb8()
        };
        let (near, far) = (pixels("local.png"), pixels(&format!("{name}.png")));
        let difference = near
            .iter()
            .zip(far.iter())
            .map(|(a, b)| f64::from(a.abs_diff(*b)))
            .sum::<f64>();
        assert!(
            difference / (near.len() as f64) < 0.05,
            "{name}: the preview differs"
        );
    }
}

#[test]
fn points_and_tracks_far_from_the_origin_are_those_near_it_moved() {
    let sandbox = sandbox(3);
    let places = [
        ("near", [0.0; 3]),
        ("utm", [500_000.0, 4_000_000.0, 300.0]),
        ("ecef", [4.2e6, 1.7e5, -4.78e6]),
    ];
    for mode in ["fixed", "init"] {
        let results = places.map(|(name, shift)| {
            shift_cameras(&sandbox, name, shift);
            let rest = format!(
                "-o {mode}-{name}.ply -o {mode}-{name} --format colmap-text --poses {name}.json"
            );
            run(&sandbox, &format!("{rest} --pose-mode {mode} --work work"));
            let points = numbers(&sandbox, &format!("{mode}-{name}/sparse/0/points3D.txt"));
            let tracks: Vec<[f64; 3]> = points
                .iter()
                .map(|line| [line[1], line[2], line[3]])
                .collect();
            let cloud = ply(&sandbox.read(&format!("{mode}-{name}.ply"))).exact;
            let near = |point: &[f64; 3]| [0, 1, 2].map(|axis| point[axis] - shift[axis]);
            [cloud, tracks].map(|points| points.iter().map(near).collect::<Vec<_>>())
        });
        for far in &results[1..] {
            for (near, far) in results[0].iter().zip(far) {
                assert_eq!(near.len(), far.len());
                let gaps = near
                    .as_flattened()
                    .iter()
                    .zip(far.as_flattened())
                    .map(|(near, far)| (near - far).abs());
                // What is seen is 5 across, without what lies at the horizon: a millionth of that.
                let gap = gaps.fold(0.0, f64::max);
                assert!(gap < 5e-6, "{mode}: {gap}");
            }
        }
    }
}
