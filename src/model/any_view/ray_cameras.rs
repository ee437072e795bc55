//! Cameras from the rays that an any-view network predicts.
//!
//! The direction of a pixel's ray is, up to its length, a linear function of where the pixel is:
//! `direction ~ R K^-1 (x, y, 1)` for the rotation `R` and the intrinsics `K` of its camera. That
//! homography is estimated by random samples and a weighted fit, and taken apart into a rotation and
//! an upper triangular matrix. (The reference takes out a lower triangular one, which is the same
//! where the principal point is in the middle, and no camera's where it is not.)

use candle_core::Tensor;
use nalgebra::{
    Isometry3, Matrix3, Rotation3, SMatrix, SVector, SymmetricEigen, Translation3, UnitQuaternion,
    Vector3,
};

use super::Rays;
use crate::geometry::ransac::{Budget, Score, search};
use crate::geometry::{Camera, Intrinsics};
use crate::{Error, Result};

/// A direction with a smaller z is nobody's.
const LEAST_DEPTH: f64 = 1e-4;
/// Samples are of this share of the pixels, the most confident.
const SHARE: f64 = 0.3;
const SAMPLE: usize = 8;
const SAMPLES: Budget = Budget {
    most_samples: 100,
    least_samples: 100,
    certainty: 0.99,
};
/// A ray agrees whose `(x / z, y / z)` is predicted to within this.
const AGREEMENT: f64 = 0.2;
/// Rays in the last fit, at most: the most confident of those that agree.
const MOST_FITTED: usize = 8000;
/// Rounds in which the eigenvalues of nine unknowns converge, or never will.
const EIGEN_ROUNDS: usize = 1000;

/// A pixel, from -1 to 1 along both axes, and the ray that it has.
#[derive(Clone, Copy, Debug)]
struct Observation {
    at: [f64; 2],
    /// Its direction's `(x / z, y / z)`.
    slope: [f64; 2],
    weight: f64,
}

impl Rays {
    /// The camera of each view, of images of `width` by `height` pixels: a way to them that does not
    /// go by [`poses`](super::AnyViewMaps::poses), slower and, by its authors, mostly more accurate.
    /// Pixel coordinates count from the image's corner.
    ///
    /// # Errors
    /// [`Error::NoCameras`] for rays that no camera has; errors of the device.
    pub fn cameras(&self, width: u32, height: u32) -> Result<Vec<Camera>> {
        let views = self.rays.dim(0)?;
        (0..views)
            .map(|view| {
                let (rays, confidence) = (self.rays.get(view)?, self.confidence.get(view)?);
                camera(&rays, &confidence, [width, height])?.ok_or_else(|| Error::NoCameras {
                    what: format!("view {}", view + 1),
                    reason: "no camera has the rays that the network predicts".into(),
                })
            })
            .collect()
    }
}

/// The camera of a view with `rays` `(rows, columns, 6)`.
fn camera(rays: &Tensor, confidence: &Tensor, [width, height]: [u32; 2]) -> Result<Option<Camera>> {
    let (rows, columns, _) = rays.dims3()?;
    let rays: Vec<f32> = rays.flatten_all()?.to_vec1()?;
    let confidence: Vec<f32> = confidence.flatten_all()?.to_vec1()?;
    let mut observations = Vec::with_capacity(rows * columns);
    let (mut origin, mut total) = (Vector3::zeros(), 0.0);
    for (at, (ray, &weight)) in rays.as_chunks::<6>().0.iter().zip(&confidence).enumerate() {
        let [dx, dy, dz, x, y, z] = ray.map(f64::from);
        let weight = f64::from(weight);
        let is_sound = ray.iter().all(|value| value.is_finite()) && weight.is_finite();
        if !is_sound || dz.abs() <= LEAST_DEPTH {
            continue;
        }
        let place = |index: usize, count: usize| (2 * index + 1) as f64 / count as f64 - 1.0;
        observations.push(Observation {
            at: [place(at % columns, columns), place(at / columns, rows)],
            slope: [dx / dz, dy / dz],
            weight,
        });
        origin += weight * Vector3::new(x, y, z);
        total += weight;
    }
    observations.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let Some(homography) = homography(&observations) else {
        return Ok(None);
    };
    let (rotation, inverse) = taken_apart(homography);
    let [fx, fy] = [1.0 / inverse[(0, 0)], 1.0 / inverse[(1, 1)]];
    let [half_width, half_height] = [width, height].map(|side| f64::from(side) / 2.0);
    let intrinsics = Intrinsics {
        width,
        height,
        fx: fx * half_width,
        fy: fy * half_height,
        cx: (1.0 - fx * inverse[(0, 2)]) * half_width,
        cy: (1.0 - fy * inverse[(1, 2)]) * half_height,
    };
    let origin = origin / total;
    let numbers = [intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy];
    let is_camera = numbers
        .iter()
        .chain(origin.iter())
        .all(|number| number.is_finite());
    Ok(is_camera.then(|| Camera {
        intrinsics,
        world_from_camera: Isometry3::from_parts(
            Translation3::from(origin),
            UnitQuaternion::from_rotation_matrix(&rotation),
        ),
    }))
}

