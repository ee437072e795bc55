//! Normal equations of an alignment, and damped steps by them.
//!
//! An error of a match depends on two cameras and on one correction of a block's depths.
//! Corrections do not meet in any error, so their part of the equations is diagonal, and all of
//! them are eliminated (Schur complement): what ties them to the cameras is divided by the root of
//! their curvature, and its products with itself are taken off. The system that remains, of the
//! cameras alone, is kept and factored in tiles, see [`tiles`](super::tiles).

use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;

use super::objective::{Loss, PRIOR_WIDTH, Problem, Row, State, UNKNOWNS, ViewState};
use super::observation::{FULL, LEAN, PairSums, Relative};
use crate::geometry::pnp::cauchy;
use crate::geometry::sparse::SymmetricTiles;

/// Views whose equations are held at a time.
const CHUNK: usize = 16;
/// Columns of a product that are taken together, with the rows above their end: what lies below is
/// the same once more.
const PANEL: usize = 64;

/// The normal equations at a state. Corrections are eliminated: with every diagonal raised by a
/// share `damping`, their part of the reduced system shrinks as a whole, so a new damping costs
/// nothing.
pub(super) struct Equations {
    pub cost: f64,
    pub matrix: SymmetricTiles,
    pub gradient: DVector<f64>,
    eliminated_matrix: SymmetricTiles,
    eliminated_gradient: DVector<f64>,
    blocks: Vec<Blocks>,
}

impl Equations {
    /// The reduced normal matrix of the cameras, without damping.
    pub fn reduced(self) -> SymmetricTiles {
        let mut matrix = self.matrix;
        matrix.add_multiple(-1.0, &self.eliminated_matrix);
        matrix
    }
}

/// The corrections of one view's depths: a column each.
pub(super) struct Blocks {
    /// Ascending.
    pub indices: Vec<usize>,
    pub curvature_roots: DVector<f64>,
    /// Gradient, over the root of the curvature.
    pub pulls: DVector<f64>,
    /// What ties them to the unknowns of the owner and of its neighbours in turn, over the root of
    /// the curvature.
    ties: DMatrix<f64>,
}

/// One view's share of the equations, over itself and its neighbours.
struct Share {
    cost: f64,
    pairs: Vec<PairSums>,
    blocks: Blocks,
    /// The half above the diagonal.
    eliminated_matrix: DMatrix<f64>,
    eliminated_gradient: DVector<f64>,
}

impl Problem {
    /// The normal equations, with this loss for matches.
    pub fn equations(&self, state: &State, loss: Loss) -> Equations {
        let (size, width) = (self.size(), self.width());
        let mut equations = Equations {
            cost: 0.0,
            matrix: SymmetricTiles::zeros(size),
            gradient: DVector::zeros(size),
            eliminated_matrix: SymmetricTiles::zeros(size),
            eliminated_gradient: DVector::zeros(size),
            blocks: Vec::with_capacity(self.views.len()),
        };
        let views: Vec<usize> = (0..self.views.len()).collect();
        for chunk in views.chunks(CHUNK) {
            let share = |&view: &usize| match width {
                UNKNOWNS => self.share::<FULL>(view, width, state, loss),
                _ => self.share::<LEAN>(view, width, state, loss),
            };
            let shares: Vec<Share> = chunk.par_iter().map(share).collect();
            // In order, so that the sums do not depend on the number of threads.
            for (&view, share) in chunk.iter().zip(shares) {
                self.add_share(view, width, share, &mut equations);
            }
        }
        self.add_priors(state, &mut equations);
        equations
    }

