//! Which way is up: as the cameras are held, and across the ground that they stand over.

use nalgebra::{Matrix3, Point3, Vector3};

use super::blocks::Extent;
use crate::geometry::ransac::{self, Budget, Score};
use crate::geometry::{UpDirection, up_direction};
use crate::scene::Scene;

/// Points that planes are tried on, at most.
const SAMPLES: usize = 4000;
/// Points this close to a plane are on it, as a part of the scene's extent.
const TOLERANCE: f64 = 0.01;
/// The ground is no steeper than this against the cameras, degrees.
const STEEPEST: f64 = 35.0;
/// The part of the points that must be on the ground, and the part that may be below it.
const LEAST_ON: f64 = 0.06;
const MOST_BELOW: f64 = 0.12;
const BUDGET: Budget = Budget {
    most_samples: 2000,
    least_samples: 200,
    certainty: 0.999,
};

/// Unit vectors in the scene's frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Up {
    /// As the cameras are held: see [`up_direction`].
    pub cameras: Option<[f64; 3]>,
    /// Normal of a plane with many points on it and few below.
    pub ground: Option<[f64; 3]>,
}

impl Up {
    pub fn of(scene: &Scene, positions: &[[f32; 3]], extent: &Extent) -> Self {
        let cameras = scene.views.iter().filter_map(|view| view.camera.as_ref());
        let turns: Vec<_> = cameras
            .map(|camera| camera.world_from_camera.rotation)
            .collect();
        let Some(UpDirection { up: cameras, .. }) = up_direction(&turns) else {
            return Self::default();
        };
        Self {
            cameras: Some(cameras.into_inner().into()),
            ground: ground(positions, extent, &cameras).map(Into::into),
        }
    }
}

fn ground(positions: &[[f32; 3]], extent: &Extent, up: &Vector3<f64>) -> Option<Vector3<f64>> {
    let inside = |position: &Point3<f64>| {
        (0..3).all(|axis| (extent.low[axis]..=extent.high[axis]).contains(&position[axis]))
    };
    let points: Vec<Point3<f64>> = positions
        .iter()
        .step_by(positions.len().div_ceil(SAMPLES).max(1))
        .map(|position| Point3::from(position.map(f64::from)))
        .filter(inside)
        .collect();
    let tolerance = TOLERANCE * extent.length();
    let least_cosine = STEEPEST.to_radians().cos();
    let plane = |[a, b, c]: [usize; 3]| {
        let across = (points[b] - points[a]).cross(&(points[c] - points[a]));
        let normal = across.try_normalize(1e-12)?;
        let normal = normal * normal.dot(up).signum();
        (normal.dot(up) > least_cosine).then(|| (normal, normal.dot(&points[a].coords)))
    };
    let heights = |(normal, offset): &(Vector3<f64>, f64)| -> Vec<f64> {
        points
            .iter()
            .map(|point| normal.dot(&point.coords) - offset)
            .collect()
    };
    let score = |plane: &(Vector3<f64>, f64)| {
        let mut score = Score {
            inliers: 0,
            cost: 0.0,
        };
        for height in heights(plane) {
            score.inliers += usize::from(height.abs() <= tolerance);
            score.cost += match height {
                below if below < -tolerance => 3.0,
                on if on <= tolerance => on.abs() / tolerance,
                _ => 1.0,
            };
        }
        score
    };
    let count = points.len();
    let (best, _) = ransac::search::<_, 3>(
        count,
        BUDGET,
        |_| count,
        |sample| plane(sample).into_iter().collect(),
        score,
    )?;
    let heights = heights(&best);
    let on: Vec<&Point3<f64>> = points
        .iter()
        .zip(&heights)
        .filter_map(|(point, height)| (height.abs() <= tolerance).then_some(point))
        .collect();
    let below = heights
        .iter()
        .filter(|height| **height < -tolerance)
        .count();
    if (on.len() as f64) < LEAST_ON * count as f64 || below as f64 > MOST_BELOW * count as f64 {
        return None;
    }
    // The direction in which the points on it vary least.
    let mean = on.iter().map(|point| point.coords).sum::<Vector3<f64>>() / on.len() as f64;
    let spread: Matrix3<f64> = on
        .iter()
        .map(|point| (point.coords - mean) * (point.coords - mean).transpose())
        .sum();
    let eigen = spread.symmetric_eigen();
    let normal: Vector3<f64> = eigen.eigenvectors.column(eigen.eigenvalues.imin()).into();
    let normal = normal * normal.dot(up).signum();
    (normal.dot(up) > least_cosine).then_some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ground_below_other_points_is_found() {
        let mut random = ransac::SplitMix::new();
        let tilt = 10_f64.to_radians();
        let up = Vector3::new(0.0, -tilt.cos(), tilt.sin());
        let [right, ahead] = [Vector3::x(), Vector3::x().cross(&up)];
        let positions: Vec<[f32; 3]> = (0..20_000)
            .map(|index| {
                let [x, y, height] = [0, 1, 2].map(|_| random.uniform() - 0.5);
                let height = match index % 10 {
                    0..4 => 0.002 * height,
                    _ => height.abs() + 0.01,
                };
                let at: Vector3<f64> = right * 4.0 * x + ahead * 4.0 * y + up * height * 3.0;
                [at.x as f32, at.y as f32, at.z as f32]
            })
            .collect();
        let found = ground(&positions, &Extent::of(&positions), &-Vector3::y()).unwrap();
        assert!(found.dot(&up) > 0.9995, "{found}");
        // A ball has no ground.
        let ball: Vec<[f32; 3]> = (0..20_000)
            .map(|_| {
                let at = Vector3::from([0, 1, 2].map(|_| random.uniform() - 0.5));
                (at.normalize()).map(|value| value as f32).into()
            })
            .collect();
        assert_eq!(ground(&ball, &Extent::of(&ball), &-Vector3::y()), None);
    }

    #[test]
    fn without_cameras_nothing_is_up() {
        let up = Up::of(
            &Scene::default(),
            &[[0.0; 3]; 5],
            &Extent::of(&[[0.0; 3]; 5]),
        );
        assert_eq!(up, Up::default());
    }
}
