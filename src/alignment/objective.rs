//! What the unknowns of an alignment have to fulfil, and its normal equations.
//!
//! A match of two views says twice that the point behind a pixel of one view, its *owner*, is seen at a pixel of the
//! other. The point lies at the depth of the owner's canonical map, times the owner's scale, times a correction that the
//! pixels of a block share:
//!
//! ```text
//! D = exp(canonical log depth + log scale + correction)
//! a = R_owner D ((pixel - middle) / f_owner, 1)
//! v = a + c_owner - c_other
//! y = transpose(R_other) v
//! error = f_other (y_x, y_y) / y_z + middle - pixel seen
//! ```
//!
//! So an error depends on two cameras and on one correction, corrections do not meet in any error, and their part of the
//! normal equations is diagonal: all of them are eliminated in one pass (Schur complement). What the network says about
//! depths, focal lengths and poses enters as weak residuals. Errors are in sigmas and robust.

use nalgebra::{DMatrix, DVector, Matrix3, SMatrix, SVector, UnitQuaternion, Vector2, Vector3};
use rayon::prelude::*;

use super::pair_fit::PosePrior;
use crate::geometry::pnp::cauchy;

/// Unknowns of a view: rotation in the world (0 to 2), centre (3 to 5), log focal, log scale.
pub(super) const UNKNOWNS: usize = 8;
/// Where the log focal is.
pub(super) const FOCAL: usize = 6;
/// Where the log scale is.
pub(super) const SCALE: usize = 7;

type Row = SVector<f64, UNKNOWNS>;
type Square = SMatrix<f64, UNKNOWNS, UNKNOWNS>;
type PixelRows = SMatrix<f64, 2, UNKNOWNS>;
type PoseRows = SMatrix<f64, 6, UNKNOWNS>;

/// Width of the robust error of everything but matches, in sigmas.
const PRIOR_WIDTH: f64 = 2.0;
/// Points nearer to a camera's plane than this share of their distance, or behind it, cannot be projected.
const LEAST_DEPTH: f64 = 1e-3;
/// What a match costs whose point cannot be projected, as a squared error in sigmas: as dear as a hopeless one, so that
/// no step gains by putting points behind a camera.
const HOPELESS: f64 = 1e6;
/// Views whose equations are held at a time.
const CHUNK: usize = 16;

/// A pixel's point is seen in another view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    /// The block of the owner's pixel.
    pub block: usize,
    /// The owner's pixel, relative to its middle.
    pub pixel: Vector2<f64>,
    /// Canonical, of the owner's pixel.
    pub log_depth: f64,
    /// The other view's place in the owner's list of neighbours.
    pub neighbour: usize,
    /// Relative to the other view's middle.
    pub seen: Vector2<f64>,
    /// Above 0.
    pub weight: f64,
    /// The pair that it comes from.
    pub pair: usize,
}

/// What is known of one view.
#[derive(Clone, Debug, Default)]
pub(super) struct ViewEvidence {
    /// By block, ascending.
    pub sightings: Vec<Sighting>,
    /// The other views of the sightings.
    pub neighbours: Vec<usize>,
    /// Logarithms of the focal lengths that its maps speak for.
    pub log_focals: Vec<f64>,
    /// Expected size of each block's correction.
    pub block_sigmas: Vec<f64>,
    /// Median depth, canonical.
    pub median_depth: f64,
}

/// Expected errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sigmas {
    /// Of a match, per axis.
    pub match_px: f64,
    /// Of a focal length that one map speaks for, relative.
    pub focal: f64,
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
    /// For each unknown of each view its place in the system; `None` if it is fixed. Unknowns may share a place.
    pub places: Vec<[Option<usize>; UNKNOWNS]>,
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
    /// Of each block's log depth.
    pub corrections: Vec<f64>,
}

/// One correction's part of the equations: its own curvature and gradient, and what ties it to the cameras.
#[derive(Clone, Debug)]
struct BlockEquation {
    block: usize,
    curvature: f64,
    gradient: f64,
    /// By place in the list of the owner (0) and its neighbours (from 1).
    mixed: Vec<(usize, Row)>,
}

