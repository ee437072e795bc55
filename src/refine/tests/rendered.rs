//! The whole refinement on images of a scene with a known answer: a wall, the ground before it and
//! boxes, seen by six cameras.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use image::{Rgb, RgbImage};
use nalgebra::{Isometry3, Point3, Translation3, UnitQuaternion, Vector3};
use rayon::prelude::*;
use tempfile::TempDir;

use super::super::{RefineOptions, Refinement, refine};
use crate::alignment::{AlignOptions, Alignment, ViewReport};
use crate::geometry::{Camera, Intrinsics, Lens, PointMap};
use crate::matching::random::Random;
use crate::matching::{Match, PairMatches, Pixel};
use crate::progress::{Progress, Stage, Watch, unwatched};
use crate::scene::{Scene, SceneView};
use crate::views::{Crop, View};
use crate::{Error, Result};

const VIEWS: usize = 6;
const LENS: Lens = Lens {
    width: 400,
    height: 300,
    focal: [371.0; 2],
    principal: [199.5, 149.5],
    radial: [-0.08, 0.0],
};
/// How much smaller the network's images are.
const SHRUNK: u32 = 4;

/// A rectangle: a corner and two sides.
#[derive(Clone, Copy)]
struct Rectangle {
    corner: Vector3<f64>,
    sides: [Vector3<f64>; 2],
    /// Where in the texture it begins, which tells surfaces apart.
    shift: f64,
    /// Brightness by metres along both sides.
    texture: fn(f64, f64) -> f64,
}

/// A value of 0 to 1 for whole numbers.
fn noise_at(x: i64, y: i64) -> f64 {
    Random::new(
        (x as u64)
            .wrapping_mul(0x1_0001_0001)
            .wrapping_add(y as u64),
    )
    .uniform()
}

/// Value noise of five octaves.
fn rough(u: f64, v: f64) -> f64 {
    let octave = |level: i32| {
        let (x, y) = (u * 2f64.powi(level), v * 2f64.powi(level));
        let (left, top) = (x.floor(), y.floor());
        let ease = |t: f64| t * t * (3.0 - 2.0 * t);
        let (s, t) = (ease(x - left), ease(y - top));
        let at = |across: f64, down: f64| {
            noise_at(
                (left + across) as i64 * 7 + i64::from(level),
                (top + down) as i64,
            )
        };
        let row = |down: f64| at(0.0, down) * (1.0 - s) + at(1.0, down) * s;
        row(0.0) * (1.0 - t) + row(1.0) * t - 0.5
    };
    0.5 + (0..5)
        .map(|level| octave(level) * 0.75f64.powi(level))
        .sum::<f64>()
        * 0.6
}

/// A checkerboard, squares of 0.7 m.
fn tiled(u: f64, v: f64) -> f64 {
    let is_dark = ((u / 0.7).floor() + (v / 0.7).floor()) as i64 % 2 == 0;
    if is_dark { 0.2 } else { 0.8 }
}

fn scene(wall: fn(f64, f64) -> f64) -> Vec<Rectangle> {
    let rectangle = |corner: [f64; 3], one: [f64; 3], two: [f64; 3], shift| Rectangle {
        corner: corner.into(),
        sides: [one.into(), two.into()],
        shift,
        texture: rough,
    };
    let mut all = vec![
        rectangle([-9.0, -5.0, 9.0], [18.0, 0.0, 0.0], [0.0, 7.0, 0.0], 0.0),
        rectangle([-9.0, 1.6, 0.5], [18.0, 0.0, 0.0], [0.0, 0.0, 8.5], 40.0),
    ];
    all[0].texture = wall;
    for (index, [x, z]) in [[-2.6, 6.5], [0.4, 5.0], [2.8, 7.0]]
        .into_iter()
        .enumerate()
    {
        let shift = 90.0 + 50.0 * index as f64;
        all.push(rectangle(
            [x, 0.2, z],
            [1.1, 0.0, 0.0],
            [0.0, 1.4, 0.0],
            shift,
        ));
        all.push(rectangle(
            [x, 0.2, z],
            [0.0, 0.0, 1.1],
            [0.0, 1.4, 0.0],
            shift + 13.0,
        ));
        all.push(rectangle(
            [x + 1.1, 0.2, z],
            [0.0, 0.0, 1.1],
            [0.0, 1.4, 0.0],
            shift + 29.0,
        ));
    }
    all
}

