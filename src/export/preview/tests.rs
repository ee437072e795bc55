//! Images whose answer is known: drawn from a camera's own place, or of shapes with a known
//! outline.

mod room;

use image::Rgb;
use image::buffer::ConvertBuffer as _;
use nalgebra::{Matrix3, Point3, Translation3, UnitQuaternion, Vector3};

use super::frustums::plane_depth;
use super::*;
use crate::scene::{PointFilter, fixtures};

/// An image drawn from its own camera: what is lost is sharpness, at edges and in fine patterns.
const LEAST_OWN_PSNR: f64 = 27.0;

fn scene_view(
    name: &str,
    camera: Option<Camera>,
    [width, height]: [u32; 2],
    points: Vec<[f32; 3]>,
    color: impl Fn(u32, u32) -> [u8; 3],
) -> SceneView {
    let depth = points.iter().map(|point| point[2]).collect();
    let rgb = RgbImage::from_fn(width, height, |x, y| Rgb(color(x, y)));
    SceneView {
        depth,
        rgb: crate::views::pixels(rgb),
        ..fixtures::view(name, [width, height], camera, points)
    }
}

fn scene_of(views: Vec<SceneView>) -> Scene {
    Scene {
        views,
        ..Scene::default()
    }
}

/// Points alone, as large and as light as they are.
fn bare() -> PreviewOptions {
    PreviewOptions {
        width: 160,
        height: 120,
        cameras: false,
        shading: 0.0,
        ..PreviewOptions::default()
    }
}

fn small() -> PreviewOptions {
    PreviewOptions {
        width: 320,
        height: 240,
        ..PreviewOptions::default()
    }
}

fn select(scene: &Scene) -> PointSelection<'_> {
    scene.select(&PointFilter::default()).unwrap()
}

fn at(position: [f64; 3], turn: [f64; 3], intrinsics: Intrinsics) -> Camera {
    let turn = UnitQuaternion::from_scaled_axis(Vector3::from(turn));
    Camera {
        intrinsics,
        world_from_camera: Isometry3::from_parts(Translation3::from(Vector3::from(position)), turn),
    }
}

/// A view of one colour of a plane through (0, 0, 2) with this normal, taken from the origin.
fn plane(width: u32, height: u32, normal: [f64; 3], color: [u8; 3]) -> SceneView {
    let camera = at(
        [0.0; 3],
        [0.0; 3],
        Intrinsics::centred(width, height, f64::from(width)),
    );
    let normal = Vector3::from(normal);
    let points = (0..width * height).map(|index| {
        let ray = camera
            .intrinsics
            .unproject([f64::from(index % width), f64::from(index / width)], 1.0);
        let point = ray * (2.0 * normal.z / normal.dot(&ray.coords));
        point.cast::<f32>().into()
    });
    scene_view(
        "plane.png",
        Some(camera),
        [width, height],
        points.collect(),
        |_, _| color,
    )
}

/// How far inside a convex outline, given clockwise on the image, a place is; below zero outside.
fn inside(outline: &[[f64; 2]], place: [f64; 2]) -> f64 {
    let edges = outline.iter().zip(outline.iter().cycle().skip(1));
    let depths = edges.map(|(a, b)| {
        let (x, y) = (b[0] - a[0], b[1] - a[1]);
        (x * (place[1] - a[1]) - y * (place[0] - a[0])) / x.hypot(y)
    });
    depths.fold(f64::INFINITY, f64::min)
}

/// The largest difference of two colours' channels, in levels.
fn distance(a: [u8; 3], b: [u8; 3]) -> u8 {
    a.into_iter()
        .zip(b)
        .map(|(a, b)| a.abs_diff(b))
        .max()
        .unwrap()
}

/// Decibels.
fn psnr(drawn: &RgbImage, image: &RgbImage) -> f64 {
    let squares = drawn
        .iter()
        .zip(image.iter())
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    -10.0 * (squares.sum::<f64>() / drawn.len() as f64 / 255.0_f64.powi(2)).log10()
}

