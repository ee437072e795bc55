//! Which points another view contradicts, in scenes whose answer is known.

use candle_core::Device;
use image::RgbImage;
use mast3r::geometry::{Camera, Intrinsics, PointMap};
use mast3r::pipeline::mark_contradicted;
use mast3r::views::Crop;
use mast3r::{Error, Scene, SceneView};
use nalgebra::{Isometry3, Point3, Translation3, UnitQuaternion, Vector3};

const WIDTH: u32 = 64;
const HEIGHT: u32 = 48;
const FOCAL: f64 = 60.0;
/// Distance of the two cameras, and of the background; the near things are half as far away.
const BASELINE: f64 = 0.5;
const FAR: f64 = 4.0;
const NEAR: f64 = 2.0;
/// What a point at `NEAR` is off if the other view shows `FAR` there: 60 * 0.5 * (1 / 2 - 1 / 4)
/// pixels.
const PARALLAX_PX: f32 = 7.5;

/// A rectangle of constant world z; `sides` are its least and largest x and y.
#[derive(Clone, Copy)]
struct Sheet {
    z: f64,
    sides: [[f64; 2]; 2],
}

const BACKGROUND: Sheet = Sheet {
    z: FAR,
    sides: [[-1e3, 1e3]; 2],
};
/// Seen whole by both cameras, 24 by 18 pixels.
const CARD: Sheet = Sheet {
    z: NEAR,
    sides: [[-0.2, 0.6], [-0.3, 0.3]],
};

fn camera(x: f64, turn: f64) -> Camera {
    let world_from_camera = Isometry3::from_parts(
        Translation3::new(x, 0.0, 0.0),
        UnitQuaternion::from_axis_angle(&Vector3::y_axis(), turn),
    );
    Camera {
        intrinsics: Intrinsics::centred(WIDTH, HEIGHT, FOCAL),
        world_from_camera,
    }
}

/// Two cameras side by side that look the same way.
fn cameras() -> [Camera; 2] {
    [camera(0.0, 0.0), camera(BASELINE, 0.0)]
}

/// What a camera sees of some sheets, exact to float32.
fn view(camera: Camera, sheets: &[Sheet], confidence: f32) -> SceneView {
    let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| [f64::from(x), f64::from(y)]));
    let centre = Point3::from(camera.world_from_camera.translation.vector);
    let depth_of = |pixel: [f64; 2]| {
        let ray = camera.unproject(pixel, 1.0) - centre;
        let hits = sheets.iter().filter_map(|sheet| {
            let depth = (sheet.z - centre.z) / ray.z;
            let hit = centre + ray * depth;
            let inside = [hit.x, hit.y]
                .iter()
                .zip(sheet.sides)
                .all(|(at, [least, most])| (least..=most).contains(at));
            (depth > 0.0 && inside).then_some(depth)
        });
        hits.min_by(f64::total_cmp).unwrap_or(f64::NAN)
    };
    let depth: Vec<f64> = pixels.clone().map(depth_of).collect();
    let points = pixels.zip(&depth).map(|(pixel, &depth)| {
        let point = camera.unproject(pixel, depth);
        [point.x as f32, point.y as f32, point.z as f32]
    });
    SceneView {
        name: format!("at {:.1}", centre.x),
        crop: Crop::whole(WIDTH, HEIGHT),
        camera: Some(camera),
        points: PointMap {
            width: WIDTH as usize,
            height: HEIGHT as usize,
            points: points.collect(),
            confidence: vec![confidence; depth.len()].into(),
        },
        depth: depth.into_iter().map(|depth| depth as f32).collect(),
        rgb: mast3r::views::pixels(RgbImage::new(WIDTH, HEIGHT)),
        contradicted: None,
        masked: 0,
    }
}

/// A card that hangs in the air for the first view alone.
fn floating_card() -> [SceneView; 2] {
    let [first, second] = cameras();
    [
        view(first, &[BACKGROUND, CARD], 3.0),
        view(second, &[BACKGROUND], 3.0),
    ]
}

fn marks(views: [SceneView; 2], px: f32) -> [Vec<bool>; 2] {
    let mut scene = Scene {
        views: views.into(),
        ..Scene::default()
    };
    mark_contradicted(&mut scene, px, &Device::Cpu).unwrap();
    let marks = scene
        .views
        .into_iter()
        .map(|view| view.contradicted.unwrap());
    <[Vec<bool>; 2]>::try_from(marks.collect::<Vec<_>>()).unwrap()
}

fn count(marks: &[bool]) -> usize {
    marks.iter().filter(|mark| **mark).count()
}

