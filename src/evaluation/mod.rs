//! Camera poses compared with a reference: relative poses of image pairs, and trajectories.
//!
//! With world-to-camera poses `R`, `t` of images a and b, their relative pose is `R_b R_a^T` and
//! `t_b - R_b R_a^T t_a`. Its **rotation error** is the angle of the rotation between estimate and
//! reference, `acos((trace(R_est R_ref^T) - 1) / 2)`, and its **direction error** the angle between
//! both translations; scale does not count. The **pose error** of a pair is the larger one, and 180
//! degrees where an image of it has no estimated pose.
//!
//! **AUC@t** is the area below the share of pairs whose pose error is at most x, for x from 0 to t
//! degrees, over t: with the errors sorted, the trapezoidal rule through (0, 0) and (e_i, i / n),
//! level from the last error below t on, as SuperGlue and the works after it have it.
//!
//! The **absolute trajectory error** is the distance of camera centres after the similarity that
//! takes the estimate nearest to the reference, by least squares (Umeyama 1991) or robustly, by the
//! sum of distances.

mod cameras;
mod plot;

use nalgebra::{Isometry3, Matrix3, Point3, Similarity3, Translation3, UnitQuaternion, Vector3};

use crate::error::{Error, Result, Visible};
use crate::geometry::procrustes::{
    Correspondence, nearest_rotation, robust_similarity, similarity,
};

pub use cameras::Cameras;
pub use plot::{PlotLabels, write_plot};

/// The thresholds of [`Evaluation::auc`], degrees.
pub const AUC_DEGREES: [f64; 4] = [5.0, 10.0, 20.0, 30.0];
/// The pose error of a pair of which an image has no estimated pose, degrees.
pub const UNREGISTERED_DEGREES: f64 = 180.0;
/// Rounds of reweighting of a robust similarity.
const ROBUST_ROUNDS: usize = 30;

/// How trajectories are brought together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrajectoryFit {
    /// The least sum of squared distances.
    #[default]
    LeastSquares,
    /// The least sum of distances: a few wrong cameras do not matter.
    Robust,
}

/// What became of the comparison.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Of the reference's images, in its order.
    pub images: Vec<ImageErrors>,
    /// Of all pairs of them, in the order of their indices.
    pub pairs: Vec<PairErrors>,
    /// Of camera centres, where three images or more have poses in different places.
    pub trajectory: Option<TrajectoryErrors>,
    /// Images of the estimate that the reference does not have.
    pub unknown: Vec<String>,
}

/// An image of the reference.
#[derive(Clone, Debug)]
pub struct ImageErrors {
    /// Its name in the reference.
    pub name: String,
    /// Whether the estimate lists it.
    pub is_listed: bool,
    /// Camera to world, of the reference.
    pub reference: Isometry3<f64>,
    /// Camera to world, of the estimate; `None` if it is not registered.
    pub estimate: Option<Isometry3<f64>>,
    /// Angle to the reference's orientation, degrees, after the rotation of the world that brings
    /// all orientations nearest (the chordal mean).
    pub rotation: Option<f64>,
    /// Distance of the camera centre after [`TrajectoryErrors::similarity`], in the reference's
    /// units.
    pub centre: Option<f64>,
    /// Horizontal focal lengths of estimate and reference, pixels of the reference.
    pub focals: Option<[f64; 2]>,
    /// Median pose error of the pairs with it, degrees.
    pub pose: Option<f64>,
}

/// The errors of the relative pose of two images of the reference, degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairErrors {
    /// Their indices in [`Evaluation::images`].
    pub images: [usize; 2],
    /// Of the rotation.
    pub rotation: f64,
    /// Of the translation's direction.
    pub direction: f64,
}

/// Errors of camera centres in the reference's units.
#[derive(Clone, Copy, Debug)]
pub struct TrajectoryErrors {
    /// Takes the estimate's world to the reference's.
    pub similarity: Similarity3<f64>,
    /// Whether the similarity's rotation is that of the orientations, because the centres of the
    /// estimate or of the reference lie on a line.
    pub is_on_a_line: bool,
    /// Root of the mean squared distance.
    pub rmse: f64,
    /// Mean distance.
    pub mean: f64,
    /// Median distance.
    pub median: f64,
    /// Largest distance.
    pub max: f64,
    /// The largest distance of two reference centres, for comparison.
    pub extent: f64,
}

impl PairErrors {
    /// The larger one, the pose error.
    pub fn pose(&self) -> f64 {
        self.rotation.max(self.direction)
    }
}

