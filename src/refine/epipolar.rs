//! Epipolar geometry of two images: fundamental matrices from matches, some of which are wrong.

use nalgebra::{Matrix3, SMatrix, Vector3};

use crate::geometry::ransac::{self, Budget, Score};

/// Samples of a search.
const BUDGET: Budget = Budget {
    most_samples: 3000,
    least_samples: 50,
    certainty: 0.999,
};
/// Matches that agree at least.
pub(super) const LEAST_MATCHES: usize = 15;

pub(super) fn homogeneous([x, y]: [f64; 2]) -> Vector3<f64> {
    Vector3::new(x, y, 1.0)
}

/// The larger of the distances of both pixels from their epipolar lines.
#[inline(always)]
pub(super) fn distance(fundamental: &Matrix3<f64>, [first, second]: &[[f64; 2]; 2]) -> f64 {
    let (first, second) = (homogeneous(*first), homogeneous(*second));
    let (in_second, in_first) = (fundamental * first, fundamental.tr_mul(&second));
    let value = second.dot(&in_second).abs();
    let shorter = in_second
        .xy()
        .norm_squared()
        .min(in_first.xy().norm_squared());
    value / shorter.sqrt()
}

/// An epipolar geometry, and how many of the pairs that it was found from agree with it.
pub(super) struct Geometry {
    /// The fundamental matrix (second pixel, first pixel).
    pub matrix: Matrix3<f64>,
    pub inliers: usize,
}

/// The geometry that most pairs agree with, within `limit` pixels; pairs that are probably right
/// come first.
pub(super) fn geometry(pairs: &[[[f64; 2]; 2]], limit: f64) -> Option<Geometry> {
    if pairs.len() < LEAST_MATCHES {
        return None;
    }
    let score = |matrix: &Matrix3<f64>| {
        let mut score = Score {
            inliers: 0,
            cost: 0.0,
        };
        for pair in pairs {
            let error = distance(matrix, pair) / limit;
            score.inliers += usize::from(error <= 1.0);
            score.cost += if error <= 1.0 { error * error } else { 1.0 };
        }
        score
    };
    // The best matches alone at first, all of them in the end (Chum and Matas, CVPR 2005).
    let among = |drawn: usize| 20 + drawn * pairs.len() / 300;
    let propose = |sample: [usize; 7]| seven_points(&sample.map(|index| pairs[index]));
    let (mut matrix, mut best) = ransac::search(pairs.len(), BUDGET, among, propose, score)?;
    for _ in 0..3 {
        let agreeing: Vec<_> = pairs
            .iter()
            .filter(|pair| distance(&matrix, pair) <= limit)
            .copied()
            .collect();
        let Some(refined) = least_squares(&agreeing) else {
            break;
        };
        let found = score(&refined);
        if found.cost >= best.cost {
            break;
        }
        (matrix, best) = (refined, found);
    }
    (best.inliers >= LEAST_MATCHES).then_some(Geometry {
        matrix,
        inliers: best.inliers,
    })
}

/// How many pairs agree with a geometry.
pub(super) fn agreeing_with(matrix: &Matrix3<f64>, pairs: &[[[f64; 2]; 2]], limit: f64) -> usize {
    let agrees = |pair: &&[[f64; 2]; 2]| distance(matrix, pair) <= limit;
    pairs.iter().filter(agrees).count()
}

/// Which pairs agree with the geometry that most of them do, within `limit` pixels; those that are
/// probably right come first. None does unless enough do.
pub(super) fn agreeing(pairs: &[[[f64; 2]; 2]], limit: f64) -> Vec<bool> {
    let found = geometry(pairs, limit);
    let agrees = |pair: &[[f64; 2]; 2]| {
        found
            .as_ref()
            .is_some_and(|found| distance(&found.matrix, pair) <= limit)
    };
    pairs.iter().map(agrees).collect()
}

/// Moves points to mean 0 and mean distance sqrt(2): a scaling and a shift.
struct Normalisation {
    scale: f64,
    middle: [f64; 2],
}

impl Normalisation {
    fn new(points: impl Iterator<Item = [f64; 2]> + Clone) -> Self {
        let count = points.clone().count().max(1) as f64;
        let sum = points.clone().fold([0.0; 2], |sum, point| {
            [sum[0] + point[0], sum[1] + point[1]]
        });
        let middle = sum.map(|sum| sum / count);
        let spread = points
            .map(|point| (point[0] - middle[0]).hypot(point[1] - middle[1]))
            .sum::<f64>()
            / count;
        Self {
            scale: std::f64::consts::SQRT_2 / spread.max(1e-9),
            middle,
        }
    }

    fn apply(&self, point: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| (point[axis] - self.middle[axis]) * self.scale)
    }

    fn matrix(&self) -> Matrix3<f64> {
        let s = self.scale;
        Matrix3::new(
            s,
            0.0,
            -s * self.middle[0],
            0.0,
            s,
            -s * self.middle[1],
            0.0,
            0.0,
            1.0,
        )
    }
}

