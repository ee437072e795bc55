//! Its parts here; the whole in `rendered`.

mod patches;
mod rendered;

use image::RgbImage;
use nalgebra::{Isometry3, Matrix3, Point3, UnitQuaternion, Vector3};

use super::bundle::{Bundle, Freedom, Loss, Priors};
use super::keypoints::{Keypoint, keypoints};
use super::matching::{Features, matches};
use super::plane::Plane;
use super::solve::{errors_px, solve};
use super::tracks::{
    KeypointMatches, Observation, Point, Rig, Tolerance, Track, Widths, join, triangulate,
    widest_angle,
};
use crate::geometry::{LENS_PARAMETERS, Lens};
use crate::matching::random::Random;

const MOST: usize = 1500;

fn demo() -> RgbImage {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo_1.jpg");
    image::open(path).unwrap().to_rgb8()
}

fn found(image: &Plane) -> Vec<Keypoint> {
    keypoints(image, MOST, |_| true)
}

fn features(image: &Plane) -> Features {
    Features::new(&found(image), image.width.max(image.height) as f64)
}

fn unguided(first: &Features, second: &Features) -> Vec<[usize; 2]> {
    matches(first, second, &vec![None; first.pixels.len()])
}

/// The image seen through a homography from the new pixels to the old ones.
fn warped(image: &Plane, old_from_new: &Matrix3<f64>) -> Plane {
    let (width, height) = (image.width, image.height);
    let value = |index: usize| {
        let old = old_from_new * Vector3::new((index % width) as f64, (index / width) as f64, 1.0);
        let (x, y) = (old.x / old.z, old.y / old.z);
        if x < 0.0 || y < 0.0 || x >= (width - 1) as f64 || y >= (height - 1) as f64 {
            return 0.5;
        }
        let (left, top) = (x as usize, y as usize);
        let (u, v) = ((x - left as f64) as f32, (y - top as f64) as f32);
        let row = |y: usize| image.at(left, y) * (1.0 - u) + image.at(left + 1, y) * u;
        row(top) * (1.0 - v) + row(top + 1) * v
    };
    Plane {
        width,
        height,
        values: (0..width * height).map(value).collect(),
    }
}

/// Turned by 25 degrees, shrunk by a fifth, in perspective.
fn homography(image: &Plane) -> Matrix3<f64> {
    let (sin, cos) = 25f64.to_radians().sin_cos();
    let (x, y) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    let middle = Matrix3::new(1.0, 0.0, x, 0.0, 1.0, y, 0.0, 0.0, 1.0);
    let turn = Matrix3::new(
        1.25 * cos,
        -1.25 * sin,
        0.0,
        1.25 * sin,
        1.25 * cos,
        0.0,
        0.2 / x,
        0.0,
        1.0,
    );
    middle * turn * middle.try_inverse().unwrap()
}

#[test]
fn keypoints_are_found_again_after_a_homography() {
    let image = Plane::of_rgb(&demo());
    let old_from_new = homography(&image);
    let new_from_old = old_from_new.try_inverse().unwrap();
    let (old, new) = (features(&image), features(&warped(&image, &old_from_new)));
    let pairs = unguided(&old, &new);
    assert!(pairs.len() > 100, "{} matches", pairs.len());
    let error = |pair: &[usize; 2]| {
        let [x, y] = old.pixels[pair[0]];
        let there = new_from_old * Vector3::new(x, y, 1.0);
        let [u, v] = new.pixels[pair[1]];
        (there.x / there.z - u).hypot(there.y / there.z - v)
    };
    let mut errors: Vec<f64> = pairs.iter().map(error).collect();
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    let right = errors.iter().filter(|error| **error < 2.0).count() as f64 / errors.len() as f64;
    assert!(
        median < 0.5 && right > 0.9,
        "median {median:.2} px, {right:.2} within 2 px"
    );
}

#[test]
fn keypoints_match_under_another_exposure() {
    let image = Plane::of_rgb(&demo());
    let mut darker = image.clone();
    darker
        .values
        .iter_mut()
        .for_each(|value| *value = 0.6 * *value + 0.05);
    let (one, two) = (features(&image), features(&darker));
    let pairs = unguided(&one, &two);
    let off = |[a, b]: &[usize; 2]| [0, 1].map(|axis| one.pixels[*a][axis] - two.pixels[*b][axis]);
    let same = pairs
        .iter()
        .filter(|pair| off(pair)[0].hypot(off(pair)[1]) < 0.5)
        .count();
    assert!(
        pairs.len() > 300 && same * 20 > pairs.len() * 19,
        "{same} of {} matches",
        pairs.len()
    );
}