impl Evaluation {
    /// Compares `estimate` with `reference`.
    ///
    /// Images of a reference that are not in the estimate count as unregistered; of a reference by
    /// time, a trajectory, only the poses of the estimate's images count.
    ///
    /// # Errors
    /// [`Error::Input`] if the reference has fewer than two poses, no image is in both, or names fit
    /// several images alike.
    pub fn new(estimate: &Cameras, reference: &Cameras, fit: TrajectoryFit) -> Result<Self> {
        let found = reference.find_in(estimate)?;
        if found.iter().all(Option::is_none) {
            let name = |cameras: &Cameras| match cameras.images.first() {
                Some(image) => format!("{} images such as {}", cameras.len(), Visible(&image.name)),
                None => "no image".into(),
            };
            return Err(Error::input(
                estimate.path(),
                format!(
                    "no image of it is in {}: it lists {}, and that {}",
                    reference.path().display(),
                    name(estimate),
                    name(reference)
                ),
            ));
        }
        let mut images = Vec::new();
        for (of, found) in reference.images.iter().zip(&found) {
            let Some(pose) = of.world_from_camera else {
                continue;
            };
            if found.is_none() && reference.is_trajectory() {
                continue;
            }
            let own = found.map(|at| &estimate.images[at]);
            images.push(ImageErrors {
                name: of.name.clone(),
                is_listed: own.is_some(),
                reference: pose,
                estimate: own.and_then(|own| own.world_from_camera),
                rotation: None,
                centre: None,
                focals: own.and_then(|own| own.focals(of)),
                pose: None,
            });
        }
        if images.len() < 2 {
            let count = images.len();
            return Err(Error::input(
                reference.path(),
                format!("a comparison needs the poses of two images; it has {count}"),
            ));
        }
        let unknown = (0..estimate.len())
            .filter(|at| !found.contains(&Some(*at)))
            .map(|at| estimate.images[at].name.clone())
            .collect();
        let pairs = pair_errors(&images);
        let trajectory = trajectory_errors(&mut images, fit);
        rotation_errors(&mut images);
        for (index, image) in images.iter_mut().enumerate() {
            let of_image = pairs
                .iter()
                .filter(|pair| pair.images.contains(&index))
                .map(PairErrors::pose);
            image.pose = crate::geometry::median(of_image);
        }
        Ok(Self {
            images,
            pairs,
            trajectory,
            unknown,
        })
    }

    /// Images of the reference that the estimate has poses of.
    pub fn registered(&self) -> usize {
        self.images
            .iter()
            .filter(|image| image.estimate.is_some())
            .count()
    }

    /// AUC of all pairs at [`AUC_DEGREES`], from 0 to 1.
    pub fn auc(&self) -> [f64; 4] {
        let errors = self.sorted_errors(|_| true);
        AUC_DEGREES.map(|limit| auc(&errors, limit))
    }

    /// The same of the pairs whose images both are registered.
    pub fn auc_registered(&self) -> [f64; 4] {
        let errors = self.sorted_errors(|pair| self.is_registered(pair));
        AUC_DEGREES.map(|limit| auc(&errors, limit))
    }

    /// Median rotation and direction errors of the pairs whose images both are registered, degrees.
    pub fn medians(&self) -> Option<[f64; 2]> {
        let pairs = || self.pairs.iter().filter(|pair| self.is_registered(pair));
        Some([
            crate::geometry::median(pairs().map(|pair| pair.rotation))?,
            crate::geometry::median(pairs().map(|pair| pair.direction))?,
        ])
    }

    /// Median relative focal length error.
    pub fn focal(&self) -> Option<f64> {
        crate::geometry::median(self.images.iter().filter_map(ImageErrors::focal))
    }

    /// Pose errors of the pairs that `counts`, ascending.
    pub fn sorted_errors(&self, counts: impl Fn(&PairErrors) -> bool) -> Vec<f64> {
        let mut errors: Vec<f64> = self
            .pairs
            .iter()
            .filter(|pair| counts(pair))
            .map(PairErrors::pose)
            .collect();
        errors.sort_by(f64::total_cmp);
        errors
    }

    fn is_registered(&self, pair: &PairErrors) -> bool {
        pair.images
            .iter()
            .all(|image| self.images[*image].estimate.is_some())
    }
}

impl ImageErrors {
    /// Relative focal length error, where both are known.
    pub fn focal(&self) -> Option<f64> {
        self.focals.map(|[own, of]| (own / of - 1.0).abs())
    }
}

/// The area below the cumulative curve of `errors`, which ascend, up to `limit`, over `limit`; see
/// the module's documentation.
pub fn auc(errors: &[f64], limit: f64) -> f64 {
    let count = errors.len() as f64;
    let (mut area, mut last) = (0.0, (0.0, 0.0));
    for (index, error) in errors
        .iter()
        .take_while(|error| **error < limit)
        .enumerate()
    {
        let next = (*error, (index + 1) as f64 / count);
        area += (next.0 - last.0) * (next.1 + last.1) / 2.0;
        last = next;
    }
    (area + (limit - last.0) * last.1) / limit
}

