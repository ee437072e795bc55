use nalgebra::Isometry3;

use super::*;
use crate::geometry::{Camera, Intrinsics};
use crate::scene::{SceneView, fixtures};

const HOME: Geodetic = Geodetic {
    latitude: 47.37,
    longitude: 8.54,
    altitude: 420.0,
};

/// A view of one pixel with the camera `pose`; its point lies a unit before it.
fn view(pose: Isometry3<f64>) -> SceneView {
    let point = pose * Point3::new(0.0, 0.0, 1.0);
    let camera = Camera {
        intrinsics: Intrinsics::centred(1, 1, 1.0),
        world_from_camera: pose,
    };
    let point = point.coords.cast::<f32>().into();
    fixtures::view("0.jpg", [1, 1], Some(camera), [point])
}

/// Poses in the local frame: a camera at `place` that looks along `heading`, degrees clockwise from
/// north, pitched down and rolled.
fn pose(place: [f64; 3], heading: f64, pitch: f64, roll: f64) -> Isometry3<f64> {
    let (sin, cos) = heading.to_radians().sin_cos();
    let (ahead, right) = (Vector3::new(sin, cos, 0.0), Vector3::new(cos, -sin, 0.0));
    let level = Matrix3::from_columns(&[right, -Vector3::z(), ahead]);
    let level = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(level));
    let own = UnitQuaternion::from_axis_angle(&Vector3::x_axis(), -pitch.to_radians())
        * UnitQuaternion::from_axis_angle(&Vector3::z_axis(), roll.to_radians());
    Isometry3::from_parts(Vector3::from(place).into(), level * own)
}

/// A walk around a building, 20 images of 60 m by 40 m, by hand.
fn walk() -> Vec<Isometry3<f64>> {
    (0..20)
        .map(|index| {
            let t = f64::from(index) / 20.0 * std::f64::consts::TAU;
            let place = [30.0 * t.sin(), 20.0 * t.cos(), 1.5 + (3.0 * t).sin()];
            let heading = t.to_degrees() + 180.0 + 20.0 * (5.0 * t).sin();
            pose(place, heading, 5.0, 2.0 * (7.0 * t).sin())
        })
        .collect()
}

/// The scene of `truth` in a frame and scale of its own, as a reconstruction has it.
fn scene(truth: &[Isometry3<f64>]) -> Scene {
    let own = Similarity3::new(
        Vector3::new(0.3, -0.2, 1.0),
        Vector3::new(1.1, -0.4, 2.0),
        0.05,
    );
    let moved = |pose: &Isometry3<f64>| {
        let at = own * Point3::from(pose.translation.vector);
        Isometry3::from_parts(at.coords.into(), own.isometry.rotation * pose.rotation)
    };
    Scene {
        views: truth.iter().map(|pose| view(moved(pose))).collect(),
        ..Scene::default()
    }
}

/// Normal numbers (Box and Muller).
struct Noise(SplitMix);

impl Noise {
    fn next(&mut self) -> f64 {
        let (one, two) = (1.0 - self.0.uniform(), self.0.uniform());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos()
    }
}

/// Positions of the poses with `sigma` metres of noise in each coordinate.
fn positions(truth: &[Isometry3<f64>], sigma: f64, noise: &mut Noise) -> Vec<Option<GpsPosition>> {
    let frame = LocalFrame::new(HOME);
    let position = |pose: &Isometry3<f64>| {
        let off = Vector3::from_fn(|_, _| sigma * noise.next());
        let found = frame.geodetic(pose.translation.vector + off);
        Some(GpsPosition {
            latitude: found.latitude,
            longitude: found.longitude,
            altitude: Some(found.altitude),
        })
    };
    truth.iter().map(position).collect()
}

/// Distances of the cameras of a georeferenced scene from where they were, metres.
fn errors(scene: &Scene, truth: &[Isometry3<f64>]) -> Vec<f64> {
    let (home, found) = (
        LocalFrame::new(HOME),
        LocalFrame::new(scene.georeference.unwrap()),
    );
    let error = |(view, pose): (&SceneView, &Isometry3<f64>)| {
        let centre = view.camera.unwrap().world_from_camera.translation.vector;
        (home.local(found.geodetic(centre)) - pose.translation.vector).norm()
    };
    scene.views.iter().zip(truth).map(error).collect()
}