/// The normal equations at a state. Corrections are eliminated: with every diagonal raised by a share `damping`, their
/// part of the reduced system shrinks as a whole, so a new damping costs nothing.
#[derive(Debug)]
pub(super) struct Equations {
    pub cost: f64,
    pub matrix: DMatrix<f64>,
    pub gradient: DVector<f64>,
    eliminated_matrix: DMatrix<f64>,
    eliminated_gradient: DVector<f64>,
    blocks: Vec<Vec<BlockEquation>>,
}

/// One view's share of the equations, over itself and its neighbours.
struct Share {
    cost: f64,
    matrix: DMatrix<f64>,
    gradient: DVector<f64>,
    eliminated_matrix: DMatrix<f64>,
    eliminated_gradient: DVector<f64>,
    blocks: Vec<BlockEquation>,
}

impl Problem {
    /// Number of unknowns but for corrections.
    pub fn size(&self) -> usize {
        self.places.iter().flatten().flatten().max().map_or(0, |last| last + 1)
    }

    /// The normal equations; `width` is that of the robust error of matches, in sigmas.
    pub fn equations(&self, state: &[ViewState], width: f64) -> Equations {
        let size = self.size();
        let mut equations = Equations {
            cost: 0.0,
            matrix: DMatrix::zeros(size, size),
            gradient: DVector::zeros(size),
            eliminated_matrix: DMatrix::zeros(size, size),
            eliminated_gradient: DVector::zeros(size),
            blocks: Vec::with_capacity(self.views.len()),
        };
        let views: Vec<usize> = (0..self.views.len()).collect();
        for chunk in views.chunks(CHUNK) {
            let shares: Vec<Share> = chunk.par_iter().map(|&view| self.share(view, state, width)).collect();
            // In order, so that the sums do not depend on the number of threads.
            for (&view, share) in chunk.iter().zip(shares) {
                let places = self.local_places(view);
                equations.cost += share.cost;
                scatter(&share.matrix, &places, &mut equations.matrix);
                scatter(&share.eliminated_matrix, &places, &mut equations.eliminated_matrix);
                for (local, place) in places.iter().enumerate() {
                    if let Some(place) = *place {
                        equations.gradient[place] += share.gradient[local];
                        equations.eliminated_gradient[place] += share.eliminated_gradient[local];
                    }
                }
                equations.blocks.push(share.blocks);
            }
        }
        self.add_focals(state, &mut equations);
        self.poses.iter().for_each(|prior| self.add_pose(prior, state, &mut equations));
        equations
    }

    /// The state after a damped step; `None` if the system is singular.
    pub fn step(&self, equations: &Equations, state: &[ViewState], damping: f64) -> Option<Vec<ViewState>> {
        let share = 1.0 / (1.0 + damping);
        let mut matrix = &equations.matrix - &equations.eliminated_matrix * share;
        for place in 0..matrix.nrows() {
            matrix[(place, place)] += damping * equations.matrix[(place, place)];
        }
        let gradient = &equations.gradient - &equations.eliminated_gradient * share;
        let step = -matrix.cholesky()?.solve(&gradient);
        if !step.iter().all(|value| value.is_finite()) {
            return None;
        }
        let steps: Vec<Row> = self
            .places
            .iter()
            .map(|places| Row::from_fn(|unknown, _| places[unknown].map_or(0.0, |place| step[place])))
            .collect();
        let moved = |(view, (old, blocks)): (usize, (&ViewState, &Vec<BlockEquation>))| {
            let mut new = old.clone();
            for block in blocks {
                let pull: f64 =
                    block.mixed.iter().map(|(local, row)| row.dot(&steps[self.local_view(view, *local)])).sum();
                new.corrections[block.block] -= (block.gradient + pull) * share / block.curvature;
            }
            let step = &steps[view];
            let turn = UnitQuaternion::from_scaled_axis(step.fixed_rows::<3>(0).into_owned());
            new.rotation = UnitQuaternion::new_normalize((turn * old.rotation).into_inner());
            new.centre += step.fixed_rows::<3>(3);
            new.log_focal += step[FOCAL];
            new.log_scale += step[SCALE];
            new
        };
        Some(state.iter().zip(&equations.blocks).enumerate().map(moved).collect())
    }

