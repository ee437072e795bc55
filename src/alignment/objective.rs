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
//! errors = f_other (y_x, y_y) / y_z + middle - pixel seen,
//!          log y_z - canonical log depth of the pixel seen - log scale of the other
//! ```
//!
//! The second error is what holds the cameras together along the viewing direction, where the first says little. So an
//! error depends on two cameras and on one correction, corrections do not meet in any error, and their part of the
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
type MatchRows = SMatrix<f64, 3, UNKNOWNS>;
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
    /// Canonical, of the pixel seen; NaN where unknown.
    pub seen_log_depth: f64,
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
    /// Logarithm of the focal length that was probable beforehand.
    pub probable_log_focal: Option<f64>,
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
    /// Of a depth that a canonical map speaks for where a match was seen, relative.
    pub seen_depth: f64,
    /// Of a focal length that one map speaks for, relative.
    pub focal: f64,
    /// Of a focal length that was probable beforehand, relative.
    pub probable_focal: f64,
    /// Of the focal length of a picture to that of its camera, relative.
    pub zoom: f64,
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
    /// Views that are probably pictures of one camera at one zoom: each of them is held, weakly, to a focal length of
    /// the camera's.
    pub cameras: Vec<Vec<usize>>,
    /// For each unknown of each view its place in the system; `None` if it is fixed. Unknowns may share a place.
    pub places: Vec<[Option<usize>; UNKNOWNS]>,
    /// The place of each camera's log focal.
    pub camera_places: Vec<usize>,
}

/// The unknowns.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub views: Vec<ViewState>,
    /// Logarithms of the cameras' focal lengths.
    pub cameras: Vec<f64>,
}

/// How errors count, with a width in sigmas.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// Grows on and on, ever more slowly, so that what is far off still finds its way.
    Cauchy(f64),
    /// Levels off, so that what is far off has no say: many wrong matches do not pull, even if all do so in one direction.
    GemanMcClure(f64),
}