/// Distance along `ray` and brightness of what it meets first.
fn seen(scene: &[Rectangle], from: &Vector3<f64>, ray: &Vector3<f64>) -> Option<(f64, f64)> {
    let meet = |surface: &Rectangle| {
        let [one, two] = surface.sides;
        let normal = one.cross(&two);
        let distance = normal.dot(&(surface.corner - from)) / normal.dot(ray);
        let on = from + ray * distance - surface.corner;
        let [s, t] = [one, two].map(|side| on.dot(&side) / side.norm_squared());
        let is_hit = distance > 1e-6 && (0.0..=1.0).contains(&s) && (0.0..=1.0).contains(&t);
        is_hit.then(|| {
            (
                distance,
                (surface.texture)(surface.shift + s * one.norm(), t * two.norm()),
            )
        })
    };
    scene
        .iter()
        .filter_map(meet)
        .min_by(|one, two| one.0.total_cmp(&two.0))
}

fn cameras() -> Vec<Isometry3<f64>> {
    let pose = |view: usize| {
        let along = view as f64 - 2.5;
        let place = Vector3::new(0.75 * along, 0.15 * (view % 2) as f64, 0.1 * along.abs());
        let turn = UnitQuaternion::from_euler_angles(
            0.03 * (view % 3) as f64,
            -0.09 * along,
            0.02 * along,
        );
        Isometry3::from_parts(Translation3::from(place), turn)
    };
    (0..VIEWS).map(pose).collect()
}

fn images(scene: &[Rectangle], lens: impl Fn(usize) -> Lens) -> Vec<Vec<f64>> {
    cameras()
        .iter()
        .enumerate()
        .map(|(view, camera)| rendered(scene, camera, &lens(view)))
        .collect()
}

/// Images of the plain scene, which most tests take.
fn plain_images() -> Vec<Vec<f64>> {
    static IMAGES: OnceLock<Vec<Vec<f64>>> = OnceLock::new();
    IMAGES
        .get_or_init(|| images(&scene(rough), |_| LENS))
        .clone()
}

/// Brightness 0 to 1, row by row, the mean of four rays a pixel.
fn rendered(scene: &[Rectangle], world_from_camera: &Isometry3<f64>, lens: &Lens) -> Vec<f64> {
    let value = |index: usize| {
        let (x, y) = (
            (index % LENS.width as usize) as f64,
            (index / LENS.width as usize) as f64,
        );
        let sample = |[right, down]: [f64; 2]| {
            let [u, v] = lens.unproject([x + right, y + down]);
            let ray = world_from_camera.rotation * Vector3::new(u, v, 1.0);
            seen(scene, &world_from_camera.translation.vector, &ray).map_or(1.0, |(_, value)| value)
        };
        [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]
            .map(sample)
            .iter()
            .sum::<f64>()
            / 4.0
    };
    (0..(LENS.width * LENS.height) as usize)
        .into_par_iter()
        .map(value)
        .collect()
}

