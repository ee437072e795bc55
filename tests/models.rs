//! Folders that other programs go on from, read back by readers that share no code with the
//! writers.

// A helper of a test fails as the test itself does.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use mast3r::alignment::{CameraList, KnownCamera};
use mast3r::export::{
    ExportOptions, FormatTraits, ImageCounts, Images, OpenExport, OutputFile, Placing, SceneExport,
    SceneFormat, SceneOutput, SceneReport,
};
use mast3r::geometry::{Camera, Intrinsics, PointMap};
use mast3r::matching::{Match, PairMatches, Pixel};
use mast3r::views::{Crop, View};
use mast3r::{PointFilter, Scene, SceneView};
use nalgebra::{Isometry3, Matrix4, Point3, Quaternion, Translation3, UnitQuaternion, Vector3};
use serde_json::Value;

const SIDE: u32 = 16;
const FOCAL: f64 = 20.0;
/// Distance of the wall that all cameras face.
const WALL: f64 = 5.0;
/// The wall moves by four pixels between neighbours.
const STEP: f64 = 4.0 * WALL / FOCAL;

const BINARY: SceneFormat = SceneFormat::COLMAP;
const TEXT: SceneFormat = SceneFormat::COLMAP_TEXT;

/// The same crop for all: five file pixels for one along x and three along y.
fn crop() -> Crop {
    Crop {
        file_width: 100,
        file_height: 54,
        resized_width: 20,
        resized_height: 18,
        left: 2,
        top: 1,
        width: SIDE,
        height: SIDE,
    }
}

/// Something that is not the identity, so that directions of poses matter.
fn world_from_room() -> Isometry3<f64> {
    Isometry3::from_parts(
        Translation3::new(0.5, -0.25, 2.0),
        UnitQuaternion::from_euler_angles(0.2, -0.7, 1.4),
    )
}

fn color(place: [i64; 2]) -> [u8; 3] {
    [(place[0] * 9 + 100) as u8, (place[1] * 13 + 40) as u8, 77]
}

/// Where on the wall, in pixels of the first view, a pixel of a view looks: each view is one step
/// further to the right, and the last one lies on its side.
fn wall_place(view: usize, [x, y]: [u32; 2]) -> [i64; 2] {
    let last = i64::from(SIDE) - 1;
    let (x, y) = (i64::from(x), i64::from(y));
    if view == 2 {
        [last - y + 8, x]
    } else {
        [x + 4 * view as i64, y]
    }
}

fn view(index: usize) -> SceneView {
    // A quarter turn about the axis of sight takes x to y and y to -x.
    let turn = UnitQuaternion::from_axis_angle(&Vector3::z_axis(), std::f64::consts::FRAC_PI_2);
    let turn = if index == 2 {
        turn
    } else {
        UnitQuaternion::identity()
    };
    let room_from_camera =
        Isometry3::from_parts(Translation3::new(STEP * index as f64, 0.0, 0.0), turn);
    let world_from_camera = world_from_room() * room_from_camera;
    let camera = Camera {
        intrinsics: Intrinsics::centred(SIDE, SIDE, FOCAL),
        world_from_camera,
    };
    let pixels: Vec<[u32; 2]> = (0..SIDE)
        .flat_map(|y| (0..SIDE).map(move |x| [x, y]))
        .collect();
    let points = pixels.iter().map(|pixel| {
        let point: Point3<f64> = camera.unproject(pixel.map(f64::from), WALL);
        [point.x as f32, point.y as f32, point.z as f32]
    });
    let side = SIDE as usize;
    SceneView {
        name: format!("view {index}.jpg"),
        crop: crop(),
        camera: Some(camera),
        points: PointMap {
            width: side,
            height: side,
            points: points.collect(),
            confidence: vec![2.0; side * side].into(),
        },
        depth: vec![WALL as f32; side * side].into(),
        rgb: mast3r::views::pixels(RgbImage::from_fn(SIDE, SIDE, |x, y| {
            Rgb(color(wall_place(index, [x, y])))
        })),
        contradicted: None,
        masked: 0,
    }
}

fn matched(first: [u32; 2], second: [u32; 2]) -> Match {
    let pixel = |[x, y]: [u32; 2]| Pixel { x, y };
    Match {
        first: pixel(first),
        second: pixel(second),
        confidence: 1.0,
    }
}