#[test]
fn keypoints_do_not_depend_on_the_number_of_threads() {
    let image = Plane::of_rgb(&demo());
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let found = pool.install(|| found(&image));
        found
            .into_iter()
            .map(|point| (point.pixel, point.descriptor))
            .collect::<Vec<_>>()
    };
    assert!(with(1) == with(3));
}

#[test]
fn what_does_not_count_has_no_keypoints() {
    let image = Plane::of_rgb(&demo());
    let middle = image.width as f64 / 2.0;
    let left = keypoints(&image, MOST, |[x, _]| x < middle);
    assert!(left.len() > 50 && left.iter().all(|point| point.pixel[0] < middle));
    let empty = Plane {
        width: 100,
        height: 80,
        values: vec![0.5; 8000],
    };
    assert!(found(&empty).is_empty());
    assert!(
        found(&Plane {
            width: 3,
            height: 2,
            values: vec![0.5; 6]
        })
        .is_empty()
    );
    assert!(unguided(&features(&empty), &features(&image)).is_empty());
}

#[test]
fn derivatives_of_the_lens_match_finite_differences() {
    let lens = Lens {
        width: 400,
        height: 300,
        focal: [310.0, 305.0],
        principal: [199.0, 151.0],
        radial: [-0.12, 0.03],
    };
    let point = Vector3::new(0.7, -0.4, 1.9);
    let exact = lens.derivatives(&point);
    let step = 1e-6;
    for axis in 0..3 {
        let ends = [-step, step].map(|by| {
            let mut moved = point;
            moved[axis] += by;
            lens.project(&moved).unwrap()
        });
        for (row, (low, high)) in ends[0].into_iter().zip(ends[1]).enumerate() {
            let slope = (high - low) / (2.0 * step);
            assert!(
                (slope - exact.by_point[(row, axis)]).abs() < 1e-4,
                "point {axis} {row}: {slope}"
            );
        }
    }
    for which in 0..LENS_PARAMETERS {
        let ends = [-step, step].map(|by| {
            let mut change = [0.0; LENS_PARAMETERS];
            change[which] = by;
            lens.stepped(&change).project(&point).unwrap()
        });
        for (row, (low, high)) in ends[0].into_iter().zip(ends[1]).enumerate() {
            let slope = (high - low) / (2.0 * step);
            assert!(
                (slope - exact.by_lens[(row, which)]).abs() < 1e-4,
                "parameter {which} {row}: {slope}"
            );
        }
    }
}

#[test]
fn a_ray_of_a_pixel_projects_to_it() {
    for radial in [[0.0, 0.0], [-0.2, 0.03], [0.15, -0.01]] {
        let lens = Lens {
            width: 400,
            height: 300,
            focal: [310.0; 2],
            principal: [199.5, 149.5],
            radial,
        };
        for pixel in [[0.0, 0.0], [199.5, 149.5], [399.0, 10.0]] {
            let [x, y] = lens.unproject(pixel);
            let seen = lens.project(&Vector3::new(x, y, 1.0)).unwrap();
            assert!(
                (seen[0] - pixel[0]).hypot(seen[1] - pixel[1]) < 1e-6,
                "{radial:?}: {seen:?} {pixel:?}"
            );
        }
    }
}

/// Uniform in -1 to 1.
fn uniform(random: &mut Random) -> f64 {
    random.uniform() * 2.0 - 1.0
}

