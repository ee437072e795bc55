//! What is known beside matches: focal lengths, principal points, and poses as single decodes have
//! them.

use std::collections::BTreeSet;

use nalgebra::{Matrix3, SMatrix, SVector};

use super::equations::Equations;
use super::objective::{FOCAL, PRINCIPAL, PRIOR_WIDTH, Problem, SCALE, State, UNKNOWNS};
use super::pair_fit::PosePrior;
use crate::geometry::pnp::cauchy;

type PoseRows = SMatrix<f64, 6, UNKNOWNS>;

impl Problem {
    /// Adds all that is known beside matches.
    pub fn add_priors(&self, state: &State, equations: &mut Equations) {
        self.add_focals(state, equations);
        self.add_principal_points(state, equations);
        self.poses
            .iter()
            .for_each(|prior| self.add_pose(prior, state, equations));
    }

    /// Focal lengths against those that are expected. They are not robust: matches that say little
    /// of focal lengths would carry them away from what is known, see [`super::assembly`].
    fn add_focals(&self, state: &State, equations: &mut Equations) {
        for ((evidence, view), places) in self.views.iter().zip(&state.views).zip(&self.places) {
            for [wanted, sigma] in &evidence.log_focals {
                equations.add_difference(
                    places[FOCAL],
                    view.log_focal - wanted,
                    *sigma,
                    f64::INFINITY,
                );
            }
        }
    }

    /// Principal points that are free against the middle, each once, of however many images it
    /// is.
    fn add_principal_points(&self, state: &State, equations: &mut Equations) {
        let mut held = BTreeSet::new();
        for ((evidence, view), places) in self.views.iter().zip(&state.views).zip(&self.places) {
            for (place, off) in places[PRINCIPAL..].iter().zip(&view.principal) {
                if place.is_some_and(|place| held.insert(place)) {
                    equations.add_difference(*place, *off, evidence.principal_px, PRIOR_WIDTH);
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
        let columns = [prior.base, prior.seen].into_iter().zip([base, seen]);
        let columns = columns.flat_map(|(view, rows)| {
            let column = move |(unknown, place): (usize, Option<usize>)| {
                Some((place?, rows.column(unknown).into_owned()))
            };
            self.places[view].into_iter().enumerate().filter_map(column)
        });
        let columns: Vec<(usize, SVector<f64, 6>)> = columns.collect();
        for (at, (place_a, a)) in columns.iter().enumerate() {
            equations.gradient[*place_a] += a.dot(&errors) * weight;
            for (to, (place_b, b)) in columns[at..].iter().enumerate() {
                let value = a.dot(b) * weight;
                // Two unknowns that share a place meet twice.
                let value = if to > 0 && place_a == place_b {
                    2.0 * value
                } else {
                    value
                };
                equations.matrix.add(*place_a, *place_b, value);
            }
        }
    }

    /// Rotation and translation, in sigmas, with their derivatives by the base and by the seen
    /// view. That of the rotation is to first order in the error itself.
    pub fn pose_residual(
        &self,
        prior: &PosePrior,
        state: &State,
    ) -> (SVector<f64, 6>, PoseRows, PoseRows) {
        let (base, seen) = (&state.views[prior.base], &state.views[prior.seen]);
        let rotation = self.sigmas.rotation;
        let unit = self.sigmas.translation * self.views[prior.base].median_depth;
        let seen_from_world = seen.rotation.inverse().to_rotation_matrix().into_inner();
        let base_from_world = base.rotation.inverse().to_rotation_matrix().into_inner();
        let turn =
            (seen.rotation.inverse() * base.rotation * prior.seen_from_base.rotation.inverse())
                .scaled_axis();
        // The seen camera's centre in the base's frame and canonical units.
        let shrink = (-base.log_scale).exp();
        let apart = seen.centre - base.centre;
        let centre = base_from_world * apart * shrink;
        let wanted = prior.seen_from_base.inverse().translation.vector;
        let mut errors = SVector::<f64, 6>::zeros();
        errors.fixed_rows_mut::<3>(0).copy_from(&(turn / rotation));
        errors
            .fixed_rows_mut::<3>(3)
            .copy_from(&((centre - wanted) / unit));
        let (mut by_base, mut by_seen) = (PoseRows::zeros(), PoseRows::zeros());
        let by_rotation = seen_from_world / rotation;
        by_base.fixed_view_mut::<3, 3>(0, 0).copy_from(&by_rotation);
        by_seen
            .fixed_view_mut::<3, 3>(0, 0)
            .copy_from(&-by_rotation);
        let by_centre: Matrix3<f64> = base_from_world * (shrink / unit);
        by_base
            .fixed_view_mut::<3, 3>(3, 0)
            .copy_from(&(by_centre * apart.cross_matrix()));
        by_base.fixed_view_mut::<3, 3>(3, 3).copy_from(&-by_centre);
        by_base
            .fixed_view_mut::<3, 1>(3, SCALE)
            .copy_from(&(-centre / unit));
        by_seen.fixed_view_mut::<3, 3>(3, 3).copy_from(&by_centre);
        (errors, by_base, by_seen)
    }
}

impl Equations {
    /// Adds the error of one unknown, robust with a width in sigmas unless that is endless.
    fn add_difference(&mut self, place: Option<usize>, off: f64, sigma: f64, width: f64) {
        let error = off / sigma;
        let (loss, weight) = if width.is_finite() {
            cauchy(error * error, width)
        } else {
            (0.5 * error * error, 1.0)
        };
        self.cost += loss;
        if let Some(place) = place {
            self.gradient[place] += weight * error / sigma;
            self.matrix.add(place, place, weight / (sigma * sigma));
        }
    }
}
