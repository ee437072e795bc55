//! COLMAP models: what is in them, and that they are read back.

use super::reader::{ModelCamera, largest_error, read_binary, read_text};
use super::*;
use image::buffer::ConvertBuffer as _;

#[test]
fn every_observation_of_a_colmap_model_is_where_its_point_projects_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let paths = image_files(folder.path());
    let images = Images::files(paths, Placing::Link);
    let path = folder.path().join("model");
    let report = write(&scene(), &path, BINARY, &images).unwrap();
    let model = read_binary(&path.join("sparse/0"));
    let error = largest_error(&model);
    assert!(error < 1e-5, "{error} px");

    // Equal intrinsics are one camera: 0.5 to the corner, 2 and 1 of the crop, five and three file
    // pixels for one.
    let camera = ModelCamera {
        id: 1,
        kind: "PINHOLE".into(),
        size: [100, 54],
        parameters: vec![100.0, 60.0, (8.0 + 2.0) * 5.0, (8.0 + 1.0) * 3.0],
    };
    assert_eq!(model.cameras, [camera]);
    assert!(model.images.iter().all(|image| image.camera == 1));
    // The pixel (6, 4) of the first view.
    let expected = [(6.5 + 2.0) * 5.0, (4.5 + 1.0) * 3.0];
    let (_, number) = model
        .image("a b.png")
        .observations
        .iter()
        .find(|(place, _)| *place == expected)
        .unwrap();
    let point = model
        .points
        .iter()
        .find(|point| point.id == *number)
        .unwrap();
    let room = world_from_room().inverse() * Point3::from(point.position);
    assert!(
        (room - Point3::new((6.0 - 7.5) / 4.0, (4.0 - 7.5) / 4.0, WALL)).norm() < 1e-6,
        "{room}"
    );
    assert_eq!(point.rgb, color([6, 4]));

    // Of the wall, two views see the columns 4 to 7 and 16 to 19, and three 8 to 15; every other
    // one in eight rows.
    let tracks = |length: usize| {
        model
            .points
            .iter()
            .filter(|point| point.track.len() == length)
            .count()
    };
    assert_eq!((tracks(2), tracks(3)), ((2 + 2) * 8, 4 * 8));
    assert_eq!(
        (report.points, report.observations),
        (Some(8 * 8), Some(2 * 32 + 3 * 32))
    );
    assert!(report.mean_error_px.unwrap() <= error && report.images == Some(counts(3, 0)));
}

#[test]
fn the_text_is_the_binary_model() {
    let folder = tempfile::tempdir().unwrap();
    let [text, binary] = ["text", "binary"].map(|name| folder.path().join(name));
    write(&scene(), &text, TEXT, &Images::OfScene).unwrap();
    write(&scene(), &binary, BINARY, &Images::OfScene).unwrap();
    assert_eq!(
        names_in(&text.join("images")),
        ["view_0.png", "view_1.png", "view_2.png"]
    );
    let mut binary = read_binary(&binary.join("sparse/0"));
    assert!(
        binary
            .images
            .iter()
            .all(|image| image.name.starts_with("view "))
    );
    // A space would end the name.
    binary
        .images
        .iter_mut()
        .for_each(|image| image.name = image.name.replace(' ', "_"));
    assert_eq!(read_text(&text.join("sparse/0")), binary);
    assert_eq!(
        binary.cameras[0].size,
        [16, 16],
        "the scene's own images have the network's size"
    );
    assert!(largest_error(&binary) < 1e-5);
}

#[test]
fn images_share_a_camera_where_their_focal_lengths_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene();
    scene.views[1].camera.as_mut().unwrap().intrinsics.fx *= 1.01;
    let path = folder.path().join("model");
    write(&scene, &path, BINARY, &Images::OfScene).unwrap();
    let model = read_binary(&path.join("sparse/0"));
    assert_eq!(
        model
            .cameras
            .iter()
            .map(|camera| camera.id)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        model
            .images
            .iter()
            .map(|image| image.camera)
            .collect::<Vec<_>>(),
        [1, 2, 1]
    );
    let [first, second] = [0, 1].map(|index| model.cameras[index].parameters[0]);
    assert!((second / first - 1.01).abs() < 1e-12);
}