impl Loss {
    /// The loss of a squared error, and the weight of its least squares counterpart.
    fn of(self, squared: f64) -> (f64, f64) {
        match self {
            Self::Cauchy(width) => cauchy(squared, width),
            Self::GemanMcClure(width) => {
                let share = 1.0 / (1.0 + squared / (width * width));
                (0.5 * squared * share, share * share)
            }
        }
    }
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
        self.places.iter().flatten().flatten().chain(&self.camera_places).max().map_or(0, |last| last + 1)
    }

    /// The normal equations, with this loss for matches.
    pub fn equations(&self, state: &State, loss: Loss) -> Equations {
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
            let shares: Vec<Share> = chunk.par_iter().map(|&view| self.share(view, state, loss)).collect();
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
        self.add_cameras(state, &mut equations);
        self.poses.iter().for_each(|prior| self.add_pose(prior, state, &mut equations));
        equations
    }

    /// The state after a damped step; `None` if the system is singular.
    pub fn step(&self, equations: &Equations, state: &State, damping: f64) -> Option<State> {
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
        let views = state.views.iter().zip(&equations.blocks).enumerate().map(moved).collect();
        let cameras = state.cameras.iter().zip(&self.camera_places).map(|(focal, place)| focal + step[*place]);
        Some(State { views, cameras: cameras.collect() })
    }

    /// Where the points of a view's sightings are seen and where they should be: the distance in pixels for each;
    /// infinite where the point cannot be projected.
    pub fn reprojection_errors(&self, view: usize, state: &State) -> Vec<f64> {
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

    fn project(&self, view: usize, sighting: &Sighting, state: &State) -> Option<Projected> {
        let (owner, other) = (&state.views[view], &state.views[self.views[view].neighbours[sighting.neighbour]]);
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
            Matrix3::new(scale, 0.0, -seen.x / point.z, 0.0, scale, -seen.y / point.z, 0.0, 0.0, 1.0 / point.z)
                * other_from_world;
        Some(Projected { seen, log_depth: point.z.ln(), by_point, arm, apart, aside })
    }

    fn share(&self, view: usize, state: &State, loss: Loss) -> Share {
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
            let error = state.views[view].corrections[block] / sigma;
            let (cost, weight) = cauchy(error * error, PRIOR_WIDTH);
            share.cost += cost;
            let mut equation = BlockEquation {
                block,
                curvature: weight / (sigma * sigma),
                gradient: weight * error / sigma,
                mixed: vec![(0, Row::zeros())],
            };
            for sighting in sightings {
                self.add_sighting(view, sighting, state, loss, &mut share, &mut equation);
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
        state: &State,
        loss: Loss,
        share: &mut Share,
        equation: &mut BlockEquation,
    ) {
        let Some(projected) = self.project(view, sighting, state) else {
            share.cost += sighting.weight * loss.of(HOPELESS).0;
            return;
        };
        let (sigmas, other) = (&self.sigmas, &state.views[self.local_view(view, 1 + sighting.neighbour)]);
        let off = (projected.seen - sighting.seen) / sigmas.match_px;
        let deeper = (projected.log_depth - sighting.seen_log_depth - other.log_scale) / sigmas.seen_depth;
        let (deeper, depth_rows) = if deeper.is_nan() { (0.0, 0.0) } else { (deeper, 1.0 / sigmas.seen_depth) };
        // One robust weight for all three: a wrong match is wrong altogether.
        let error = Vector3::new(off.x, off.y, deeper);
        let (cost, weight) = loss.of(error.norm_squared());
        share.cost += sighting.weight * cost;
        // Its root goes into errors and rows alike, so that plain products follow.
        let root = (weight * sighting.weight).sqrt();
        let error = error * root;
        let scales = [root / sigmas.match_px, root / sigmas.match_px, root * depth_rows];
        let (mut owner, mut other) = projected.derivatives();
        for (axis, scale) in scales.into_iter().enumerate() {
            owner.row_mut(axis).scale_mut(scale);
            other.row_mut(axis).scale_mut(scale);
        }
        let by_correction = owner.column(SCALE).into_owned();
        let local = 1 + sighting.neighbour;
        add_block(&mut share.matrix, 0, 0, &owner.tr_mul(&owner));
        add_block(&mut share.matrix, 0, local, &owner.tr_mul(&other));
        add_block(&mut share.matrix, local, local, &other.tr_mul(&other));
        let (to_owner, to_other) = (owner.tr_mul(&error), other.tr_mul(&error));
        share.gradient.fixed_rows_mut::<UNKNOWNS>(0).zip_apply(&to_owner, |sum, value| *sum += value);
        share.gradient.fixed_rows_mut::<UNKNOWNS>(local * UNKNOWNS).zip_apply(&to_other, |sum, value| *sum += value);
        equation.curvature += by_correction.norm_squared();
        equation.gradient += by_correction.dot(&error);
        equation.mixed[0].1 += owner.tr_mul(&by_correction);
        let mixed = other.tr_mul(&by_correction);
        match equation.mixed.iter_mut().skip(1).find(|(known, _)| *known == local) {
            Some((_, row)) => *row += mixed,
            None => equation.mixed.push((local, mixed)),
        }
    }

    /// Focal lengths against those that the maps speak for, and against those that were probable beforehand.
    fn add_focals(&self, state: &State, equations: &mut Equations) {
        for ((evidence, view), places) in self.views.iter().zip(&state.views).zip(&self.places) {
            let by_maps = evidence.log_focals.iter().map(|wanted| (wanted, self.sigmas.focal));
            let beforehand = evidence.probable_log_focal.iter().map(|wanted| (wanted, self.sigmas.probable_focal));
            for (wanted, sigma) in by_maps.chain(beforehand) {
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

    /// Focal lengths of pictures against those of their cameras.
    fn add_cameras(&self, state: &State, equations: &mut Equations) {
        let sigma = self.sigmas.zoom;
        for ((members, focal), &camera) in self.cameras.iter().zip(&state.cameras).zip(&self.camera_places) {
            for &view in members {
                let error = (state.views[view].log_focal - focal) / sigma;
                let (loss, weight) = cauchy(error * error, PRIOR_WIDTH);
                equations.cost += loss;
                let signs = [(self.places[view][FOCAL], 1.0), (Some(camera), -1.0)];
                for (place_a, sign_a) in signs {
                    let Some(place_a) = place_a else { continue };
                    equations.gradient[place_a] += sign_a * weight * error / sigma;
                    for (place_b, sign_b) in signs {
                        let Some(place_b) = place_b else { continue };
                        equations.matrix[(place_a, place_b)] += sign_a * sign_b * weight / (sigma * sigma);
                    }
                }
            }
        }
    }

    /// Two poses against what a decode has of them.
    fn add_pose(&self, prior: &PosePrior, state: &State, equations: &mut Equations) {
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
    fn pose_residual(&self, prior: &PosePrior, state: &State) -> (SVector<f64, 6>, PoseRows, PoseRows) {
        let (base, seen) = (&state.views[prior.base], &state.views[prior.seen]);
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
    /// Along z.
    log_depth: f64,
    /// Derivatives of the three by the point.
    by_point: Matrix3<f64>,
    /// From the owner's centre to the point, in the world, and what of it depends on the focal length.
    arm: Vector3<f64>,
    aside: Vector3<f64>,
    /// From the other centre to the point.
    apart: Vector3<f64>,
}

impl Projected {
    /// Derivatives by the unknowns of the owner and of the other view, of the pixel seen and of what the log depth has
    /// more than the other view's canonical one. Those by a block's correction are those by the owner's log scale.
    fn derivatives(&self) -> (MatchRows, MatchRows) {
        let (mut owner, mut other) = (MatchRows::zeros(), MatchRows::zeros());
        owner.fixed_view_mut::<3, 3>(0, 0).copy_from(&(-self.by_point * self.arm.cross_matrix()));
        owner.fixed_view_mut::<3, 3>(0, 3).copy_from(&self.by_point);
        owner.fixed_view_mut::<3, 1>(0, FOCAL).copy_from(&(-self.by_point * self.aside));
        owner.fixed_view_mut::<3, 1>(0, SCALE).copy_from(&(self.by_point * self.arm));
        other.fixed_view_mut::<3, 3>(0, 0).copy_from(&(self.by_point * self.apart.cross_matrix()));
        other.fixed_view_mut::<3, 3>(0, 3).copy_from(&-self.by_point);
        other.fixed_view_mut::<2, 1>(0, FOCAL).copy_from(&self.seen);
        other[(2, SCALE)] = -1.0;
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

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, Similarity3};

    use super::super::optimizer::{Budget, minimise};
    use super::*;

    const LOSSES: [Loss; 2] = [Loss::Cauchy(3.0), Loss::GemanMcClure(4.0)];

    /// Numbers that look random, in -1 .. 1.
    struct Noise(u32);

    impl Noise {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(self.0 >> 8) / f64::from(1u32 << 23) - 1.0
        }

        fn vector(&mut self) -> Vector3<f64> {
            Vector3::from_fn(|_, _| self.next())
        }
    }

    fn true_state() -> State {
        let view = |index: usize| {
            let t = index as f64;
            ViewState {
                rotation: UnitQuaternion::from_scaled_axis(Vector3::new(0.1 * t, -0.2 * t, 0.05 * t)),
                centre: Vector3::new(0.8 * t, 0.1 * t * t, -0.2 * t),
                log_focal: (60.0 + 5.0 * t).ln(),
                log_scale: 0.1 * t,
                corrections: vec![0.0; 12],
            }
        };
        State { views: (0..3).map(view).collect(), cameras: vec![62f64.ln()] }
    }

    /// Three views that all see one another, and what is exactly true of them.
    fn exact_problem() -> Problem {
        let (state, mut noise) = (true_state(), Noise(7));
        let mut views = Vec::new();
        for owner in 0..3 {
            let own = &state.views[owner];
            let neighbours: Vec<usize> = (0..3).filter(|other| *other != owner).collect();
            let mut sightings = Vec::new();
            for (block, neighbour) in (0..36).map(|index| (index / 3, index % 2)) {
                let pixel = Vector2::new(25.0 * noise.next(), 20.0 * noise.next());
                let log_depth = (4.0 + noise.next()).ln();
                let other = &state.views[neighbours[neighbour]];
                let ray = (pixel / own.log_focal.exp()).push(1.0);
                let world = own.rotation * (ray * (log_depth + own.log_scale).exp()) + own.centre;
                let seen = other.rotation.inverse() * (world - other.centre);
                sightings.push(Sighting {
                    block,
                    pixel,
                    log_depth,
                    neighbour,
                    seen: seen.xy() / seen.z * other.log_focal.exp(),
                    seen_log_depth: seen.z.ln() - other.log_scale,
                    weight: 0.6 + 0.4 * noise.next(),
                    pair: 0,
                });
            }
            views.push(ViewEvidence {
                sightings,
                neighbours,
                log_focals: vec![own.log_focal; 2],
                probable_log_focal: (owner == 1).then_some(own.log_focal),
                block_sigmas: vec![0.04; 12],
                median_depth: 4.0,
            });
        }
        let frame = |view: usize| {
            let ViewState { rotation, centre, .. } = state.views[view];
            Isometry3::from_parts(centre.into(), rotation)
        };
        let poses = [(0, 1), (2, 0), (1, 2)].map(|(base, seen)| {
            let mut seen_from_base = frame(seen).inverse() * frame(base);
            seen_from_base.translation.vector *= (-state.views[base].log_scale).exp();
            PosePrior { base, seen, seen_from_base }
        });
        let mut next = 0..;
        let places = (0..3)
            .map(|view| std::array::from_fn(|unknown| if view == 0 && unknown != FOCAL { None } else { next.next() }));
        let places: Vec<_> = places.collect();
        let sigmas = Sigmas {
            match_px: 0.5,
            seen_depth: 0.05,
            focal: 0.03,
            probable_focal: 0.1,
            zoom: 0.2,
            rotation: 0.02,
            translation: 0.05,
        };
        let camera_places = vec![next.next().unwrap()];
        Problem { views, poses: poses.to_vec(), sigmas, cameras: vec![vec![0, 1, 2]], places, camera_places }
    }

    /// The true state after a step of about `size` in every unknown.
    fn moved(size: f64) -> State {
        let (mut state, mut noise) = (true_state(), Noise(11));
        for (index, view) in state.views.iter_mut().enumerate() {
            view.corrections.iter_mut().for_each(|correction| *correction += size * noise.next());
            view.log_focal += size * noise.next();
            if index > 0 {
                view.rotation = UnitQuaternion::from_scaled_axis(noise.vector() * size) * view.rotation;
                view.centre += noise.vector() * size;
                view.log_scale += size * noise.next();
            }
        }
        state.cameras[0] += size;
        state
    }

    fn stepped(state: &State, view: usize, unknown: usize, step: f64) -> State {
        let mut state = state.clone();
        let view = &mut state.views[view];
        match unknown {
            0..3 => {
                let turn = UnitQuaternion::from_scaled_axis(Vector3::ith(unknown, step));
                view.rotation = turn * view.rotation;
            }
            3..6 => view.centre[unknown - 3] += step,
            FOCAL => view.log_focal += step,
            _ => view.log_scale += step,
        }
        state
    }

    fn derivative(problem: &Problem, loss: Loss, step: impl Fn(f64) -> State) -> f64 {
        const STEP: f64 = 1e-6;
        let cost = |state: State| problem.equations(&state, loss).cost;
        (cost(step(STEP)) - cost(step(-STEP))) / (2.0 * STEP)
    }

    fn assert_near(what: &str, found: f64, wanted: f64, scale: f64) {
        assert!((found - wanted).abs() <= 1e-5 * scale, "{what}: {found}, finite differences give {wanted}");
    }

    #[test]
    fn the_gradient_matches_finite_differences() {
        let mut problem = exact_problem();
        let state = moved(0.02);
        // Their rotations' derivative is to first order in the error only; it is looked at by itself below.
        problem.poses.clear();
        for loss in LOSSES {
            let equations = problem.equations(&state, loss);
            let scale = equations.gradient.amax();
            for view in 0..3 {
                for unknown in 0..UNKNOWNS {
                    let Some(place) = problem.places[view][unknown] else { continue };
                    let wanted = derivative(&problem, loss, |step| stepped(&state, view, unknown, step));
                    assert_near(&format!("view {view}, unknown {unknown}"), equations.gradient[place], wanted, scale);
                }
                for block in &equations.blocks[view] {
                    let wanted = derivative(&problem, loss, |step| {
                        let mut state = state.clone();
                        state.views[view].corrections[block.block] += step;
                        state
                    });
                    assert_near(&format!("view {view}, block {}", block.block), block.gradient, wanted, scale);
                }
            }
            let wanted =
                derivative(&problem, loss, |step| State { cameras: vec![state.cameras[0] + step], ..state.clone() });
            assert_near("camera", equations.gradient[problem.camera_places[0]], wanted, scale);
        }
    }

    #[test]
    fn the_rows_of_a_sighting_match_finite_differences() {
        const STEP: f64 = 1e-6;
        let (problem, state) = (exact_problem(), moved(0.02));
        let sighting = &problem.views[1].sightings[4];
        let other = problem.views[1].neighbours[sighting.neighbour];
        let values = |state: &State| {
            let projected = problem.project(1, sighting, state).unwrap();
            projected.seen.push(projected.log_depth - state.views[other].log_scale)
        };
        let (own_rows, other_rows) = problem.project(1, sighting, &state).unwrap().derivatives();
        for (view, rows) in [(1, own_rows), (other, other_rows)] {
            for unknown in 0..UNKNOWNS {
                let [above, below] = [STEP, -STEP].map(|step| values(&stepped(&state, view, unknown, step)));
                let gap = ((above - below) / (2.0 * STEP) - rows.column(unknown)).amax();
                assert!(gap < 1e-6 * rows.amax(), "view {view}, unknown {unknown}: {gap}");
            }
        }
    }

    #[test]
    fn the_rows_of_a_pose_match_finite_differences_where_its_error_is_small() {
        const STEP: f64 = 1e-6;
        let (problem, state) = (exact_problem(), moved(1e-5));
        for prior in &problem.poses {
            let (_, base, seen) = problem.pose_residual(prior, &state);
            for (view, rows) in [(prior.base, base), (prior.seen, seen)] {
                for unknown in 0..UNKNOWNS {
                    let [above, below] =
                        [STEP, -STEP].map(|step| problem.pose_residual(prior, &stepped(&state, view, unknown, step)).0);
                    let gap = ((above - below) / (2.0 * STEP) - rows.column(unknown)).amax();
                    assert!(gap < 1e-4 * rows.amax(), "view {view}, unknown {unknown}: {gap}");
                }
            }
        }
    }

    #[test]
    fn from_a_wrong_start_the_exact_state_is_found() {
        let mut problem = exact_problem();
        // What the camera's focal length is does not follow from pictures of different ones.
        problem.cameras = vec![vec![]];
        problem.cameras[0].push(0);
        let found = minimise(&problem, moved(0.1), LOSSES[0], Budget { steps: 60, least_gain: 0.0 });
        for (found, wanted) in found.views.iter().zip(&true_state().views) {
            let frame =
                |view: &ViewState| Similarity3::new(view.centre, view.rotation.scaled_axis(), view.log_scale.exp());
            let gap = (frame(found).to_homogeneous() - frame(wanted).to_homogeneous()).amax();
            assert!(gap < 1e-6 && (found.log_focal - wanted.log_focal).abs() < 1e-6, "{found:?}, wanted {wanted:?}");
            assert!(found.corrections.iter().all(|correction| correction.abs() < 1e-6), "{found:?}");
        }
    }

    #[test]
    fn a_point_behind_a_camera_costs_and_pulls_nothing() {
        let (mut problem, state) = (exact_problem(), true_state());
        let before = problem.equations(&state, LOSSES[0]);
        problem.views[0].sightings[0].log_depth = f64::NEG_INFINITY;
        problem.views[0].sightings[0].weight = 1.0;
        let after = problem.equations(&state, LOSSES[0]);
        assert!(after.cost > before.cost + 10.0 && after.gradient.iter().all(|value| value.is_finite()));
    }
}
