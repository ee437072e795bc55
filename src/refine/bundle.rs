//! Bundle adjustment: poses, lenses and points by robust least squares on reprojection errors
//! (Triggs, McLauchlan, Hartley and Fitzgibbon 1999).
//!
//! Minimises the sum over all observations of rho(|project(lens, R X + t) - pixel|² / w²), w a width
//! in pixels and rho a [`Loss`], and where the network's depths d count of rho(ln((R X + t).z / d)²
//! / v²), by Levenberg-Marquardt with iteratively reweighted errors. Points are eliminated by the
//! Schur complement, so a step costs a Cholesky decomposition of six numbers a camera and a few a
//! lens. An image shares points with few others: only what they share is kept.

use std::collections::BTreeSet;

use nalgebra::{
    DVector, Isometry3, Matrix3, SMatrix, SVector, Translation3, UnitQuaternion, Vector3,
};
use rayon::prelude::*;

use super::tracks::{Observation, Point, Rig, Widths, point_step};
use crate::geometry::sparse::{SymmetricTiles, elimination_order};
use crate::geometry::{LENS_PARAMETERS, Lens};

/// Parts that sums are made in: always as many, so that they do not depend on the number of
/// threads.
const PARTS: usize = 8;
/// Numbers of a pose's step: a turn and a shift in the camera's frame.
const POSE: usize = 6;
const FIRST_DAMPING: f64 = 1e-5;
/// Steps of each point after a step of the cameras.
const POINT_STEPS: usize = 2;
const MOST_DAMPING: f64 = 1e8;
/// A step that lowers the cost by less than this share is the last.
const LEAST_GAIN: f64 = 1e-5;
/// What a point behind a camera counts as, in widths of the robust error.
const BEHIND: f64 = 30.0;

/// What may change.
#[derive(Clone, Debug)]
pub(super) struct Freedom {
    /// For each image.
    pub poses: Vec<bool>,
    /// For each lens, the parameters in the order of [`LENS_PARAMETERS`].
    pub lenses: Vec<[bool; LENS_PARAMETERS]>,
    pub priors: Priors,
}

/// How far what is known beforehand may be off, and how long that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Priors {
    /// Standard deviation of the logarithm of a focal length.
    pub focal: f64,
    /// That of what each radial term moves a pixel by that is half a long side from the middle,
    /// relative.
    pub radial: f64,
    /// That of the principal point, of the long side.
    pub principal: f64,
    /// Width of the robust error of the logarithm of the network's depths.
    pub log_depth: f64,
    /// Whether these count to the end, or in the coarse rounds alone.
    pub keeps_depths: bool,
}

impl Priors {
    /// Those of images that determine their cameras themselves.
    const MANY: Self = Self {
        focal: 0.5,
        radial: 0.3,
        principal: 0.02,
        log_depth: 0.3 * CAUCHY_WIDTH,
        keeps_depths: false,
    };
    /// Two images of a nearly flat scene, or taken side by side, fit a hundredth of a pixel less
    /// well with another focal length, and what no lens model explains decides: of pairs of
    /// photographs some came out with a focal length of three times the true one, at formal
    /// deviations of 2 %. Hence these, a tenth of what they would be if all pixels' errors were
    /// independent.
    const TWO: Self = Self {
        focal: 0.005,
        radial: 0.003,
        principal: 0.0005,
        log_depth: 0.1,
        keeps_depths: true,
    };

    pub fn of(images: usize) -> Self {
        if images > 2 { Self::MANY } else { Self::TWO }
    }
}

/// Width of Cauchy's loss, in standard deviations, at which it has 95 % of the efficiency of least
/// squares.
pub(super) const CAUCHY_WIDTH: f64 = 2.385;

/// The numbers that are solved for, after the points.
struct Layout {
    poses: Vec<Option<usize>>,
    /// For each lens the parameters that are free and their places.
    lenses: Vec<Vec<(usize, usize)>>,
    size: usize,
}

impl Layout {
    /// Poses in an order in which few entries of the factor are not zero; then the lenses, on which
    /// all that share them depend.
    fn new(freedom: &Freedom, points: &[Point]) -> Self {
        let mut size = 0;
        let mut take = |count: usize| {
            size += count;
            size - count
        };
        let mut beside = vec![BTreeSet::new(); freedom.poses.len()];
        for point in points {
            for (index, one) in point.track.iter().enumerate() {
                for other in &point.track[..index] {
                    beside[one.view].insert(other.view);
                    beside[other.view].insert(one.view);
                }
            }
        }
        let mut poses = vec![None; freedom.poses.len()];
        for view in elimination_order(beside) {
            poses[view] = freedom.poses[view].then(|| take(POSE));
        }
        let lenses = freedom
            .lenses
            .iter()
            .map(|free| {
                (0..LENS_PARAMETERS)
                    .filter(|&which| free[which])
                    .map(|which| (which, take(1)))
                    .collect()
            })
            .collect();
        Self {
            poses,
            lenses,
            size,
        }
    }
}