/// Eight cameras around a cloud, with its tracks; every `outliers`-th observation is anywhere.
fn ring(outliers: usize) -> (Rig, Vec<Track>) {
    let lens = Lens {
        width: 1280,
        height: 960,
        focal: [1100.0; 2],
        principal: [639.5, 479.5],
        radial: [-0.1, 0.0],
    };
    let pose = |view: usize| {
        let angle = (view as f64 - 3.5) * 0.15;
        let centre = Point3::new(
            6.0 * angle.sin(),
            0.3 * (view % 3) as f64,
            -6.0 * angle.cos(),
        );
        Isometry3::look_at_rh(&centre, &Point3::origin(), &Vector3::y())
    };
    // From a camera that looks along -z to one that looks along z.
    let flip = Isometry3::rotation(Vector3::x() * std::f64::consts::PI);
    let rig = Rig {
        camera_from_world: (0..8).map(|view| Some(flip * pose(view))).collect(),
        lenses: vec![lens],
        lens_of: vec![0; 8],
    };
    let mut random = Random::new(5);
    let mut tracks = Vec::new();
    let mut count = 0;
    for _ in 0..400 {
        let point = Vector3::new(
            uniform(&mut random),
            uniform(&mut random),
            uniform(&mut random),
        ) * 1.5;
        let first = (random.uniform() * 5.0) as usize;
        let mut track = Vec::new();
        for view in first..(first + 4).min(8) {
            let local = rig.camera_from_world[view].unwrap() * Point3::from(point);
            let Some([x, y]) = lens.project(&local.coords) else {
                continue;
            };
            let noise = [0.3 * uniform(&mut random), 0.3 * uniform(&mut random)];
            count += 1;
            let is_outlier = outliers > 0 && count % outliers == 0;
            let pixel = if is_outlier {
                [1280.0 * random.uniform(), 960.0 * random.uniform()]
            } else {
                [x + noise[0], y + noise[1]]
            };
            track.push(Observation {
                view,
                pixel,
                depth: None,
            });
        }
        tracks.push(track);
    }
    (rig, tracks)
}

fn freedom() -> Freedom {
    let mut lens = [false; LENS_PARAMETERS];
    lens[..2].fill(true);
    Freedom {
        poses: (0..8).map(|view| view > 0).collect(),
        lenses: vec![lens],
        priors: Priors::of(8),
    }
}

/// The cameras as an alignment may leave them: turned and moved by some percent, without
/// distortion.
fn disturbed(truth: &Rig, focal: f64) -> Rig {
    let mut rig = truth.clone();
    let mut random = Random::new(11);
    for pose in rig.camera_from_world.iter_mut().skip(1).flatten() {
        let mut vector = |size: f64| {
            Vector3::new(
                uniform(&mut random),
                uniform(&mut random),
                uniform(&mut random),
            ) * size
        };
        pose.translation.vector += vector(0.15);
        pose.rotation = UnitQuaternion::from_scaled_axis(vector(0.02)) * pose.rotation;
    }
    rig.lenses[0].focal = [focal; 2];
    rig.lenses[0].radial = [0.0; 2];
    rig
}

/// The largest error of a rotation relative to the first camera, degrees.
fn worst_rotation(found: &Rig, truth: &Rig) -> f64 {
    let relative = |rig: &Rig, view: usize| {
        rig.camera_from_world[view].unwrap().rotation
            * rig.camera_from_world[0].unwrap().rotation.inverse()
    };
    (1..8)
        .map(|view| {
            relative(found, view)
                .angle_to(&relative(truth, view))
                .to_degrees()
        })
        .fold(0.0, f64::max)
}

fn assert_solved(mut rig: Rig, outliers: usize) {
    let (truth, tracks) = ring(outliers);
    let before = worst_rotation(&rig, &truth);
    let points = solve(&mut rig, &tracks, &freedom());
    let (after, lens) = (worst_rotation(&rig, &truth), rig.lenses[0]);
    assert!(
        after < 0.15 && after * 5.0 < before,
        "rotation {before:.3} before, {after:.3} after"
    );
    assert!(
        (lens.focal[0] / 1100.0 - 1.0).abs() < 0.01,
        "focal length {}",
        lens.focal[0]
    );
    assert!(
        (lens.radial[0] + 0.1).abs() < 0.02,
        "radial {}",
        lens.radial[0]
    );
    assert!(points.len() > 300, "{} points", points.len());
    let errors = errors_px(&rig, &points, 8).concat();
    assert!(errors.iter().sum::<f64>() / (errors.len() as f64) < 0.4);
}

#[test]
fn bundle_adjustment_finds_cameras_that_were_off_by_some_percent() {
    assert_solved(disturbed(&ring(0).0, 1150.0), 0);
}

#[test]
fn bundle_adjustment_withstands_outliers() {
    assert_solved(disturbed(&ring(0).0, 1150.0), 10);
}

#[test]
fn bundle_adjustment_finds_a_focal_length_that_was_a_fifth_off() {
    for focal in [0.8 * 1100.0, 1.2 * 1100.0] {
        assert_solved(disturbed(&ring(0).0, focal), 20);
    }
}

