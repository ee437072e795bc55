//! Which way is up, by how cameras are held: their rows of pixels lie level, and the top of an image
//! is nearer to the sky than its bottom.

use nalgebra::{Matrix3, SymmetricEigen, Unit, UnitQuaternion, Vector3};

/// Rounds of reweighting.
const ROUNDS: usize = 20;
/// Sine of the roll below which cameras count as level alike; see [`up_direction`].
const LEVEL: f64 = 0.02;
/// Weight of the images' own up directions beside their level rows: enough to decide where all
/// cameras head the same way, too little to tilt the result by cameras that look down.
const OWN_UP: f64 = 0.003;
/// Sine of the spread of headings from which on the rows determine the direction.
const LEAST_SPREAD: f64 = 0.15;

/// The world's up direction as cameras show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpDirection {
    /// In the world.
    pub up: Unit<Vector3<f64>>,
    /// Whether the rows of the images determine it. Otherwise all cameras head the same way, or the
    /// opposite one, and their common pitch is taken to be level.
    pub is_determined: bool,
    /// Median angle of the images' rows to the horizontal plane, radians.
    pub roll: f64,
}

/// The up direction u of the world for cameras of these orientations, world from camera.
///
/// With r the image's row direction (camera x) and v its up direction (camera -y), both in the
/// world, u minimises `sum w (u.r)^2 / sum w + 0.003 mean(1 - (u.v)^2)` with `w = 1 / max(|u.r|,
/// 0.02)`, reweighted 20 times: distances from the horizontal plane count, not their squares, so
/// that fewer than half of the images held sideways do not matter. Its sign is that of the mean of
/// v.
///
/// `None` without cameras, or if the images' up directions cancel out.
pub fn up_direction(cameras: &[UnitQuaternion<f64>]) -> Option<UpDirection> {
    let rows: Vec<Vector3<f64>> = cameras.iter().map(|turn| turn * Vector3::x()).collect();
    let ups: Vec<Vector3<f64>> = cameras.iter().map(|turn| -(turn * Vector3::y())).collect();
    let count = cameras.len().max(1) as f64;
    let mean: Vector3<f64> = ups.iter().sum::<Vector3<f64>>() / count;
    let mut up = mean.try_normalize(0.1)?;
    let own = ups.iter().fold(Matrix3::zeros(), |sum, up| {
        sum + (Matrix3::identity() - up * up.transpose()) / count
    });
    let mut spread = 0.0;
    for _ in 0..ROUNDS {
        let weights: Vec<f64> = rows
            .iter()
            .map(|row| 1.0 / up.dot(row).abs().max(LEVEL))
            .collect();
        let total: f64 = weights.iter().sum();
        let level = rows
            .iter()
            .zip(&weights)
            .fold(Matrix3::zeros(), |sum, (row, weight)| {
                sum + row * row.transpose() * (weight / total)
            });
        let eigen = SymmetricEigen::new(level + own * OWN_UP);
        let least = eigen.eigenvalues.imin();
        up = eigen.eigenvectors.column(least).into_owned();
        if up.dot(&mean) < 0.0 {
            up = -up;
        }
        // Of the rows alone, the second smallest of three.
        let mut values: [f64; 3] = level.symmetric_eigenvalues().into();
        values.sort_by(f64::total_cmp);
        spread = values[1].max(0.0).sqrt();
    }
    let roll = super::median(rows.iter().map(|row| up.dot(row).abs().min(1.0).asin()))?;
    Some(UpDirection {
        up: Unit::new_normalize(up),
        is_determined: spread >= LEAST_SPREAD,
        roll,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A camera whose heading, pitch (downwards) and roll are in degrees, in a world with z up.
    fn camera(heading: f64, pitch: f64, roll: f64) -> UnitQuaternion<f64> {
        let about =
            |axis, degrees: f64| UnitQuaternion::from_axis_angle(&axis, degrees.to_radians());
        // Level and looking along +y.
        let level = UnitQuaternion::from_matrix(&Matrix3::new(
            1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0,
        ));
        about(Vector3::z_axis(), heading)
            * level
            * about(Vector3::x_axis(), -pitch)
            * about(Vector3::z_axis(), roll)
    }

    fn tilt(cameras: &[UnitQuaternion<f64>]) -> (f64, bool) {
        let found = up_direction(cameras).unwrap();
        (
            found
                .up
                .dot(&Vector3::z())
                .clamp(-1.0, 1.0)
                .acos()
                .to_degrees(),
            found.is_determined,
        )
    }

    #[test]
    fn cameras_that_look_down_all_around_show_the_vertical() {
        let cameras: Vec<_> = (0..12)
            .map(|at| camera(15.0 * f64::from(at), 40.0, f64::from(at % 3 - 1)))
            .collect();
        let (tilt, determined) = tilt(&cameras);
        assert!(tilt < 1.0 && determined, "{tilt}");
    }

    #[test]
    fn images_held_sideways_do_not_matter_while_they_are_few() {
        let mut cameras: Vec<_> = (0..12)
            .map(|at| camera(25.0 * f64::from(at), 10.0, 0.0))
            .collect();
        cameras.extend((0..4).map(|at| camera(80.0 * f64::from(at), 0.0, 90.0)));
        let (tilt, determined) = tilt(&cameras);
        assert!(tilt < 1.0 && determined, "{tilt}");
    }

    #[test]
    fn cameras_with_one_heading_leave_the_pitch_open() {
        let (level, determined) = tilt(&[camera(30.0, 0.0, 0.5); 5]);
        assert!(level < 1.0 && !determined, "{level}");
        let (pitched, determined) = tilt(&[camera(30.0, 25.0, 0.0); 5]);
        assert!((pitched - 25.0).abs() < 1e-6 && !determined, "{pitched}");
    }

    #[test]
    fn opposite_cameras_show_no_direction() {
        let one = camera(0.0, 0.0, 0.0);
        assert!(up_direction(&[one, camera(0.0, 0.0, 180.0)]).is_none());
        assert!(up_direction(&[]).is_none());
    }
}