    /// The state after a damped step; `None` if the system is singular.
    pub fn step(&self, equations: &Equations, state: &State, damping: f64) -> Option<State> {
        let share = 1.0 / (1.0 + damping);
        let mut matrix = equations.matrix.clone();
        matrix.add_multiple(-share, &equations.eliminated_matrix);
        for (place, value) in equations.matrix.diagonal().iter().enumerate() {
            matrix.add(place, place, damping * value);
        }
        let gradient = &equations.gradient - &equations.eliminated_gradient * share;
        let step = -matrix.cholesky()?.solve(&gradient)?;
        if !step.iter().all(|value| value.is_finite()) {
            return None;
        }
        let width = self.width();
        let moved = |(view, (old, blocks)): (usize, (&ViewState, &Blocks))| {
            let at = |place: &Option<usize>| place.map_or(0.0, |place| step[place]);
            let own = Row::from_iterator(self.places[view].iter().map(at));
            let local = DVector::from_iterator(
                blocks.ties.nrows(),
                self.local_places(view, width).iter().map(at),
            );
            let along = blocks.ties.tr_mul(&local) + &blocks.pulls;
            let mut new = old.moved(&own);
            for ((&block, along), root) in blocks
                .indices
                .iter()
                .zip(&along)
                .zip(&blocks.curvature_roots)
            {
                new.corrections[block] -= along * share / root;
            }
            new
        };
        let views = state
            .views
            .par_iter()
            .zip(&equations.blocks)
            .enumerate()
            .map(moved)
            .collect();
        Some(State { views })
    }

    /// Where the points of a view's observations are seen and where they should be: for each the
    /// distance in pixels, infinite where the point cannot be projected, and the logarithm of its
    /// depth over that of the other view's map, NaN where that is unknown.
    pub fn match_errors(&self, view: usize, state: &State) -> Vec<[f64; 2]> {
        let (evidence, owner) = (&self.views[view], &state.views[view]);
        let relatives = evidence
            .neighbours
            .iter()
            .map(|other| Relative::new(owner, &state.views[other.view]));
        let relatives: Vec<Relative> = relatives.collect();
        let errors = evidence.observations.iter().map(|observation| {
            let stretch = (owner.log_scale + owner.corrections[observation.block as usize]).exp();
            relatives[observation.neighbour as usize].match_error(observation, stretch)
        });
        errors.collect()
    }

    /// The places of a view's unknowns and of its neighbours'.
    fn local_places(&self, view: usize, width: usize) -> Vec<Option<usize>> {
        let neighbours = self.views[view]
            .neighbours
            .iter()
            .map(|neighbour| neighbour.view);
        std::iter::once(view)
            .chain(neighbours)
            .flat_map(|view| self.places[view][..width].iter().copied())
            .collect()
    }

    fn share<const COUNT: usize>(
        &self,
        view: usize,
        width: usize,
        state: &State,
        loss: Loss,
    ) -> Share {
        let (evidence, owner) = (&self.views[view], &state.views[view]);
        let mut is_seen = vec![false; evidence.block_sigmas.len()];
        evidence
            .observations
            .iter()
            .for_each(|observation| is_seen[observation.block as usize] = true);
        let indices: Vec<usize> = (0..is_seen.len()).filter(|&block| is_seen[block]).collect();
        let mut columns = vec![0; is_seen.len()];
        indices
            .iter()
            .enumerate()
            .for_each(|(column, &block)| columns[block] = column);
        let mut cost = 0.0;
        let (mut curvatures, mut gradients) =
            (DVector::zeros(indices.len()), DVector::zeros(indices.len()));
        for (column, &block) in indices.iter().enumerate() {
            let sigma = evidence.block_sigmas[block];
            let error = owner.corrections[block] / sigma;
            let (loss, weight) = cauchy(error * error, PRIOR_WIDTH);
            cost += loss;
            curvatures[column] = weight / (sigma * sigma);
            gradients[column] = weight * error / sigma;
        }
        let mut ties =
            DMatrix::<f64>::zeros(width * (1 + evidence.neighbours.len()), indices.len());
        let mut rest = &evidence.observations[..];
        let mut pairs = Vec::with_capacity(evidence.neighbours.len());
        for (neighbour, other) in evidence.neighbours.iter().enumerate() {
            let (observations, later) =
                rest.split_at(rest.partition_point(|s| s.neighbour as usize <= neighbour));
            rest = later;
            let relative = Relative::new(owner, &state.views[other.view]);
            let first = width * (1 + neighbour);
            let sums = relative.sums::<COUNT>(observations, owner, (&self.sigmas, loss), |cell| {
                let column = columns[cell.block];
                curvatures[column] += cell.curvature;
                gradients[column] += cell.gradient;
                let mut tie = ties.column_mut(column);
                let mut own = tie.rows_mut(0, width);
                own += cell.own.rows(0, width);
                tie.rows_mut(first, width)
                    .copy_from(&cell.other.rows(0, width));
            });
            cost += sums.cost;
            pairs.push(sums);
        }
        let curvature_roots: DVector<f64> = curvatures.map(f64::sqrt);
        for (mut column, root) in ties.column_iter_mut().zip(&curvature_roots) {
            column /= *root;
        }
        let pulls = gradients.component_div(&curvature_roots);
        let turned = ties.transpose();
        let size = ties.nrows();
        let mut eliminated_matrix = DMatrix::zeros(size, size);
        for first in (0..size).step_by(PANEL) {
            let end = (first + PANEL).min(size);
            let mut panel = eliminated_matrix.view_mut((0, first), (end, end - first));
            panel.gemm(
                1.0,
                &ties.rows(0, end),
                &turned.columns(first, end - first),
                0.0,
            );
        }
        let eliminated_gradient = &ties * &pulls;
        let blocks = Blocks {
            indices,
            curvature_roots,
            pulls,
            ties,
        };
        Share {
            cost,
            pairs,
            blocks,
            eliminated_matrix,
            eliminated_gradient,
        }
    }

