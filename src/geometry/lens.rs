//! The camera that bundle adjustment knows: COLMAP's RADIAL, a pinhole with two radial terms.

use nalgebra::{SMatrix, Vector2, Vector3};

use super::Intrinsics;

/// Intrinsics at the size of an image's file; the centre of the top left pixel is (0, 0).
///
/// A point (x, y, z) of the camera's frame is seen at f (1 + k1 r² + k2 r⁴) (x, y) / z + c, with r² = (x² + y²) / z².
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lens {
    /// Columns of the image.
    pub width: u32,
    /// Rows of the image.
    pub height: u32,
    /// Horizontal and vertical focal length, pixels.
    pub focal: [f64; 2],
    /// Principal point, column and row.
    pub principal: [f64; 2],
    /// Radial terms k1 and k2.
    pub radial: [f64; 2],
}

/// Parameters of a lens, in the order of derivatives: logarithm of the focal lengths, k1, k2, principal point.
pub(crate) const LENS_PARAMETERS: usize = 5;

/// Derivatives of a pixel.
pub(crate) struct Projection {
    pub pixel: Vector2<f64>,
    /// By the point of the camera's frame.
    pub by_point: SMatrix<f64, 2, 3>,
    /// By the parameters.
    pub by_lens: SMatrix<f64, 2, LENS_PARAMETERS>,
}

impl Lens {
    /// The same camera without distortion.
    pub fn pinhole(&self) -> Intrinsics {
        let ([fx, fy], [cx, cy]) = (self.focal, self.principal);
        Intrinsics { width: self.width, height: self.height, fx, fy, cx, cy }
    }

    /// The pixel that shows a point of the camera's frame; `None` unless it is in front of the camera.
    pub fn project(&self, point: &Vector3<f64>) -> Option<[f64; 2]> {
        if point.z <= 0.0 {
            return None;
        }
        let (x, y) = (point.x / point.z, point.y / point.z);
        let square = x * x + y * y;
        let factor = 1.0 + square * (self.radial[0] + square * self.radial[1]);
        Some([self.focal[0] * factor * x + self.principal[0], self.focal[1] * factor * y + self.principal[1]])
    }

    /// The projection of a point before the camera, and its derivatives.
    pub(crate) fn derivatives(&self, point: &Vector3<f64>) -> Projection {
        let inverse = 1.0 / point.z;
        let (x, y) = (point.x * inverse, point.y * inverse);
        let square = x * x + y * y;
        let [k1, k2] = self.radial;
        let factor = 1.0 + square * (k1 + square * k2);
        // By the square of the radius.
        let slope = k1 + 2.0 * k2 * square;
        let [fx, fy] = self.focal;
        let (u, v) = (fx * factor * x, fy * factor * y);
        let by_x = [fx * (factor + 2.0 * slope * x * x), fy * 2.0 * slope * x * y];
        let by_y = [fx * 2.0 * slope * x * y, fy * (factor + 2.0 * slope * y * y)];
        let by_z = [0, 1].map(|row| -(by_x[row] * x + by_y[row] * y));
        let by_point = SMatrix::<f64, 2, 3>::new(by_x[0], by_y[0], by_z[0], by_x[1], by_y[1], by_z[1]) * inverse;
        let (bend, bend2) = (square, square * square);
        let by_lens = SMatrix::<f64, 2, LENS_PARAMETERS>::new(
            u,
            fx * x * bend,
            fx * x * bend2,
            1.0,
            0.0,
            v,
            fy * y * bend,
            fy * y * bend2,
            0.0,
            1.0,
        );
        Projection { pixel: Vector2::new(u + self.principal[0], v + self.principal[1]), by_point, by_lens }
    }

    /// Where the ray of a pixel meets the plane z = 1: Newton's method on the radius.
    pub fn unproject(&self, pixel: [f64; 2]) -> [f64; 2] {
        let seen = [0, 1].map(|axis| (pixel[axis] - self.principal[axis]) / self.focal[axis]);
        let bent = seen[0].hypot(seen[1]);
        let [k1, k2] = self.radial;
        let mut radius = bent;
        for _ in 0..10 {
            let square = radius * radius;
            let slope = 1.0 + square * (3.0 * k1 + 5.0 * k2 * square);
            // Beyond where the lens folds back there is no ray; the fold itself is the nearest.
            if slope < 0.1 {
                break;
            }
            let step = (radius * (1.0 + square * (k1 + k2 * square)) - bent) / slope;
            radius = (radius - step).max(0.0);
            if step.abs() < 1e-12 {
                break;
            }
        }
        let factor = if bent > 0.0 { radius / bent } else { 1.0 };
        seen.map(|at| at * factor)
    }

    /// Whether it may be a real one: an angle of view of 5 to 160 degrees, and image radii that grow outwards everywhere.
    pub(crate) fn is_plausible(&self) -> bool {
        let long_side = f64::from(self.width.max(self.height));
        let shares = self.focal.map(|focal| focal / long_side);
        let corner = 0.5 * f64::from(self.width).hypot(f64::from(self.height)) / self.focal[0].min(self.focal[1]);
        let [k1, k2] = self.radial;
        let grows = (0..=16).all(|step| {
            let square = (corner * f64::from(step) / 16.0).powi(2);
            1.0 + square * (3.0 * k1 + 5.0 * k2 * square) > 0.2
        });
        shares.iter().all(|share| (0.09..=12.0).contains(share)) && grows
    }

    /// Changed by steps of its parameters.
    pub(crate) fn stepped(&self, step: &[f64; LENS_PARAMETERS]) -> Self {
        Self {
            focal: self.focal.map(|focal| focal * step[0].clamp(-0.5, 0.5).exp()),
            radial: [self.radial[0] + step[1], self.radial[1] + step[2]],
            principal: [self.principal[0] + step[3], self.principal[1] + step[4]],
            ..*self
        }
    }
}