    /// Where the points of a view's sightings are seen and where they should be: the distance in pixels for each;
    /// infinite where the point cannot be projected.
    pub fn reprojection_errors(&self, view: usize, state: &[ViewState]) -> Vec<f64> {
        let sightings = &self.views[view].sightings;
        let errors = sightings.iter().map(|sighting| match self.project(view, sighting, state) {
            Some(projected) => (projected.seen - sighting.seen).norm(),
            None => f64::INFINITY,
        });
        errors.collect()
    }

    fn local_view(&self, view: usize, local: usize) -> usize {
        if local == 0 { view } else { self.views[view].neighbours[local - 1] }
    }

    fn local_places(&self, view: usize) -> Vec<Option<usize>> {
        let locals = 0..=self.views[view].neighbours.len();
        locals.flat_map(|local| self.places[self.local_view(view, local)]).collect()
    }

    fn project(&self, view: usize, sighting: &Sighting, state: &[ViewState]) -> Option<Projected> {
        let (owner, other) = (&state[view], &state[self.views[view].neighbours[sighting.neighbour]]);
        let depth = (sighting.log_depth + owner.log_scale + owner.corrections[sighting.block]).exp();
        let (owner_focal, other_focal) = (owner.log_focal.exp(), other.log_focal.exp());
        let aside = owner.rotation * (sighting.pixel / owner_focal * depth).push(0.0);
        let arm = aside + owner.rotation * Vector3::z() * depth;
        let apart = arm + owner.centre - other.centre;
        let other_from_world = other.rotation.inverse().to_rotation_matrix().into_inner();
        let point = other_from_world * apart;
        if point.z.is_nan() || point.z <= LEAST_DEPTH * apart.norm() {
            return None;
        }
        let seen = point.xy() * (other_focal / point.z);
        let scale = other_focal / point.z;
        let by_point =
            SMatrix::<f64, 2, 3>::new(scale, 0.0, -seen.x / point.z, 0.0, scale, -seen.y / point.z) * other_from_world;
        Some(Projected { seen, by_point, arm, apart, aside })
    }

    fn share(&self, view: usize, state: &[ViewState], width: f64) -> Share {
        let evidence = &self.views[view];
        let size = UNKNOWNS * (1 + evidence.neighbours.len());
        let mut share = Share {
            cost: 0.0,
            matrix: DMatrix::zeros(size, size),
            gradient: DVector::zeros(size),
            eliminated_matrix: DMatrix::zeros(size, size),
            eliminated_gradient: DVector::zeros(size),
            blocks: Vec::new(),
        };
        for sightings in evidence.sightings.chunk_by(|a, b| a.block == b.block) {
            let block = sightings[0].block;
            let sigma = evidence.block_sigmas[block];
            let error = state[view].corrections[block] / sigma;
            let (loss, weight) = cauchy(error * error, PRIOR_WIDTH);
            share.cost += loss;
            let mut equation = BlockEquation {
                block,
                curvature: weight / (sigma * sigma),
                gradient: weight * error / sigma,
                mixed: vec![(0, Row::zeros())],
            };
            for sighting in sightings {
                self.add_sighting(view, sighting, state, width, &mut share, &mut equation);
            }
            share.eliminate(&equation);
            share.blocks.push(equation);
        }
        share
    }

    fn add_sighting(
        &self,
        view: usize,
        sighting: &Sighting,
        state: &[ViewState],
        width: f64,
        share: &mut Share,
        equation: &mut BlockEquation,
    ) {
        let sigma = self.sigmas.match_px;
        let Some(projected) = self.project(view, sighting, state) else {
            share.cost += sighting.weight * cauchy(HOPELESS, width).0;
            return;
        };
        let error = (projected.seen - sighting.seen) / sigma;
        let (loss, weight) = cauchy(error.norm_squared(), width);
        let weight = weight * sighting.weight;
        share.cost += sighting.weight * loss;

        let (owner, other) = projected.derivatives();
        let (owner, other) = (owner / sigma, other / sigma);
        let by_correction = owner.column(SCALE).into_owned();
        let local = 1 + sighting.neighbour;
        add_block(&mut share.matrix, 0, 0, &(owner.tr_mul(&owner) * weight));
        add_block(&mut share.matrix, 0, local, &(owner.tr_mul(&other) * weight));
        add_block(&mut share.matrix, local, local, &(other.tr_mul(&other) * weight));
        let (to_owner, to_other) = (owner.tr_mul(&error) * weight, other.tr_mul(&error) * weight);
        share.gradient.fixed_rows_mut::<UNKNOWNS>(0).zip_apply(&to_owner, |sum, value| *sum += value);
        share.gradient.fixed_rows_mut::<UNKNOWNS>(local * UNKNOWNS).zip_apply(&to_other, |sum, value| *sum += value);
        equation.curvature += weight * by_correction.norm_squared();
        equation.gradient += weight * by_correction.dot(&error);
        equation.mixed[0].1 += owner.tr_mul(&by_correction) * weight;
        let mixed = other.tr_mul(&by_correction) * weight;
        match equation.mixed.iter_mut().skip(1).find(|(known, _)| *known == local) {
            Some((_, row)) => *row += mixed,
            None => equation.mixed.push((local, mixed)),
        }
    }