    fn add_share(&self, view: usize, width: usize, share: Share, equations: &mut Equations) {
        let places = self.local_places(view, width);
        equations.cost += share.cost;
        for (neighbour, sums) in share.pairs.iter().enumerate() {
            let (own, other) = (
                &places[..width],
                &places[width * (1 + neighbour)..][..width],
            );
            for (column, &place) in own.iter().enumerate() {
                add_column(
                    &mut equations.matrix,
                    &own[..=column],
                    place,
                    sums.own.column(column).as_slice(),
                );
                add_value(&mut equations.gradient, place, sums.own_gradient[column]);
            }
            for (column, &place) in other.iter().enumerate() {
                let Some(at) = place else { continue };
                for (own, value) in own.iter().zip(&sums.mixed.column(column)) {
                    if let Some(own) = *own {
                        add_mirrored(&mut equations.matrix, own, at, *value);
                    }
                }
                add_column(
                    &mut equations.matrix,
                    &other[..=column],
                    place,
                    sums.other.column(column).as_slice(),
                );
                add_value(&mut equations.gradient, place, sums.other_gradient[column]);
            }
        }
        for (column, &place) in places.iter().enumerate() {
            let values = share.eliminated_matrix.column(column);
            add_column(
                &mut equations.eliminated_matrix,
                &places[..=column],
                place,
                values.as_slice(),
            );
            add_value(
                &mut equations.eliminated_gradient,
                place,
                share.eliminated_gradient[column],
            );
        }
        equations.blocks.push(share.blocks);
    }
}

/// Adds a column of a symmetric matrix down to its diagonal, which is the last of `rows`, to the
/// places of its rows.
fn add_column(
    matrix: &mut SymmetricTiles,
    rows: &[Option<usize>],
    column: Option<usize>,
    values: &[f64],
) {
    let (Some(column), Some((_, above))) = (column, rows.split_last()) else {
        return;
    };
    for (row, value) in above.iter().zip(values) {
        if let Some(row) = *row {
            add_mirrored(matrix, row, column, *value);
        }
    }
    matrix.add(column, column, values[above.len()]);
}

/// Adds a value beside the diagonal and its mirror image: on the diagonal after all, twice, if two
/// unknowns share a place.
fn add_mirrored(matrix: &mut SymmetricTiles, row: usize, column: usize, value: f64) {
    matrix.add(row, column, if row == column { 2.0 * value } else { value });
}