/// The normal equations, without points.
struct Normal {
    matrix: SymmetricTiles,
    gradient: DVector<f64>,
    /// Diagonal before the points were eliminated.
    diagonal: DVector<f64>,
}

/// The derivatives of a point's observations.
struct Linearised {
    /// The gradient of the parameters that the observations depend on, and their part of the normal
    /// matrix with one another.
    gradient: Vec<f64>,
    own: Vec<f64>,
    rest: PointPart,
}

/// What gives a point's step once that of the parameters is known.
struct PointPart {
    /// Places of the parameters that the observations depend on.
    places: Vec<usize>,
    /// Their part of the normal matrix with the point.
    with_point: Vec<Vector3<f64>>,
    point: Matrix3<f64>,
    point_gradient: Vector3<f64>,
}

/// What an error costs, by its square e in units of the width.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// Cauchy's, ln(1 + e): errors far beyond the width hardly count.
    Robust,
    /// e.
    Squares,
}

impl Loss {
    fn of(self, square: f64) -> f64 {
        match self {
            Self::Robust => square.ln_1p(),
            Self::Squares => square,
        }
    }

    /// Its slope: the weight of a square.
    fn weight(self, square: f64) -> f64 {
        match self {
            Self::Robust => 1.0 / (1.0 + square),
            Self::Squares => 1.0,
        }
    }
}

/// Bundle adjustment of `rig` and `points`.
pub(super) struct Bundle<'a> {
    pub freedom: &'a Freedom,
    pub loss: Loss,
    pub widths: Widths,
    pub most_steps: usize,
}