fn blurred(values: &[f64], sigma: f64) -> Vec<f64> {
    let (width, height) = (LENS.width as i64, LENS.height as i64);
    let reach = (3.0 * sigma).ceil() as i64;
    let weights: Vec<f64> = (-reach..=reach)
        .map(|at| (-0.5 * (at as f64 / sigma).powi(2)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let pass = |values: &[f64], [across, down]: [i64; 2]| -> Vec<f64> {
        let of = |index: i64| {
            let (x, y) = (index % width, index / width);
            let at = |step: i64| {
                let (x, y) = (
                    (x + across * step).clamp(0, width - 1),
                    (y + down * step).clamp(0, height - 1),
                );
                values[(y * width + x) as usize]
            };
            (-reach..=reach)
                .zip(&weights)
                .map(|(step, weight)| at(step) * weight)
                .sum::<f64>()
                / total
        };
        (0..width * height).map(of).collect()
    };
    pass(&pass(values, [1, 0]), [0, 1])
}

/// A reconstruction as a network and the alignment may leave it, and the files that it was made of.
struct Trial {
    files: TempDir,
    views: Vec<View>,
    alignment: Alignment,
    options: AlignOptions,
    settings: RefineOptions,
}

/// What is different from the plain scene.
struct Setting {
    /// Whether the wall is a checkerboard.
    has_tiles: bool,
    /// How much longer the lens of every second image is.
    zoom: f64,
    /// What becomes of the brightness of an image.
    taken: fn(usize, Vec<f64>) -> Vec<f64>,
    /// How far off the aligned focal length is, and the cameras: degrees, and of the distance of
    /// neighbours.
    focal: f64,
    turn: f64,
    shift: f64,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            has_tiles: false,
            zoom: 1.0,
            taken: |_, values| values,
            focal: 1.06,
            turn: 1.2,
            shift: 0.1,
        }
    }
}

impl Trial {
    fn new(setting: &Setting) -> Self {
        let files = tempfile::tempdir().unwrap();
        let scene = scene(if setting.has_tiles { tiled } else { rough });
        let lens = |view: usize| Lens {
            focal: LENS.focal.map(|focal| {
                if view % 2 == 1 {
                    setting.zoom * focal
                } else {
                    focal
                }
            }),
            ..LENS
        };
        let images = if setting.has_tiles || setting.zoom != 1.0 {
            images(&scene, lens)
        } else {
            plain_images()
        };
        let mut random = Random::new(3);
        let mut vector = |length: f64| {
            Vector3::new(random.normal(), random.normal(), random.normal()).normalize() * length
        };
        let (file_width, file_height) = (LENS.width, LENS.height);
        let crop = Crop {
            file_width,
            file_height,
            ..Crop::whole(LENS.width / SHRUNK, LENS.height / SHRUNK)
        };
        let (mut views, mut scene_views) = (Vec::new(), Vec::new());
        for (number, truth) in cameras().into_iter().enumerate() {
            let values = (setting.taken)(number, images[number].clone());
            let grey = |x: u32, y: u32| {
                let value = (255.0 * values[(y * LENS.width + x) as usize])
                    .round()
                    .clamp(0.0, 255.0) as u8;
                Rgb([value; 3])
            };
            let name = format!("{number}.png");
            let image = RgbImage::from_fn(LENS.width, LENS.height, grey);
            image.save(files.path().join(&name)).unwrap();
            let small = image::imageops::thumbnail(&image, crop.width, crop.height);
            views.push(View::new(name.clone(), small.clone(), crop));
            let world_from_camera = Isometry3::from_parts(
                Translation3::from(truth.translation.vector + vector(0.75 * setting.shift)),
                UnitQuaternion::from_scaled_axis(vector(setting.turn.to_radians()))
                    * truth.rotation,
            );
            let focal = lens(number).focal[0] * setting.focal / f64::from(SHRUNK);
            let intrinsics = Intrinsics::centred(crop.width, crop.height, focal);
            let depth: Vec<f32> = (0..crop.width * crop.height)
                .map(|pixel| {
                    let framed = [pixel % crop.width, pixel / crop.width].map(f64::from);
                    let [u, v] = lens(number).unproject(crop.to_file(framed));
                    let ray = truth.rotation * Vector3::new(u, v, 1.0);
                    seen(&scene, &truth.translation.vector, &ray)
                        .map_or(f32::NAN, |(depth, _)| depth as f32)
                })
                .collect();
            let count = depth.len();
            let camera = Camera {
                intrinsics,
                world_from_camera,
            };
            let place = |at: usize, depth: f32| {
                let pixel = [at as u32 % crop.width, at as u32 / crop.width].map(f64::from);
                camera
                    .unproject(pixel, depth.into())
                    .coords
                    .map(|value| value as f32)
                    .into()
            };
            scene_views.push(SceneView {
                name,
                crop,
                camera: Some(camera),
                points: PointMap {
                    width: crop.width as usize,
                    height: crop.height as usize,
                    points: depth
                        .iter()
                        .enumerate()
                        .map(|(at, depth)| place(at, *depth))
                        .collect(),
                    confidence: vec![2.0; count].into(),
                },
                depth: depth.into(),
                rgb: crate::views::pixels(small),
                contradicted: None,
                masked: 0,
            });
        }
        let report = ViewReport {
            placed: true,
            inlier_share: 1.0,
            reprojection_px: Some(1.0),
            overruled_focal: None,
        };
        let alignment = Alignment {
            scene: Scene {
                views: scene_views,
                ..Scene::default()
            },
            views: vec![report; VIEWS],
            pairs: Vec::new(),
            cameras_error: None,
        };
        let settings = RefineOptions {
            keypoints: 1500,
            ..RefineOptions::default()
        };
        Self {
            files,
            views,
            alignment,
            options: AlignOptions::default(),
            settings,
        }
    }

