//! A camera's pose from points with known pixels, with a known or an unknown focal length.

use nalgebra::{
    Isometry3, Matrix3, Matrix4, Point3, SMatrix, SVector, Schur, Translation3, UnitQuaternion,
    Vector2, Vector3,
};

use super::procrustes::{Correspondence, similarity};
use super::ransac::{self, Budget, Score};

/// A point of the world and the pixel that shows it.
#[derive(Clone, Copy, Debug)]
pub struct PixelCorrespondence {
    /// In the world.
    pub point: Point3<f64>,
    /// Where the camera saw it.
    pub pixel: [f64; 2],
    /// Not negative; counts in the refinement.
    pub weight: f64,
}

/// What may be set about the search for a pose.
#[derive(Clone, Copy, Debug)]
pub struct PnpOptions {
    /// Pixel error up to which an observation agrees with a pose.
    pub threshold_px: f64,
    /// Samples at most; the search stops early once a better one is improbable.
    pub most_samples: usize,
    /// Observations that a search looks at, evenly spread over those given.
    pub most_scored: usize,
    /// Observations that the refinement looks at, evenly spread over those given.
    pub most_refined: usize,
}

impl Default for PnpOptions {
    fn default() -> Self {
        Self {
            threshold_px: 5.0,
            most_samples: 100,
            most_scored: 1000,
            most_refined: 4000,
        }
    }
}

/// A camera's pose and focal length.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    /// Takes points of the world to the camera's frame.
    pub camera_from_world: Isometry3<f64>,
    /// Pixels; the one given or the one found.
    pub focal: f64,
}

/// Focal lengths tried when none is known, a geometric sequence of long sides of the image, and
/// their number.
const FOCALS_TRIED: (f64, f64, usize) = (0.5, 3.0, 21);
/// A sample of three points gives a pose. A search that scores well needs a handful to be sure of
/// it.
const LEAST_SAMPLES: usize = 10;
/// Probability with which a search has seen a sample of inliers alone.
const CERTAINTY: f64 = 0.999;
/// Widths of the robust error in the refinement, in thresholds: wide for convergence, then as
/// narrow as the noise.
const WIDTHS: [f64; 3] = [1.0, 0.5, 0.3];
const STEPS_PER_WIDTH: usize = 12;

/// The pose with the most agreeing observations, refined by robust least squares on the pixels, for
/// a known focal length, in pixels. `None` without a pose: fewer than four observations, all points
/// in one place or behind the camera.
pub fn solve(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    focal: f64,
    options: &PnpOptions,
) -> Option<Pose> {
    let (pose, _) = search(observations, principal, focal, options)?;
    refine(
        &spread(observations, options.most_refined),
        principal,
        pose,
        false,
        options.threshold_px,
    )
}

/// As [`solve`], with the focal length found too: the best of a geometric sequence around
/// `long_side`, the larger size of the image in pixels, and then refined together with the pose.
pub fn solve_unknown_focal(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    long_side: f64,
    options: &PnpOptions,
) -> Option<Pose> {
    let (first, last, count) = FOCALS_TRIED;
    let step = (last / first).powf(1.0 / (count as f64 - 1.0));
    // Neighbours of the true focal fit loosely, and its refinement is what finds it: a wide net
    // with few samples.
    let coarse = PnpOptions {
        threshold_px: 2.0 * options.threshold_px,
        most_samples: 40,
        most_scored: 300,
        ..*options
    };
    let (start, _) = (0..count)
        .filter_map(|index| {
            search(
                observations,
                principal,
                long_side * first * step.powi(index as i32),
                &coarse,
            )
        })
        .min_by(|(_, a), (_, b)| a.cost.total_cmp(&b.cost))?;
    let refined = spread(observations, options.most_refined);
    let wide = refine(&refined, principal, start, true, 2.0 * options.threshold_px)?;
    refine(&refined, principal, wide, true, options.threshold_px)
}