fn add_value(vector: &mut DVector<f64>, place: Option<usize>, value: f64) {
    if let Some(place) = place {
        vector[place] += value;
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, Similarity3, UnitQuaternion, Vector2, Vector3};

    use super::super::objective::{
        FOCAL, Neighbour, Observation, PRINCIPAL, SCALE, Sigmas, ViewEvidence,
    };
    use super::super::optimizer::{Budget, minimise};
    use super::super::pair_fit::PosePrior;
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
                rotation: UnitQuaternion::from_scaled_axis(Vector3::new(
                    0.1 * t,
                    -0.2 * t,
                    0.05 * t,
                )),
                centre: Vector3::new(0.8 * t, 0.1 * t * t, -0.2 * t),
                log_focal: (60.0 + 5.0 * t).ln(),
                log_scale: 0.1 * t,
                principal: Vector2::zeros(),
                corrections: vec![0.0; 12],
            }
        };
        State {
            views: (0..3).map(view).collect(),
        }
    }

    /// Three views that all see one another, and what is exactly true of them.
    fn exact_problem() -> Problem {
        let (state, mut noise) = (true_state(), Noise(7));
        let mut views = Vec::new();
        for owner in 0..3 {
            let own = &state.views[owner];
            let neighbours: Vec<usize> = (0..3).filter(|other| *other != owner).collect();
            let mut observations = Vec::new();
            for (block, neighbour) in (0..36).map(|index| (index / 3, index % 2)) {
                let pixel = Vector2::new(25.0 * noise.next(), 20.0 * noise.next());
                let log_depth = (4.0 + noise.next()).ln();
                let other = &state.views[neighbours[neighbour]];
                let ray = ((pixel - own.principal) / own.log_focal.exp()).push(1.0);
                let world = own.rotation * (ray * (log_depth + own.log_scale).exp()) + own.centre;
                let seen = other.rotation.inverse() * (world - other.centre);
                observations.push(Observation {
                    neighbour: neighbour as u32,
                    block: block as u32,
                    pixel,
                    depth: log_depth.exp(),
                    seen: seen.xy() / seen.z * other.log_focal.exp() + other.principal,
                    seen_log_depth: seen.z.ln() - other.log_scale,
                    weight: 0.6 + 0.4 * noise.next(),
                });
            }
            observations.sort_by_key(|observation| (observation.neighbour, observation.block));
            views.push(ViewEvidence {
                observations,
                neighbours: neighbours
                    .into_iter()
                    .map(|view| Neighbour { view, pair: 0 })
                    .collect(),
                log_focals: vec![[own.log_focal, 0.03]; 1 + owner % 2],
                block_sigmas: vec![0.04; 12],
                median_depth: 4.0,
                principal_px: 2.0,
            });
        }
        let frame = |view: usize| {
            let ViewState {
                rotation, centre, ..
            } = state.views[view];
            Isometry3::from_parts(centre.into(), rotation)
        };
        let poses = [(0, 1), (2, 0), (1, 2)].map(|(base, seen)| {
            let mut seen_from_base = frame(seen).inverse() * frame(base);
            seen_from_base.translation.vector *= (-state.views[base].log_scale).exp();
            PosePrior {
                base,
                seen,
                seen_from_base,
            }
        });
        let mut next = 0..;
        let places = (0..3).map(|view| {
            std::array::from_fn(|unknown| {
                if view == 0 && unknown != FOCAL {
                    None
                } else {
                    next.next()
                }
            })
        });
        let places: Vec<_> = places.collect();
        let sigmas = Sigmas {
            match_px: 0.5,
            seen_depth: 0.05,
            rotation: 0.02,
            translation: 0.05,
        };
        Problem {
            views,
            poses: poses.to_vec(),
            sigmas,
            places,
        }
    }

    /// The true state after a step of about `size` in every unknown.
    fn moved(size: f64) -> State {
        let (mut state, mut noise) = (true_state(), Noise(11));
        for (index, view) in state.views.iter_mut().enumerate() {
            view.corrections
                .iter_mut()
                .for_each(|correction| *correction += size * noise.next());
            view.log_focal += size * noise.next();
            if index > 0 {
                view.rotation =
                    UnitQuaternion::from_scaled_axis(noise.vector() * size) * view.rotation;
                view.centre += noise.vector() * size;
                view.log_scale += size * noise.next();
                view.principal += Vector2::new(noise.next(), noise.next()) * (10.0 * size);
            }
        }
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
            SCALE => view.log_scale += step,
            _ => view.principal[unknown - PRINCIPAL] += step,
        }
        state
    }

    fn derivative(problem: &Problem, loss: Loss, step: impl Fn(f64) -> State) -> f64 {
        const STEP: f64 = 1e-6;
        let cost = |state: State| problem.equations(&state, loss).cost;
        (cost(step(STEP)) - cost(step(-STEP))) / (2.0 * STEP)
    }

    fn assert_near(what: &str, found: f64, wanted: f64, scale: f64) {
        assert!(
            (found - wanted).abs() <= 1e-5 * scale,
            "{what}: {found}, finite differences give {wanted}"
        );
    }

    #[test]
    fn the_gradient_matches_finite_differences() {
        let mut problem = exact_problem();
        // Their rotations' derivative is to first order in the error only; it is looked at by
        // itself below.
        problem.poses.clear();
        assert_eq!(problem.width(), UNKNOWNS);
        assert_gradient(&problem);
        problem
            .places
            .iter_mut()
            .for_each(|places| places[PRINCIPAL..].fill(None));
        assert_eq!(problem.width(), PRINCIPAL);
        assert_gradient(&problem);
    }

    fn assert_gradient(problem: &Problem) {
        let state = moved(0.02);
        for loss in LOSSES {
            let equations = problem.equations(&state, loss);
            let scale = equations.gradient.amax();
            for view in 0..3 {
                for unknown in 0..UNKNOWNS {
                    let Some(place) = problem.places[view][unknown] else {
                        continue;
                    };
                    let wanted =
                        derivative(problem, loss, |step| stepped(&state, view, unknown, step));
                    assert_near(
                        &format!("view {view}, unknown {unknown}"),
                        equations.gradient[place],
                        wanted,
                        scale,
                    );
                }
                let blocks = &equations.blocks[view];
                for (column, &block) in blocks.indices.iter().enumerate() {
                    let wanted = derivative(problem, loss, |step| {
                        let mut state = state.clone();
                        state.views[view].corrections[block] += step;
                        state
                    });
                    let found = blocks.pulls[column] * blocks.curvature_roots[column];
                    assert_near(&format!("view {view}, block {block}"), found, wanted, scale);
                }
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
                    let [above, below] = [STEP, -STEP].map(|step| {
                        problem
                            .pose_residual(prior, &stepped(&state, view, unknown, step))
                            .0
                    });
                    let gap = ((above - below) / (2.0 * STEP) - rows.column(unknown)).amax();
                    assert!(
                        gap < 1e-4 * rows.amax(),
                        "view {view}, unknown {unknown}: {gap}"
                    );
                }
            }
        }
    }

    #[test]
    fn from_a_wrong_start_the_exact_state_is_found() {
        let problem = exact_problem();
        let found = minimise(
            &problem,
            moved(0.1),
            LOSSES[0],
            Budget {
                steps: 60,
                least_gain: 0.0,
            },
        );
        for (found, wanted) in found.views.iter().zip(&true_state().views) {
            assert!(found.principal.amax() < 1e-5, "{found:?}");
            let frame = |view: &ViewState| {
                Similarity3::new(
                    view.centre,
                    view.rotation.scaled_axis(),
                    view.log_scale.exp(),
                )
            };
            let gap = (frame(found).to_homogeneous() - frame(wanted).to_homogeneous()).amax();
            assert!(
                gap < 1e-6 && (found.log_focal - wanted.log_focal).abs() < 1e-6,
                "{found:?}, wanted {wanted:?}"
            );
            assert!(
                found
                    .corrections
                    .iter()
                    .all(|correction| correction.abs() < 1e-6),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_point_behind_a_camera_costs_and_pulls_nothing() {
        let (mut problem, state) = (exact_problem(), true_state());
        let before = problem.equations(&state, LOSSES[0]);
        problem.views[0].observations[0].depth = 0.0;
        problem.views[0].observations[0].weight = 1.0;
        let after = problem.equations(&state, LOSSES[0]);
        assert!(
            after.cost > before.cost + 10.0 && after.gradient.iter().all(|value| value.is_finite())
        );
    }
}