    /// Gives it the matches that a network may find: right to a pixel or two of its own.
    fn with_matches(mut self) -> Self {
        let (truth, views) = (cameras(), &self.alignment.scene.views);
        let mut random = Random::new(9);
        let mut matches = Vec::new();
        for (one, two) in (0..VIEWS).flat_map(|two| (0..two).map(move |one| (one, two))) {
            let (crop, width) = (views[one].crop, views[one].rgb.width());
            let second_from_first = truth[two].inverse() * truth[one];
            let mut found = Vec::new();
            for at in 0..views[one].depth.len() as u32 {
                let (pixel, depth) = (
                    [at % width, at / width],
                    f64::from(views[one].depth[at as usize]),
                );
                if depth.is_nan() || pixel.iter().any(|side| side % 4 != 1) {
                    continue;
                }
                let [u, v] = LENS.unproject(crop.to_file(pixel.map(f64::from)));
                let seen = second_from_first * Point3::new(u * depth, v * depth, depth);
                let Some(other) = LENS.project(&seen.coords) else {
                    continue;
                };
                let noisy = crop
                    .to_framed(other)
                    .map(|side| (side + 0.7 * random.normal()).round());
                let inside =
                    noisy[0] >= 0.0 && noisy[0] < 100.0 && noisy[1] >= 0.0 && noisy[1] < 75.0;
                if !inside {
                    continue;
                }
                let noisy = noisy.map(|side| side as u32);
                let there = f64::from(views[two].depth[(noisy[1] * width + noisy[0]) as usize]);
                if (there / seen.z).ln().abs() < 0.1 {
                    let pixel_of = |[x, y]: [u32; 2]| Pixel { x, y };
                    found.push(Match {
                        first: pixel_of(pixel),
                        second: pixel_of(noisy),
                        confidence: 1.0,
                    });
                }
            }
            matches.push(PairMatches {
                views: [one, two],
                matches: found,
            });
        }
        self.alignment.scene.matches = matches;
        self
    }

    /// The first images alone.
    fn of_first(mut self, count: usize) -> Self {
        self.views.truncate(count);
        self.alignment.views.truncate(count);
        self.alignment.scene.views.truncate(count);
        self.alignment
            .scene
            .matches
            .retain(|pair| pair.views.iter().all(|view| *view < count));
        self
    }

    fn run(&mut self) -> Refinement {
        self.watched(&unwatched).unwrap()
    }