/// `A` with `(slope, 1) ~ A (at, 1)`, positive, from `observations` with the heaviest first.
fn homography(observations: &[Observation]) -> Option<Matrix3<f64>> {
    let candidates = ((SHARE * observations.len() as f64) as usize).max(SAMPLE);
    let agreeing = |model: &Matrix3<f64>| {
        let model = *model;
        observations
            .iter()
            .filter(move |observation| agrees(&model, observation))
    };
    let (best, _) = search::<_, SAMPLE>(
        observations.len(),
        SAMPLES,
        |_| candidates,
        |sample| {
            fitted(sample.map(|index| observations[index]).iter())
                .into_iter()
                .collect()
        },
        |model| Score {
            inliers: agreeing(model).count(),
            cost: -agreeing(model)
                .map(|observation| observation.weight)
                .sum::<f64>(),
        },
    )?;
    let model = fitted(agreeing(&best).take(MOST_FITTED))?;
    Some(if model.determinant() < 0.0 {
        -model
    } else {
        model
    })
}

fn agrees(model: &Matrix3<f64>, Observation { at, slope, .. }: &Observation) -> bool {
    let predicted = model * Vector3::new(at[0], at[1], 1.0);
    let gap = predicted.xy() / predicted.z - SVector::from(*slope);
    gap.norm() < AGREEMENT
}

/// The direct linear transform: the unit vector that the weighted equations of all observations
/// make smallest, by its last number.
fn fitted<'a>(observations: impl Iterator<Item = &'a Observation>) -> Option<Matrix3<f64>> {
    let mut normal = SMatrix::<f64, 9, 9>::zeros();
    for Observation {
        at: [x, y],
        slope,
        weight,
    } in observations
    {
        for (first, s) in [(0, slope[0]), (3, slope[1])] {
            let mut row = SVector::<f64, 9>::zeros();
            for (k, place) in [*x, *y, 1.0].into_iter().enumerate() {
                (row[first + k], row[6 + k]) = (-place, s * place);
            }
            normal += *weight * row * row.transpose();
        }
    }
    if normal.iter().any(|number| !number.is_finite()) {
        return None;
    }
    let eigen = SymmetricEigen::try_new(normal, f64::EPSILON, EIGEN_ROUNDS)?;
    let vector = eigen.eigenvectors.column(eigen.eigenvalues.imin());
    let model = Matrix3::from_row_slice(vector.as_slice()) / vector[8];
    model
        .iter()
        .all(|number| number.is_finite())
        .then_some(model)
}

/// A rotation and an upper triangular matrix, its diagonal positive and its last number 1, whose
/// product is `homography` up to a factor.
fn taken_apart(homography: Matrix3<f64>) -> (Rotation3<f64>, Matrix3<f64>) {
    let (mut q, mut upper) = homography.qr().unpack();
    for axis in 0..3 {
        if upper[(axis, axis)] < 0.0 {
            q.column_mut(axis).neg_mut();
            upper.row_mut(axis).neg_mut();
        }
    }
    (Rotation3::from_matrix_unchecked(q), upper / upper[(2, 2)])
}
