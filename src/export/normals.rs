//! Surface normals of point maps.

use nalgebra::Vector3;

use crate::scene::SceneView;

/// A difference to one neighbour that is so many times longer than that to the opposite one crosses
/// an edge of depth.
const EDGE: f32 = 2.0;

/// The normal of every pixel of a view, row major, of length 1 and towards the camera: the cross
/// product of the differences between horizontal and between vertical neighbours. Beside an edge of
/// depth or a pixel without a point, the nearer neighbour counts alone; where neither has one, the
/// normal points to the camera.
pub(super) fn normals(view: &SceneView) -> Vec<[f32; 3]> {
    let (width, height) = (view.points.width, view.points.height);
    let camera = view.camera.as_ref().map_or_else(Vector3::zeros, |camera| {
        camera.world_from_camera.translation.vector.cast::<f32>()
    });
    let point = |x: usize, y: usize| -> Option<Vector3<f32>> {
        let point = Vector3::from(view.points.points[y * width + x]);
        point.iter().all(|value| value.is_finite()).then_some(point)
    };
    let difference =
        |before: Option<Vector3<f32>>, own: Vector3<f32>, after: Option<Vector3<f32>>| {
            let [before, after]: [Option<Vector3<f32>>; 2] = [
                before.map(|before| own - before),
                after.map(|after| after - own),
            ];
            match (before, after) {
                (Some(one), Some(two)) if one.norm() > EDGE * two.norm() => Some(two),
                (Some(one), Some(two)) if two.norm() > EDGE * one.norm() => Some(one),
                (Some(one), Some(two)) => Some(one + two),
                (one, two) => one.or(two),
            }
        };
    let normal = |x: usize, y: usize| -> Option<Vector3<f32>> {
        let own = point(x, y)?;
        let to_camera = (camera - own).try_normalize(0.0)?;
        let across = difference(
            x.checked_sub(1).and_then(|x| point(x, y)),
            own,
            (x + 1 < width).then(|| point(x + 1, y)).flatten(),
        );
        let down = difference(
            y.checked_sub(1).and_then(|y| point(x, y)),
            own,
            (y + 1 < height).then(|| point(x, y + 1)).flatten(),
        );
        let normal = across
            .zip(down)
            .and_then(|(across, down)| across.cross(&down).try_normalize(0.0));
        Some(match normal {
            Some(normal) if normal.dot(&to_camera) >= 0.0 => normal,
            Some(normal) => -normal,
            None => to_camera,
        })
    };
    (0..width * height)
        .map(|at| {
            normal(at % width, at / width)
                .unwrap_or_else(Vector3::zeros)
                .into()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, Point3};

    use super::*;
    use crate::geometry::{Camera, Intrinsics};
    use crate::scene::fixtures;

    /// A view of 9x7 pixels of the surface whose depth along a pixel's ray is `depth`.
    fn view(pose: Isometry3<f64>, depth: impl Fn(&Intrinsics, [f64; 2]) -> f64) -> SceneView {
        let (width, height) = (9, 7);
        let intrinsics = Intrinsics::centred(width, height, 8.0);
        let pixels =
            (0..height).flat_map(|y| (0..width).map(move |x| [f64::from(x), f64::from(y)]));
        let points = pixels.map(|pixel| {
            let point: Point3<f64> = pose * intrinsics.unproject(pixel, depth(&intrinsics, pixel));
            point.coords.cast::<f32>().into()
        });
        let camera = Camera {
            intrinsics,
            world_from_camera: pose,
        };
        fixtures::view("a", [width, height], Some(camera), points)
    }

    #[test]
    fn normals_of_a_plane_are_its_own_and_look_at_the_camera() {
        let pose = Isometry3::new(Vector3::new(3.0, -1.0, 2.0), Vector3::new(0.2, 0.7, -0.1));
        // The plane n.p = 5 in the camera's frame.
        let normal = Vector3::new(0.3, -0.5, 1.0).normalize();
        let view = view(pose, |inside, pixel| {
            5.0 / normal.dot(&inside.unproject(pixel, 1.0).coords)
        });
        let expected = (pose.rotation * -normal).cast::<f32>();
        for found in normals(&view) {
            assert!(
                (Vector3::from(found) - expected).norm() < 1e-3,
                "{found:?} {expected}"
            );
        }
    }

    #[test]
    fn edges_of_depth_do_not_tilt_normals_and_missing_points_have_none() {
        let mut view = view(Isometry3::identity(), |_, pixel| {
            if pixel[0] < 4.0 { 2.0 } else { 6.0 }
        });
        view.points.points[3 * 9 + 6] = [f32::NAN; 3];
        let found = normals(&view);
        for (at, normal) in found.iter().enumerate() {
            let expected = if at == 3 * 9 + 6 {
                [0.0; 3]
            } else {
                [0.0, 0.0, -1.0]
            };
            let gap = Vector3::from(*normal) - Vector3::from(expected);
            assert!(gap.norm() < 1e-4, "{at}: {normal:?}");
        }
    }
}