/// Row of the system for the elements of a fundamental matrix, row by row.
fn equation([[x, y], [u, v]]: [[f64; 2]; 2]) -> [f64; 9] {
    [u * x, u * y, u, v * x, v * y, v, x, y, 1.0]
}

/// Up to three fundamental matrices through seven pairs (Hartley and Zisserman, 11.1.2).
fn seven_points(pairs: &[[[f64; 2]; 2]; 7]) -> Vec<Matrix3<f64>> {
    let sides = [0, 1].map(|side| Normalisation::new(pairs.iter().map(move |pair| pair[side])));
    let mut rows = pairs.map(|[a, b]| equation([sides[0].apply(a), sides[1].apply(b)]));
    // Gauss-Jordan with full pivoting leaves two free columns.
    let mut order: [usize; 9] = std::array::from_fn(|column| column);
    for step in 0..7 {
        let (mut row, mut column) = (step, step);
        for r in step..7 {
            for c in step..9 {
                if rows[r][order[c]].abs() > rows[row][order[column]].abs() {
                    (row, column) = (r, c);
                }
            }
        }
        rows.swap(step, row);
        order.swap(step, column);
        let pivot = rows[step][order[step]];
        if pivot.abs() < 1e-10 {
            return Vec::new();
        }
        rows[step].iter_mut().for_each(|value| *value /= pivot);
        let lead = rows[step];
        for (_, row) in rows
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| *index != step)
        {
            let factor = row[order[step]];
            row.iter_mut()
                .zip(lead)
                .for_each(|(value, lead)| *value -= factor * lead);
        }
    }
    let null = |free: usize| {
        let mut vector = [0.0; 9];
        vector[order[7 + free]] = 1.0;
        (0..7).for_each(|step| vector[order[step]] = -rows[step][order[7 + free]]);
        Matrix3::from_row_slice(&vector)
    };
    let (f, g) = (null(0), null(1));
    // det(g + t f) = 0, a cubic whose coefficients four values give.
    let value = |t: f64| (g + f * t).determinant();
    let (d, at1, at_1, at2) = (value(0.0), value(1.0), value(-1.0), value(2.0));
    let b = (at1 + at_1) / 2.0 - d;
    let a = (at2 - 4.0 * b - d - (at1 - at_1)) / 6.0;
    let c = (at1 - at_1) / 2.0 - a;
    let back = sides[1].matrix().transpose();
    let to = sides[0].matrix();
    cubic_roots(a, b, c, d)
        .into_iter()
        .map(|t| (back * (g + f * t) * to).normalize())
        .collect()
}

/// Real roots of a t^3 + b t^2 + c t + d.
fn cubic_roots(a: f64, b: f64, c: f64, d: f64) -> Vec<f64> {
    if a.abs() < 1e-12 * (b.abs() + c.abs() + d.abs()) {
        let discriminant = c * c - 4.0 * b * d;
        if b == 0.0 || discriminant < 0.0 {
            return Vec::new();
        }
        return [1.0, -1.0]
            .map(|sign| (-c + sign * discriminant.sqrt()) / (2.0 * b))
            .to_vec();
    }
    let (b, c, d) = (b / a, c / a, d / a);
    let (q, r) = (
        (b * b - 3.0 * c) / 9.0,
        (2.0 * b.powi(3) - 9.0 * b * c + 27.0 * d) / 54.0,
    );
    let shift = b / 3.0;
    if r * r < q.powi(3) {
        let angle = (r / q.powi(3).sqrt()).clamp(-1.0, 1.0).acos();
        let root = |turn: f64| {
            -2.0 * q.sqrt() * ((angle + turn * std::f64::consts::TAU) / 3.0).cos() - shift
        };
        return [0.0, 1.0, -1.0].map(root).to_vec();
    }
    let e = -r.signum() * (r.abs() + (r * r - q.powi(3)).max(0.0).sqrt()).cbrt();
    vec![e + if e == 0.0 { 0.0 } else { q / e } - shift]
}

/// The normalised eight-point algorithm (Hartley, PAMI 1997).
pub(super) fn least_squares(pairs: &[[[f64; 2]; 2]]) -> Option<Matrix3<f64>> {
    if pairs.len() < 8 {
        return None;
    }
    let sides = [0, 1].map(|side| Normalisation::new(pairs.iter().map(move |pair| pair[side])));
    let mut normal = SMatrix::<f64, 9, 9>::zeros();
    for &[a, b] in pairs {
        let row =
            SMatrix::<f64, 1, 9>::from_row_slice(&equation([sides[0].apply(a), sides[1].apply(b)]));
        normal += row.transpose() * row;
    }
    let eigen = normal.symmetric_eigen();
    let vector = eigen
        .eigenvectors
        .column(eigen.eigenvalues.imin())
        .into_owned();
    let mut svd = Matrix3::from_row_slice(vector.as_slice()).svd(true, true);
    let smallest = svd.singular_values.imin();
    svd.singular_values[smallest] = 0.0;
    let matrix = svd.recompose().ok()?;
    let matrix = (sides[1].matrix().transpose() * matrix * sides[0].matrix()).normalize();
    matrix
        .iter()
        .all(|value| value.is_finite())
        .then_some(matrix)
}
