//! Where a preview is seen from.

use nalgebra::{Isometry3, Matrix3, Point3, Rotation3, Translation3, UnitQuaternion, Vector3};

use super::frustums::{corners, plane_depth};
use super::surfels::Surfel;
use super::{PreviewOptions, drawn_cameras, quantile};
use crate::geometry::{Camera, Intrinsics};
use crate::scene::Scene;

/// Angle of view of the longer side, degrees.
const VIEW_DEGREES: f64 = 40.0;
/// The part of the image's sides that stays free all around.
const MARGIN: f64 = 0.04;
/// The part of the points that may lie outside on each of the four sides.
const OUTSIDE: f64 = 0.003;

/// The camera from which the cloud and the cameras fill the image; see [`super::preview_camera`].
pub(super) fn choose(scene: &Scene, surfels: &[Surfel], options: &PreviewOptions) -> Camera {
    let (width, height) = (f64::from(options.width), f64::from(options.height));
    let focal = width.max(height) / (2.0 * (VIEW_DEGREES / 2.0).to_radians().tan());
    let intrinsics = Intrinsics::centred(options.width, options.height, focal);
    let world_from_turned = direction(scene, options);
    let turned_from_world = world_from_turned.inverse();

    // The centres and image planes of the cameras, whole.
    let depth = plane_depth(scene);
    let frustums: Vec<Point3<f64>> = drawn_cameras(scene)
        .iter()
        .filter(|_| options.cameras)
        .flat_map(|(camera, _)| corners(camera, depth))
        .map(|corner| turned_from_world * corner)
        .collect();
    let rotation: Rotation3<f32> = turned_from_world.cast();
    let points: Vec<Point3<f32>> = surfels
        .iter()
        .map(|surfel| rotation * surfel.position)
        .collect();

    // A point at (x, z) is inside the left and the right side of the image of a camera at (x0,
    // z0) if |x - x0| is at most `slope` (z - z0), that is if x - slope z <= x0 - slope z0 and -x -
    // slope z <= -x0 - slope z0. The largest left hand sides of both make x0 and z0; above and
    // below alike.
    let fit = |axis: usize, slope: f64| {
        let [high, low] = [1.0, -1.0].map(|side| {
            let mut sides: Vec<f32> = points
                .iter()
                .map(|point| side as f32 * point[axis] - slope as f32 * point.z)
                .collect();
            let cloud = quantile(&mut sides, 1.0 - OUTSIDE).map_or(f64::NEG_INFINITY, f64::from);
            frustums
                .iter()
                .map(|corner| side * corner[axis] - slope * corner.z)
                .fold(cloud, f64::max)
        });
        // A cloud of one point would be touched; it is kept off by the depth of a frustum.
        ((high - low) / 2.0, -(high + low) / (2.0 * slope) - depth)
    };
    let slope = |side: f64| side * (0.5 - MARGIN) / focal;
    let ((x, z_across), (y, z_down)) = (fit(0, slope(width)), fit(1, slope(height)));
    let place = world_from_turned * Vector3::new(x, y, z_across.min(z_down));
    let rotation = UnitQuaternion::from_rotation_matrix(&world_from_turned);
    Camera {
        intrinsics,
        world_from_camera: Isometry3::from_parts(Translation3::from(place), rotation),
    }
}

/// The orientation of the preview's camera.
fn direction(scene: &Scene, options: &PreviewOptions) -> Rotation3<f64> {
    let cameras = drawn_cameras(scene);
    let mean = |axis: Vector3<f64>| {
        let sum: Vector3<f64> = cameras
            .iter()
            .map(|(camera, _)| camera.world_from_camera.rotation * axis)
            .sum();
        sum.try_normalize(1e-6)
    };
    let down = mean(Vector3::y()).unwrap_or_else(Vector3::y);
    // Across `down`, whatever is left of the mean; of cameras that look all around there may be
    // nothing.
    let across = |axis: Vector3<f64>| (axis - down * down.dot(&axis)).try_normalize(1e-6);
    let ahead = mean(Vector3::z())
        .and_then(across)
        .or_else(|| across(Vector3::z()))
        .or_else(|| across(Vector3::x()));
    let ahead = ahead.unwrap_or_else(Vector3::z);
    let right = down.cross(&ahead);

    let (azimuth, elevation) = (options.azimuth.to_radians(), options.elevation.to_radians());
    let x = right * azimuth.cos() + ahead * azimuth.sin();
    let level = ahead * azimuth.cos() - right * azimuth.sin();
    let z = level * elevation.cos() + down * elevation.sin();
    Rotation3::from_matrix_unchecked(Matrix3::from_columns(&[x, z.cross(&x), z]))
}