impl Bundle<'_> {
    /// Lowers the cost as far as it goes, and returns it.
    pub fn adjust(&self, rig: &mut Rig, points: &mut [Point]) -> f64 {
        let layout = Layout::new(self.freedom, points);
        let start = rig.clone();
        let mut cost = self.cost(rig, points, &start);
        let mut damping = FIRST_DAMPING;
        for _ in 0..self.most_steps {
            let (normal, parts) = self.normal(rig, points, &start, &layout, damping);
            let mut gained = 0.0;
            if let Some(step) = normal.solve(damping) {
                let mut candidate = rig.clone();
                layout.apply(&step, &mut candidate);
                let moved = |(point, part): (&Point, &PointPart)| {
                    let position = self.settled(
                        &candidate,
                        point,
                        point.position + part.step(&step, damping),
                    );
                    Point {
                        position,
                        track: point.track.clone(),
                    }
                };
                let mut moved: Vec<Point> = points.par_iter().zip(&parts).map(moved).collect();
                let found = self.cost(&candidate, &moved, &start);
                if found < cost && candidate.lenses.iter().all(|lens| lens.is_plausible()) {
                    gained = (cost - found) / cost;
                    cost = found;
                    *rig = candidate;
                    points.swap_with_slice(&mut moved);
                }
            }
            if gained > 0.0 {
                damping = (damping / 5.0).max(1e-9);
                if gained < LEAST_GAIN {
                    break;
                }
            } else {
                damping *= 8.0;
                if damping > MOST_DAMPING {
                    break;
                }
            }
        }
        cost
    }

    /// The point moved from `position` to where its observations agree best in moved cameras. It lets
    /// steps be long where focal lengths and distances change together, which bends the errors.
    fn settled(&self, rig: &Rig, point: &Point, mut position: Vector3<f64>) -> Vector3<f64> {
        for _ in 0..POINT_STEPS {
            let step = point_step(rig, &point.track, &position, self.widths, |square| {
                self.loss.weight(square)
            });
            let Some(step) = step else { break };
            position += step;
        }
        position
    }

    fn cost(&self, rig: &Rig, points: &[Point], start: &Rig) -> f64 {
        let of_observation = |seen: &Observation, point: &Point| {
            rig.cost(seen, &point.position, self.widths, BEHIND, |square| {
                self.loss.of(square)
            })
        };
        let of_point = |point: &Point| -> f64 {
            point
                .track
                .iter()
                .map(|seen| of_observation(seen, point))
                .sum()
        };
        let size = points.len().div_ceil(PARTS).max(1);
        let parts: Vec<f64> = points
            .par_chunks(size)
            .map(|part| part.iter().map(of_point).sum())
            .collect();
        let prior: f64 = rig
            .lenses
            .iter()
            .zip(&start.lenses)
            .flat_map(|(lens, start)| deviations(lens, start, &self.freedom.priors))
            .map(|(d, _)| 0.5 * d * d)
            .sum();
        parts.iter().sum::<f64>() + prior
    }

    /// Derivatives of a point's observations by everything that is free.
    fn linearised(&self, rig: &Rig, point: &Point, layout: &Layout) -> Linearised {
        // Poses first, one for each observation; then the lenses that they share.
        let mut places = Vec::with_capacity(point.track.len() * POSE + LENS_PARAMETERS);
        for observation in &point.track {
            if let Some(place) = layout.poses[observation.view] {
                places.extend(place..place + POSE);
            }
        }
        for observation in &point.track {
            for &(_, place) in &layout.lenses[rig.lens_of[observation.view]] {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        let size = places.len();
        let (mut gradient, mut own) = (vec![0.0; size], vec![0.0; size * size]);
        let with_point = vec![Vector3::zeros(); size];
        let mut rest = PointPart {
            places,
            with_point,
            point: Matrix3::zeros(),
            point_gradient: Vector3::zeros(),
        };
        let mut next = 0;
        for observation in &point.track {
            let pose_at = layout.poses[observation.view].map(|_| {
                next += POSE;
                next - POSE
            });
            let Some(pose) = &rig.camera_from_world[observation.view] else {
                continue;
            };
            let Some(local) = rig
                .local(observation.view, &point.position)
                .filter(|local| local.z > 0.0)
            else {
                continue;
            };
            let found = rig.linearised(observation, &local, self.widths, |square| {
                self.loss.weight(square)
            });
            let by_point = found.by_local * pose.rotation.to_rotation_matrix().matrix();
            rest.point += by_point.tr_mul(&by_point);
            rest.point_gradient += by_point.tr_mul(&found.errors);
            // What this observation depends on: a column for each place.
            let mut columns: Vec<(usize, Vector3<f64>)> =
                Vec::with_capacity(POSE + LENS_PARAMETERS);
            if let Some(at) = pose_at {
                let mut by_pose = SMatrix::<f64, 3, POSE>::zeros();
                by_pose
                    .fixed_view_mut::<3, 3>(0, 0)
                    .copy_from(&-local.cross_matrix());
                by_pose
                    .fixed_view_mut::<3, 3>(0, 3)
                    .copy_from(&Matrix3::identity());
                let by_pose = found.by_local * by_pose;
                columns.extend(
                    (0..POSE).map(|column| (at + column, by_pose.column(column).into_owned())),
                );
            }
            for &(which, place) in &layout.lenses[rig.lens_of[observation.view]] {
                if let Some(at) = rest.places.iter().rposition(|known| *known == place) {
                    columns.push((at, found.by_lens.column(which).into_owned()));
                }
            }
            for (index, (row, one)) in columns.iter().enumerate() {
                gradient[*row] += one.dot(&found.errors);
                rest.with_point[*row] += by_point.tr_mul(one);
                for (column, other) in &columns[..=index] {
                    own[row.max(column) * size + row.min(column)] += one.dot(other);
                }
            }
        }
        Linearised {
            gradient,
            own,
            rest,
        }
    }

    /// The normal equations, and what each point's step follows from.
    fn normal(
        &self,
        rig: &Rig,
        points: &[Point],
        start: &Rig,
        layout: &Layout,
        damping: f64,
    ) -> (Normal, Vec<PointPart>) {
        let size = points.len().div_ceil(PARTS).max(1);
        let part = |part: &[Point]| {
            let mut normal = Normal::zeros(layout.size);
            let eliminated = |point: &Point| {
                let linear = self.linearised(rig, point, layout);
                normal.add(&linear, damping);
                linear.rest
            };
            let rests: Vec<PointPart> = part.iter().map(eliminated).collect();
            (normal, rests)
        };
        let parts: Vec<(Normal, Vec<PointPart>)> = points.par_chunks(size).map(part).collect();
        let mut sum = Normal::zeros(layout.size);
        let mut rests = Vec::with_capacity(points.len());
        for (part, rest) in parts {
            sum.matrix.add_multiple(1.0, &part.matrix);
            sum.gradient += part.gradient;
            sum.diagonal += part.diagonal;
            rests.extend(rest);
        }
        for ((lens, start), free) in rig.lenses.iter().zip(&start.lenses).zip(&layout.lenses) {
            let deviations = deviations(lens, start, &self.freedom.priors);
            for &(which, place) in free {
                let (deviation, sigma) = deviations[which];
                sum.matrix.add(place, place, 1.0 / (sigma * sigma));
                sum.diagonal[place] += 1.0 / (sigma * sigma);
                sum.gradient[place] += deviation / sigma;
            }
        }
        (sum, rests)
    }
}

/// How far a lens is from where it started, in sigmas, and the sigmas.
fn deviations(lens: &Lens, start: &Lens, priors: &Priors) -> [(f64, f64); LENS_PARAMETERS] {
    let long_side = f64::from(lens.width.max(lens.height));
    let edge = (0.5 * long_side / start.focal[0]).powi(2);
    let principal = priors.principal * long_side;
    let sigmas = [
        priors.focal,
        priors.radial / edge,
        priors.radial / (edge * edge),
        principal,
        principal,
    ];
    let off = [
        (lens.focal[0] / start.focal[0]).ln(),
        lens.radial[0] - start.radial[0],
        lens.radial[1] - start.radial[1],
        lens.principal[0] - start.principal[0],
        lens.principal[1] - start.principal[1],
    ];
    std::array::from_fn(|which| (off[which] / sigmas[which], sigmas[which]))
}

impl PointPart {
    /// The inverse of the point's own part, damped.
    fn inverse(&self, damping: f64) -> Option<Matrix3<f64>> {
        let mut damped = self.point;
        (0..3).for_each(|at| damped[(at, at)] *= 1.0 + damping);
        damped
            .try_inverse()
            .filter(|inverse| inverse.iter().all(|value| value.is_finite()))
    }

    fn step(&self, step: &DVector<f64>, damping: f64) -> Vector3<f64> {
        let Some(inverse) = self.inverse(damping) else {
            return Vector3::zeros();
        };
        let moved: Vector3<f64> = self
            .places
            .iter()
            .zip(&self.with_point)
            .map(|(place, with)| with * step[*place])
            .sum();
        -(inverse * (self.point_gradient + moved))
    }
}

impl Normal {
    fn zeros(size: usize) -> Self {
        Self {
            matrix: SymmetricTiles::zeros(size),
            gradient: DVector::zeros(size),
            diagonal: DVector::zeros(size),
        }
    }

    /// Adds the observations of a point and eliminates it.
    fn add(&mut self, linear: &Linearised, damping: f64) {
        let Linearised {
            gradient,
            own,
            rest,
        } = linear;
        let Some(inverse) = rest.inverse(damping) else {
            return;
        };
        let size = rest.places.len();
        let towards = inverse * rest.point_gradient;
        for (row, &place) in rest.places.iter().enumerate() {
            let with = inverse * rest.with_point[row];
            self.gradient[place] += gradient[row] - rest.with_point[row].dot(&towards);
            self.diagonal[place] += own[row * size + row];
            for (column, &other) in rest.places[..=row].iter().enumerate() {
                let value = own[row * size + column] - with.dot(&rest.with_point[column]);
                self.matrix.add(place, other, value);
            }
        }
    }

    fn solve(mut self, damping: f64) -> Option<DVector<f64>> {
        for at in 0..self.diagonal.len() {
            let value = damping * self.diagonal[at].max(1e-12);
            self.matrix.add(at, at, value);
        }
        let step = -self.matrix.cholesky()?.solve(&self.gradient)?;
        step.iter().all(|value| value.is_finite()).then_some(step)
    }
}

impl Layout {
    fn apply(&self, step: &DVector<f64>, rig: &mut Rig) {
        for (pose, place) in rig.camera_from_world.iter_mut().zip(&self.poses) {
            if let (Some(pose), Some(place)) = (pose.as_mut(), place) {
                let step =
                    SVector::<f64, POSE>::from_column_slice(&step.as_slice()[*place..place + POSE]);
                let turn = UnitQuaternion::from_scaled_axis(step.fixed_rows::<3>(0).into_owned());
                let mut moved = Isometry3::from_parts(
                    Translation3::from(step.fixed_rows::<3>(3).into_owned()),
                    turn,
                ) * *pose;
                moved.rotation.renormalize();
                *pose = moved;
            }
        }
        for (lens, free) in rig.lenses.iter_mut().zip(&self.lenses) {
            let mut by = [0.0; LENS_PARAMETERS];
            free.iter()
                .for_each(|&(which, place)| by[which] = step[place]);
            *lens = lens.stepped(&by);
        }
    }
}
