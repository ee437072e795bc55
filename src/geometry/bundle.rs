//! Least squares over two cameras and the points of their matches.
//!
//! The unknowns are the second camera's pose, both focal lengths, the scale of the reverse decode
//! and a 3D point per match. Matches pull on all of them; what the network says about depths, focal
//! lengths and pose enters as weak residuals, which also settle the scale. Points are eliminated
//! (Schur complement), so that a step costs one pass over the matches and a 9 x 9 system.

use nalgebra::{
    Isometry3, Matrix3, Point3, SMatrix, SVector, Translation3, UnitQuaternion, Vector2, Vector3,
};

use super::pnp::{cauchy, cross, projection_derivative};

/// Rotation (0 to 2), translation (3 to 5), log focals (6, 7), log scale (8).
const UNKNOWNS: usize = 9;
const FOCALS: usize = 6;
const SCALE: usize = 8;
type Row = SVector<f64, UNKNOWNS>;
type Square = SMatrix<f64, UNKNOWNS, UNKNOWNS>;

/// Widths of the robust pixel error, in its sigmas: wide for convergence, then as narrow as the
/// noise.
const PIXEL_WIDTHS: [f64; 3] = [8.0, 2.0, 1.0];
/// Width of the robust error of all other residuals, in their sigmas.
const PRIOR_WIDTH: f64 = 2.0;
const STEPS_PER_WIDTH: usize = 10;

/// Expected errors of what enters the problem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sigmas {
    /// Of a match, in the distance between its two pixels.
    pub match_px: f64,
    /// Of a predicted depth, relative.
    pub depth: f64,
    /// Of the ratio of the two focal lengths to one another, if the pictures are thought to share
    /// one.
    pub shared_focal: Option<f64>,
    /// Of a pose found from a point map, radians.
    pub rotation: f64,
    /// The same for its translation, over the median depth.
    pub translation: f64,
    /// Of the scale of one decode to the other, relative.
    pub scale: f64,
}

/// Two pixels that show one point, and what the maps say about its depth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// In both views, relative to the principal points.
    pub pixels: [Vector2<f64>; 2],
    /// Not negative.
    pub weight: f64,
    /// Logarithm of the depth in the first camera, units of the forward decode; NaN where unknown.
    pub log_depth_first: f64,
    /// Logarithm of the depth in the second camera, units of the reverse decode; NaN where unknown.
    pub log_depth_second: f64,
}

/// Pose of the second camera as one decode has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PosePrior {
    /// Takes the first camera's frame to the second's.
    pub second_from_first: Isometry3<f64>,
    /// Whether its translation is in units of the reverse decode.
    pub reverse_units: bool,
}

/// A focal length as one map has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FocalPrior {
    /// 0 or 1.
    pub view: usize,
    pub focal: f64,
    /// Relative.
    pub sigma: f64,
}

/// Everything that is known.
pub(super) struct Problem {
    pub matches: Vec<Evidence>,
    /// Where to start, pixels.
    pub focals: [f64; 2],
    pub focal_priors: Vec<FocalPrior>,
    pub poses: Vec<PosePrior>,
    /// Logarithm of a length in units of the forward decode over the same in units of the reverse
    /// decode.
    pub log_scale: f64,
    /// Median depth of the first view, units of the forward decode.
    pub median_depth: f64,
    pub sigmas: Sigmas,
}

/// The unknowns.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub second_from_first: Isometry3<f64>,
    pub log_focals: [f64; 2],
    pub log_scale: f64,
    points: Vec<Vector3<f64>>,
}

/// One match's part of the normal equations.
struct PointBlock {
    inverse: Matrix3<f64>,
    mixed: SMatrix<f64, UNKNOWNS, 3>,
    gradient: Vector3<f64>,
}

struct Equations {
    cost: f64,
    matrix: Square,
    gradient: Row,
    /// By match: matrix of the point, mixed matrix, gradient.
    points: Vec<(Matrix3<f64>, SMatrix<f64, UNKNOWNS, 3>, Vector3<f64>)>,
}

/// Solves `problem` from `start`. Matches whose point cannot be placed in front of both cameras at
/// the start are left out.
pub(super) fn solve(problem: &mut Problem, second_from_first: Isometry3<f64>) -> State {
    let log_focals = problem.focals.map(f64::ln);
    let start = State {
        second_from_first,
        log_focals,
        log_scale: problem.log_scale,
        points: Vec::new(),
    };
    let mut points = Vec::with_capacity(problem.matches.len());
    problem.matches.retain(|evidence| {
        let point = first_guess(evidence, &start);
        points.extend(point);
        point.is_some()
    });
    let mut state = State { points, ..start };
    for width in PIXEL_WIDTHS {
        state = levenberg_marquardt(problem, state, width);
    }
    state
}