    fn watched(&mut self, watch: Watch<'_>) -> Result<Refinement> {
        let paths: Vec<PathBuf> = self
            .views
            .iter()
            .map(|view| self.files.path().join(&view.name))
            .collect();
        refine(
            &mut self.alignment,
            &self.views,
            &paths,
            &self.options,
            &self.settings,
            watch,
        )
    }

    /// The mean error of rotations relative to the first camera, degrees, and the largest of the
    /// directions from it.
    fn errors(&self) -> [f64; 2] {
        let found: Vec<Isometry3<f64>> = self
            .alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera.as_ref().unwrap().world_from_camera)
            .collect();
        let truth = cameras();
        let relative = |poses: &[Isometry3<f64>], view: usize| poses[0].inverse() * poses[view];
        let turn = |view: usize| {
            relative(&found, view)
                .rotation
                .angle_to(&relative(&truth, view).rotation)
        };
        let direction = |view: usize| {
            relative(&found, view)
                .translation
                .vector
                .angle(&relative(&truth, view).translation.vector)
        };
        let mean = (1..found.len()).map(turn).sum::<f64>() / (found.len() - 1) as f64;
        [
            mean.to_degrees(),
            (1..found.len())
                .map(direction)
                .fold(0.0, f64::max)
                .to_degrees(),
        ]
    }

    /// Refines, and checks that cameras are those that the images were rendered with.
    fn assert_solved(mut self, limits: [f64; 2]) {
        let before = self.errors();
        let report = self.run();
        let after = self.errors();
        println!(
            "rotations {:.3} then {:.4} degrees, directions {:.2} then {:.3}; {} tracks, {:.2} px",
            before[0], after[0], before[1], after[1], report.tracks, report.error_px
        );
        assert_eq!(report.refused, None);
        assert!(
            report.views.iter().all(|view| view.refined),
            "{:?}",
            report.views
        );
        assert!(
            after[0] * 5.0 < before[0] && after[0] < limits[0],
            "rotations {before:?} then {after:?}"
        );
        assert!(after[1] < limits[1], "directions {before:?} then {after:?}");
        let lens = self.alignment.scene.lens(0).unwrap();
        assert!(
            (lens.focal[0] / LENS.focal[0] - 1.0).abs() < 0.01,
            "{lens:?}"
        );
        assert!((lens.radial[0] - LENS.radial[0]).abs() < 0.02, "{lens:?}");
        let place =
            |view: &SceneView, pixel: usize| Point3::from(view.points.points[pixel].map(f64::from));
        let pixel = self.alignment.scene.views[0].depth.len() / 2;
        assert!(
            place(&self.alignment.scene.views[0], pixel).coords.norm() > 1.0,
            "points follow the cameras"
        );
    }
}

/// Mean rotation and largest direction, degrees.
const LIMITS: [f64; 2] = [0.08, 0.25];

#[test]
fn cameras_are_those_that_images_were_rendered_with() {
    Trial::new(&Setting::default()).assert_solved(LIMITS);
}

#[test]
fn exposures_differ() {
    let taken = |view: usize, values: Vec<f64>| {
        let (gain, gamma) = [
            (0.45, 1.0),
            (1.0, 1.0),
            (1.3, 1.0),
            (0.8, 1.8),
            (0.6, 0.7),
            (1.1, 1.2),
        ][view];
        values
            .iter()
            .map(|value| gain * value.clamp(0.0, 1.0).powf(gamma))
            .collect()
    };
    Trial::new(&Setting {
        taken,
        ..Setting::default()
    })
    .assert_solved(LIMITS);
}