/// All pixels of two views that show one place, of every other row and column of the first view's
/// wall.
fn true_matches(views: [usize; 2]) -> PairMatches {
    let all = || (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| [x, y]));
    let sampled =
        |view: usize, pixel: [u32; 2]| wall_place(view, pixel).iter().all(|at| at % 2 == 0);
    let matches = all()
        .filter(|one| sampled(views[0], *one))
        .filter_map(|one| {
            let place = wall_place(views[0], one);
            all()
                .find(|two| wall_place(views[1], *two) == place)
                .map(|two| matched(one, two))
        });
    PairMatches {
        views,
        matches: matches.collect(),
    }
}

/// Three views of a wall, and all pairs of them.
fn scene() -> Scene {
    let matches = [[0, 1], [0, 2], [1, 2]].map(true_matches);
    Scene {
        views: (0..3).map(view).collect(),
        matches: matches.into(),
        ..Scene::default()
    }
}

fn write(
    scene: &Scene,
    path: &Path,
    format: SceneFormat,
    images: &Images,
) -> mast3r::Result<SceneReport> {
    SceneOutput::create(path, format, images)?.write(scene, &ExportOptions::default())
}

/// A COLMAP model as its format's page has it.
#[derive(Debug, Default, PartialEq)]
struct Model {
    /// Number, size, fx, fy, cx, cy.
    cameras: Vec<(u64, [u64; 2], [f64; 4])>,
    images: Vec<ModelImage>,
    points: Vec<ModelPoint>,
}

#[derive(Debug, PartialEq)]
struct ModelImage {
    id: u64,
    camera_from_world: [f64; 7],
    camera: u64,
    name: String,
    observations: Vec<([f64; 2], u64)>,
}

#[derive(Debug, PartialEq)]
struct ModelPoint {
    id: u64,
    position: [f64; 3],
    rgb: [u8; 3],
    error: f64,
    track: Vec<[u64; 2]>,
}

/// Bytes from the front, little endian.
struct Bytes(std::vec::IntoIter<u8>);

impl Bytes {
    fn open(path: PathBuf) -> Self {
        Self(fs::read(path).unwrap().into_iter())
    }

    fn whole(&mut self, bytes: u32) -> u64 {
        (0..bytes)
            .map(|at| u64::from(self.0.next().unwrap()) << (8 * at))
            .sum()
    }

    fn floats<const COUNT: usize>(&mut self) -> [f64; COUNT] {
        std::array::from_fn(|_| f64::from_bits(self.whole(8)))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.whole(8);
        (0..count).map(|_| item(self)).collect()
    }

    fn end(self) {
        assert_eq!(self.0.len(), 0, "bytes are left");
    }
}

fn read_binary(folder: &Path) -> Model {
    let mut file = Bytes::open(folder.join("cameras.bin"));
    let cameras = file.list(|file| {
        let id = file.whole(4);
        assert_eq!(file.whole(4), 1, "PINHOLE");
        (id, [file.whole(8), file.whole(8)], file.floats())
    });
    file.end();
    let mut file = Bytes::open(folder.join("images.bin"));
    let images = file.list(|file| ModelImage {
        id: file.whole(4),
        camera_from_world: file.floats(),
        camera: file.whole(4),
        name: String::from_utf8(file.0.by_ref().take_while(|byte| *byte != 0).collect()).unwrap(),
        observations: file.list(|file| (file.floats(), file.whole(8))),
    });
    file.end();
    let mut file = Bytes::open(folder.join("points3D.bin"));
    let points = file.list(|file| ModelPoint {
        id: file.whole(8),
        position: file.floats(),
        rgb: [0; 3].map(|_: u8| file.whole(1) as u8),
        error: file.floats::<1>()[0],
        track: file.list(|file| [file.whole(4), file.whole(4)]),
    });
    file.end();
    Model {
        cameras,
        images,
        points,
    }
}

