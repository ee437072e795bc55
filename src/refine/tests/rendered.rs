//! The whole refinement on images of a scene with a known answer: a wall, the ground before it and
//! boxes, seen by six cameras.

mod world;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Mutex;

use image::{Rgb, RgbImage};
use nalgebra::{Isometry3, Point3, Translation3, UnitQuaternion, Vector3};
use tempfile::TempDir;

use self::world::*;
use super::super::{RefineOptions, Refinement, refine};
use crate::alignment::{AlignOptions, Alignment, ViewReport};
use crate::geometry::{Camera, Intrinsics, Lens};
use crate::matching::random::Random;
use crate::matching::{Match, PairMatches, Pixel};
use crate::progress::{Progress, Stage, Watch, unwatched};
use crate::scene::{Scene, SceneView, fixtures};
use crate::views::{Crop, View};
use crate::{Error, Result};

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
            let camera = Camera {
                intrinsics,
                world_from_camera,
            };
            let place = |(at, depth): (usize, &f32)| {
                let pixel = [at as u32 % crop.width, at as u32 / crop.width].map(f64::from);
                let point = camera.unproject(pixel, f64::from(*depth));
                point.coords.cast::<f32>().into()
            };
            let points = depth.iter().enumerate().map(place);
            let seen = fixtures::view(&name, [crop.width, crop.height], Some(camera), points);
            scene_views.push(SceneView {
                crop,
                depth: depth.into(),
                rgb: crate::views::pixels(small),
                ..seen
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

    /// Of images with this change of their brightness.
    fn taken(taken: fn(usize, Vec<f64>) -> Vec<f64>) -> Self {
        Self::new(&Setting {
            taken,
            ..Setting::default()
        })
    }

    /// With aligned focal lengths so many times the true one.
    fn focal(focal: f64) -> Self {
        Self::new(&Setting {
            focal,
            ..Setting::default()
        })
    }

    /// Takes an image's camera and depths away, as if it had not been registered.
    fn forget(&mut self, view: usize) {
        let scene_view = &mut self.alignment.scene.views[view];
        scene_view.camera = None;
        scene_view.depth.fill(f32::NAN);
        scene_view.points.points.fill([f32::NAN; 3]);
        self.alignment.views[view].placed = false;
    }

    /// Checks that cameras are those that the images were rendered with.
    fn assert_true_cameras(&self) {
        let [rotation, direction] = self.errors();
        assert!(
            rotation < LIMITS[0] && direction < LIMITS[1],
            "{rotation} {direction}"
        );
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
    Trial::taken(taken).assert_solved(LIMITS);
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
    Trial::taken(taken).assert_solved(LIMITS);
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
    Trial::taken(taken).assert_solved([0.1, 1.0]);
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
        let mut trial = Trial::focal(focal).with_matches().of_first(2);
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
        Trial::focal(focal).assert_solved(LIMITS);
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
    [2, 5].into_iter().for_each(|view| trial.forget(view));
    let report = trial.run();
    let registered: Vec<bool> = report.views.iter().map(|view| view.registered).collect();
    assert_eq!(registered, [false, false, true, false, false, true]);
    assert!(trial.alignment.views.iter().all(|view| view.placed));
    trial.assert_true_cameras();
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
    trial.forget(0);
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
    trial.assert_true_cameras();
}

#[test]
fn an_image_of_something_else_stays_out() {
    let taken = |view: usize, values: Vec<f64>| match view {
        4 => (0..values.len())
            .map(|at| rough((at % 400) as f64 / 50.0 + 500.0, (at / 400) as f64 / 50.0))
            .collect(),
        _ => values,
    };
    let mut trial = Trial::taken(taken);
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