#[test]
fn an_image_that_was_turned_by_ten_degrees_is_registered_again() {
    let mut rig = disturbed(&ring(0).0, 1100.0);
    let pose = rig.camera_from_world[4].as_mut().unwrap();
    pose.rotation = UnitQuaternion::from_scaled_axis(Vector3::new(0.0, 10f64.to_radians(), 0.0))
        * pose.rotation;
    assert_solved(rig, 20);
}

#[test]
fn a_known_lens_stays_where_an_image_is_registered_again() {
    let (mut truth, mut tracks) = ring(0);
    truth.lenses[0].focal = [1100.0, 1090.0];
    for seen in tracks.iter_mut().flatten() {
        seen.pixel[1] = truth.lenses[0].principal[1]
            + (seen.pixel[1] - truth.lenses[0].principal[1]) * 1090.0 / 1100.0;
    }
    let mut rig = disturbed(&truth, 1100.0);
    rig.lenses = truth.lenses.clone();
    let pose = rig.camera_from_world[4].as_mut().unwrap();
    pose.rotation = UnitQuaternion::from_scaled_axis(Vector3::new(0.0, 10f64.to_radians(), 0.0))
        * pose.rotation;
    let mut freedom = freedom();
    freedom.lenses[0].fill(false);
    solve(&mut rig, &tracks, &freedom);
    assert_eq!(rig.lenses, truth.lenses);
    assert!(
        worst_rotation(&rig, &truth) < 0.15,
        "{}",
        worst_rotation(&rig, &truth)
    );
}

/// Cameras in a row past a wall, and tracks of the points that each sees with the next four.
fn row(images: usize) -> (Rig, Vec<Track>) {
    let (ring, _) = ring(0);
    let pose = |view: usize| {
        let turn = UnitQuaternion::from_scaled_axis(Vector3::y() * 0.2 * (view as f64 * 0.7).sin());
        Some(Isometry3::from_parts(
            (turn * Vector3::new(-0.3 * view as f64, 0.1 * (view as f64).cos(), 0.0)).into(),
            turn,
        ))
    };
    let rig = Rig {
        camera_from_world: (0..images).map(pose).collect(),
        lenses: ring.lenses,
        lens_of: vec![0; images],
    };
    let mut random = Random::new(7);
    let mut tracks = Vec::new();
    for first in 0..images - 4 {
        for _ in 0..12 {
            let point = Vector3::new(
                0.3 * (first as f64 + 2.0) + uniform(&mut random),
                uniform(&mut random),
                4.0 + uniform(&mut random),
            );
            let seen = (first..first + 5).map(|view| {
                let [x, y] = rig.lenses[0].project(&rig.local(view, &point).unwrap())?;
                let pixel = [
                    x + 0.3 * uniform(&mut random),
                    y + 0.3 * uniform(&mut random),
                ];
                Some(Observation {
                    view,
                    pixel,
                    depth: None,
                })
            });
            tracks.push(seen.collect::<Option<Track>>().unwrap());
        }
    }
    (rig, tracks)
}