#[test]
fn images_are_numbered_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene();
    for (view, name) in scene.views.iter_mut().zip(["c.png", "a.png", "b.png"]) {
        view.name = name.into();
    }
    let path = folder.path().join("model");
    write(&scene, &path, BINARY, &Images::OfScene).unwrap();
    let model = read_binary(&path.join("sparse/0"));
    assert_eq!(
        model
            .images
            .iter()
            .map(|image| &image.name[..])
            .collect::<Vec<_>>(),
        ["a.png", "b.png", "c.png"]
    );
    assert!(largest_error(&model) < 1e-5);
}

#[test]
fn wrong_matches_do_not_get_into_tracks() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene();
    // A neighbour of a pixel that is matched rightly, and pixels that see nothing of each other.
    scene.matches[0]
        .matches
        .extend([matched([7, 4], [2, 4]), matched([0, 0], [15, 15])]);
    let path = folder.path().join("model");
    write(&scene, &path, BINARY, &Images::OfScene).unwrap();
    let model = read_binary(&path.join("sparse/0"));
    assert_eq!(model.points.len(), 64);
    assert!(
        largest_error(&model) < 1e-5,
        "the right match of a pixel comes before a wrong one"
    );
}

#[test]
fn filtered_points_and_views_without_a_camera_leave_no_observations() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = scene();
    scene.views[1].camera = None;
    scene.views[0].points.confidence[..8 * SIDE as usize].fill(1.0);
    let filter = PointFilter {
        min_confidence: Some(1.5),
        ..PointFilter::default()
    };
    let path = folder.path().join("model");
    let output = SceneOutput::create(&path, BINARY, &Images::OfScene).unwrap();
    output
        .write(
            &scene,
            &ExportOptions {
                filter,
                ..ExportOptions::default()
            },
        )
        .unwrap();
    let model = read_binary(&path.join("sparse/0"));
    assert_eq!(
        model
            .images
            .iter()
            .map(|image| (image.id, &image.name[..]))
            .collect::<Vec<_>>(),
        [(1, "view 0.png"), (2, "view 2.png")]
    );
    assert_eq!(names_in(&path.join("images")), ["view 0.png", "view 2.png"]);
    // The lower half of the places that both see.
    assert_eq!(model.points.len(), 4 * 4);
    assert!(largest_error(&model) < 1e-5);
}

#[test]
fn a_colmap_model_gives_the_cameras_back_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let paths = image_files(folder.path());
    let mut scene = scene();
    for (name, format) in [("binary", BINARY), ("text", TEXT)] {
        for (what, images) in [
            ("seen", Images::OfScene),
            ("files", Images::files(paths.clone(), Placing::Copy)),
        ] {
            let path = folder.path().join(format!("{name} of {what}"));
            scene
                .views
                .iter_mut()
                .zip(0..)
                .for_each(|(view, index)| view.name = format!("{index}.png"));
            write(&scene, &path, format, &images).unwrap();
            let names = match (&images, format == TEXT) {
                (Images::OfScene, _) => ["0.png", "1.png", "2.png"],
                (_, false) => ["a b.png", "other/a b.png", "c.png"],
                (_, true) => ["a_b.png", "other/a_b.png", "c.png"],
            };
            let view =
                |(view, name): (&SceneView, &str)| View::new(name, view.rgb.convert(), view.crop);
            let views: Vec<View> = scene.views.iter().zip(names).map(view).collect();
            let mut known = [KnownCamera::default(); 3];
            let list = CameraList::open(&path).unwrap();
            assert!(
                list.unknown_names(&views).unwrap().is_empty(),
                "{:?}",
                list.unknown_names(&views)
            );
            assert_eq!(list.set_intrinsics(&views, &mut known).unwrap(), 3);
            assert_eq!(list.set_poses(&views, &mut known).unwrap(), 3);
            for (known, view) in known.iter().zip(&scene.views) {
                let (camera, inside) = (view.camera.unwrap(), known.intrinsics.unwrap());
                let values = |inside: &Intrinsics| [inside.fx, inside.fy, inside.cx, inside.cy];
                let pairs = values(&inside).into_iter().zip(values(&camera.intrinsics));
                assert!(
                    pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-9),
                    "{what}: {inside:?}"
                );
                let gap = known.world_from_camera.unwrap().to_homogeneous()
                    - camera.world_from_camera.to_homogeneous();
                assert!(gap.amax() < 1e-9, "{what}: {gap}");
            }
        }
    }
}