    /// Focal lengths against those that the maps speak for.
    fn add_focals(&self, state: &[ViewState], equations: &mut Equations) {
        let sigma = self.sigmas.focal;
        for ((evidence, view), places) in self.views.iter().zip(state).zip(&self.places) {
            for wanted in &evidence.log_focals {
                let error = (view.log_focal - wanted) / sigma;
                let (loss, weight) = cauchy(error * error, PRIOR_WIDTH);
                equations.cost += loss;
                if let Some(place) = places[FOCAL] {
                    equations.matrix[(place, place)] += weight / (sigma * sigma);
                    equations.gradient[place] += weight * error / sigma;
                }
            }
        }
    }

    /// Two poses against what a decode has of them.
    fn add_pose(&self, prior: &PosePrior, state: &[ViewState], equations: &mut Equations) {
        let (errors, base, seen) = self.pose_residual(prior, state);
        // One robust weight for the whole pose: a wrong one is wrong altogether.
        let (loss, weight) = cauchy(errors.norm_squared(), PRIOR_WIDTH * 6f64.sqrt());
        equations.cost += loss;
        let places = [self.places[prior.base], self.places[prior.seen]];
        let rows = [base, seen];
        for (places_a, rows_a) in places.iter().zip(&rows) {
            let gradient = rows_a.tr_mul(&errors) * weight;
            for (place, value) in places_a.iter().zip(gradient.iter()) {
                if let Some(place) = *place {
                    equations.gradient[place] += value;
                }
            }
            for (places_b, rows_b) in places.iter().zip(&rows) {
                let block = rows_a.tr_mul(rows_b) * weight;
                for (a, place_a) in places_a.iter().enumerate() {
                    for (b, place_b) in places_b.iter().enumerate() {
                        if let (Some(place_a), Some(place_b)) = (*place_a, *place_b) {
                            equations.matrix[(place_a, place_b)] += block[(a, b)];
                        }
                    }
                }
            }
        }
    }

    /// Rotation and translation, in sigmas, with their derivatives by the base and by the seen view. That of the
    /// rotation is to first order in the error itself.
    fn pose_residual(&self, prior: &PosePrior, state: &[ViewState]) -> (SVector<f64, 6>, PoseRows, PoseRows) {
        let (base, seen) = (&state[prior.base], &state[prior.seen]);
        let rotation = self.sigmas.rotation;
        let unit = self.sigmas.translation * self.views[prior.base].median_depth;
        let seen_from_world = seen.rotation.inverse().to_rotation_matrix().into_inner();
        let base_from_world = base.rotation.inverse().to_rotation_matrix().into_inner();
        let turn = (seen.rotation.inverse() * base.rotation * prior.seen_from_base.rotation.inverse()).scaled_axis();
        // The seen camera's centre in the base's frame and canonical units.
        let shrink = (-base.log_scale).exp();
        let apart = seen.centre - base.centre;
        let centre = base_from_world * apart * shrink;
        let wanted = prior.seen_from_base.inverse().translation.vector;
        let mut errors = SVector::<f64, 6>::zeros();
        errors.fixed_rows_mut::<3>(0).copy_from(&(turn / rotation));
        errors.fixed_rows_mut::<3>(3).copy_from(&((centre - wanted) / unit));
        let (mut by_base, mut by_seen) = (PoseRows::zeros(), PoseRows::zeros());
        let by_rotation = seen_from_world / rotation;
        by_base.fixed_view_mut::<3, 3>(0, 0).copy_from(&by_rotation);
        by_seen.fixed_view_mut::<3, 3>(0, 0).copy_from(&-by_rotation);
        let by_centre: Matrix3<f64> = base_from_world * (shrink / unit);
        by_base.fixed_view_mut::<3, 3>(3, 0).copy_from(&(by_centre * apart.cross_matrix()));
        by_base.fixed_view_mut::<3, 3>(3, 3).copy_from(&-by_centre);
        by_base.fixed_view_mut::<3, 1>(3, SCALE).copy_from(&(-centre / unit));
        by_seen.fixed_view_mut::<3, 3>(3, 3).copy_from(&by_centre);
        (errors, by_base, by_seen)
    }
}