fn pair_errors(images: &[ImageErrors]) -> Vec<PairErrors> {
    // Camera from world.
    let poses: Vec<_> = images
        .iter()
        .map(|image| {
            (
                image.reference.inverse(),
                image.estimate.map(|pose| pose.inverse()),
            )
        })
        .collect();
    let mut pairs = Vec::with_capacity(images.len() * (images.len() - 1) / 2);
    for (b, second) in poses.iter().enumerate() {
        for (a, first) in poses[..b].iter().enumerate() {
            let (rotation, direction) = match (first.1, second.1) {
                (Some(one), Some(two)) => {
                    let found = two * one.inverse();
                    let wanted = second.0 * first.0.inverse();
                    (
                        found.rotation.angle_to(&wanted.rotation).to_degrees(),
                        between(&found.translation.vector, &wanted.translation.vector),
                    )
                }
                _ => (UNREGISTERED_DEGREES, UNREGISTERED_DEGREES),
            };
            pairs.push(PairErrors {
                images: [a, b],
                rotation,
                direction,
            });
        }
    }
    pairs.sort_by_key(|pair| pair.images);
    pairs
}

/// The angle between two vectors, degrees; 90 where one of them is zero.
fn between(one: &Vector3<f64>, two: &Vector3<f64>) -> f64 {
    let lengths = (one.norm() * two.norm()).max(1e-12);
    (one.dot(two) / lengths)
        .clamp(-1.0, 1.0)
        .acos()
        .to_degrees()
}

fn centre(pose: &Isometry3<f64>) -> Vector3<f64> {
    pose.translation.vector
}

/// Sets the errors of camera centres.
fn trajectory_errors(images: &mut [ImageErrors], fit: TrajectoryFit) -> Option<TrajectoryErrors> {
    let pairs: Vec<Correspondence> = images
        .iter()
        .filter_map(|image| {
            Some(Correspondence {
                from: centre(&image.estimate?).into(),
                to: centre(&image.reference).into(),
                weight: 1.0,
            })
        })
        .collect();
    if pairs.len() < 3 {
        return None;
    }
    let found = match fit {
        TrajectoryFit::LeastSquares => similarity(&pairs),
        TrajectoryFit::Robust => robust_similarity(&pairs, ROBUST_ROUNDS),
    };
    let is_on_a_line = found.is_none();
    let similarity = found.or_else(|| similarity_of_orientations(images, &pairs))?;
    for image in images.iter_mut() {
        image.centre = image.estimate.map(|pose| {
            let moved = similarity * Point3::from(centre(&pose));
            (moved.coords - centre(&image.reference)).norm()
        });
    }
    let errors = || images.iter().filter_map(|image| image.centre);
    let count = pairs.len() as f64;
    let gaps = pairs
        .iter()
        .enumerate()
        .flat_map(|(at, one)| pairs[..at].iter().map(|two| (one.to - two.to).norm()));
    Some(TrajectoryErrors {
        similarity,
        is_on_a_line,
        rmse: (errors().map(|error| error * error).sum::<f64>() / count).sqrt(),
        mean: errors().sum::<f64>() / count,
        median: crate::geometry::median(errors())?,
        max: errors().fold(0.0, f64::max),
        extent: gaps.fold(0.0, f64::max),
    })
}

/// The similarity whose rotation is that of the orientations, and whose scale and translation are
/// those of least squared distance.
fn similarity_of_orientations(
    images: &[ImageErrors],
    pairs: &[Correspondence],
) -> Option<Similarity3<f64>> {
    let turn = mean_rotation(images)?;
    let count = pairs.len() as f64;
    let mean = |point: fn(&Correspondence) -> Point3<f64>| {
        pairs.iter().fold(Vector3::zeros(), |sum, pair| {
            sum + point(pair).coords / count
        })
    };
    let (from, to) = (mean(|pair| pair.from), mean(|pair| pair.to));
    let (mut along, mut spread) = (0.0, 0.0);
    for pair in pairs {
        let start = turn * (pair.from.coords - from);
        along += start.dot(&(pair.to.coords - to));
        spread += start.norm_squared();
    }
    let scale = along / spread;
    (scale.is_finite() && scale > 0.0).then(|| {
        let shift = Translation3::from(to - turn * from * scale);
        Similarity3::from_parts(shift, turn, scale)
    })
}

/// The rotation of the world that brings the estimate's orientations nearest to the reference's.
fn mean_rotation(images: &[ImageErrors]) -> Option<UnitQuaternion<f64>> {
    let sum = images.iter().fold(Matrix3::zeros(), |sum, image| {
        let Some(estimate) = image.estimate else {
            return sum;
        };
        let turn = image.reference.rotation * estimate.rotation.inverse();
        sum + turn.to_rotation_matrix().into_inner()
    });
    nearest_rotation(sum)
}

/// Sets the errors of orientations.
fn rotation_errors(images: &mut [ImageErrors]) {
    let Some(turn) = mean_rotation(images) else {
        return;
    };
    for image in images {
        image.rotation = image.estimate.map(|pose| {
            (turn * pose.rotation)
                .angle_to(&image.reference.rotation)
                .to_degrees()
        });
    }
}

#[cfg(test)]
mod tests;