/// Robust least squares from `start`, over the focal length too if `free_focal`. `None` if that
/// breaks down.
pub fn refine(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    start: Pose,
    free_focal: bool,
    threshold_px: f64,
) -> Option<Pose> {
    let mut pose = start;
    for width in WIDTHS {
        pose = levenberg_marquardt(
            observations,
            principal,
            pose,
            free_focal,
            width * threshold_px,
        );
    }
    let finite = pose
        .camera_from_world
        .to_homogeneous()
        .iter()
        .all(|value| value.is_finite());
    (finite && pose.focal.is_finite() && pose.focal > 0.0).then_some(pose)
}

/// Distance between where `pose` shows a point and its pixel; infinite for a point behind the
/// camera.
pub fn reprojection_error(
    observation: &PixelCorrespondence,
    principal: [f64; 2],
    pose: &Pose,
) -> f64 {
    let point = pose.camera_from_world * observation.point;
    if point.z <= 0.0 {
        return f64::INFINITY;
    }
    let error = [0, 1]
        .map(|axis| pose.focal * point[axis] / point.z + principal[axis] - observation.pixel[axis]);
    let error = error[0].hypot(error[1]);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// At most `count` items, evenly spread.
pub(super) fn spread<T: Copy>(items: &[T], count: usize) -> Vec<T> {
    if items.len() <= count {
        return items.to_vec();
    }
    (0..count)
        .map(|index| items[index * items.len() / count])
        .collect()
}

fn search(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    focal: f64,
    options: &PnpOptions,
) -> Option<(Pose, Score)> {
    if observations.len() < 4 || !(focal.is_finite() && focal > 0.0) {
        return None;
    }
    let scored = spread(observations, options.most_scored);
    let direction = |observation: &PixelCorrespondence| {
        let [u, v] = observation.pixel;
        Vector3::new((u - principal[0]) / focal, (v - principal[1]) / focal, 1.0).normalize()
    };
    let budget = Budget {
        most_samples: options.most_samples,
        least_samples: LEAST_SAMPLES.min(options.most_samples),
        certainty: CERTAINTY,
    };
    let found = ransac::search::<Pose, 3>(
        scored.len(),
        budget,
        |_| scored.len(),
        |sample| {
            let poses = perspective_three_points(
                sample.map(|index| scored[index].point),
                sample.map(|index| direction(&scored[index])),
            );
            poses
                .into_iter()
                .map(|camera_from_world| Pose {
                    camera_from_world,
                    focal,
                })
                .collect()
        },
        |pose| {
            let mut score = Score {
                inliers: 0,
                cost: 0.0,
            };
            for observation in &scored {
                let error = reprojection_error(observation, principal, pose);
                score.inliers += usize::from(error <= options.threshold_px);
                score.cost += error.min(options.threshold_px).powi(2);
            }
            score
        },
    )?;
    // Three points always agree with their own pose; a fourth is the least evidence.
    (found.1.inliers >= 4).then_some(found)
}

/// The up to four poses that show three points in three unit directions (Grunert 1841, in the form
/// of Haralick 1991).
fn perspective_three_points(
    points: [Point3<f64>; 3],
    directions: [Vector3<f64>; 3],
) -> Vec<Isometry3<f64>> {
    let [a, b, c] = [(1, 2), (0, 2), (0, 1)].map(|(i, j)| (points[i] - points[j]).norm_squared());
    let [alpha, beta, gamma] =
        [(1, 2), (0, 2), (0, 1)].map(|(i, j): (usize, usize)| directions[i].dot(&directions[j]));
    if !(a > 0.0 && b > 0.0 && c > 0.0) {
        return Vec::new();
    }
    let (minus, plus, across) = ((a - c) / b, (a + c) / b, c / b);
    let polynomial = [
        (1.0 + minus).powi(2) - 4.0 * a / b * gamma * gamma,
        4.0 * (-minus * (1.0 + minus) * beta + 2.0 * a / b * gamma * gamma * beta
            - (1.0 - plus) * alpha * gamma),
        2.0 * (minus * minus - 1.0
            + 2.0 * minus * minus * beta * beta
            + 2.0 * (b - c) / b * alpha * alpha
            - 4.0 * plus * alpha * beta * gamma
            + 2.0 * (b - a) / b * gamma * gamma),
        4.0 * (minus * (1.0 - minus) * beta - (1.0 - plus) * alpha * gamma
            + 2.0 * across * alpha * alpha * beta),
        (minus - 1.0).powi(2) - 4.0 * across * alpha * alpha,
    ];
    let mut poses = Vec::new();
    for ratio in real_roots(polynomial) {
        let below = 2.0 * (gamma - ratio * alpha);
        let other =
            ((minus - 1.0) * ratio * ratio - 2.0 * minus * beta * ratio + 1.0 + minus) / below;
        let nearest = (b / (1.0 + ratio * ratio - 2.0 * ratio * beta)).sqrt();
        let distances = [nearest, other * nearest, ratio * nearest];
        if !distances
            .iter()
            .all(|distance| distance.is_finite() && *distance > 0.0)
        {
            continue;
        }
        let pairs = [0, 1, 2].map(|index| Correspondence {
            from: points[index],
            to: Point3::from(directions[index] * distances[index]),
            weight: 1.0,
        });
        let Some(fit) = similarity(&pairs) else {
            continue;
        };
        // The sides agree by construction, so the fit's scale differs from one by rounding.
        let centre = |point: fn(&Correspondence) -> Point3<f64>| {
            pairs
                .iter()
                .fold(Vector3::zeros(), |sum, pair| sum + point(pair).coords)
                / 3.0
        };
        let rotation = fit.isometry.rotation;
        let translation =
            Translation3::from(centre(|pair| pair.to) - rotation * centre(|pair| pair.from));
        poses.push(Isometry3::from_parts(translation, rotation));
    }
    poses
}

/// Real roots of sum c_k x^k, by the eigenvalues of the companion matrix and two steps of Newton's.
fn real_roots(coefficients: [f64; 5]) -> Vec<f64> {
    let [c0, c1, c2, c3, c4] = coefficients;
    let [m0, m1, m2, m3] = [c0, c1, c2, c3].map(|coefficient| -coefficient / c4);
    if ![m0, m1, m2, m3].iter().all(|value| value.is_finite()) {
        return Vec::new();
    }
    #[rustfmt::skip]
    let companion = Matrix4::new(
        0.0, 0.0, 0.0, m0,
        1.0, 0.0, 0.0, m1,
        0.0, 1.0, 0.0, m2,
        0.0, 0.0, 1.0, m3,
    );
    let Some(schur) = Schur::try_new(companion, f64::EPSILON, 200) else {
        return Vec::new();
    };
    let mut roots = Vec::new();
    for value in schur.complex_eigenvalues().iter() {
        // A double root comes out as a pair with small imaginary parts.
        if value.im.abs() > 1e-4 * (1.0 + value.re.abs()) {
            continue;
        }
        let mut x = value.re;
        for _ in 0..2 {
            let height = (((c4 * x + c3) * x + c2) * x + c1) * x + c0;
            let slope = ((4.0 * c4 * x + 3.0 * c3) * x + 2.0 * c2) * x + c1;
            let step = height / slope;
            if step.is_finite() {
                x -= step;
            }
        }
        roots.push(x);
    }
    roots
}

type Jacobian = SMatrix<f64, 2, 7>;

/// Pixel error of an observation and its derivative by a rotation vector w (R <- exp(w) R), the
/// translation and the logarithm of the focal length. `None` behind the camera.
fn residual(
    observation: &PixelCorrespondence,
    principal: [f64; 2],
    pose: &Pose,
) -> Option<(Vector2<f64>, Jacobian)> {
    let turned = pose.camera_from_world.rotation * observation.point.coords;
    let point = turned + pose.camera_from_world.translation.vector;
    if point.z <= 0.0 {
        return None;
    }
    let seen = Vector2::new(point.x, point.y) * (pose.focal / point.z);
    let error = seen
        - Vector2::new(
            observation.pixel[0] - principal[0],
            observation.pixel[1] - principal[1],
        );
    let by_point = projection_derivative(&point, pose.focal);
    let mut jacobian = Jacobian::zeros();
    jacobian
        .fixed_columns_mut::<3>(0)
        .copy_from(&(-by_point * cross(&turned)));
    jacobian.fixed_columns_mut::<3>(3).copy_from(&by_point);
    jacobian.set_column(6, &seen);
    Some((error, jacobian))
}

/// Derivative of focal * (x, y) / z by the point.
pub(super) fn projection_derivative(point: &Vector3<f64>, focal: f64) -> SMatrix<f64, 2, 3> {
    let scale = focal / point.z;
    SMatrix::<f64, 2, 3>::new(
        scale,
        0.0,
        -scale * point.x / point.z,
        0.0,
        scale,
        -scale * point.y / point.z,
    )
}

/// The matrix of the cross product with `vector` on the left.
pub(super) fn cross(vector: &Vector3<f64>) -> Matrix3<f64> {
    vector.cross_matrix()
}

/// Cauchy's robust error of a squared distance, and the weight of its least squares counterpart.
pub(crate) fn cauchy(squared: f64, width: f64) -> (f64, f64) {
    let ratio = squared / (width * width);
    (0.5 * width * width * ratio.ln_1p(), 1.0 / (1.0 + ratio))
}

fn normal_equations(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    pose: &Pose,
    width: f64,
) -> (f64, SMatrix<f64, 7, 7>, SVector<f64, 7>) {
    let (mut cost, mut matrix, mut gradient) = (
        0.0,
        SMatrix::<f64, 7, 7>::zeros(),
        SVector::<f64, 7>::zeros(),
    );
    for observation in observations {
        match residual(observation, principal, pose) {
            Some((error, jacobian)) => {
                let (loss, weight) = cauchy(error.norm_squared(), width);
                cost += observation.weight * loss;
                matrix += jacobian.tr_mul(&jacobian) * (observation.weight * weight);
                gradient += jacobian.tr_mul(&error) * (observation.weight * weight);
            }
            // As dear as a point far off, so that no step gains by putting points behind the
            // camera.
            None => cost += observation.weight * cauchy((100.0 * width).powi(2), width).0,
        }
    }
    (cost, matrix, gradient)
}

fn levenberg_marquardt(
    observations: &[PixelCorrespondence],
    principal: [f64; 2],
    start: Pose,
    free_focal: bool,
    width: f64,
) -> Pose {
    let mut pose = start;
    let (mut cost, mut matrix, mut gradient) =
        normal_equations(observations, principal, &pose, width);
    let mut damping = 1e-4;
    for _ in 0..STEPS_PER_WIDTH {
        let mut damped = matrix;
        let mut target = -gradient;
        for k in 0..7 {
            damped[(k, k)] += damping * matrix[(k, k)];
        }
        if !free_focal {
            damped.row_mut(6).fill(0.0);
            damped.column_mut(6).fill(0.0);
            damped[(6, 6)] = 1.0;
            target[6] = 0.0;
        }
        let Some(step) = damped.cholesky().map(|factor| factor.solve(&target)) else {
            break;
        };
        let candidate = moved(&pose, &step);
        let (new_cost, new_matrix, new_gradient) =
            normal_equations(observations, principal, &candidate, width);
        if new_cost < cost {
            let gain = (cost - new_cost) / cost;
            (pose, cost, matrix, gradient) = (candidate, new_cost, new_matrix, new_gradient);
            damping = (damping * 0.1).max(1e-9);
            if gain < 1e-7 {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e6 {
                break;
            }
        }
    }
    pose
}

fn moved(pose: &Pose, step: &SVector<f64, 7>) -> Pose {
    let turn = UnitQuaternion::from_scaled_axis(step.fixed_rows::<3>(0).into_owned());
    let shift = pose.camera_from_world.translation.vector + step.fixed_rows::<3>(3);
    Pose {
        camera_from_world: Isometry3::from_parts(
            Translation3::from(shift),
            UnitQuaternion::new_normalize((turn * pose.camera_from_world.rotation).into_inner()),
        ),
        focal: pose.focal * step[6].exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINCIPAL: [f64; 2] = [63.5, 47.5];

    fn truth() -> Pose {
        let camera_from_world =
            Isometry3::new(Vector3::new(-0.7, 0.2, 0.4), Vector3::new(0.1, 0.35, -0.05));
        Pose {
            camera_from_world,
            focal: 110.0,
        }
    }

    /// A curved surface seen by the camera of `truth`, every `wild`-th point misplaced.
    fn scene(wild: usize) -> Vec<PixelCorrespondence> {
        let world_from_camera = truth().camera_from_world.inverse();
        (0..400)
            .map(|index| {
                let pixel = [f64::from(index % 20) * 6.5, f64::from(index / 20) * 5.0];
                let depth = 3.0 + (pixel[0] * 0.07).sin() + (pixel[1] * 0.09).cos();
                let ray = [0, 1].map(|axis| (pixel[axis] - PRINCIPAL[axis]) / 110.0 * depth);
                let mut point = world_from_camera * Point3::new(ray[0], ray[1], depth);
                if (index as usize).is_multiple_of(wild) {
                    point *= 1.8;
                }
                PixelCorrespondence {
                    point,
                    pixel,
                    weight: 1.0,
                }
            })
            .collect()
    }

    fn gap(pose: &Pose) -> f64 {
        (pose.camera_from_world.to_homogeneous() - truth().camera_from_world.to_homogeneous())
            .abs()
            .max()
    }

    #[test]
    fn three_points_give_the_true_pose_among_others() {
        let scene = scene(1000);
        for start in [1, 60, 210, 333] {
            let chosen = [
                scene[start],
                scene[(start + 127) % 400],
                scene[(start + 251) % 400],
            ];
            let directions = chosen.map(|observation| {
                let at = |axis: usize| (observation.pixel[axis] - PRINCIPAL[axis]) / 110.0;
                Vector3::new(at(0), at(1), 1.0).normalize()
            });
            let poses =
                perspective_three_points(chosen.map(|observation| observation.point), directions);
            let nearest = poses
                .iter()
                .map(|&camera_from_world| {
                    gap(&Pose {
                        camera_from_world,
                        focal: 110.0,
                    })
                })
                .fold(f64::INFINITY, f64::min);
            assert!(
                nearest < 1e-6,
                "sample {start}: {} poses, the nearest {nearest:e} off",
                poses.len()
            );
        }
    }

    #[test]
    fn the_jacobian_of_the_pixel_error_matches_finite_differences() {
        let observation = PixelCorrespondence {
            point: Point3::new(0.5, -0.4, 3.0),
            pixel: [70.0, 20.0],
            weight: 1.0,
        };
        let pose = truth();
        let (_, jacobian) = residual(&observation, PRINCIPAL, &pose).unwrap();
        for k in 0..7 {
            let mut step = SVector::<f64, 7>::zeros();
            step[k] = 1e-6;
            let above = residual(&observation, PRINCIPAL, &moved(&pose, &step))
                .unwrap()
                .0;
            let below = residual(&observation, PRINCIPAL, &moved(&pose, &-step))
                .unwrap()
                .0;
            let difference = (above - below) / 2e-6;
            let gap = (difference - jacobian.column(k)).norm();
            assert!(
                gap < 1e-5 * (1.0 + difference.norm()),
                "parameter {k}: {difference:?}, off by {gap:e}"
            );
        }
    }

    #[test]
    fn the_pose_survives_a_third_of_wild_points() {
        let pose = solve(&scene(3), PRINCIPAL, 110.0, &PnpOptions::default()).unwrap();
        assert!(gap(&pose) < 1e-2, "{pose:?}");
    }

    #[test]
    fn pose_and_focal_are_found_together() {
        let pose =
            solve_unknown_focal(&scene(4), PRINCIPAL, 128.0, &PnpOptions::default()).unwrap();
        assert!(
            gap(&pose) < 1e-2 && (pose.focal / 110.0 - 1.0).abs() < 2e-3,
            "{pose:?}"
        );
    }

    #[test]
    fn what_has_no_pose_gives_none() {
        let options = PnpOptions::default();
        let mut same = scene(1000);
        same.iter_mut()
            .for_each(|observation| observation.point = Point3::new(1.0, 2.0, 3.0));
        assert!(solve(&same, PRINCIPAL, 110.0, &options).is_none());
        assert!(solve(&scene(1000)[..3], PRINCIPAL, 110.0, &options).is_none());
        assert!(solve(&scene(1000), PRINCIPAL, f64::NAN, &options).is_none());
        let mut broken = scene(1000);
        broken
            .iter_mut()
            .for_each(|observation| observation.point.x = f64::NAN);
        assert!(solve(&broken, PRINCIPAL, 110.0, &options).is_none());
    }
}
