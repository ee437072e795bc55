//! Matches of keypoints between two images, checked by their epipolar geometry.
//!
//! ```text
//! largest keypoints ── each with each: nearest both ways, far nearer than the second ──▶ seeds
//!                   ── RANSAC over 7 of them ──▶ fundamental matrix ── near epipolar lines ──▶ matches of all keypoints
//! ```
//!
//! Nothing here relies on the cameras, which may be far off.

use nalgebra::{Matrix3, SMatrix, Vector3};
use pulp::Arch;

use super::keypoints::{CHANNELS, Keypoint};
use crate::geometry::ransac::{self, Budget, Score};

/// Keypoints that are compared each with each, the largest.
const MOST_SEEDS: usize = 2000;
/// Largest ratio of the distances of the nearest and the second nearest descriptor: of seeds, and
/// near epipolar lines, where there are few to choose from.
const SEED_RATIO: f32 = 0.8;
const GUIDED_RATIO: f32 = 0.85;
/// Least cosine of two descriptors that match.
const LEAST_COSINE: f32 = 0.75;
/// Distance from the epipolar line up to which a match agrees, of the long side: lens distortion
/// bends lines.
const EPIPOLAR_SHARE: f64 = 4.0 / 1280.0;
const LEAST_EPIPOLAR_PX: f64 = 1.0;
/// Samples of a search.
const BUDGET: Budget = Budget {
    most_samples: 3000,
    least_samples: 50,
    certainty: 0.999,
};
/// Matches that agree at least.
pub(super) const LEAST_MATCHES: usize = 15;

/// Keypoints of an image, ready to be compared.
pub(super) struct Features {
    pub pixels: Vec<[f64; 2]>,
    /// `CHANNELS` numbers for each, in 16 bits, for which processors have a multiplication with
    /// sums.
    descriptors: Vec<i16>,
    /// Lengths of the descriptors.
    lengths: Vec<f32>,
    long_side: f64,
}

impl Features {
    pub fn new(keypoints: &[Keypoint], long_side: f64) -> Self {
        let descriptors: Vec<i16> = keypoints
            .iter()
            .flat_map(|keypoint| keypoint.descriptor.map(i16::from))
            .collect();
        let length = |values: &[i16]| {
            values
                .iter()
                .map(|value| f32::from(*value).powi(2))
                .sum::<f32>()
                .sqrt()
                .max(1.0)
        };
        let lengths = descriptors.chunks(CHANNELS).map(length).collect();
        Self {
            pixels: keypoints.iter().map(|keypoint| keypoint.pixel).collect(),
            descriptors,
            lengths,
            long_side,
        }
    }

    #[inline(always)]
    fn descriptor(&self, index: usize) -> &[i16] {
        &self.descriptors[index * CHANNELS..(index + 1) * CHANNELS]
    }

    pub fn epipolar_px(&self) -> f64 {
        (EPIPOLAR_SHARE * self.long_side).max(LEAST_EPIPOLAR_PX)
    }
}

/// The best and the second best candidate of a keypoint.
#[derive(Clone, Copy)]
struct Best {
    index: usize,
    cosine: f32,
    second: f32,
}

impl Best {
    const NONE: Self = Self {
        index: usize::MAX,
        cosine: -1.0,
        second: -1.0,
    };

    #[inline(always)]
    fn see(&mut self, index: usize, cosine: f32) {
        if cosine > self.cosine {
            *self = Self {
                index,
                cosine,
                second: self.cosine,
            };
        } else if cosine > self.second {
            self.second = cosine;
        }
    }

    /// Whether it stands out: distances of unit vectors are sqrt(2 - 2 cosine).
    fn stands_out(&self, ratio: f32) -> bool {
        self.cosine >= LEAST_COSINE && 1.0 - self.cosine < ratio * ratio * (1.0 - self.second)
    }
}

#[inline(always)]
fn cosine(first: &Features, one: usize, second: &Features, other: usize) -> f32 {
    let (a, b) = (first.descriptor(one), second.descriptor(other));
    let dot: i32 = a
        .iter()
        .zip(b)
        .map(|(a, b)| i32::from(*a) * i32::from(*b))
        .sum();
    dot as f32 / (first.lengths[one] * second.lengths[other])
}

