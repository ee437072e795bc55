//! The errors of matches, their derivatives, and sums of products of these.
//!
//! All points of an owner that one other view sees go through the same change of frames. In the
//! other view's frame, with turns and shifts about its axes, derivatives are cheap, and those by
//! the other view's pose follow from those by the owner's with a matrix that does not depend on the
//! point (`v = a + constant`, see [`objective`](super::objective)). So products are summed over one
//! short list of derivatives, and what it says about the unknowns in the world is worked out once
//! for each pair of views.

use nalgebra::{Matrix3, Vector2, Vector3};

use super::objective::{
    FOCAL, Loss, Observation, PRINCIPAL, Row, SCALE, Sigmas, Square, UNKNOWNS, ViewState,
};

/// Points nearer to a camera's plane than this share of their distance, or behind it, cannot be
/// projected.
const LEAST_DEPTH: f64 = 1e-3;
/// What a match costs whose point cannot be projected, as a squared error in sigmas: as dear as a
/// hopeless one, so that no step gains by putting points behind a camera.
const HOPELESS: f64 = 1e6;

/// Derivatives by: turn (0 to 2) and shift (3 to 5) of the owner about the other view's axes, the
/// owner's log focal and log scale, the other's log focal and log scale, and then, if they are
/// free, the principal points of both.
pub(super) const LEAN: usize = 10;
pub(super) const FULL: usize = 14;
const OWN_FOCAL: usize = 6;
/// A correction of the owner's depths does what its scale does.
const OWN_SCALE: usize = 7;
const OTHER_FOCAL: usize = 8;
const OTHER_SCALE: usize = 9;

/// Two views at a state, one of which sees points of the other.
pub(super) struct Relative {
    other_from_owner: Matrix3<f64>,
    /// The owner's centre in the other's frame.
    centre: Vector3<f64>,
    world_from_other: Matrix3<f64>,
    own_focal: f64,
    other_focal: f64,
    own_principal: Vector2<f64>,
    other_principal: Vector2<f64>,
    other_log_scale: f64,
}

/// An observation's point in the other view's frame.
struct Projected {
    /// The pixel that shows it, relative to the principal point.
    seen: Vector2<f64>,
    depth: f64,
    /// From the owner's centre to the point, and what of it depends on the focal length.
    arm: Vector3<f64>,
    aside: Vector3<f64>,
    /// Depth in the owner.
    own_depth: f64,
}

/// Sums over all observations of one pair of views: of the unknowns of the owner, of both, and of the
/// other view.
pub(super) struct PairSums {
    pub cost: f64,
    pub own: Square,
    pub own_gradient: Row,
    pub mixed: Square,
    pub other: Square,
    pub other_gradient: Row,
}

/// The part of a block's correction in the equations that the observations of one other view make up.
pub(super) struct CellSums {
    pub block: usize,
    pub curvature: f64,
    pub gradient: f64,
    /// What ties the correction to the owner and to the other view.
    pub own: Row,
    pub other: Row,
}

impl Relative {
    pub fn new(owner: &ViewState, other: &ViewState) -> Self {
        let world_from_other = other.rotation.to_rotation_matrix().into_inner();
        let other_from_world = world_from_other.transpose();
        Self {
            other_from_owner: other_from_world * owner.rotation.to_rotation_matrix().into_inner(),
            centre: other_from_world * (owner.centre - other.centre),
            world_from_other,
            own_focal: owner.log_focal.exp(),
            other_focal: other.log_focal.exp(),
            own_principal: owner.principal,
            other_principal: other.principal,
            other_log_scale: other.log_scale,
        }
    }

    /// Where the other view sees a point whose canonical depth is `stretch` times too small; `None`
    /// if it does not.
    fn project(&self, observation: &Observation, stretch: f64) -> Option<Projected> {
        let own_depth = observation.depth * stretch;
        let across = (observation.pixel - self.own_principal) * (own_depth / self.own_focal);
        let turn = &self.other_from_owner;
        let aside = turn.column(0) * across.x + turn.column(1) * across.y;
        let arm = aside + turn.column(2) * own_depth;
        let point = arm + self.centre;
        if point.z.is_nan() || point.z <= LEAST_DEPTH * point.norm() {
            return None;
        }
        let seen = point.xy() * (self.other_focal / point.z);
        Some(Projected {
            seen,
            depth: point.z,
            arm,
            aside,
            own_depth,
        })
    }