fn first_guess(evidence: &Evidence, state: &State) -> Option<Vector3<f64>> {
    let ray = |view: usize| (evidence.pixels[view] / state.log_focals[view].exp()).push(1.0);
    let finite = |depth: f64| Some(depth).filter(|depth| depth.is_finite());
    let point = match (
        finite(evidence.log_depth_first),
        finite(evidence.log_depth_second),
    ) {
        (Some(depth), _) => ray(0) * depth.exp(),
        (None, Some(depth)) => {
            let point = Point3::from(ray(1) * (depth + state.log_scale).exp());
            state
                .second_from_first
                .inverse_transform_point(&point)
                .coords
        }
        (None, None) => return None,
    };
    let in_second = state.second_from_first * Point3::from(point);
    (point.z > 0.0 && in_second.z > 0.0).then_some(point)
}

fn levenberg_marquardt(problem: &Problem, start: State, width: f64) -> State {
    let mut state = start;
    let mut equations = normal_equations(problem, &state, width);
    let mut damping = 1e-4;
    for _ in 0..STEPS_PER_WIDTH {
        let Some(candidate) = step(&equations, &state, damping) else {
            break;
        };
        let new = normal_equations(problem, &candidate, width);
        if new.cost < equations.cost {
            let gain = (equations.cost - new.cost) / equations.cost;
            (state, equations) = (candidate, new);
            damping = (damping * 0.1).max(1e-9);
            if gain < 1e-6 {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e6 {
                break;
            }
        }
    }
    state
}

/// One damped step; `None` if the system is singular.
fn step(equations: &Equations, state: &State, damping: f64) -> Option<State> {
    let mut matrix = equations.matrix;
    for k in 0..UNKNOWNS {
        matrix[(k, k)] *= 1.0 + damping;
    }
    let mut gradient = equations.gradient;
    let mut blocks = Vec::with_capacity(equations.points.len());
    for (point, mixed, point_gradient) in &equations.points {
        let mut damped = *point;
        for k in 0..3 {
            damped[(k, k)] *= 1.0 + damping;
        }
        let inverse = damped.try_inverse()?;
        let folded = mixed * inverse;
        matrix -= folded * mixed.transpose();
        gradient -= folded * point_gradient;
        blocks.push(PointBlock {
            inverse,
            mixed: *mixed,
            gradient: *point_gradient,
        });
    }
    let cameras = -matrix.cholesky()?.solve(&gradient);
    let points = state.points.iter().zip(&blocks).map(|(point, block)| {
        point - block.inverse * (block.gradient + block.mixed.tr_mul(&cameras))
    });
    Some(moved(state, &cameras, points.collect()))
}

fn moved(state: &State, step: &Row, points: Vec<Vector3<f64>>) -> State {
    let turn = UnitQuaternion::from_scaled_axis(step.fixed_rows::<3>(0).into_owned());
    let rotation =
        UnitQuaternion::new_normalize((turn * state.second_from_first.rotation).into_inner());
    let shift = state.second_from_first.translation.vector + step.fixed_rows::<3>(3);
    State {
        second_from_first: Isometry3::from_parts(Translation3::from(shift), rotation),
        log_focals: [
            state.log_focals[0] + step[FOCALS],
            state.log_focals[1] + step[FOCALS + 1],
        ],
        log_scale: state.log_scale + step[SCALE],
        points,
    }
}

fn normal_equations(problem: &Problem, state: &State, width: f64) -> Equations {
    let mut equations = Equations {
        cost: 0.0,
        matrix: Square::zeros(),
        gradient: Row::zeros(),
        points: Vec::with_capacity(state.points.len()),
    };
    prior_equations(problem, state, &mut equations);
    for (evidence, point) in problem.matches.iter().zip(&state.points) {
        match_equations(
            evidence,
            point,
            &problem.sigmas,
            state,
            width,
            &mut equations,
        );
    }
    equations
}

/// What does not concern a match: focal lengths, poses, scale.
fn prior_equations(problem: &Problem, state: &State, equations: &mut Equations) {
    let sigmas = &problem.sigmas;
    let mut add = |error: f64, row: Row, weight: f64| {
        equations.matrix += row * row.transpose() * weight;
        equations.gradient += row * (error * weight);
    };
    let mut cost = 0.0;
    let single = |error: f64| cauchy(error * error, PRIOR_WIDTH);
    for &FocalPrior { view, focal, sigma } in &problem.focal_priors {
        let error = (state.log_focals[view] - focal.ln()) / sigma;
        let (loss, weight) = single(error);
        cost += loss;
        add(error, unit(FOCALS + view) / sigma, weight);
    }
    if let Some(sigma) = sigmas.shared_focal {
        let error = (state.log_focals[0] - state.log_focals[1]) / sigma;
        let (loss, weight) = single(error);
        cost += loss;
        add(error, (unit(FOCALS) - unit(FOCALS + 1)) / sigma, weight);
    }
    let error = (state.log_scale - problem.log_scale) / sigmas.scale;
    let (loss, weight) = single(error);
    cost += loss;
    add(error, unit(SCALE) / sigmas.scale, weight);
    for prior in &problem.poses {
        let (errors, rows) = pose_residual(prior, problem, state);
        // One robust weight for the whole pose: a wrong one is wrong altogether.
        let (loss, weight) = cauchy(
            errors.iter().map(|error| error * error).sum(),
            PRIOR_WIDTH * 6f64.sqrt(),
        );
        cost += loss;
        for (error, row) in errors.into_iter().zip(rows) {
            add(error, row, weight);
        }
    }
    equations.cost += cost;
}

/// Six errors, in sigmas, with their derivatives. That of the rotation is to first order in the
/// error itself.
fn pose_residual(prior: &PosePrior, problem: &Problem, state: &State) -> ([f64; 6], [Row; 6]) {
    let turn = (state.second_from_first.rotation * prior.second_from_first.rotation.inverse())
        .scaled_axis();
    let factor = if prior.reverse_units {
        state.log_scale.exp()
    } else {
        1.0
    };
    let expected = prior.second_from_first.translation.vector * factor;
    let shift = state.second_from_first.translation.vector - expected;
    let (rotation, translation) = (
        problem.sigmas.rotation,
        problem.sigmas.translation * problem.median_depth,
    );
    let mut errors = [0.0; 6];
    let mut rows = [Row::zeros(); 6];
    for axis in 0..3 {
        errors[axis] = turn[axis] / rotation;
        rows[axis] = unit(axis) / rotation;
        errors[3 + axis] = shift[axis] / translation;
        rows[3 + axis] = unit(3 + axis) / translation;
        if prior.reverse_units {
            rows[3 + axis] -= unit(SCALE) * (expected[axis] / translation);
        }
    }
    (errors, rows)
}

/// A scalar error in sigmas with its derivatives by the cameras and by the match's point.
struct Residual {
    error: f64,
    cameras: Row,
    point: Vector3<f64>,
}

/// The four pixel errors of a match, in sigmas; `None` behind a camera.
fn pixel_residuals(
    evidence: &Evidence,
    point: &Vector3<f64>,
    state: &State,
    sigma: f64,
) -> Option<[Residual; 4]> {
    let rotation = state.second_from_first.rotation.to_rotation_matrix();
    let turned = rotation * point;
    let in_second = turned + state.second_from_first.translation.vector;
    if point.z <= 0.0 || in_second.z <= 0.0 {
        return None;
    }
    let focals = state.log_focals.map(f64::exp);
    let first_by_point = projection_derivative(point, focals[0]);
    let second_by_second = projection_derivative(&in_second, focals[1]);
    let second_by_point = second_by_second * rotation.matrix();
    let second_by_rotation = -second_by_second * cross(&turned);
    Some([0, 1, 2, 3].map(|index| {
        let (view, axis) = (index / 2, index % 2);
        let (seen_from, by_point) = if view == 0 {
            (point, &first_by_point)
        } else {
            (&in_second, &second_by_point)
        };
        let seen = focals[view] * seen_from[axis] / seen_from.z;
        let mut cameras = unit(FOCALS + view) * seen;
        if view == 1 {
            cameras
                .fixed_rows_mut::<3>(0)
                .copy_from(&second_by_rotation.row(axis).transpose());
            cameras
                .fixed_rows_mut::<3>(3)
                .copy_from(&second_by_second.row(axis).transpose());
        }
        Residual {
            error: (seen - evidence.pixels[view][axis]) / sigma,
            cameras: cameras / sigma,
            point: by_point.row(axis).transpose() / sigma,
        }
    }))
}

/// The up to two depth errors of a match, in sigmas, for a point in front of both cameras.
fn depth_residuals(
    evidence: &Evidence,
    point: &Vector3<f64>,
    state: &State,
    sigma: f64,
) -> [Option<Residual>; 2] {
    let turned = state.second_from_first.rotation * point;
    let in_second = turned + state.second_from_first.translation.vector;
    let by_second = Vector3::z() / (in_second.z * sigma);
    let mut cameras = unit(SCALE) / -sigma;
    cameras
        .fixed_rows_mut::<3>(0)
        .copy_from(&turned.cross(&by_second));
    cameras.fixed_rows_mut::<3>(3).copy_from(&by_second);
    let first = Residual {
        error: (point.z.ln() - evidence.log_depth_first) / sigma,
        cameras: Row::zeros(),
        point: Vector3::z() / (point.z * sigma),
    };
    let second = Residual {
        error: (in_second.z.ln() - evidence.log_depth_second - state.log_scale) / sigma,
        cameras,
        point: state.second_from_first.rotation.inverse() * by_second,
    };
    [first, second].map(|residual| Some(residual).filter(|residual| residual.error.is_finite()))
}

fn match_equations(
    evidence: &Evidence,
    point: &Vector3<f64>,
    sigmas: &Sigmas,
    state: &State,
    width: f64,
    equations: &mut Equations,
) {
    // Seen in two pixels, each off by a share of the match's error.
    let Some(pixels) = pixel_residuals(evidence, point, state, sigmas.match_px / 2f64.sqrt())
    else {
        // As dear as a hopeless match, so that no step gains by putting points behind a camera.
        equations.cost += evidence.weight * 4.0 * cauchy(1e6, width).0;
        equations
            .points
            .push((Matrix3::identity(), SMatrix::zeros(), Vector3::zeros()));
        return;
    };
    let (mut matrix, mut mixed, mut gradient) = (
        Matrix3::zeros(),
        SMatrix::<f64, UNKNOWNS, 3>::zeros(),
        Vector3::zeros(),
    );
    let mut add = |residual: &Residual, weight: f64| {
        let cameras = residual.cameras * weight;
        equations.matrix += cameras * residual.cameras.transpose();
        equations.gradient += cameras * residual.error;
        mixed += cameras * residual.point.transpose();
        matrix += residual.point * residual.point.transpose() * weight;
        gradient += residual.point * (residual.error * weight);
    };
    let (loss, weight) = cauchy(
        pixels.iter().map(|residual| residual.error.powi(2)).sum(),
        width,
    );
    let mut cost = evidence.weight * loss;
    for residual in &pixels {
        add(residual, evidence.weight * weight);
    }
    for residual in depth_residuals(evidence, point, state, sigmas.depth)
        .into_iter()
        .flatten()
    {
        let (loss, weight) = cauchy(residual.error.powi(2), PRIOR_WIDTH);
        cost += loss;
        add(&residual, weight);
    }
    equations.cost += cost;
    equations.points.push((matrix, mixed, gradient));
}

fn unit(index: usize) -> Row {
    let mut row = Row::zeros();
    row[index] = 1.0;
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivatives_of_all_match_errors_match_finite_differences() {
        let evidence = Evidence {
            pixels: [Vector2::new(12.0, -7.0), Vector2::new(3.0, 4.0)],
            weight: 1.0,
            log_depth_first: 1.0,
            log_depth_second: 1.2,
        };
        let pose = Isometry3::new(Vector3::new(-0.5, 0.1, 0.3), Vector3::new(0.1, -0.3, 0.2));
        let point = Vector3::new(0.4, -0.3, 2.9);
        let state = State {
            second_from_first: pose,
            log_focals: [4.6, 4.8],
            log_scale: 0.2,
            points: vec![point],
        };
        let errors = |state: &State| -> Vec<Residual> {
            let pixels = pixel_residuals(&evidence, &state.points[0], state, 0.7).unwrap();
            let depths = depth_residuals(&evidence, &state.points[0], state, 0.1);
            pixels
                .into_iter()
                .chain(depths.into_iter().flatten())
                .collect()
        };
        let rows = errors(&state);
        assert_eq!(rows.len(), 6);
        for k in 0..UNKNOWNS + 3 {
            let at = |step: f64| {
                let (mut cameras, mut point) = (Row::zeros(), point);
                if k < UNKNOWNS {
                    cameras[k] = step
                } else {
                    point[k - UNKNOWNS] += step
                }
                errors(&moved(&state, &cameras, vec![point]))
            };
            for (row, (above, below)) in rows.iter().zip(at(1e-6).iter().zip(&at(-1e-6))) {
                let expected = (above.error - below.error) / 2e-6;
                let got = if k < UNKNOWNS {
                    row.cameras[k]
                } else {
                    row.point[k - UNKNOWNS]
                };
                assert!(
                    (got - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                    "unknown {k}: {got}, not {expected}"
                );
            }
        }
    }
}