#[test]
fn a_fifth_of_every_image_moves() {
    let taken = |view: usize, mut values: Vec<f64>| {
        let (width, height) = (LENS.width as usize, LENS.height as usize);
        let (side, rows) = (width * 9 / 20, height * 9 / 20);
        let (left, top) = (15 + view * 29, 20 + (view * 47) % 90);
        for index in 0..side * rows {
            let (x, y) = (index % side, index / side);
            values[(top + y) * width + left + x] = rough(x as f64 / 30.0 + 300.0, y as f64 / 30.0);
        }
        values
    };
    Trial::new(&Setting {
        taken,
        ..Setting::default()
    })
    .assert_solved(LIMITS);
}

/// Half of what the images show repeats itself: corners look alike a period apart.
#[test]
fn a_wall_is_a_checkerboard() {
    Trial::new(&Setting {
        has_tiles: true,
        ..Setting::default()
    })
    .assert_solved([0.1, 0.4]);
}

/// Without EXIF data images of one size share a camera at first.
#[test]
fn two_cameras_have_images_of_one_size() {
    let zoom = 1.4;
    let mut trial = Trial::new(&Setting {
        zoom,
        ..Setting::default()
    });
    let before = trial.errors();
    let report = trial.run();
    let after = trial.errors();
    assert_eq!((report.refused, report.cameras), (None, VIEWS));
    assert!(
        after[0] * 5.0 < before[0] && after[1] < 0.5,
        "{before:?} then {after:?}"
    );
    for (view, expected) in [(0, 1.0), (1, zoom)] {
        let found = trial.alignment.scene.lens(view).unwrap().focal[0] / LENS.focal[0];
        assert!((found / expected - 1.0).abs() < 0.02, "{view}: {found}");
    }
}

#[test]
fn images_are_blurred() {
    let taken =
        |view: usize, values: Vec<f64>| blurred(&values, [2.0, 1.0, 1.5, 2.5, 0.7, 1.5][view]);
    Trial::new(&Setting {
        taken,
        ..Setting::default()
    })
    .assert_solved([0.1, 1.0]);
}

#[test]
fn matches_of_the_network_do_instead_of_keypoints() {
    let mut trial = Trial::new(&Setting::default()).with_matches();
    trial.settings.keypoints = 0;
    trial.assert_solved([0.1, 0.25]);
}

#[test]
fn two_images_keep_the_focal_length_that_they_hardly_tell() {
    for focal in [0.94, 1.06] {
        let mut trial = Trial::new(&Setting {
            focal,
            ..Setting::default()
        })
        .with_matches()
        .of_first(2);
        let before = trial.errors();
        let report = trial.run();
        let after = trial.errors();
        assert_eq!(report.refused, None);
        assert!(
            after[0] < 0.5 * before[0] && after[1] < 0.5 * before[1],
            "{before:?} then {after:?}"
        );
        let found = trial.alignment.scene.lens(0).unwrap().focal[0] / LENS.focal[0];
        assert!(
            (found / focal - 1.0).abs() < 0.1,
            "{found} of the true focal length, from {focal}"
        );
    }
}

#[test]
fn the_focal_length_is_a_fifth_off() {
    for focal in [0.8, 1.2] {
        Trial::new(&Setting {
            focal,
            ..Setting::default()
        })
        .assert_solved(LIMITS);
    }
}

#[test]
fn an_image_is_turned_by_ten_degrees() {
    let mut trial = Trial::new(&Setting::default());
    let camera = trial.alignment.scene.views[3].camera.as_mut().unwrap();
    let turn = UnitQuaternion::from_scaled_axis(Vector3::new(0.06, 0.16, 0.03));
    camera.world_from_camera.rotation = turn * camera.world_from_camera.rotation;
    trial.assert_solved(LIMITS);
}