fn read_text(folder: &Path) -> Model {
    let rows = |name: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.split_whitespace().map(String::from).collect())
            .collect()
    };
    let floats =
        |words: &[String]| -> Vec<f64> { words.iter().map(|word| word.parse().unwrap()).collect() };
    let wholes =
        |words: &[String]| -> Vec<u64> { words.iter().map(|word| word.parse().unwrap()).collect() };
    let camera = |row: &Vec<String>| {
        assert_eq!(row[1], "PINHOLE");
        let size = wholes(&row[2..4]).try_into().unwrap();
        (
            wholes(&row[..1])[0],
            size,
            floats(&row[4..]).try_into().unwrap(),
        )
    };
    let image = |rows: &[Vec<String>]| ModelImage {
        id: wholes(&rows[0][..1])[0],
        camera_from_world: floats(&rows[0][1..8]).try_into().unwrap(),
        camera: wholes(&rows[0][8..9])[0],
        name: rows[0][9..].join(" "),
        observations: rows[1]
            .chunks(3)
            .map(|three| ([0, 1].map(|at| floats(three)[at]), wholes(&three[2..])[0]))
            .collect(),
    };
    let point = |row: &Vec<String>| ModelPoint {
        id: wholes(&row[..1])[0],
        position: floats(&row[1..4]).try_into().unwrap(),
        rgb: [4, 5, 6].map(|at| row[at].parse().unwrap()),
        error: floats(&row[7..8])[0],
        track: wholes(&row[8..])
            .chunks(2)
            .map(|two| [two[0], two[1]])
            .collect(),
    };
    Model {
        cameras: rows("cameras.txt").iter().map(camera).collect(),
        images: rows("images.txt").chunks(2).map(image).collect(),
        points: rows("points3D.txt").iter().map(point).collect(),
    }
}

impl ModelImage {
    /// Where a point of the world is seen, in COLMAP's pixels.
    fn project(&self, point: [f64; 3], model: &Model) -> [f64; 2] {
        let [w, x, y, z, tx, ty, tz] = self.camera_from_world;
        let rotation = Quaternion::new(w, x, y, z);
        assert!((rotation.norm() - 1.0).abs() < 1e-12 && w >= 0.0);
        let local = UnitQuaternion::new_normalize(rotation) * Vector3::from(point)
            + Vector3::new(tx, ty, tz);
        let (_, _, [fx, fy, cx, cy]) = model
            .cameras
            .iter()
            .find(|camera| camera.0 == self.camera)
            .unwrap();
        [fx * local.x / local.z + cx, fy * local.y / local.z + cy]
    }
}

/// Checks that points and images name each other, and returns the largest reprojection error.
fn largest_error(model: &Model) -> f64 {
    let mut largest = 0.0_f64;
    for point in &model.points {
        assert!(point.track.len() >= 2);
        let mut seen: Vec<u64> = point.track.iter().map(|[image, _]| *image).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), point.track.len(), "one image twice");
        for [id, index] in &point.track {
            let image = model.images.iter().find(|image| image.id == *id).unwrap();
            let (place, number) = image.observations[*index as usize];
            assert_eq!(number, point.id);
            let seen = image.project(point.position, model);
            largest = largest.max((seen[0] - place[0]).hypot(seen[1] - place[1]));
        }
    }
    let observations: usize = model
        .images
        .iter()
        .map(|image| image.observations.len())
        .sum();
    assert_eq!(
        observations,
        model
            .points
            .iter()
            .map(|point| point.track.len())
            .sum::<usize>()
    );
    largest
}