    /// How far from the pixel where it should be the point is seen, infinite where it cannot be
    /// projected, and the logarithm of its depth over that of the other view's map, NaN where that
    /// is unknown.
    pub fn match_error(&self, observation: &Observation, stretch: f64) -> [f64; 2] {
        let Some(projected) = self.project(observation, stretch) else {
            return [f64::INFINITY, f64::NAN];
        };
        let deeper = projected.depth.ln() - observation.seen_log_depth - self.other_log_scale;
        [
            (projected.seen + self.other_principal - observation.seen).norm(),
            deeper,
        ]
    }

    /// Derivatives of the pixel seen, and of what the log depth has more than the other view's
    /// canonical one.
    fn derivatives<const COUNT: usize>(&self, projected: &Projected) -> [[f64; COUNT]; 3] {
        let Projected {
            seen,
            depth,
            arm,
            aside,
            own_depth,
        } = projected;
        let (inverse, scale) = (1.0 / depth, self.other_focal / depth);
        // Of the three by the point: (scale, 0, -x), (0, scale, -y), (0, 0, inverse).
        let (x, y) = (seen.x * inverse, seen.y * inverse);
        let by = |point: &Vector3<f64>| {
            [
                scale * point.x - x * point.z,
                scale * point.y - y * point.z,
                inverse * point.z,
            ]
        };
        // The minus of a cross matrix has the rows (0, z, -y), (-z, 0, x), (y, -x, 0).
        let turned = [
            [-x * arm.y, scale * arm.z + x * arm.x, -scale * arm.y],
            [-scale * arm.z - y * arm.y, y * arm.x, scale * arm.x],
            [inverse * arm.y, -inverse * arm.x, 0.0],
        ];
        let shifted = [[scale, 0.0, -x], [0.0, scale, -y], [0.0, 0.0, inverse]];
        let (by_focal, by_scale) = (by(aside), by(arm));
        let by_other_focal = [seen.x, seen.y, 0.0];
        let mut rows = [[0.0; COUNT]; 3];
        for (axis, row) in rows.iter_mut().enumerate() {
            row[..3].copy_from_slice(&turned[axis]);
            row[3..OWN_FOCAL].copy_from_slice(&shifted[axis]);
            row[OWN_FOCAL] = -by_focal[axis];
            row[OWN_SCALE] = by_scale[axis];
            row[OTHER_FOCAL] = by_other_focal[axis];
        }
        rows[2][OTHER_SCALE] = -1.0;
        if COUNT > LEAN {
            let per_pixel = -own_depth / self.own_focal;
            for own in 0..2 {
                let by_point = by(&(self.other_from_owner.column(own) * per_pixel));
                rows.iter_mut()
                    .zip(by_point)
                    .for_each(|(row, value)| row[LEAN + own] = value);
                rows[own][LEAN + 2 + own] = 1.0;
            }
        }
        rows
    }

    /// What derivatives by the short list say of the unknowns of the owner and of the other view in
    /// the world.
    fn expand<const COUNT: usize>(&self, values: &[f64; COUNT]) -> (Row, Row) {
        let vector = |from: usize| Vector3::new(values[from], values[from + 1], values[from + 2]);
        let (turn, shift) = (vector(0), vector(3));
        let (mut owner, mut other) = (Row::zeros(), Row::zeros());
        owner
            .fixed_rows_mut::<3>(0)
            .copy_from(&(self.world_from_other * turn));
        owner
            .fixed_rows_mut::<3>(3)
            .copy_from(&(self.world_from_other * shift));
        owner[FOCAL] = values[OWN_FOCAL];
        owner[SCALE] = values[OWN_SCALE];
        // The point turns about the other's centre instead of the owner's, and the other way
        // around.
        other
            .fixed_rows_mut::<3>(0)
            .copy_from(&(self.world_from_other * -(turn + self.centre.cross(&shift))));
        other
            .fixed_rows_mut::<3>(3)
            .copy_from(&(self.world_from_other * -shift));
        other[FOCAL] = values[OTHER_FOCAL];
        other[SCALE] = values[OTHER_SCALE];
        if COUNT > LEAN {
            owner
                .fixed_rows_mut::<2>(PRINCIPAL)
                .copy_from_slice(&values[LEAN..LEAN + 2]);
            other
                .fixed_rows_mut::<2>(PRINCIPAL)
                .copy_from_slice(&values[LEAN + 2..]);
        }
        (owner, other)
    }

