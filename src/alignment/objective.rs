//! What the unknowns of an alignment have to fulfil.
//!
//! A match of two views says twice that the point behind a pixel of one view, its *owner*, is seen
//! at a pixel of the other. The point lies at the depth of the owner's canonical map, times the
//! owner's scale, times a correction that the pixels of a block share:
//!
//! ```text
//! D = exp(log scale + correction) canonical depth
//! a = R_owner D ((pixel - principal point) / f_owner, 1)
//! v = a + c_owner - c_other
//! y = transpose(R_other) v
//! errors = f_other (y_x, y_y) / y_z + principal point - pixel seen,
//!          log y_z - canonical log depth of the pixel seen - log scale of the other
//! ```
//!
//! The second error is what holds the cameras together along the viewing direction, where the first
//! says little. What the network says about depths, focal lengths and poses enters as weak
//! residuals. Errors are in sigmas and robust.
//!
//! [`observation`](super::observation) has the errors of matches and their derivatives,
//! [`priors`](super::priors) those of everything else, and [`equations`](super::equations) makes
//! normal equations of them.

use nalgebra::{SMatrix, SVector, UnitQuaternion, Vector2, Vector3};

use super::pair_fit::PosePrior;
use crate::geometry::pnp::cauchy;

/// Unknowns of a view: rotation in the world (0 to 2), centre (3 to 5), log focal, log scale,
/// principal point (8, 9).
pub(super) const UNKNOWNS: usize = 10;
/// Where the log focal is.
pub(super) const FOCAL: usize = 6;
/// Where the log scale is.
pub(super) const SCALE: usize = 7;
/// Where the principal point begins; it comes last, so that without it the others stay where they
/// are.
pub(super) const PRINCIPAL: usize = 8;

pub(super) type Row = SVector<f64, UNKNOWNS>;
pub(super) type Square = SMatrix<f64, UNKNOWNS, UNKNOWNS>;

/// Width of the robust error of everything but matches, in sigmas.
pub(super) const PRIOR_WIDTH: f64 = 2.0;

/// A pixel's point is seen in another view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// The other view's place in the owner's list of neighbours.
    pub neighbour: u32,
    /// The block of the owner's pixel.
    pub block: u32,
    /// The owner's pixel, relative to its middle.
    pub pixel: Vector2<f64>,
    /// Canonical depth of the owner's pixel.
    pub depth: f64,
    /// Relative to the other view's middle.
    pub seen: Vector2<f64>,
    /// Canonical, of the pixel seen; NaN where unknown.
    pub seen_log_depth: f64,
    /// Above 0.
    pub weight: f64,
}

/// A view that sees points of another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    pub view: usize,
    /// The pair that says so.
    pub pair: usize,
}

/// What is known of one view.
#[derive(Clone, Debug, Default)]
pub(super) struct ViewEvidence {
    /// By neighbour, then by block, ascending.
    pub observations: Vec<Observation>,
    /// The other views of the observations.
    pub neighbours: Vec<Neighbour>,
    /// Logarithms of the focal lengths that are expected, each with its expected error.
    pub log_focals: Vec<[f64; 2]>,
    /// Expected size of each block's correction.
    pub block_sigmas: Vec<f64>,
    /// Median depth, canonical.
    pub median_depth: f64,
    /// Expected distance of the principal point from the middle, pixels per axis.
    pub principal_px: f64,
}

/// Expected errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sigmas {
    /// Of a match, per axis.
    pub match_px: f64,
    /// Of a depth that a canonical map speaks for where a match was seen, relative.
    pub seen_depth: f64,
    /// Of a pose found from a map, radians.
    pub rotation: f64,
    /// The same for its translation, over the median depth.
    pub translation: f64,
}

/// Everything that is known.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub views: Vec<ViewEvidence>,
    pub poses: Vec<PosePrior>,
    pub sigmas: Sigmas,
    /// For each unknown of each view its place in the system; `None` if it is fixed. Unknowns may
    /// share a place.
    pub places: Vec<[Option<usize>; UNKNOWNS]>,
}

/// The unknowns.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub views: Vec<ViewState>,
}

/// The unknowns of one view.
#[derive(Clone, Debug)]
pub(super) struct ViewState {
    /// World from camera.
    pub rotation: UnitQuaternion<f64>,
    pub centre: Vector3<f64>,
    pub log_focal: f64,
    /// Logarithm of world units per canonical unit.
    pub log_scale: f64,
    /// Relative to the middle, pixels.
    pub principal: Vector2<f64>,
    /// Of each block's log depth.
    pub corrections: Vec<f64>,
}

/// How errors count, with a width in sigmas.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// Grows on and on, ever more slowly, so that what is far off still finds its way.
    Cauchy(f64),
    /// Levels off, so that what is far off has no say: many wrong matches do not pull, even if all
    /// do so in one direction.
    GemanMcClure(f64),
}

impl Loss {
    /// The loss of a squared error, and the weight of its least squares counterpart.
    pub fn of(self, squared: f64) -> (f64, f64) {
        match self {
            Self::Cauchy(width) => cauchy(squared, width),
            Self::GemanMcClure(width) => {
                let share = 1.0 / (1.0 + squared / (width * width));
                (0.5 * squared * share, share * share)
            }
        }
    }
}

impl Problem {
    /// Number of unknowns but for corrections.
    pub fn size(&self) -> usize {
        self.places
            .iter()
            .flatten()
            .flatten()
            .max()
            .map_or(0, |last| last + 1)
    }

    /// Unknowns of a view that are looked at: all, or all but the principal point where every one
    /// is fixed.
    pub fn width(&self) -> usize {
        let frees =
            |places: &[Option<usize>; UNKNOWNS]| places[PRINCIPAL..].iter().any(Option::is_some);
        if self.places.iter().any(frees) {
            UNKNOWNS
        } else {
            PRINCIPAL
        }
    }
}

impl ViewState {
    /// The state after a step in its unknowns; corrections stay.
    pub fn moved(&self, step: &Row) -> Self {
        let turn = UnitQuaternion::from_scaled_axis(step.fixed_rows::<3>(0).into_owned());
        Self {
            rotation: UnitQuaternion::new_normalize((turn * self.rotation).into_inner()),
            centre: self.centre + step.fixed_rows::<3>(3),
            log_focal: self.log_focal + step[FOCAL],
            log_scale: self.log_scale + step[SCALE],
            principal: self.principal + step.fixed_rows::<2>(PRINCIPAL),
            corrections: self.corrections.clone(),
        }
    }
}