/// Indices of keypoints of both images that match, ascending in the first; none unless enough agree
/// with one geometry.
pub(super) fn matches(first: &Features, second: &Features) -> Vec<[usize; 2]> {
    let seeds = seeds(first, second);
    let pixels: Vec<[[f64; 2]; 2]> = seeds
        .iter()
        .map(|&[a, b]| [first.pixels[a], second.pixels[b]])
        .collect();
    let limit = first.epipolar_px().max(second.epipolar_px());
    let Some(fundamental) = fundamental_matrix(&pixels, limit) else {
        return Vec::new();
    };
    let mut found = guided(first, second, &fundamental, limit);
    // Once more, with the geometry of all matches.
    let pixels: Vec<[[f64; 2]; 2]> = found
        .iter()
        .map(|&[a, b]| [first.pixels[a], second.pixels[b]])
        .collect();
    if let Some(better) = least_squares(&pixels) {
        let agreeing = |matrix: &Matrix3<f64>| {
            pixels
                .iter()
                .filter(|pair| distance(matrix, pair) <= limit)
                .count()
        };
        if agreeing(&better) >= agreeing(&fundamental) {
            found = guided(first, second, &better, limit);
        }
    }
    if found.len() < LEAST_MATCHES {
        Vec::new()
    } else {
        found
    }
}

/// Matches among the largest keypoints, best first.
fn seeds(first: &Features, second: &Features) -> Vec<[usize; 2]> {
    let (rows, columns) = (
        first.pixels.len().min(MOST_SEEDS),
        second.pixels.len().min(MOST_SEEDS),
    );
    let mut forward = vec![Best::NONE; rows];
    let mut backward = vec![Best::NONE; columns];
    Arch::new().dispatch(|| {
        for (one, best) in forward.iter_mut().enumerate() {
            for (other, reverse) in backward.iter_mut().enumerate() {
                let cosine = cosine(first, one, second, other);
                best.see(other, cosine);
                reverse.see(one, cosine);
            }
        }
    });
    mutual(&forward, &backward, SEED_RATIO)
}

/// Matches of keypoints near each other's epipolar lines.
fn guided(
    first: &Features,
    second: &Features,
    fundamental: &Matrix3<f64>,
    limit: f64,
) -> Vec<[usize; 2]> {
    let grid = Grid::new(second);
    let mut forward = vec![Best::NONE; first.pixels.len()];
    let mut backward = vec![Best::NONE; second.pixels.len()];
    Arch::new().dispatch(|| {
        for (one, best) in forward.iter_mut().enumerate() {
            let line = fundamental * homogeneous(first.pixels[one]);
            grid.along(&line, limit, |other| {
                let pair = [first.pixels[one], second.pixels[other]];
                if distance(fundamental, &pair) <= limit {
                    let cosine = cosine(first, one, second, other);
                    best.see(other, cosine);
                    backward[other].see(one, cosine);
                }
            });
        }
    });
    let mut found = mutual(&forward, &backward, GUIDED_RATIO);
    found.sort_unstable();
    found
}

/// Those that are each other's best and stand out both ways, best first.
fn mutual(forward: &[Best], backward: &[Best], ratio: f32) -> Vec<[usize; 2]> {
    let is_mutual = |(one, best): &(usize, &Best)| {
        best.stands_out(ratio)
            && backward[best.index].index == *one
            && backward[best.index].stands_out(ratio)
    };
    let mut found: Vec<(usize, &Best)> = forward.iter().enumerate().filter(is_mutual).collect();
    let quality = |best: &Best| (1.0 - best.cosine) / (1.0 - best.second);
    found.sort_by(|one, two| quality(one.1).total_cmp(&quality(two.1)));
    found
        .into_iter()
        .map(|(one, best)| [one, best.index])
        .collect()
}

/// Keypoints by the cell of the image that they lie in.
struct Grid {
    cell: f64,
    columns: usize,
    rows: usize,
    /// Where each cell's keypoints begin, and the keypoints.
    starts: Vec<usize>,
    members: Vec<usize>,
}

