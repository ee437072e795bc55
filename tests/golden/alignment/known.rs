//! What is known of cameras beforehand.

use super::stored::Stored;
use super::*;

/// The true cameras, in a file as the program writes it, and the options that know of `views` of
/// them.
fn known(folder: &Path, intrinsics: bool, poses: &[usize]) -> AlignOptions {
    let json = json(folder);
    let images = json["images"].as_array().unwrap().iter().enumerate().map(|(index, image)| {
        let inside = &json["truth"]["intrinsics"][index];
        // At twice the size, with the middle half a pixel further.
        let twice = |value: &Value| 2.0 * value.as_f64().unwrap();
        let pose = if poses.contains(&index) { json["truth"]["world_from_camera"][index].clone() } else { Value::Null };
        json!({
            "name": image["name"], "width": twice(&image["width"]), "height": twice(&image["height"]),
            "fx": twice(&inside[0][0]), "fy": twice(&inside[1][1]),
            "cx": twice(&inside[0][2]) + 0.5, "cy": twice(&inside[1][2]) + 0.5,
            "world_from_camera": pose,
        })
    });
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("cameras.json");
    fs::write(
        &path,
        json!({ "images": images.collect::<Vec<_>>() }).to_string(),
    )
    .unwrap();
    let list = CameraList::open(&path).unwrap();
    let views = PredictionFolder::open(folder).unwrap().views().unwrap();
    let mut known = vec![KnownCamera::default(); views.len()];
    if intrinsics {
        assert_eq!(
            list.set_intrinsics(&views, &mut known).unwrap(),
            views.len()
        );
    }
    if !poses.is_empty() {
        assert_eq!(list.set_poses(&views, &mut known).unwrap(), poses.len());
    }
    AlignOptions {
        known,
        ..AlignOptions::default()
    }
}

#[test]
fn known_focal_lengths_stay_and_help() {
    for folder in scenes() {
        let plain = Errors::of(&folder, &aligned(&folder));
        let errors = Errors::of(
            &folder,
            &align_folder(&folder, &known(&folder, true, &[])).unwrap(),
        );
        println!("{}: {errors:.4?}, unknown {plain:.4?}", name(&folder));
        assert!(errors.focal[1] < 1e-9, "{errors:?}");
        assert!(
            errors.rotation[0] < plain.rotation[0].max(0.15) && errors.translation[0] < 0.004,
            "{errors:?}, unknown {plain:?}"
        );
    }
}

#[test]
fn known_poses_stay_and_the_others_are_found_in_their_world_and_scale() {
    let folder = scene("outlier5");
    for posed in [&[1, 3][..], &[0, 1, 2, 3, 4], &[2]] {
        let alignment = align_folder(&folder, &known(&folder, false, posed)).unwrap();
        let json = json(&folder);
        for (index, view) in alignment.scene.views.iter().enumerate() {
            let pose = view.camera.unwrap().world_from_camera.to_homogeneous();
            let truth = matrix(&json["truth"]["world_from_camera"][index]);
            let angle = degrees(&(turn(&pose).transpose() * turn(&truth)));
            let apart = (centre(&pose) - centre(&truth)).norm();
            println!("{posed:?}: {index} {angle:.4} {apart:.4}");
            // The world spans some metres. With one pose its scale is the network's.
            let (degrees, metres) = if posed.contains(&index) {
                (1e-6, 1e-9)
            } else {
                (0.6, 0.05)
            };
            assert!(
                angle <= degrees && (apart <= metres || posed.len() == 1),
                "{index}: {angle} degrees, {apart} m"
            );
        }
        let depth = Errors::of(&folder, &alignment).depth;
        assert!(depth < 0.01, "{depth}");
    }
}

#[test]
fn one_focal_length_for_all_images_is_that_of_every_image() {
    let folder = scene("two_view");
    let views = PredictionFolder::open(&folder).unwrap().views().unwrap();
    let mut known = vec![KnownCamera::default(); views.len()];
    SharedIntrinsics::Focal(117.76)
        .set(&views, &mut known)
        .unwrap();
    let alignment = align_folder(
        &folder,
        &AlignOptions {
            known,
            ..AlignOptions::default()
        },
    )
    .unwrap();
    let errors = Errors::of(&folder, &alignment);
    let plain = Errors::of(&folder, &aligned(&folder));
    assert!(
        errors.focal[1] < 1e-9 && errors.rotation[0] < plain.rotation[0],
        "{errors:?}, unknown {plain:?}"
    );
}

