//! The camera that bundle adjustment knows: COLMAP's RADIAL, a pinhole with two radial terms.

use nalgebra::{SMatrix, Vector2, Vector3};

use super::Intrinsics;

/// Intrinsics at the size of an image's file; the centre of the top left pixel is (0, 0).
///
/// A point (x, y, z) of the camera's frame is seen at f (1 + k1 r² + k2 r⁴) (x, y) / z + c, with r²
/// = (x² + y²) / z².
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

/// Parameters of a lens, in the order of derivatives: logarithm of the focal lengths, k1, k2,
/// principal point.
pub(crate) const LENS_PARAMETERS: usize = 5;

/// Parts of a pixel in which the border of an image is looked at where it decides how large an
/// undistorted image is.
const SUBPIXELS: i32 = 64;

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
        Intrinsics {
            width: self.width,
            height: self.height,
            fx,
            fy,
            cx,
            cy,
        }
    }

    /// Whether it is not a pinhole.
    pub fn is_distorted(&self) -> bool {
        self.radial != [0.0; 2]
    }

    /// A pinhole whose image has the same size and shows nothing that this one's does not: of these
    /// the one with the widest view whose focal lengths have the same ratio and whose middle shows
    /// what the middle of this image shows. So a principal point in the middle stays there.
    pub fn undistorted(&self) -> Self {
        let size = [self.width, self.height].map(f64::from);
        let middle = size.map(|side| 0.5 * side - 0.5);
        let centre = self.unproject(middle);
        // How much farther from the middle the pinhole with the same focal lengths has the ray of a
        // pixel of the border: along the axis that decides whether a frame around the middle lets
        // the ray pass.
        let spread = |pixel: [f64; 2]| {
            let ray = self.unproject(pixel);
            let along = |axis: usize| {
                (ray[axis] - centre[axis]).abs() * self.focal[axis] / (0.5 * size[axis])
            };
            along(0).max(along(1))
        };
        let at = |along: f64| spread(self.border(along));
        let length = 2 * (self.width + self.height);
        let coarse: Vec<f64> = (0..length).map(|along| at(f64::from(along))).collect();
        // The least may lie at a corner of the frame, between two pixels.
        let next = |along: usize, by: usize| coarse[(along + by) % coarse.len()];
        let is_least = |along: &usize| {
            coarse[*along] <= next(*along, 1) && coarse[*along] <= next(*along, coarse.len() - 1)
        };
        let fine = (-SUBPIXELS..=SUBPIXELS).map(|step| f64::from(step) / f64::from(SUBPIXELS));
        let near = (0..coarse.len())
            .filter(is_least)
            .flat_map(|along| fine.clone().map(move |by| along as f64 + by));
        let share = near.map(at).fold(f64::INFINITY, f64::min);
        let focal = self.focal.map(|focal| focal / share);
        let principal = [0, 1].map(|axis| middle[axis] - focal[axis] * centre[axis]);
        Self {
            focal,
            principal,
            radial: [0.0; 2],
            ..*self
        }
    }

    /// The place so many pixels along the border of the image, clockwise from the top left corner.
    fn border(&self, along: f64) -> [f64; 2] {
        let [width, height] = [self.width, self.height].map(f64::from);
        let along = along.rem_euclid(2.0 * (width + height));
        let [x, y] = if along < width {
            [along, 0.0]
        } else if along < width + height {
            [width, along - width]
        } else if along < 2.0 * width + height {
            [2.0 * width + height - along, height]
        } else {
            [0.0, 2.0 * (width + height) - along]
        };
        [x - 0.5, y - 0.5]
    }

    /// The pixel that shows a point of the camera's frame; `None` unless it is in front of the
    /// camera.
    pub fn project(&self, point: &Vector3<f64>) -> Option<[f64; 2]> {
        if point.z <= 0.0 {
            return None;
        }
        let (x, y) = (point.x / point.z, point.y / point.z);
        let square = x * x + y * y;
        let factor = 1.0 + square * (self.radial[0] + square * self.radial[1]);
        Some([
            self.focal[0] * factor * x + self.principal[0],
            self.focal[1] * factor * y + self.principal[1],
        ])
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
        let by_x = [
            fx * (factor + 2.0 * slope * x * x),
            fy * 2.0 * slope * x * y,
        ];
        let by_y = [
            fx * 2.0 * slope * x * y,
            fy * (factor + 2.0 * slope * y * y),
        ];
        let by_z = [0, 1].map(|row| -(by_x[row] * x + by_y[row] * y));
        let by_point =
            SMatrix::<f64, 2, 3>::new(by_x[0], by_y[0], by_z[0], by_x[1], by_y[1], by_z[1])
                * inverse;
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
        Projection {
            pixel: Vector2::new(u + self.principal[0], v + self.principal[1]),
            by_point,
            by_lens,
        }
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

    /// Whether it may be a real one: an angle of view of 5 to 160 degrees, and image radii that
    /// grow outwards everywhere.
    pub(crate) fn is_plausible(&self) -> bool {
        let long_side = f64::from(self.width.max(self.height));
        let shares = self.focal.map(|focal| focal / long_side);
        let corner = 0.5 * f64::from(self.width).hypot(f64::from(self.height))
            / self.focal[0].min(self.focal[1]);
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
            focal: self
                .focal
                .map(|focal| focal * step[0].clamp(-0.5, 0.5).exp()),
            radial: [self.radial[0] + step[1], self.radial[1] + step[2]],
            principal: [self.principal[0] + step[3], self.principal[1] + step[4]],
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(principal: [f64; 2], radial: [f64; 2]) -> Lens {
        Lens {
            width: 90,
            height: 60,
            focal: [80.0, 84.0],
            principal,
            radial,
        }
    }

    /// Where the border of the undistorted image lies in the distorted one: the least distance to
    /// its border, negative outside of it.
    fn least_margin(lens: &Lens) -> f64 {
        let flat = lens.undistorted();
        let [right, bottom] = [lens.width, lens.height].map(|side| f64::from(side) - 0.5);
        let at = |step: u32, end: f64| -0.5 + (end + 0.5) * f64::from(step) / 1000.0;
        let border = (0..=1000).flat_map(|step| {
            let (x, y) = (at(step, right), at(step, bottom));
            [[x, -0.5], [x, bottom], [-0.5, y], [right, y]]
        });
        let margin = |pixel: [f64; 2]| {
            let [x, y] = flat.unproject(pixel);
            let [u, v] = lens.project(&Vector3::new(x, y, 1.0)).unwrap();
            (u + 0.5).min(right - u).min(v + 0.5).min(bottom - v)
        };
        border.map(margin).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_undistorted_image_is_the_largest_within_the_distorted_one() {
        for principal in [[44.5, 29.5], [47.0, 26.0], [-4.0, 30.0]] {
            for radial in [
                [-0.08, 0.0],
                [0.15, 0.0],
                [-0.3, 0.15],
                [0.2, -0.1],
                [-0.02, 0.0],
                [1e-9, 0.0],
            ] {
                let lens = lens(principal, radial);
                let margin = least_margin(&lens);
                assert!(margin.abs() < 0.01, "{lens:?}: {margin} px");
                let flat = lens.undistorted();
                assert!(!flat.is_distorted() && [flat.width, flat.height] == [90, 60]);
                assert!((flat.focal[0] / flat.focal[1] - 80.0 / 84.0).abs() < 1e-12);
                if principal == [44.5, 29.5] {
                    assert!(
                        (flat.principal[0] - 44.5).abs() < 1e-12
                            && (flat.principal[1] - 29.5).abs() < 1e-12
                    );
                    // Barrels leave room beyond the sides, pincushions beyond the corners.
                    assert_eq!(flat.focal[0] > 80.0, lens.radial[0] > 0.0, "{flat:?}");
                }
            }
        }
    }

    #[test]
    fn a_pinhole_is_its_own_undistorted_lens() {
        let lens = lens([47.0, 26.0], [0.0; 2]);
        let flat = lens.undistorted();
        let gaps = [0, 1].map(|axis| {
            (flat.focal[axis] - lens.focal[axis])
                .abs()
                .max((flat.principal[axis] - lens.principal[axis]).abs())
        });
        assert!(gaps.into_iter().all(|gap| gap < 1e-9), "{flat:?}");
    }
}