fn counts(total: usize, turned: usize) -> ImageCounts {
    ImageCounts {
        total,
        turned,
        undistorted: 0,
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Three images of the files' size, one of them by the name of another in another folder.
fn image_files(folder: &Path) -> Vec<PathBuf> {
    fs::create_dir(folder.join("other")).unwrap();
    let paths = ["a b.png", "other/a b.png", "c.png"].map(|name| folder.join(name));
    for (index, path) in paths.iter().enumerate() {
        RgbImage::from_pixel(100, 54, Rgb([index as u8; 3]))
            .save(path)
            .unwrap();
    }
    paths.into()
}

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
    assert_eq!(
        model.cameras,
        [(
            1,
            [100, 54],
            [100.0, 60.0, (8.0 + 2.0) * 5.0, (8.0 + 1.0) * 3.0]
        )]
    );
    assert!(model.images.iter().all(|image| image.camera == 1));
    // The pixel (6, 4) of the first view.
    let expected = [(6.5 + 2.0) * 5.0, (4.5 + 1.0) * 3.0];
    let first = model
        .images
        .iter()
        .find(|image| image.name == "a b.png")
        .unwrap();
    let (_, number) = first
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
        binary.cameras[0].1,
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
            .map(|camera| camera.0)
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
    let [first, second] = [0, 1].map(|index| model.cameras[index].2);
    assert!((second[0] / first[0] - 1.01).abs() < 1e-12);
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
            let view = |(view, name): (&SceneView, &str)| {
                let (width, height) = view.rgb.dimensions();
                let rgb = RgbImage::from_raw(width, height, view.rgb.as_raw().to_vec());
                View::new(name, rgb.unwrap(), view.crop)
            };
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

#[test]
fn nerfstudio_has_z_up_and_cameras_that_look_backwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nerf");
    let mut scene = scene();
    // Looking along z, x to the right, y down.
    scene.views[0].camera.as_mut().unwrap().world_from_camera =
        Isometry3::translation(1.0, 2.0, 3.0);
    scene.views[1].camera = None;
    let report = write(&scene, &path, SceneFormat::NERFSTUDIO, &Images::OfScene).unwrap();
    let json: Value =
        serde_json::from_slice(&fs::read(path.join("transforms.json")).unwrap()).unwrap();
    let frames = json["frames"].as_array().unwrap();
    assert_eq!(
        frames
            .iter()
            .map(|frame| &frame["file_path"])
            .collect::<Vec<_>>(),
        ["images/view 0.png", "images/view 2.png"]
    );
    let matrix = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|cell| cell.as_f64().unwrap())
            .collect()
    };
    // Right stays x; up is z; what the camera looks away from is -y; the centre is (x, z, -y).
    #[rustfmt::skip]
    let expected = [
        1.0, 0.0, 0.0, 1.0,
        0.0, 0.0, -1.0, 3.0,
        0.0, 1.0, 0.0, -2.0,
        0.0, 0.0, 0.0, 1.0,
    ];
    assert_eq!(matrix(&frames[0]["transform_matrix"]), expected);
    assert_eq!(
        matrix(&json["applied_transform"]),
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0]
    );

    // The cloud, seen by the other camera: every point is at the pixel that it comes from.
    assert_eq!(
        report,
        SceneReport {
            images: Some(counts(2, 0)),
            points: Some(3 * 256),
            ..SceneReport::default()
        }
    );
    let bytes = fs::read(path.join(json["ply_file_path"].as_str().unwrap())).unwrap();
    let start = bytes
        .windows(11)
        .position(|window| window == b"end_header\n")
        .unwrap()
        + 11;
    assert!(
        bytes[..start].starts_with(b"ply\nformat binary_little_endian 1.0\nelement vertex 768\n")
    );
    assert_eq!(bytes.len() - start, 768 * 15);
    let frame = &frames[1];
    let number = |name: &str| frame[name].as_f64().unwrap();
    assert_eq!(
        ["w", "h", "fl_x", "fl_y", "cx", "cy"].map(number),
        [16.0, 16.0, FOCAL, FOCAL, 8.0, 8.0]
    );
    let camera_from_world = Matrix4::from_row_slice(&matrix(&frame["transform_matrix"]))
        .try_inverse()
        .unwrap();
    for (pixel, vertex) in bytes[start..].chunks(15).skip(2 * 256).enumerate() {
        let position = [0, 4, 8]
            .map(|at| f64::from(f32::from_le_bytes(vertex[at..at + 4].try_into().unwrap())));
        let local = camera_from_world.transform_point(&Point3::from(position));
        let seen = [
            number("fl_x") * local.x / -local.z + number("cx"),
            number("cy") - number("fl_y") * local.y / -local.z,
        ];
        let expected = [(pixel % 16) as f64 + 0.5, (pixel / 16) as f64 + 0.5];
        assert!(
            (seen[0] - expected[0]).hypot(seen[1] - expected[1]) < 1e-5,
            "{seen:?} and not {expected:?}"
        );
        assert_eq!(
            vertex[12..],
            color(wall_place(2, [pixel as u32 % 16, pixel as u32 / 16]))
        );
    }
}