/// Which pixels of a view show something at this depth.
fn at_depth(view: &SceneView, depth: f64) -> Vec<bool> {
    view.depth
        .iter()
        .map(|found| (f64::from(*found) - depth).abs() < 1e-3)
        .collect()
}

#[test]
fn a_sheet_that_floats_in_front_of_what_the_other_view_sees_goes_and_nothing_else() {
    let views = floating_card();
    let card = at_depth(&views[0], NEAR);
    assert_eq!(count(&card), 24 * 18);
    // The second view's background behind the card is hidden from the first one, which is no
    // contradiction.
    let nothing = vec![false; card.len()];
    for px in [0.01, 2.0, PARALLAX_PX - 0.01] {
        assert_eq!(
            marks(views.clone(), px),
            [card.clone(), nothing.clone()],
            "{px}"
        );
    }
    assert_eq!(marks(views, PARALLAX_PX + 0.01), [nothing.clone(), nothing]);
}

#[test]
fn an_occluder_that_both_views_see_and_what_it_hides_stay() {
    for turn in [0.0, -0.1] {
        let sheets = [BACKGROUND, CARD];
        let [first, second] =
            [camera(0.0, 0.0), camera(BASELINE, turn)].map(|camera| view(camera, &sheets, 3.0));
        let hidden = |point: &&[f32; 3]| {
            let point = Point3::from(point.map(f64::from));
            let pixel = second.camera.as_ref().unwrap().project(&point);
            pixel.is_some_and(|[x, y]| {
                let inside = (0.0..63.0).contains(&x) && (0.0..47.0).contains(&y);
                inside
                    && point.z > 3.0
                    && second.depth[y.round() as usize * 64 + x.round() as usize] < 3.0
            })
        };
        let hidden = first.points.points.iter().filter(hidden).count();
        assert!(hidden > 100, "{hidden}");
        // A tenth of a pixel is far above float32 (1e-4 pixels here) and far below the 7.5 pixels
        // that a depth blended across the card's edge would be off.
        let found = marks([first, second], 0.1);
        assert_eq!(
            found.each_ref().map(|marks| count(marks)),
            [0, 0],
            "turn {turn}"
        );
    }
}

#[test]
fn cameras_in_one_place_never_disagree() {
    let [first, mut second] = floating_card();
    let same = view(cameras()[0], &[BACKGROUND, CARD], 3.0);
    assert_eq!(
        marks([first.clone(), same], 1e-3).map(|marks| count(&marks)),
        [0, 0]
    );
    // Nor do they without the card: there is no parallax to see it by.
    second = SceneView {
        camera: first.camera,
        ..second
    };
    assert_eq!(
        marks([first, second], 1e-3).map(|marks| count(&marks)),
        [0, 0]
    );
}

#[test]
fn points_outside_the_other_image_stay() {
    let [first, second] = cameras();
    // Columns 0 to 12 of the first view; the second one would show it left of its image by 3
    // pixels and more.
    let left = Sheet {
        z: NEAR,
        sides: [[-1.05, -0.65], [-0.3, 0.3]],
    };
    let views = [
        view(first, &[BACKGROUND, left], 3.0),
        view(second, &[BACKGROUND], 3.0),
    ];
    assert!(count(&at_depth(&views[0], NEAR)) > 200);
    assert_eq!(marks(views, 1.0).map(|marks| count(&marks)), [0, 0]);
}

#[test]
fn a_hole_in_the_other_view_has_no_opinion() {
    let [first, mut second] = floating_card();
    let all = count(&marks([first.clone(), second.clone()], 1.0)[0]);
    // The card's columns are 26 to 49 in the first image and, at half the depth, 15 less in the
    // second one.
    for y in 0..HEIGHT as usize {
        for x in 11..23 {
            second.depth[y * WIDTH as usize + x] = [f32::NAN, 0.0, -1.0, f32::INFINITY][y % 4];
        }
    }
    let found = &marks([first, second], 1.0)[0];
    let by_column = |x: usize| {
        (0..HEIGHT as usize)
            .filter(|y| found[y * WIDTH as usize + x])
            .count()
    };
    assert_eq!((by_column(26), by_column(37)), (0, 0));
    assert_eq!((by_column(38), by_column(49)), (18, 18));
    assert_eq!(count(found), all / 2);
}

