//! Images beside a model.

use super::reader::{largest_error, read_binary};
use super::*;

#[test]
fn a_scene_without_tracks_or_cameras_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let message = |scene: &Scene, format| {
        write(scene, &path, format, &Images::OfScene)
            .unwrap_err()
            .to_string()
    };
    let without_matches = Scene {
        matches: Vec::new(),
        ..scene()
    };
    assert!(message(&without_matches, BINARY).starts_with("a COLMAP model would have no points: "));
    // A hundredth of the way between cameras that are eleven degrees apart.
    let mut one_direction = Scene {
        matches: vec![true_matches([0, 1])],
        ..scene()
    };
    let step = world_from_room().rotation * Vector3::new(-0.99 * STEP, 0.0, 0.0);
    one_direction.views[1]
        .camera
        .as_mut()
        .unwrap()
        .world_from_camera
        .translation
        .vector += step;
    one_direction.matches[0]
        .matches
        .iter_mut()
        .for_each(|m| m.second = m.first);
    assert!(
        message(&one_direction, BINARY).ends_with("from directions that are 1.5 degrees apart")
    );
    let mut unplaced = scene();
    unplaced
        .views
        .iter_mut()
        .for_each(|view| view.camera = None);
    for format in [BINARY, SceneFormat::NERFSTUDIO, SceneFormat::TUM] {
        assert!(
            message(&unplaced, format).ends_with("needs camera poses: no image has one"),
            "{format}"
        );
    }
    let mut outside = scene();
    outside.matches[1].matches.push(matched([3, 16], [0, 0]));
    assert!(message(&outside, BINARY).contains("a match of pixel 3,16 of view 0.jpg"));
    outside.matches[1] = PairMatches {
        views: [1, 3],
        matches: Vec::new(),
    };
    assert_eq!(message(&outside, TEXT), "matches of the views 1 and 3 of 3");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn images_are_linked_or_copied_under_distinct_names() {
    let folder = tempfile::tempdir().unwrap();
    let paths = image_files(folder.path());
    for placing in [Placing::Link, Placing::Copy] {
        let images = Images::files(paths.clone(), placing);
        let path = folder.path().join(format!("{placing:?}"));
        write(&scene(), &path, SceneFormat::NERFSTUDIO, &images).unwrap();
        let images = path.join("images");
        assert_eq!(names_in(&images), ["a b.png", "c.png", "other"]);
        for (name, source) in ["a b.png", "other/a b.png", "c.png"].iter().zip(&paths) {
            let place = images.join(name);
            assert_eq!(fs::read(&place).unwrap(), fs::read(source).unwrap());
            let linked = cfg!(unix) && placing == Placing::Link;
            assert_eq!(
                fs::symlink_metadata(&place).unwrap().is_symlink(),
                linked,
                "{name}"
            );
        }
    }
}

#[test]
fn an_image_that_is_stored_on_its_side_is_written_upright() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/exif_6.jpg");
    let upright = mast3r::views::load_whole(&source, &Default::default()).unwrap();
    let paths = vec![source.clone()];
    let mut scene = Scene {
        views: vec![view(0)],
        ..Scene::default()
    };
    let crop = &mut scene.views[0].crop;
    (crop.file_width, crop.file_height) = upright.dimensions();
    let path = folder.path().join("nerf");
    let images = Images::files(paths, Placing::Link);
    let report = write(&scene, &path, SceneFormat::NERFSTUDIO, &images).unwrap();
    assert!(matches!(
        report,
        SceneReport {
            images: Some(ImageCounts {
                total: 1,
                turned: 1,
                undistorted: 0
            }),
            ..
        }
    ));
    let place = path.join("images/exif_6.jpg");
    assert!(!fs::symlink_metadata(&place).unwrap().is_symlink());
    // By a reader that knows nothing of EXIF.
    let written = image::open(&place).unwrap().into_rgb8();
    assert_eq!(written.dimensions(), upright.dimensions());
    let gap = |(one, two): (&u8, &u8)| u64::from(one.abs_diff(*two));
    let mean =
        written.iter().zip(upright.iter()).map(gap).sum::<u64>() as f64 / upright.len() as f64;
    assert!(mean < 2.0, "{mean} grey levels");

    scene.views[0].crop.file_width += 1;
    let message = write(
        &scene,
        &folder.path().join("other"),
        SceneFormat::NERFSTUDIO,
        &images,
    )
    .unwrap_err();
    assert!(
        message
            .to_string()
            .contains("and the scene was made of one with"),
        "{message}"
    );
}

#[test]
fn a_folder_that_exists_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir_all(model.join("images")).unwrap();
    let paths: Vec<PathBuf> = ["a.png", "b.png", "c.png"]
        .map(|name| model.join("images").join(name))
        .into();
    paths
        .iter()
        .for_each(|path| RgbImage::new(100, 54).save(path).unwrap());
    let images = Images::files(paths.clone(), Placing::Link);
    write(&scene(), &model, BINARY, &images).unwrap();
    assert_eq!(names_in(&model), ["images", "sparse"]);
    assert!(
        paths
            .iter()
            .all(|path| !fs::symlink_metadata(path).unwrap().is_symlink())
    );
    assert!(largest_error(&read_binary(&model.join("sparse/0"))) < 1e-5);

    let refusal = |images| {
        SceneOutput::create(&model, BINARY, images)
            .unwrap_err()
            .to_string()
    };
    assert!(
        refusal(&images).ends_with("a model is there already; remove it or name another folder")
    );
    fs::remove_dir_all(model.join("sparse")).unwrap();
    let elsewhere = image_files(folder.path());
    fs::rename(&elsewhere[0], folder.path().join("a.png")).unwrap();
    let paths = vec![
        folder.path().join("a.png"),
        paths[1].clone(),
        paths[2].clone(),
    ];
    let message = refusal(&Images::files(paths, Placing::Copy));
    assert!(
        message.ends_with(
            "a.png: another file of that name is there; remove it or name another folder"
        )
    );
    assert_eq!(names_in(&model), ["images"]);
}