fn reason(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn exact_positions_give_the_frame_exactly() {
    let (truth, mut noise) = (walk(), Noise(SplitMix::new()));
    let mut scene = scene(&truth);
    let found = Georeference::fit(&scene, &positions(&truth, 0.0, &mut noise)).unwrap();
    found.apply(&mut scene);
    assert!(errors(&scene, &truth).iter().all(|error| *error < 0.05));
    assert!(found.median_residual < 0.05, "{}", found.median_residual);
    // Depth and points follow: a unit of the scene was 20 m.
    let view = &scene.views[3];
    assert!(
        (f64::from(view.depth[0]) - 20.0).abs() < 0.01,
        "{}",
        view.depth[0]
    );
    let camera = view.camera.unwrap();
    let point = Point3::from(Vector3::from(view.points.points[0]).cast::<f64>());
    assert!((camera.depth(&point) - f64::from(view.depth[0])).abs() < 1e-3);
}

#[test]
fn twenty_positions_with_3_m_of_noise_give_cameras_to_less_than_a_metre() {
    let (truth, mut noise) = (walk(), Noise(SplitMix::new()));
    // 3 m is the root mean square length of the noise, as a receiver's accuracy is stated.
    let sigma = 3.0 / 3f64.sqrt();
    let medians: Vec<f64> = (0..40)
        .map(|_| {
            let mut scene = scene(&truth);
            let found = Georeference::fit(&scene, &positions(&truth, sigma, &mut noise)).unwrap();
            found.apply(&mut scene);
            median(errors(&scene, &truth).into_iter()).unwrap()
        })
        .collect();
    // The seven parameters of 60 coordinates take sqrt(7 / 20) of 1.73 m: 1.02 m, and the vertical
    // of the cameras gives some of it back.
    let typical = median(medians.iter().copied()).unwrap();
    assert!(typical < 0.95, "{typical} {medians:?}");
}

#[test]
fn a_few_wild_positions_do_not_matter() {
    let (truth, mut noise) = (walk(), Noise(SplitMix::new()));
    let mut positions = positions(&truth, 0.5, &mut noise);
    for view in [2, 9, 15] {
        let wild = positions[view].as_mut().unwrap();
        wild.latitude += 0.002;
        wild.altitude = Some(0.0);
    }
    let mut scene = scene(&truth);
    let found = Georeference::fit(&scene, &positions).unwrap();
    found.apply(&mut scene);
    let errors = errors(&scene, &truth);
    assert!(errors.iter().all(|error| *error < 1.5), "{errors:?}");
    assert!(found.residuals[9].unwrap().norm() > 200.0);
}

#[test]
fn cameras_on_a_line_are_turned_by_the_vertical_or_refused() {
    let line = |heading: fn(i32) -> f64| -> Vec<Isometry3<f64>> {
        (0..12)
            .map(|index| {
                pose(
                    [5.0 * f64::from(index), 0.0, 2.0],
                    heading(index),
                    10.0,
                    0.0,
                )
            })
            .collect()
    };
    let mut noise = Noise(SplitMix::new());
    let looking_about = line(|index| f64::from(20 * index));
    let mut moved = scene(&looking_about);
    let found = Georeference::fit(&moved, &positions(&looking_about, 0.3, &mut noise)).unwrap();
    assert!(found.is_on_a_line);
    found.apply(&mut moved);
    let up = moved.views[0].camera.unwrap().world_from_camera.rotation * -Vector3::y();
    let expected = looking_about[0].rotation * -Vector3::y();
    assert!(up.angle(&expected).to_degrees() < 2.0, "{up}");
    assert!(
        errors(&moved, &looking_about)
            .iter()
            .all(|error| *error < 1.0)
    );

    let one_way = line(|_| 30.0);
    let refused = Georeference::fit(&scene(&one_way), &positions(&one_way, 0.3, &mut noise));
    assert!(reason(refused).contains("lie on a line"));
}

#[test]
fn positions_that_do_not_determine_a_frame_are_refused_with_the_reason() {
    let (truth, mut noise) = (walk(), Noise(SplitMix::new()));
    let good = positions(&truth, 0.1, &mut noise);
    let scene = scene(&truth);
    let mut few = vec![None; 20];
    few[..2].copy_from_slice(&good[..2]);
    assert!(reason(Georeference::fit(&scene, &few)).contains("2 images have a camera pose"));
    assert!(reason(check_positions(&few)).contains("2 of 20 images have a GPS position"));
    let mut flat = good.clone();
    flat[1..]
        .iter_mut()
        .flatten()
        .for_each(|position| position.altitude = None);
    assert!(reason(check_positions(&flat)).contains("19 more have one without an altitude"));
    let same = vec![good[0]; 20];
    assert!(reason(check_positions(&same)).contains("one GPS position"));
    assert!(reason(Georeference::fit(&scene, &same)).contains("one GPS position"));
    let shuffled: Vec<_> = (0..20).map(|index| good[(7 * index) % 20]).collect();
    let refused = reason(Georeference::fit(&scene, &shuffled));
    assert!(refused.contains("do not agree"), "{refused}");
    assert!(check_positions(&good).is_ok());
}

#[test]
fn upright_scenes_have_y_down_and_keep_the_first_cameras_heading() {
    let truth = walk();
    let mut scene = scene(&truth);
    let before = scene.views[0].depth[0];
    let (turn, found) = upright(&scene).unwrap();
    assert!(found.is_determined && found.roll.to_degrees() < 3.0);
    scene.transform(&Similarity3::from_parts(
        Translation3::identity(),
        turn,
        1.0,
    ));
    for (view, pose) in scene.views.iter().zip(&truth) {
        let ahead = view.camera.unwrap().world_from_camera.rotation * Vector3::z();
        let pitch = (pose.rotation * Vector3::z()).z;
        assert!((ahead.y + pitch).abs() < 0.02, "{ahead} {pitch}");
    }
    let first = scene.views[0].camera.unwrap().world_from_camera.rotation * Vector3::z();
    assert!(first.x.abs() < 1e-9 && first.z > 0.9, "{first}");
    assert_eq!(scene.views[0].depth[0], before);
}