#[test]
fn images_that_were_left_out_are_placed() {
    let mut trial = Trial::new(&Setting::default());
    for view in [2, 5] {
        trial.alignment.scene.views[view].camera = None;
        trial.alignment.scene.views[view].depth.fill(f32::NAN);
        trial.alignment.scene.views[view]
            .points
            .points
            .fill([f32::NAN; 3]);
        trial.alignment.views[view].placed = false;
    }
    let report = trial.run();
    let registered: Vec<bool> = report.views.iter().map(|view| view.registered).collect();
    assert_eq!(registered, [false, false, true, false, false, true]);
    assert!(trial.alignment.views.iter().all(|view| view.placed));
    let [rotation, direction] = trial.errors();
    assert!(
        rotation < LIMITS[0] && direction < LIMITS[1],
        "{rotation} {direction}"
    );
    let placed = &trial.alignment.scene.views[2];
    assert!(placed.depth.iter().all(|depth| depth.is_nan()) && placed.points.points[0][0].is_nan());
    trial.alignment.scene.check().unwrap();
}

#[test]
fn the_scale_is_that_of_the_depths_though_the_first_image_was_left_out() {
    let mut trial = Trial::new(&Setting::default());
    // Cameras a tenth too far apart for the depths.
    for camera in trial
        .alignment
        .scene
        .views
        .iter_mut()
        .filter_map(|view| view.camera.as_mut())
    {
        camera.world_from_camera.translation.vector *= 1.1;
    }
    let first = &mut trial.alignment.scene.views[0];
    first.camera = None;
    first.depth.fill(f32::NAN);
    first.points.points.fill([f32::NAN; 3]);
    let report = trial.run();
    assert!(report.views[0].registered, "{:?}", report.views);
    let place = |view: &SceneView| {
        view.camera
            .as_ref()
            .unwrap()
            .world_from_camera
            .translation
            .vector
    };
    let views = &trial.alignment.scene.views;
    let truth = cameras();
    let ratio = (place(&views[5]) - place(&views[1])).norm()
        / (truth[5].translation.vector - truth[1].translation.vector).norm();
    assert!((ratio - 1.0).abs() < 0.01, "{ratio} of the true distances");
    let [rotation, direction] = trial.errors();
    assert!(
        rotation < LIMITS[0] && direction < LIMITS[1],
        "{rotation} {direction}"
    );
}

#[test]
fn an_image_of_something_else_stays_out() {
    let taken = |view: usize, values: Vec<f64>| match view {
        4 => (0..values.len())
            .map(|at| rough((at % 400) as f64 / 50.0 + 500.0, (at / 400) as f64 / 50.0))
            .collect(),
        _ => values,
    };
    let mut trial = Trial::new(&Setting {
        taken,
        ..Setting::default()
    });
    trial.alignment.scene.views[4].camera = None;
    trial.alignment.views[4].placed = false;
    let report = trial.run();
    assert_eq!(report.refused, None);
    assert!(
        !report.views[4].refined && !report.views[4].registered && !trial.alignment.views[4].placed
    );
    assert!(trial.alignment.scene.views[4].camera.is_none());
}

#[test]
fn a_refinement_is_watched_and_cancelled() {
    let mut trial = Trial::new(&Setting::default());
    let cameras = |trial: &Trial| -> Vec<Option<Camera>> {
        trial
            .alignment
            .scene
            .views
            .iter()
            .map(|view| view.camera)
            .collect()
    };
    let before = cameras(&trial);
    let cancelled = trial.watched(&|event| match event {
        Progress::Begin(Stage::Match, _) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    assert_eq!(cameras(&trial), before);

    let events = Mutex::new(Vec::new());
    trial
        .watched(&|event| {
            events.lock().unwrap().push(event);
            ControlFlow::Continue(())
        })
        .unwrap();
    let pairs = VIEWS * (VIEWS - 1) / 2;
    let steps = |count| vec![Progress::Step; count];
    let expected = [
        vec![Progress::Begin(Stage::Keypoints, VIEWS)],
        steps(VIEWS),
        vec![Progress::Begin(Stage::Match, pairs)],
        steps(pairs),
        vec![Progress::Begin(Stage::Refine, 1)],
    ];
    assert_eq!(events.into_inner().unwrap(), expected.concat());
}