impl Grid {
    /// Cells along the long side.
    const CELLS: f64 = 64.0;

    fn new(features: &Features) -> Self {
        let cell = features.long_side / Self::CELLS;
        let place = |pixel: &[f64; 2]| pixel.map(|at| (at / cell).max(0.0) as usize);
        let places: Vec<[usize; 2]> = features.pixels.iter().map(place).collect();
        let size = |axis: usize| {
            places
                .iter()
                .map(|place| place[axis] + 1)
                .max()
                .unwrap_or(1)
        };
        let (columns, rows) = (size(0), size(1));
        let mut members: Vec<usize> = (0..places.len()).collect();
        let index = |place: [usize; 2]| place[1] * columns + place[0];
        members.sort_by_key(|&member| index(places[member]));
        let mut starts = vec![0; columns * rows + 1];
        places
            .iter()
            .for_each(|place| starts[index(*place) + 1] += 1);
        (1..starts.len()).for_each(|at| starts[at] += starts[at - 1]);
        Self {
            cell,
            columns,
            rows,
            starts,
            members,
        }
    }

    /// Visits the keypoints of all cells that come within `limit` of the line a x + b y + c = 0.
    #[inline(always)]
    fn along(&self, line: &Vector3<f64>, limit: f64, mut visit: impl FnMut(usize)) {
        let [a, b, c] = [line.x, line.y, line.z];
        let is_flat = b.abs() >= a.abs();
        let (steep, long, short) = if is_flat {
            (b, self.columns, self.rows)
        } else {
            (a, self.rows, self.columns)
        };
        if steep == 0.0 {
            return;
        }
        // Within a cell the line moves by a cell at most, and a distance from it counts sqrt(2)
        // times at most.
        let at = |along: f64| -((if is_flat { a } else { b }) * along + c) / steep;
        let reach = std::f64::consts::SQRT_2 * limit;
        for step in 0..long {
            let ends = [
                at(step as f64 * self.cell),
                at((step + 1) as f64 * self.cell),
            ];
            let low = ((ends[0].min(ends[1]) - reach) / self.cell)
                .floor()
                .max(0.0) as usize;
            let high = ((ends[0].max(ends[1]) + reach) / self.cell).floor();
            if high < 0.0 {
                continue;
            }
            for across in low..(high as usize + 1).min(short) {
                let index = if is_flat {
                    across * self.columns + step
                } else {
                    step * self.columns + across
                };
                self.members[self.starts[index]..self.starts[index + 1]]
                    .iter()
                    .for_each(|&member| visit(member));
            }
        }
    }
}

fn homogeneous([x, y]: [f64; 2]) -> Vector3<f64> {
    Vector3::new(x, y, 1.0)
}

/// The larger of the distances of both pixels from their epipolar lines.
#[inline(always)]
fn distance(fundamental: &Matrix3<f64>, [first, second]: &[[f64; 2]; 2]) -> f64 {
    let (first, second) = (homogeneous(*first), homogeneous(*second));
    let (in_second, in_first) = (fundamental * first, fundamental.tr_mul(&second));
    let value = second.dot(&in_second).abs();
    let shorter = in_second
        .xy()
        .norm_squared()
        .min(in_first.xy().norm_squared());
    value / shorter.sqrt()
}

/// The fundamental matrix (second pixel, first pixel) that most pairs agree with; pairs that are
/// probably right come first.
fn fundamental_matrix(pairs: &[[[f64; 2]; 2]], limit: f64) -> Option<Matrix3<f64>> {
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
    (best.inliers >= LEAST_MATCHES).then_some(matrix)
}

/// Which pairs agree with the geometry that most of them do, within `limit` pixels; those that are
/// probably right come first. None does unless enough do.
pub(super) fn agreeing(pairs: &[[[f64; 2]; 2]], limit: f64) -> Vec<bool> {
    let matrix = fundamental_matrix(pairs, limit);
    pairs
        .iter()
        .map(|pair| matrix.is_some_and(|matrix| distance(&matrix, pair) <= limit))
        .collect()
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
fn least_squares(pairs: &[[[f64; 2]; 2]]) -> Option<Matrix3<f64>> {
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