/// Columns and rows of the first and the last pixel that is not background.
fn bounds(image: &RgbImage) -> [[u32; 2]; 2] {
    let background = Rgb(PreviewOptions::default().background);
    let drawn = image
        .enumerate_pixels()
        .filter(|(_, _, pixel)| **pixel != background);
    drawn.fold(
        [[u32::MAX; 2], [0; 2]],
        |[[left, top], [right, bottom]], (x, y, _)| {
            [[left.min(x), top.min(y)], [right.max(x), bottom.max(y)]]
        },
    )
}

#[test]
fn of_two_points_one_behind_the_other_the_front_one_shows() {
    let intrinsics = Intrinsics::centred(1, 1, 50.0);
    let point = |x: f32, z: f32, color: [u8; 3]| {
        let camera = at([f64::from(x), 0.0, 0.0], [0.0; 3], intrinsics);
        scene_view(
            "point.png",
            Some(camera),
            [1, 1],
            vec![[x, 0.0, z]],
            |_, _| color,
        )
    };
    let (near, far) = (
        point(0.0, 2.0, [200, 10, 20]),
        point(0.0, 3.0, [20, 10, 200]),
    );
    let viewer = at([0.0; 3], [0.0; 3], Intrinsics::centred(65, 65, 200.0));
    for views in [vec![near.clone(), far.clone()], vec![far, near]] {
        let scene = scene_of(views);
        let image = draw_from(&select(&scene), &viewer, &bare()).unwrap();
        assert_eq!(image.get_pixel(32, 32).0, [200, 10, 20]);
        // Each is as large as its own pixel, a fiftieth of its depth: 4 pixels here, both of them.
        let [[left, top], [right, bottom]] = bounds(&image);
        assert!(
            (4..=8).contains(&(right - left)) && (4..=8).contains(&(bottom - top)),
            "{left}-{right} {top}-{bottom}"
        );
    }
}

#[test]
fn a_plane_fills_its_outline_without_holes_near_and_far() {
    let color = [40, 120, 60];
    // Seen by its camera at up to 74 degrees off its normal.
    let scene = scene_of(vec![plane(48, 36, [0.6, 0.5, 0.8], color)]);
    let points = select(&scene);
    let camera = scene.views[0].camera.unwrap();
    let corner = |x: f64, y: f64| {
        let ray = camera.intrinsics.unproject([x, y], 1.0);
        ray * (1.6 / Vector3::new(0.6, 0.5, 0.8).dot(&ray.coords))
    };
    let intrinsics = Intrinsics::centred(240, 180, 130.0);
    for viewer in [
        at([0.0; 3], [0.0; 3], intrinsics),
        at([0.9, -0.4, 0.6], [0.1, -0.6, 0.2], intrinsics),
        at([-0.8, -1.0, -3.0], [-0.2, 0.1, 0.0], intrinsics),
    ] {
        let outline = |grow: f64| -> Vec<[f64; 2]> {
            let (right, bottom) = (47.0 + grow, 35.0 + grow);
            let corners = [
                [-grow, -grow],
                [right, -grow],
                [right, bottom],
                [-grow, bottom],
            ];
            corners
                .map(|[x, y]| viewer.project(&corner(x, y)).unwrap())
                .to_vec()
        };
        let image = draw_from(&points, &viewer, &bare()).unwrap();
        // Surely in between the points, and surely beyond their pixels.
        let (inner, outer) = (outline(0.0), outline(1.0));
        let (mut filled, mut free) = (0, 0);
        for (x, y, pixel) in image.enumerate_pixels() {
            let place = [f64::from(x), f64::from(y)];
            if inside(&inner, place) > 0.5 {
                assert_eq!(pixel.0, color, "a hole at {x},{y} from {viewer:?}");
                filled += 1;
            } else if inside(&outer, place) < -1.0 {
                assert_eq!(
                    pixel.0,
                    bare().background,
                    "too far out at {x},{y} from {viewer:?}"
                );
                free += 1;
            }
        }
        assert!(
            filled > 1000 && free > 1000,
            "{filled} within, {free} without"
        );
    }
}