    /// Sums over all observations of these two views; `cell` is told those of each block.
    pub fn sums<const COUNT: usize>(
        &self,
        observations: &[Observation],
        owner: &ViewState,
        (sigmas, loss): (&Sigmas, Loss),
        mut cell: impl FnMut(CellSums),
    ) -> PairSums {
        let mut cost = 0.0;
        let (mut products, mut gradient) = ([[0.0; COUNT]; COUNT], [0.0; COUNT]);
        for observations in observations.chunk_by(|a, b| a.block == b.block) {
            let block = observations[0].block as usize;
            let stretch = (owner.log_scale + owner.corrections[block]).exp();
            let (mut tie, mut pull) = ([0.0; COUNT], 0.0);
            for observation in observations {
                let Some(projected) = self.project(observation, stretch) else {
                    cost += observation.weight * loss.of(HOPELESS).0;
                    continue;
                };
                let off =
                    (projected.seen + self.other_principal - observation.seen) / sigmas.match_px;
                let deeper =
                    projected.depth.ln() - observation.seen_log_depth - self.other_log_scale;
                let is_known = !deeper.is_nan();
                let deeper = if is_known {
                    deeper / sigmas.seen_depth
                } else {
                    0.0
                };
                // One robust weight for all three: a wrong match is wrong altogether.
                let (own_cost, weight) = loss.of(off.norm_squared() + deeper * deeper);
                cost += observation.weight * own_cost;
                // Its root goes into errors and rows alike, so that plain products follow.
                let root = (weight * observation.weight).sqrt();
                let [by_pixel, by_depth] = [root / sigmas.match_px, root / sigmas.seen_depth];
                let scales = [by_pixel, by_pixel, if is_known { by_depth } else { 0.0 }];
                let errors = [off.x * root, off.y * root, deeper * root];
                let mut rows = self.derivatives::<COUNT>(&projected);
                for (row, scale) in rows.iter_mut().zip(scales) {
                    row.iter_mut().for_each(|value| *value *= scale);
                }
                let [one, two, three] = &rows;
                for (at, sums) in products.iter_mut().enumerate() {
                    // The lower half is filled in at the end; steps of two go through whole
                    // registers.
                    for to in at & !1..COUNT {
                        sums[to] += one[at] * one[to] + two[at] * two[to] + three[at] * three[to];
                    }
                }
                let [a, b, c] = [one[OWN_SCALE], two[OWN_SCALE], three[OWN_SCALE]];
                for at in 0..COUNT {
                    gradient[at] +=
                        one[at] * errors[0] + two[at] * errors[1] + three[at] * errors[2];
                    tie[at] += one[at] * a + two[at] * b + three[at] * c;
                }
                pull += a * errors[0] + b * errors[1] + c * errors[2];
            }
            let (own, other) = self.expand(&tie);
            cell(CellSums {
                block,
                curvature: tie[OWN_SCALE],
                gradient: pull,
                own,
                other,
            });
        }
        self.pair_sums(cost, &products, &gradient)
    }

