//! Folders that other programs go on from, read back by readers that share no code with the
//! writers.

mod colmap;
mod formats;
mod images;
pub mod reader;

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