#[test]
fn a_camera_sees_its_own_image() {
    let scene = room::scene(128, 96);
    let points = select(&scene);
    for view in &scene.views {
        let drawn = draw_from(&points, &view.camera.unwrap(), &bare()).unwrap();
        let psnr = psnr(&drawn, &view.rgb.convert());
        assert!(psnr > LEAST_OWN_PSNR, "{}: {psnr:.1} dB", view.name);
    }
}

#[test]
fn frustums_are_where_their_cameras_project() {
    let scene = room::scene(64, 48);
    let points = select(&scene);
    let options = PreviewOptions::default();
    let viewer = preview_camera(&points, &options).unwrap();
    let image = draw_from(&points, &viewer, &options).unwrap();
    // By matrices: the viewer's K [R | t], and each camera's corners by the inverse of its own K.
    let k = |camera: &Camera| {
        let i = camera.intrinsics;
        Matrix3::new(i.fx, 0.0, i.cx, 0.0, i.fy, i.cy, 0.0, 0.0, 1.0)
    };
    let (turn, shift) = (
        viewer.world_from_camera.rotation.to_rotation_matrix(),
        viewer.world_from_camera.translation.vector,
    );
    let place = |world: Vector3<f64>| {
        let [[x, y, z]] = (k(&viewer) * (turn.inverse() * (world - shift))).data.0;
        (z > 0.0).then_some([x / z, y / z]).unwrap()
    };
    let depth = plane_depth(&scene);
    for (view, color) in scene.views.iter().zip([[213, 94, 0], [0, 114, 178]]) {
        let camera = view.camera.unwrap();
        let pose = camera.world_from_camera.to_homogeneous();
        let world = |x: f64, y: f64| {
            let ray = k(&camera).try_inverse().unwrap() * Vector3::new(x, y, 1.0) * depth;
            (pose * ray.push(1.0)).xyz()
        };
        let centre = camera.world_from_camera.translation.vector;
        let corners = [
            world(-0.5, -0.5),
            world(63.5, -0.5),
            world(63.5, 47.5),
            world(-0.5, 47.5),
        ];
        let tips = [centre].into_iter().chain(corners).map(place);
        let sides = corners.map(|corner| place((centre + corner) / 2.0));
        for [x, y] in tips.chain(sides) {
            // A line is two pixels wide.
            let near = (0..9).map(|k| {
                image
                    .get_pixel(x.round() as u32 + k % 3 - 1, y.round() as u32 + k / 3 - 1)
                    .0
            });
            let far = near.map(|pixel| distance(pixel, color)).min().unwrap();
            assert!(far < 60, "{}: {far} levels off at {x:.1},{y:.1}", view.name);
        }
        // The middle of the plane shows the middle of the image.
        let [x, y] = place(world(31.5, 23.5));
        let pixel = image.get_pixel(x.round() as u32, y.round() as u32).0;
        let shown = view.rgb.get_pixel(31, 23).0;
        assert!(
            distance(pixel, shown) < 60,
            "{}: {pixel:?} for {shown:?}",
            view.name
        );
    }
}

#[test]
fn threads_change_nothing() {
    let scene = room::scene(64, 48);
    let options = small();
    let [one, four] = [1, 4].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| draw_preview(&select(&scene), &options).unwrap())
    });
    assert!(one == four);
}

#[test]
fn points_that_are_not_kept_do_not_show() {
    let mut broken = room::scene(64, 48);
    let mut marked = broken.clone();
    let bad = [
        [f32::NAN, 0.0, 1.0],
        [0.0, f32::INFINITY, 1.0],
        [0.0, 0.0, f32::NEG_INFINITY],
    ];
    for (own, twin) in broken.views.iter_mut().zip(&mut marked.views) {
        let marks = twin.contradicted.insert(vec![false; 64 * 48]);
        for (index, point) in own
            .points
            .points
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| index % 7 == 3)
        {
            *point = bad[index % 3];
            marks[index] = true;
        }
    }
    let options = small();
    let camera = preview_camera(&select(&marked), &options).unwrap();
    let draw = |scene: &Scene| draw_from(&select(scene), &camera, &bare()).unwrap();
    assert!(draw(&broken) == draw(&marked));
    assert!(draw(&broken) != draw(&room::scene(64, 48)));
    let framed = preview_camera(&select(&broken), &options).unwrap();
    assert!(
        framed
            .world_from_camera
            .to_homogeneous()
            .iter()
            .all(|value| value.is_finite())
    );
}