#[test]
fn a_trajectory_has_a_line_for_every_camera_and_says_what_its_times_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trajectory.txt");
    let mut scene = scene();
    scene.views[1].camera = None;
    let report = write(&scene, &path, SceneFormat::TUM, &Images::OfScene).unwrap();
    assert_eq!(report.poses, Some(2));
    let text = fs::read_to_string(&path).unwrap();
    let (comments, lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    assert!(
        comments
            .iter()
            .any(|line| line.contains("the timestamp is the image's index, from 0"))
    );
    assert_eq!(lines.len(), 2);
    for (line, index) in lines.iter().zip([0, 2]) {
        let values: Vec<f64> = line
            .split(' ')
            .map(|value| value.parse().unwrap())
            .collect();
        let [time, x, y, z, qx, qy, qz, qw] = values[..] else {
            panic!("{line}")
        };
        let rotation = UnitQuaternion::new_normalize(Quaternion::new(qw, qx, qy, qz));
        let pose = Isometry3::from_parts(Translation3::new(x, y, z), rotation);
        let expected = scene.views[index].camera.unwrap().world_from_camera;
        assert_eq!(time, index as f64);
        assert!(
            (pose.to_homogeneous() - expected.to_homogeneous()).norm() < 1e-12,
            "{line}"
        );
    }
}

#[test]
fn a_format_is_told_by_its_extension_or_by_name() {
    for format in SceneFormat::ALL {
        assert_eq!(format.name().parse::<SceneFormat>().unwrap(), *format);
    }
    let of = |path: &str, named| SceneFormat::of_output(path, named).map(SceneFormat::name);
    assert_eq!(of("cloud.PLY", Some(BINARY)).unwrap(), "ply");
    assert_eq!(of("poses.txt", None).unwrap(), "tum");
    assert_eq!(of("scene", Some(TEXT)).unwrap(), "colmap-text");
    assert_eq!(
        of("scene.d", Some(SceneFormat::NERFSTUDIO)).unwrap(),
        "nerfstudio"
    );
    let message = of("scene.obj", None).unwrap_err().to_string();
    let database = if cfg!(feature = "database") {
        "colmap-database, "
    } else {
        ""
    };
    let formats =
        format!("ply, glb, las, laz, colmap, {database}colmap-text, nerfstudio, tum, html");
    let way_out = "name it .ply, .glb, .las, .laz, .html or .txt, or name a format";
    assert_eq!(
        message,
        format!("scene.obj: unknown extension .obj; {way_out}: {formats}")
    );
}

/// One line for each camera.
struct Centres;

#[derive(Debug)]
struct OpenCentres(OutputFile);

impl SceneExport for Centres {
    fn name(&self) -> &'static str {
        "centres"
    }

    fn traits(&self) -> FormatTraits {
        FormatTraits::default()
    }

    fn open(&self, path: &Path, _: &Images) -> mast3r::Result<Box<dyn OpenExport>> {
        Ok(Box::new(OpenCentres(OutputFile::create(path)?)))
    }
}

impl OpenExport for OpenCentres {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self: Box<Self>, scene: &Scene, _: &ExportOptions) -> mast3r::Result<SceneReport> {
        let poses = scene.views.iter().filter_map(|view| view.camera);
        let lines: Vec<String> = poses
            .map(|camera| {
                format!(
                    "{:?}\n",
                    camera.world_from_camera.translation.vector.as_slice()
                )
            })
            .collect();
        self.0
            .write_with(|out| out.write_all(lines.concat().as_bytes()))?;
        Ok(SceneReport {
            poses: Some(lines.len()),
            ..SceneReport::default()
        })
    }
}

#[test]
fn a_program_may_have_a_format_of_its_own() {
    static CENTRES: Centres = Centres;
    let format = SceneFormat::new(&CENTRES);
    assert_eq!((format.name(), format.kind()), ("centres", "centres"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("centres.txt");
    let scene = scene();
    let report = write(&scene, &path, format, &Images::OfScene).unwrap();
    let cameras = scene.views.iter().filter(|view| view.camera.is_some());
    assert_eq!(report.poses, Some(cameras.count()));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(Some(text.lines().count()), report.poses);
}