#[test]
fn poses_to_start_from_are_left_for_better_ones_nearest_to_them() {
    let folder = scene("outlier5");
    let plain = Errors::of(&folder, &aligned(&folder));
    let mut options = known(&folder, false, &[0, 1, 2, 3, 4]);
    options.known_poses = KnownPoses::Start;
    let mut off = [0.0, 0.0];
    for (index, camera) in options.known.iter_mut().enumerate() {
        // Each in a direction of its own, so that no common move explains them.
        let (sine, cosine) = (2.5 * index as f64).sin_cos();
        let turn = UnitQuaternion::from_scaled_axis(Vector3::new(sine, cosine, -sine) * 0.03);
        let pose = camera.world_from_camera.as_mut().unwrap();
        *pose = Isometry3::from_parts(
            (pose.translation.vector + Vector3::new(cosine, sine, 0.0) * 0.05).into(),
            turn * pose.rotation,
        );
        off = [turn.angle().to_degrees().max(off[0]), 0.05];
    }
    let alignment = align_folder(&folder, &options).unwrap();
    let errors = Errors::of(&folder, &alignment);
    println!("{errors:.4?}, unknown {plain:.4?}");
    for (index, view) in alignment.scene.views.iter().enumerate() {
        let pose = view.camera.unwrap().world_from_camera;
        assert_ne!(Some(pose), options.known[index].world_from_camera);
        let truth = matrix(&json(&folder)["truth"]["world_from_camera"][index]);
        let angle = degrees(&(turn(&pose.to_homogeneous()).transpose() * turn(&truth)));
        let apart = (pose.translation.vector - centre(&truth)).norm();
        // What they have in common is what the means of five random errors leave.
        assert!(
            angle < off[0] && apart < 2.0 * off[1],
            "{index}: {angle} degrees, {apart} m"
        );
    }
    assert!(
        errors.rotation[0] < plain.rotation[0] + 0.01 && errors.depth < plain.depth + 1e-3,
        "{errors:?}, {plain:?}"
    );
}

/// Options that say `factor` times the true focal lengths are probable.
fn probably(folder: &Path, factor: f64) -> AlignOptions {
    let mut options = known(folder, true, &[]);
    for camera in &mut options.known {
        camera.probable_focal = camera.intrinsics.take().map(|inside| factor * inside.fx);
    }
    options
}

#[test]
fn a_probable_focal_length_counts_unless_it_is_grossly_wrong() {
    for folder in scenes() {
        let focal = |options: &AlignOptions| {
            Errors::of(&folder, &align_folder(&folder, options).unwrap()).focal[0]
        };
        let plain = focal(&AlignOptions::default());
        let [right, near, cut] = [1.0, 1.03, 1.5].map(|factor| focal(&probably(&folder, factor)));
        println!(
            "{}: {plain:.4}, {right:.4}, {near:.4}, {cut:.4} percent",
            name(&folder)
        );
        // These scenes' matches say more of focal lengths than anybody beforehand.
        assert!(
            right < plain + 0.2 && near < plain + 0.5,
            "{}: {plain}, {right}, {near}",
            name(&folder)
        );
        assert_eq!(plain, cut, "{}", name(&folder));
    }
}

#[test]
fn a_principal_point_that_is_not_in_the_middle_is_found() {
    const CUT: usize = 8;
    let folder = scene("outlier5");
    let mut stored = Stored::open(&folder);
    for image in &mut stored.images {
        image["width"] = json!(image["width"].as_u64().unwrap() - CUT as u64);
    }
    // The first columns of everything go, so that the middle moves by half as much.
    for (_, shape, data) in stored
        .views
        .values_mut()
        .chain(stored.predictions.values_mut())
    {
        let row = data.len() / shape[0];
        let cut = row / shape[1] * CUT;
        *data = data
            .chunks_exact(row)
            .flat_map(|row| row[cut..].to_vec())
            .collect();
        shape[1] -= CUT;
    }
    let changed = stored.write();
    let align = |principal_point| {
        let options = AlignOptions {
            principal_point,
            ..AlignOptions::default()
        };
        let alignment = align_folder(changed.path(), &options).unwrap();
        let poses = alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera.unwrap().world_from_camera.to_homogeneous());
        let truth = (0..stored.images.len())
            .map(|index| matrix(&json(&folder)["truth"]["world_from_camera"][index]));
        let (rotation, _) = pose_errors(&poses.collect::<Vec<_>>(), &truth.collect::<Vec<_>>());
        let inside = alignment.scene.views[0].camera.unwrap().intrinsics;
        let middle = (f64::from(inside.width) - 1.0) / 2.0;
        (mean_and_largest(&rotation)[0], inside.cx - middle)
    };
    let (middle, prior) = (align(PrincipalPoint::Middle), align(PrincipalPoint::Prior));
    println!("{middle:.3?}, {prior:.3?}");
    assert_eq!(middle.1, 0.0);
    assert!(
        (prior.1 + CUT as f64 / 2.0).abs() < 1.0 && prior.0 < middle.0,
        "{middle:?}, {prior:?}"
    );
}