#[test]
fn without_cameras_the_first_stands_alone_where_the_world_is() {
    let mut scene = room::scene(64, 48);
    let camera = at([0.0; 3], [0.0; 3], Intrinsics::centred(64, 48, 57.6));
    scene.views[0] = room::view("left.png", camera);
    let options = small();
    let mut alone = scene.clone();
    alone.views.iter_mut().for_each(|view| view.camera = None);
    let drawn = drawn_cameras(&alone);
    let [(found, view)] = &drawn[..] else {
        panic!("{} cameras", drawn.len())
    };
    assert!(
        (found.intrinsics.fx - 57.6).abs() < 0.01 && view.name == "left.png",
        "{found:?}"
    );
    let [[left, top], [right, bottom]] = bounds(&draw_preview(&select(&alone), &options).unwrap());
    assert!(
        right - left > 200 && bottom - top > 100,
        "{left}-{right} {top}-{bottom}"
    );

    scene.views.truncate(1);
    let one = draw_preview(&select(&scene), &options).unwrap();
    alone.views.truncate(1);
    assert!(
        psnr(&draw_preview(&select(&alone), &options).unwrap(), &one) > 30.0,
        "the focal length is but estimated"
    );
}

#[test]
fn a_cloud_of_one_point_has_a_preview() {
    for (camera, z) in [
        (None, 0.0),
        (None, 1e30),
        (
            Some(at([0.0; 3], [0.0; 3], Intrinsics::centred(1, 1, 1.0))),
            2.0,
        ),
    ] {
        let view = scene_view("point.png", camera, [1, 1], vec![[0.0, 0.0, z]], |_, _| {
            [9, 9, 9]
        });
        let image = draw_preview(&select(&scene_of(vec![view])), &bare()).unwrap();
        assert_eq!(image.dimensions(), (160, 120), "depth {z}");
    }
    let empty = scene_view("none.png", None, [1, 1], vec![[f32::NAN; 3]], |_, _| {
        [9, 9, 9]
    });
    assert!(matches!(
        scene_of(vec![empty]).select(&PointFilter::default()),
        Err(Error::NoCameras { .. })
    ));
}

#[test]
fn the_scene_fills_the_image_whatever_a_few_points_do() {
    let mut scene = room::scene(64, 48);
    for (width, height) in [(320, 240), (150, 300)] {
        for (azimuth, elevation) in [(0.0, 0.0), (35.0, 20.0), (-100.0, 70.0), (180.0, -90.0)] {
            let options = PreviewOptions {
                width,
                height,
                azimuth,
                elevation,
                ..PreviewOptions::default()
            };
            let [[left, top], [right, bottom]] =
                bounds(&draw_preview(&select(&scene), &options).unwrap());
            assert!(
                left > 0 && top > 0 && right < width - 1 && bottom < height - 1,
                "{options:?}"
            );
            let filled = f64::from(right - left) / f64::from(width);
            let filled = filled.max(f64::from(bottom - top) / f64::from(height));
            assert!(filled > 0.85, "{filled} of {options:?}");
        }
    }
    let options = PreviewOptions::default();
    let before = preview_camera(&select(&scene), &options).unwrap();
    for (index, far) in [(100, 1e4), (999, -3e3), (2222, 1e20)] {
        scene.views[0].points.points[index] = [far, -far, far];
    }
    let after = preview_camera(&select(&scene), &options).unwrap();
    let moved = (after.world_from_camera.translation.vector
        - before.world_from_camera.translation.vector)
        .norm();
    assert!(moved < 0.2, "moved by {moved}");
    assert_eq!(
        after.world_from_camera.rotation,
        before.world_from_camera.rotation
    );
}