/// A sighting's point in the other view.
struct Projected {
    /// The pixel that shows it, relative to the middle.
    seen: Vector2<f64>,
    /// Its derivative by the point.
    by_point: SMatrix<f64, 2, 3>,
    /// From the owner's centre to the point, in the world, and what of it depends on the focal length.
    arm: Vector3<f64>,
    aside: Vector3<f64>,
    /// From the other centre to the point.
    apart: Vector3<f64>,
}

impl Projected {
    /// Derivatives by the unknowns of the owner and of the other view. That by a block's correction is that by the
    /// owner's log scale.
    fn derivatives(&self) -> (PixelRows, PixelRows) {
        let (mut owner, mut other) = (PixelRows::zeros(), PixelRows::zeros());
        owner.fixed_view_mut::<2, 3>(0, 0).copy_from(&(-self.by_point * self.arm.cross_matrix()));
        owner.fixed_view_mut::<2, 3>(0, 3).copy_from(&self.by_point);
        owner.fixed_view_mut::<2, 1>(0, FOCAL).copy_from(&(-self.by_point * self.aside));
        owner.fixed_view_mut::<2, 1>(0, SCALE).copy_from(&(self.by_point * self.arm));
        other.fixed_view_mut::<2, 3>(0, 0).copy_from(&(self.by_point * self.apart.cross_matrix()));
        other.fixed_view_mut::<2, 3>(0, 3).copy_from(&-self.by_point);
        other.fixed_view_mut::<2, 1>(0, FOCAL).copy_from(&self.seen);
        (owner, other)
    }
}

impl Share {
    /// Takes a correction out of the equations of the cameras.
    fn eliminate(&mut self, equation: &BlockEquation) {
        for (index, (local_a, a)) in equation.mixed.iter().enumerate() {
            let folded = a / equation.curvature;
            let to_gradient = folded * equation.gradient;
            let mut gradient = self.eliminated_gradient.fixed_rows_mut::<UNKNOWNS>(local_a * UNKNOWNS);
            gradient += to_gradient;
            for (local_b, b) in &equation.mixed[index..] {
                // The lower half stays empty, as in `matrix`.
                if local_a <= local_b {
                    add_block(&mut self.eliminated_matrix, *local_a, *local_b, &(folded * b.transpose()));
                } else {
                    add_block(&mut self.eliminated_matrix, *local_b, *local_a, &(b * folded.transpose()));
                }
            }
        }
    }
}

fn add_block(matrix: &mut DMatrix<f64>, row: usize, column: usize, block: &Square) {
    let mut view = matrix.fixed_view_mut::<UNKNOWNS, UNKNOWNS>(row * UNKNOWNS, column * UNKNOWNS);
    view += block;
}

/// Adds a symmetric matrix, whose blocks below the diagonal are left empty, to the places of its rows.
fn scatter(share: &DMatrix<f64>, places: &[Option<usize>], matrix: &mut DMatrix<f64>) {
    for (column, place_b) in places.iter().enumerate() {
        let Some(place_b) = *place_b else { continue };
        let diagonal = column / UNKNOWNS;
        for (row, place_a) in places[..(diagonal + 1) * UNKNOWNS].iter().enumerate() {
            let Some(place_a) = *place_a else { continue };
            let value = share[(row, column)];
            matrix[(place_a, place_b)] += value;
            if row / UNKNOWNS != diagonal {
                matrix[(place_b, place_a)] += value;
            }
        }
    }
}