#[test]
fn the_units_of_the_scene_do_not_matter() {
    let [mut first, mut second] = noisy();
    let before = marks([first.clone(), second.clone()], 1.0);
    assert!(before.iter().all(|marks| count(marks) > 50));
    for view in [&mut first, &mut second] {
        view.points
            .points
            .as_flattened_mut()
            .iter_mut()
            .for_each(|value| *value *= 1000.0);
        view.depth.iter_mut().for_each(|depth| *depth *= 1000.0);
        view.camera
            .as_mut()
            .unwrap()
            .world_from_camera
            .translation
            .vector *= 1000.0;
    }
    assert_eq!(marks([first, second], 1.0), before);
}

#[test]
fn swapped_views_give_the_mirrored_decision() {
    let [first, second] = noisy();
    let [of_first, of_second] = marks([first.clone(), second.clone()], 1.0);
    assert_eq!(marks([second, first], 1.0), [of_second, of_first]);
}

/// Turned cameras before the card, each view with specks at wrong depths that are less confident
/// than what is right.
fn noisy() -> [SceneView; 2] {
    let mut views = [camera(0.0, 0.05), camera(BASELINE, -0.1)]
        .map(|camera| view(camera, &[BACKGROUND, CARD], 3.0));
    for (seed, view) in views.iter_mut().enumerate() {
        let camera = view.camera.unwrap();
        for index in (5 + seed..view.depth.len()).step_by(23) {
            let pixel = [
                (index % WIDTH as usize) as f64,
                (index / WIDTH as usize) as f64,
            ];
            let depth = f64::from(view.depth[index]) * (0.4 + 0.05 * (index % 11) as f64);
            let point = camera.unproject(pixel, depth);
            view.depth[index] = depth as f32;
            view.points.points[index] = [point.x as f32, point.y as f32, point.z as f32];
            view.points.confidence[index] = 1.2;
        }
    }
    views
}

#[test]
fn of_two_views_that_contradict_one_another_the_more_confident_one_is_believed() {
    let [mut first, second] = floating_card();
    let card = at_depth(&first, NEAR);
    first.points.confidence.fill(3.5);
    assert_eq!(
        marks([first.clone(), second.clone()], 1.0).map(|marks| count(&marks)),
        [0, 0]
    );
    first.points.confidence.fill(2.5);
    assert_eq!(marks([first, second], 1.0)[0], card);

    // The second view looks through the background in a patch, an error that lies too deep.
    let [first, mut second] = cameras().map(|camera| view(camera, &[BACKGROUND], 3.0));
    let patch: Vec<usize> = (10..30)
        .flat_map(|y| (20..40).map(move |x| y * WIDTH as usize + x))
        .collect();
    for (confidence, expected) in [(3.5, 19 * 18), (1.1, 0)] {
        for &index in &patch {
            second.depth[index] = 3.0 * FAR as f32;
            second.points.confidence[index] = confidence;
        }
        // Its outermost pixels have the true surface beside them; the first view's pixels fall
        // halfway between columns.
        let found = marks([first.clone(), second.clone()], 0.5).map(|marks| count(&marks));
        assert_eq!(found, [expected, 0], "{confidence}");
    }
}

#[test]
fn a_check_without_a_number_of_pixels_or_without_cameras_is_refused() {
    let mut scene = Scene {
        views: floating_card().into(),
        ..Scene::default()
    };
    for px in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = mark_contradicted(&mut scene, px, &Device::Cpu).unwrap_err();
        let expected = format!(
            "the largest reprojection error must be a finite number of pixels above 0, got {px}"
        );
        assert!(
            matches!(&error, Error::Usage(message) if *message == expected),
            "{error}"
        );
    }
    scene.views[1].camera = None;
    let error = mark_contradicted(&mut scene, 1.0, &Device::Cpu).unwrap_err();
    assert!(
        matches!(error, Error::NoCameras { .. }) && error.to_string().contains("at 0.5 has none"),
        "{error}"
    );
    assert!(scene.views.iter().all(|view| view.contradicted.is_none()));
}

#[test]
fn a_view_without_a_camera_neither_judges_nor_is_judged() {
    let [first, second] = floating_card();
    let expected = marks([first.clone(), second.clone()], 1.0);
    let lost = SceneView {
        name: "lost".into(),
        camera: None,
        ..second.clone()
    };
    let mut scene = Scene {
        views: vec![first, lost, second],
        ..Scene::default()
    };
    mark_contradicted(&mut scene, 1.0, &Device::Cpu).unwrap();
    assert_eq!(
        [&scene.views[0], &scene.views[2]].map(|view| view.contradicted.clone().unwrap()),
        expected
    );
    assert!(scene.views[1].contradicted.is_none());
}