#[test]
fn the_viewer_goes_to_the_right_and_rises() {
    let scene = scene_of(vec![plane(32, 24, [0.0, 0.0, 1.0], [90, 90, 90])]);
    let from = |azimuth, elevation| {
        let options = PreviewOptions {
            azimuth,
            elevation,
            ..PreviewOptions::default()
        };
        let pose = preview_camera(&select(&scene), &options)
            .unwrap()
            .world_from_camera;
        [Vector3::x(), Vector3::y(), Vector3::z()].map(|axis| pose.rotation * axis)
    };
    let check = |found: [Vector3<f64>; 3], expected: [[f64; 3]; 3]| {
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found - Vector3::from(expected)).norm() < 1e-9,
                "{found:?} is not {expected:?}"
            );
        }
    };
    check(
        from(0.0, 0.0),
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    );
    // From the right to the left, what was ahead is to the right.
    check(
        from(90.0, 0.0),
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]],
    );
    // From above, what was ahead is up.
    check(
        from(0.0, 90.0),
        [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
    );
}

#[test]
fn points_between_a_near_and_a_far_surface_are_left_out() {
    let mut view = plane(48, 36, [0.0, 0.0, 1.0], [40, 120, 60]);
    for (index, point) in view.points.points.iter_mut().enumerate() {
        // The right half is five times as far, and one column hangs between.
        let part = ((index % 48) as f32 - 22.0).clamp(0.0, 2.0) / 2.0;
        *point = point.map(|value| value * (1.0 + 4.0 * part));
        if part == 0.5 {
            view.rgb
                .put_pixel(index as u32 % 48, index as u32 / 48, Rgb([255, 0, 0]));
        }
    }
    let scene = scene_of(vec![view]);
    let viewer = at(
        [2.0, 0.0, 0.0],
        [0.0, -0.6, 0.0],
        Intrinsics::centred(160, 120, 100.0),
    );
    let image = draw_from(&select(&scene), &viewer, &bare()).unwrap();
    assert!(
        image
            .pixels()
            .all(|pixel| pixel.0[0] <= bare().background[0]),
        "a red pixel"
    );
    assert!(image.pixels().any(|pixel| pixel.0 == [40, 120, 60]));

    // Where that would be most points there is no surface to keep to.
    let noise = (0..32 * 24).map(|index| {
        [0, 1, 2].map(|axis| ((index * (axis + 3) * 7919) % 101) as f32 / 101.0 + 1.0)
    });
    let noise = scene_view("noise.png", None, [32, 24], noise.collect(), |_, _| {
        [9, 9, 9]
    });
    let camera = at([0.0; 3], [0.0; 3], Intrinsics::centred(32, 24, 1000.0));
    assert_eq!(surfels(&noise, &camera, &[true; 32 * 24], 1).len(), 32 * 24);
}

#[test]
fn every_nth_point_covers_as_much() {
    let view = plane(48, 36, [0.0, 0.0, 1.0], [40, 120, 60]);
    let camera = view.camera.unwrap();
    let whole = surfels(&view, &camera, &[true; 48 * 36], 1);
    let third = surfels(&view, &camera, &[true; 48 * 36], 3);
    assert_eq!((whole.len(), third.len()), (48 * 36, 16 * 12));
    for (few, many) in third
        .iter()
        .zip((0..12).flat_map(|row| (0..16).map(move |column| (row, column))))
    {
        let same = &whole[3 * (48 * many.0 + many.1)];
        assert_eq!(few.position, same.position);
        assert!(
            few.axes
                .iter()
                .zip(&same.axes)
                .all(|(few, same)| (few - same * 3.0).norm() < 1e-5),
            "{few:?} {same:?}"
        );
    }
}

#[test]
fn options_out_of_range_are_named() {
    let refuse = |change: fn(&mut PreviewOptions), part: &str| {
        let mut options = PreviewOptions::default();
        change(&mut options);
        let refusal = draw_preview(&select(&room::scene(8, 6)), &options);
        let message = refusal.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refuse(|options| options.width = 0, "got 0x960");
    refuse(|options| options.height = 8193, "got 1280x8193");
    refuse(|options| options.azimuth = f64::INFINITY, "got inf,20");
    refuse(|options| options.elevation = 90.5, "got 35,90.5");
    refuse(|options| options.elevation = f64::NAN, "got 35,NaN");
    refuse(|options| options.shading = -1.0, "got -1");
}