/// Time and memory grow as the number of images: dense equations of these would take minutes.
#[test]
fn many_images_of_which_each_has_to_do_with_few_are_adjusted() {
    const IMAGES: usize = 600;
    let (truth, tracks) = row(IMAGES);
    let mut rig = truth.clone();
    let mut random = Random::new(3);
    for pose in rig.camera_from_world.iter_mut().skip(1).flatten() {
        let mut vector = |size: f64| Vector3::from_fn(|_, _| uniform(&mut random)) * size;
        pose.rotation = UnitQuaternion::from_scaled_axis(vector(0.001)) * pose.rotation;
        pose.translation.vector += vector(0.004);
    }
    let freedom = Freedom {
        poses: (0..IMAGES).map(|view| view > 0).collect(),
        lenses: vec![[false; LENS_PARAMETERS]],
        priors: Priors::of(IMAGES),
    };
    let points = solve(&mut rig, &tracks, &freedom);
    assert!(
        points.len() * 20 > tracks.len() * 19,
        "{} points",
        points.len()
    );
    let errors = errors_px(&rig, &points, IMAGES).concat();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(mean < 0.3, "{mean} px");
    // Neighbours; what adds up along the row is its own.
    let step = |rig: &Rig, view: usize| {
        let [one, next] =
            [view, view + 1].map(|view| rig.camera_from_world[view].unwrap().rotation);
        next * one.inverse()
    };
    let turned = |view: usize| step(&rig, view).angle_to(&step(&truth, view)).to_degrees();
    let wrong: Vec<(usize, f64)> = (0..IMAGES - 1)
        .map(|view| (view, turned(view)))
        .filter(|(_, turned)| *turned > 0.2)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_solution_does_not_depend_on_the_number_of_threads() {
    let (truth, tracks) = ring(15);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let mut rig = disturbed(&truth, 1000.0);
        let points = pool.install(|| solve(&mut rig, &tracks, &freedom()));
        (
            rig.camera_from_world,
            rig.lenses,
            points
                .iter()
                .map(|point| point.position)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn what_is_known_does_not_change() {
    let (truth, tracks) = ring(0);
    let mut rig = disturbed(&truth, 1100.0);
    rig.lenses = truth.lenses.clone();
    let before = rig.clone();
    let mut freedom = freedom();
    freedom.lenses[0].fill(false);
    freedom.poses[3] = false;
    solve(&mut rig, &tracks, &freedom);
    assert_eq!(rig.lenses, before.lenses);
    for view in 0..8 {
        let is_same = rig.camera_from_world[view] == before.camera_from_world[view];
        assert_eq!(is_same, view == 0 || view == 3, "view {view}");
    }
}

#[test]
fn a_step_follows_the_gradient_of_the_cost() {
    let (truth, tracks) = ring(0);
    let mut rig = disturbed(&truth, 1100.0);
    let tolerance = Tolerance {
        share: 0.1,
        px: 0.0,
    };
    let mut points: Vec<Point> = tracks
        .iter()
        .filter_map(|track| triangulate(&rig, track, tolerance))
        .collect();
    let squared = |rig: &Rig, points: &[Point]| -> f64 {
        errors_px(rig, points, 8)
            .concat()
            .iter()
            .map(|error| (error / 4.0).powi(2).ln_1p())
            .sum()
    };
    let before = squared(&rig, &points);
    let freedom = freedom();
    let widths = Widths {
        px: Tolerance {
            share: 0.0,
            px: 4.0,
        },
        log_depth: None,
    };
    let cost = Bundle {
        freedom: &freedom,
        loss: Loss::Robust,
        widths,
        most_steps: 25,
    }
    .adjust(&mut rig, &mut points);
    let after = squared(&rig, &points);
    assert!(after < 0.05 * before, "{before} before, {after} after");
    // What it returns is the cost, but for the prior.
    assert!(
        (cost - after).abs() < 0.1 * after.max(1.0),
        "{cost} {after}"
    );
}

#[test]
fn a_point_is_where_most_rays_meet() {
    let (rig, mut tracks) = ring(0);
    let tolerance = Tolerance {
        share: 0.0,
        px: 4.0,
    };
    let track = &mut tracks[0];
    let good = triangulate(&rig, track, tolerance).unwrap();
    assert!(widest_angle(&rig, &good) > 0.2);
    track[1].pixel[1] += 200.0;
    let point = triangulate(&rig, track, tolerance).unwrap();
    assert_eq!(point.track.len(), good.track.len() - 1);
    assert!((point.position - good.position).norm() < 0.01);
    // Rays of one camera do not meet.
    let twice = vec![
        track[0],
        Observation {
            view: track[0].view,
            pixel: track[0].pixel,
            depth: None,
        },
    ];
    assert!(triangulate(&rig, &twice, tolerance).is_none());
}

#[test]
fn a_track_has_one_keypoint_of_an_image() {
    let pixels: Vec<Vec<[f64; 2]>> = vec![(0..3).map(|index| [index as f64, 0.0]).collect(); 3];
    let pairs = [
        KeypointMatches {
            views: [0, 1],
            matches: vec![[0, 0], [1, 1], [2, 2]],
        },
        KeypointMatches {
            views: [1, 2],
            matches: vec![[0, 0], [1, 1]],
        },
        // The second would bring keypoints 0 and 1 of the first image together.
        KeypointMatches {
            views: [0, 2],
            matches: vec![[1, 0]],
        },
    ];
    let tracks = join(&pixels, &pairs);
    let lengths: Vec<usize> = tracks.iter().map(Vec::len).collect();
    assert_eq!(lengths, [3, 3, 2]);
    assert_eq!(
        tracks[0][2],
        Observation {
            view: 2,
            pixel: [0.0, 0.0],
            depth: None
        }
    );
}