    fn pair_sums<const COUNT: usize>(
        &self,
        cost: f64,
        products: &[[f64; COUNT]; COUNT],
        gradient: &[f64; COUNT],
    ) -> PairSums {
        let (mut by_owner, mut by_other) = ([[0.0; COUNT]; UNKNOWNS], [[0.0; COUNT]; UNKNOWNS]);
        for at in 0..COUNT {
            let column: [f64; COUNT] = std::array::from_fn(|to| products[at.min(to)][at.max(to)]);
            let (owner, other) = self.expand(&column);
            for unknown in 0..UNKNOWNS {
                by_owner[unknown][at] = owner[unknown];
                by_other[unknown][at] = other[unknown];
            }
        }
        let (mut own, mut mixed, mut other) = (Square::zeros(), Square::zeros(), Square::zeros());
        for unknown in 0..UNKNOWNS {
            let (to_own, to_other) = self.expand(&by_owner[unknown]);
            own.set_row(unknown, &to_own.transpose());
            mixed.set_row(unknown, &to_other.transpose());
            other.set_row(unknown, &self.expand(&by_other[unknown]).1.transpose());
        }
        let (own_gradient, other_gradient) = self.expand(gradient);
        PairSums {
            cost,
            own,
            own_gradient,
            mixed,
            other,
            other_gradient,
        }
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::UnitQuaternion;

    use super::*;

    fn views() -> [ViewState; 2] {
        [0.0, 1.0].map(|t| ViewState {
            rotation: UnitQuaternion::from_scaled_axis(Vector3::new(
                0.1 - 0.2 * t,
                -0.2 * t,
                0.05 * t,
            )),
            centre: Vector3::new(0.8 * t, 0.1 * t + 0.2, -0.2 * t),
            log_focal: (60.0 + 5.0 * t).ln(),
            log_scale: 0.1 - 0.2 * t,
            principal: Vector2::new(0.5, -2.0 * t),
            corrections: vec![0.02],
        })
    }

    fn observation() -> Observation {
        Observation {
            neighbour: 0,
            block: 0,
            pixel: Vector2::new(12.0, -7.0),
            depth: 3.5,
            seen: Vector2::new(2.0, -6.0),
            seen_log_depth: 1.2,
            weight: 0.7,
        }
    }

    /// The pixel seen, and what the log depth has more than the other's canonical one.
    fn values([owner, other]: &[ViewState; 2]) -> Vector3<f64> {
        let relative = Relative::new(owner, other);
        let projected = relative
            .project(
                &observation(),
                (owner.log_scale + owner.corrections[0]).exp(),
            )
            .unwrap();
        (projected.seen + other.principal).push(projected.depth.ln() - other.log_scale)
    }

    #[test]
    fn derivatives_match_finite_differences() {
        const STEP: f64 = 1e-6;
        let views = views();
        let relative = Relative::new(&views[0], &views[1]);
        let projected = relative
            .project(&observation(), (views[0].log_scale + 0.02).exp())
            .unwrap();
        let rows = relative.derivatives::<FULL>(&projected);
        let lean = relative.derivatives::<LEAN>(&projected);
        for (axis, row) in rows.iter().enumerate() {
            assert_eq!(row[..LEAN], lean[axis]);
            let (owner, other) = relative.expand(row);
            for (view, found) in [owner, other].into_iter().enumerate() {
                for unknown in 0..UNKNOWNS {
                    let [above, below] = [STEP, -STEP].map(|step| {
                        let mut views = self::views();
                        let mut along = Row::zeros();
                        along[unknown] = step;
                        views[view] = views[view].moved(&along);
                        values(&views)[axis]
                    });
                    let gap = (above - below) / (2.0 * STEP) - found[unknown];
                    assert!(
                        gap.abs() < 1e-6 * found.amax(),
                        "axis {axis}, view {view}, unknown {unknown}: {gap}"
                    );
                }
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_products_of_derivatives() {
        let views = views();
        let (relative, sigmas) = (Relative::new(&views[0], &views[1]), SIGMAS);
        let mut cells = Vec::new();
        let terms = (&sigmas, Loss::Cauchy(1e9));
        let sums = relative.sums::<FULL>(&[observation(); 3], &views[0], terms, |cell| {
            cells.push(cell)
        });
        let projected = relative
            .project(&observation(), (views[0].log_scale + 0.02).exp())
            .unwrap();
        let errors = values(&views) - observation().seen.push(observation().seen_log_depth);
        let (mut own, mut mixed, mut other) = (Square::zeros(), Square::zeros(), Square::zeros());
        let mut gradients = [Row::zeros(); 2];
        for (axis, row) in relative.derivatives::<FULL>(&projected).iter().enumerate() {
            let sigma = if axis < 2 {
                sigmas.match_px
            } else {
                sigmas.seen_depth
            };
            let weight = 3.0 * observation().weight / (sigma * sigma);
            let (by_owner, by_other) = relative.expand(row);
            own += by_owner * by_owner.transpose() * weight;
            mixed += by_owner * by_other.transpose() * weight;
            other += by_other * by_other.transpose() * weight;
            gradients[0] += by_owner * (weight * errors[axis]);
            gradients[1] += by_other * (weight * errors[axis]);
        }
        let near = |found: &Square, wanted: &Square| (found - wanted).amax() < 1e-9 * wanted.amax();
        assert!(near(&sums.own, &own) && near(&sums.mixed, &mixed) && near(&sums.other, &other));
        assert!((sums.own_gradient - gradients[0]).amax() < 1e-9 * gradients[0].amax());
        assert!((sums.other_gradient - gradients[1]).amax() < 1e-9 * gradients[1].amax());
        let [cell] = &cells[..] else {
            panic!("{} blocks", cells.len())
        };
        assert!((cell.own - own.column(SCALE)).amax() < 1e-9 * own.amax() && cell.block == 0);
        assert!((cell.curvature - own[(SCALE, SCALE)]).abs() < 1e-9 * own.amax());
        assert!((cell.gradient - gradients[0][SCALE]).abs() < 1e-9 * gradients[0].amax());
    }

    const SIGMAS: Sigmas = Sigmas {
        match_px: 0.5,
        seen_depth: 0.05,
        rotation: 0.02,
        translation: 0.05,
    };
}
