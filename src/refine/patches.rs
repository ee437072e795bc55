//! Matches of the network brought to subpixels of the files: patches around corners, warped from
//! one image to the other.
//!
//! ```text
//! network's matches ── the corner of each cell, moved there by the geometry's derivative ──▶ starts
//!                   ── patches of 15x15 pixels, from the network's resolution to the file's ──▶ subpixels
//!                   ── and back, and near epipolar lines ──▶ matches
//! ```
//!
//! A patch of the first image is compared with an affine warp of the second, up to a gain and a
//! bias (inverse compositional alignment: Baker and Matthews, IJCV 2004; Baker, Gross and Matthews,
//! CMU-RI-TR-03-35, for the two).

use nalgebra::{Matrix2, SMatrix, SVector, Vector2};

use super::epipolar;
use super::plane::{Plane, Scaled};
use crate::matching::Match;
use crate::scene::SceneView;
use crate::views::View;

/// Pixels of the network's image along a cell, of which each has one corner.
const CELL: u32 = 8;
/// Half a patch and the patch, pixels of a level.
const REACH: usize = 7;
const SIDE: usize = 2 * REACH + 1;
const PIXELS: usize = SIDE * SIDE;
/// Images are shrunk to so many pixels, and all of them together to so many.
const MOST_PIXELS: f64 = 5e6;
const MOST_TOGETHER: f64 = 2e8;
/// Blur before a level is halved, pixels.
const HALVING_SIGMA: f32 = 0.9;
/// Blur of the gradients' products, of which corners have large ones in all directions; pixels of
/// the first level.
const CORNER_SIGMA: f32 = 3.0;
/// Pixels of the network's image from where a match began: beyond, the patch has found something
/// else.
const MOST_SHIFT: f64 = 3.0;
/// Pixels of the first level by which the way there and back may miss.
const MOST_RETURN: f64 = 1.0;
/// Least correlation of patches.
const LEAST_CORRELATION: f64 = 0.8;
/// Largest standard deviation of a position, pixels of the first level, as the patch's gradients
/// and residuals have it.
const MOST_DEVIATION: f64 = 0.3;
/// Steps a level, and the shortest one, pixels of the level.
const STEPS: usize = 12;
const LEAST_STEP: f64 = 0.01;
/// What holds a patch's stretch, in squares of gradients: as noise of 0.01 and changes of 0.1 that
/// are expected.
const STIFFNESS: f64 = 1e-4;
/// Stretches of a patch beyond which it is not followed.
const STRETCH: [f64; 2] = [0.25, 4.0];
/// Pixels of the network's image over which derivatives of the geometry are taken, to both sides.
const DERIVATIVE_REACH: i64 = 3;

/// A file, one of so many `images`, at the size that patches are taken from.
pub(super) fn shrunk(file: &Plane, images: usize) -> Scaled<'_> {
    let most = MOST_PIXELS.min(MOST_TOGETHER / images as f64);
    file.scaled((most / (file.width * file.height) as f64).sqrt().min(1.0))
}

/// A view's image at several resolutions, each half the one before, and its corners.
pub(super) struct Patches {
    first: Scaled<'static>,
    /// The levels after the first.
    smaller: Vec<Plane>,
    /// First-level pixels per pixel of the network's image.
    per_framed: f64,
    columns: u32,
    /// For each cell of the network's image, row by row, the pixel of the first level that is most
    /// a corner.
    corners: Vec<Option<[f64; 2]>>,
}

impl Patches {
    /// Of a view's [`shrunk`] file.
    pub fn new(first: Scaled<'static>, view: &View) -> Self {
        let per_framed = view.crop.scale_to_file()[0] / first.per_pixel[0];
        let mut smaller: Vec<Plane> = Vec::new();
        // Down to the network's resolution, whose pixels matches are right to.
        while 2f64.powi(smaller.len() as i32 + 1) < 1.5 * per_framed {
            let last = smaller.last().unwrap_or(&first.plane);
            if last.width.min(last.height) < 4 * SIDE {
                break;
            }
            smaller.push(last.blurred(HALVING_SIGMA).halved());
        }
        let (columns, rows) = (
            view.rgb.width().div_ceil(CELL),
            view.rgb.height().div_ceil(CELL),
        );
        let strength = corner_strength(&first.plane);
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| [column, row]));
        let corners = cells
            .map(|cell| corner(cell, &strength, &first, view))
            .collect();
        Self {
            first,
            smaller,
            per_framed,
            columns,
            corners,
        }
    }

    fn level(&self, level: usize) -> &Plane {
        if level == 0 {
            &self.first.plane
        } else {
            &self.smaller[level - 1]
        }
    }

    /// The corners of all cells, pixels of the file; those of cells without one are never matched.
    pub fn corners(&self) -> impl Iterator<Item = [f64; 2]> {
        self.corners
            .iter()
            .map(|corner| self.first.to_whole(corner.unwrap_or([f64::NAN; 2])))
    }
}

/// The pixel of a cell that is most a corner, unless it is masked.
fn corner(cell: [u32; 2], strength: &Plane, first: &Scaled<'_>, view: &View) -> Option<[f64; 2]> {
    let edge = |by: u32| {
        let framed = cell.map(|at| f64::from((at + by) * CELL) - 0.5);
        first.of_whole(view.crop.to_file(framed))
    };
    let (from, to) = (edge(0), edge(1));
    let range = |axis: usize, size: usize| {
        let inside = |at: f64| at.ceil().max(1.0) as usize;
        inside(from[axis])..inside(to[axis]).min(size - 1)
    };
    let (across, down) = (range(0, strength.width), range(1, strength.height));
    let pixels = down.flat_map(|y| across.clone().map(move |x| [x, y]));
    let [x, y] =
        pixels.max_by(|[x, y], [u, v]| strength.at(*x, *y).total_cmp(&strength.at(*u, *v)))?;
    let found = [x as f64, y as f64];
    let [u, v] = view
        .crop
        .to_framed(first.to_whole(found))
        .map(|at| at.round().max(0.0) as u32);
    let is_inside = u < view.rgb.width() && v < view.rgb.height();
    (is_inside && view.counts(u, v)).then_some(found)
}

/// The smaller eigenvalue of the gradients' second moments around each pixel.
fn corner_strength(image: &Plane) -> Plane {
    let (width, height) = (image.width, image.height);
    let mut products = [0; 3].map(|_| Plane {
        width,
        height,
        values: vec![0.0; width * height],
    });
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let (dx, dy) = (
                image.at(x + 1, y) - image.at(x - 1, y),
                image.at(x, y + 1) - image.at(x, y - 1),
            );
            let values = [dx * dx, dx * dy, dy * dy];
            products
                .iter_mut()
                .zip(values)
                .for_each(|(plane, value)| plane.values[y * width + x] = value);
        }
    }
    let [mut xx, xy, yy] = products.map(|plane| plane.blurred(CORNER_SIGMA));
    for ((xx, xy), yy) in xx.values.iter_mut().zip(&xy.values).zip(&yy.values) {
        *xx = 0.5 * (*xx + yy - (*xx - yy).hypot(2.0 * xy));
    }
    xx
}

/// Where a patch is: its middle and the derivative of its place by that of the patch it is compared
/// with.
#[derive(Clone, Copy, Debug)]
struct Warp {
    middle: Vector2<f64>,
    stretch: Matrix2<f64>,
}

/// A match between a corner of the first image and a pixel of the second.
pub(super) struct PatchMatch {
    /// The index of the corner among [`Patches::corners`].
    pub corner: usize,
    /// Pixel of the second file.
    pub pixel: [f64; 2],
    correlation: f64,
}

/// The network's matches of two views, `pixels` of their images as it saw them, at corners of the
/// first one; those that agree with one epipolar geometry, none if they are few. `limit` is how far
/// from epipolar lines they may be, pixels of the files.
pub(super) fn refined_matches(
    [first, second]: [&Patches; 2],
    [first_view, second_view]: [&SceneView; 2],
    matches: &[Match],
    limit: f64,
) -> Vec<PatchMatch> {
    // For each cell the match that is nearest to its corner.
    let mut nearest: Vec<Option<(f64, [[u32; 2]; 2])>> = vec![None; first.corners.len()];
    for matched in matches {
        let pair = [matched.first.xy(), matched.second.xy()];
        let cell = (pair[0][1] / CELL * first.columns + pair[0][0] / CELL) as usize;
        let Some(corner) = first.corners[cell] else {
            continue;
        };
        let at = first
            .first
            .of_whole(first_view.crop.to_file(pair[0].map(f64::from)));
        let distance = (at[0] - corner[0]).hypot(at[1] - corner[1]);
        if nearest[cell].is_none_or(|(least, _)| distance < least) {
            nearest[cell] = Some((distance, pair));
        }
    }
    let mut found: Vec<PatchMatch> = Vec::new();
    for (cell, near) in nearest.iter().enumerate() {
        let (Some((_, [one, two])), Some(corner)) = (near, first.corners[cell]) else {
            continue;
        };
        let stretch = derivative([first_view, second_view], *one)
            .map(|by_framed| by_framed * (second.per_framed / first.per_framed))
            .unwrap_or(Matrix2::identity() * (second.per_framed / first.per_framed));
        let corner = Vector2::from(corner);
        let from = Vector2::from(
            first
                .first
                .of_whole(first_view.crop.to_file(one.map(f64::from))),
        );
        let to = Vector2::from(
            second
                .first
                .of_whole(second_view.crop.to_file(two.map(f64::from))),
        );
        let start = Warp {
            middle: to + stretch * (corner - from),
            stretch,
        };
        let Some((there, correlation)) = follow([first, second], corner, start) else {
            continue;
        };
        let Some(inverse) = there.stretch.try_inverse() else {
            continue;
        };
        let back = Warp {
            middle: corner,
            stretch: inverse,
        };
        let Some((back, _)) = follow([second, first], there.middle, back) else {
            continue;
        };
        if (back.middle - corner).norm() <= MOST_RETURN {
            found.push(PatchMatch {
                corner: cell,
                pixel: second.first.to_whole(there.middle.into()),
                correlation,
            });
        }
    }
    found.sort_by(|one, two| two.correlation.total_cmp(&one.correlation));
    let corners: Vec<[f64; 2]> = first.corners().collect();
    let pairs: Vec<[[f64; 2]; 2]> = found
        .iter()
        .map(|found| [corners[found.corner], found.pixel])
        .collect();
    let mut agrees = epipolar::agreeing(&pairs, limit).into_iter();
    found.retain(|_| agrees.next() == Some(true));
    found
}

/// The derivative of the second view's pixel by the first one's, as depths and cameras have it;
/// both as the network saw them.
fn derivative([first, second]: [&SceneView; 2], [x, y]: [u32; 2]) -> Option<Matrix2<f64>> {
    let camera = second.camera.as_ref()?;
    let (width, height) = first.rgb.dimensions();
    let at = |dx: i64, dy: i64| {
        let inside = |at: u32, by: i64, size: u32| {
            usize::try_from((i64::from(at) + by).clamp(0, i64::from(size) - 1))
        };
        let (x, y) = (inside(x, dx, width).ok()?, inside(y, dy, height).ok()?);
        let point = first.points.points[y * width as usize + x].map(f64::from);
        let seen = camera.project(&point.into())?;
        Some((Vector2::new(x as f64, y as f64), Vector2::from(seen)))
    };
    let side = |dx: i64, dy: i64| {
        let ((from, seen_from), (to, seen_to)) = (at(-dx, -dy)?, at(dx, dy)?);
        Some((seen_to - seen_from) / (to - from).norm())
    };
    let stretch = Matrix2::from_columns(&[side(DERIVATIVE_REACH, 0)?, side(0, DERIVATIVE_REACH)?]);
    is_sound(&stretch).then_some(stretch)
}

/// Whether a patch may be stretched so, as seen from an image of the same size.
fn is_sound(stretch: &Matrix2<f64>) -> bool {
    let is_within = |value: &f64| *value >= STRETCH[0] && *value <= STRETCH[1];
    // Not a number has no singular values.
    stretch.determinant() > 0.0 && stretch.singular_values().iter().all(is_within)
}

/// Where the second image shows what the first one does around `middle`, from the network's
/// resolution to the file's, and the correlation there.
fn follow(
    [first, second]: [&Patches; 2],
    middle: Vector2<f64>,
    start: Warp,
) -> Option<(Warp, f64)> {
    let mut warp = start;
    let mut correlation = None;
    for level in (0..=first.smaller.len()).rev() {
        let is_last = level == 0;
        let scale = 2f64.powi(level as i32);
        // The level of the second image whose pixels are about as large.
        let stretch = warp.stretch.determinant().sqrt() * scale;
        let other = (stretch.log2().round().max(0.0) as usize).min(second.smaller.len());
        let other_scale = 2f64.powi(other as i32);
        let template = Template::new(first.level(level), middle / scale)?;
        let at = Warp {
            middle: warp.middle / other_scale,
            stretch: warp.stretch * (scale / other_scale),
        };
        let aligned = template.align(second.level(other), at, is_last)?;
        warp.middle = aligned.warp.middle * other_scale;
        warp.stretch = aligned.warp.stretch * (other_scale / scale);
        if (warp.middle - start.middle).norm() > MOST_SHIFT * second.per_framed.max(1.0) {
            return None;
        }
        if is_last {
            let is_good = aligned.correlation >= LEAST_CORRELATION
                && aligned.deviation * other_scale <= MOST_DEVIATION;
            correlation = is_good.then_some(aligned.correlation);
        }
    }
    correlation.map(|correlation| (warp, correlation))
}

/// Parameters of a step: a shift, and a change of the stretch.
const SHIFT: usize = 2;
const AFFINE: usize = 6;

/// A patch, with what does not change from step to step.
struct Template {
    values: [f32; PIXELS],
    /// Weighted sum of squares of the values, less their mean, of weights whose sum is 1.
    variance: f32,
    /// The derivatives of the values by the parameters, without what a gain or a bias explains,
    /// times the weights.
    slopes: Vec<[f32; AFFINE]>,
    normal: SMatrix<f64, AFFINE, AFFINE>,
}

/// Where a patch was found.
struct Aligned {
    warp: Warp,
    correlation: f64,
    /// Standard deviation of the position, pixels of the second level.
    deviation: f64,
}

/// Weights of a patch's pixels: a Gaussian, of sum 1.
fn weights() -> &'static [f32; PIXELS] {
    static WEIGHTS: std::sync::OnceLock<[f32; PIXELS]> = std::sync::OnceLock::new();
    WEIGHTS.get_or_init(|| {
        let bell = |index: usize| {
            let [x, y] = offset(index);
            (-(x * x + y * y) / (0.5 * (REACH * REACH) as f64)).exp()
        };
        let sum: f64 = (0..PIXELS).map(bell).sum();
        std::array::from_fn(|index| (bell(index) / sum) as f32)
    })
}

/// The place of a patch's pixel, from its middle.
fn offset(index: usize) -> [f64; 2] {
    [index % SIDE, index / SIDE].map(|at| at as f64 - REACH as f64)
}

fn mean(values: &[f32; PIXELS]) -> f32 {
    values
        .iter()
        .zip(weights())
        .map(|(value, weight)| value * weight)
        .sum()
}

impl Template {
    fn new(image: &Plane, middle: Vector2<f64>) -> Option<Self> {
        let at = |[x, y]: [f64; 2]| image.between(middle.x + x, middle.y + y);
        if !image.holds(middle, REACH as f64 + 1.0) {
            return None;
        }
        let mut values: [f32; PIXELS] = std::array::from_fn(|index| at(offset(index)));
        let average = mean(&values);
        values.iter_mut().for_each(|value| *value -= average);
        let variance: f32 = values
            .iter()
            .zip(weights())
            .map(|(value, weight)| value * value * weight)
            .sum();
        if variance <= 0.0 {
            return None;
        }
        let mut slopes: Vec<[f32; AFFINE]> = (0..PIXELS)
            .map(|index| {
                let [x, y] = offset(index);
                let dx = 0.5 * (at([x + 1.0, y]) - at([x - 1.0, y]));
                let dy = 0.5 * (at([x, y + 1.0]) - at([x, y - 1.0]));
                let (x, y) = (x as f32, y as f32);
                [dx, dy, dx * x, dx * y, dy * x, dy * y]
            })
            .collect();
        let mut sums = [[0f32; 2]; AFFINE];
        for ((slopes, value), weight) in slopes.iter().zip(&values).zip(weights()) {
            for (sums, slope) in sums.iter_mut().zip(slopes) {
                sums[0] += weight * slope;
                sums[1] += weight * slope * value;
            }
        }
        let mut normal = SMatrix::<f64, AFFINE, AFFINE>::zeros();
        for ((slopes, value), weight) in slopes.iter_mut().zip(&values).zip(weights()) {
            for (slope, [bias, gain]) in slopes.iter_mut().zip(&sums) {
                *slope -= bias + gain / variance * value;
            }
            let row = SVector::<f64, AFFINE>::from_fn(|which, _| f64::from(slopes[which]));
            normal += row * row.transpose() * f64::from(*weight);
            slopes.iter_mut().for_each(|slope| *slope *= weight);
        }
        Some(Self {
            values,
            variance,
            slopes,
            normal,
        })
    }

    /// Moves `warp` to where `image` agrees best: shifts it, and then stretches it too if `affine`.
    fn align(&self, image: &Plane, mut warp: Warp, affine: bool) -> Option<Aligned> {
        let shift = self
            .normal
            .fixed_view::<SHIFT, SHIFT>(0, 0)
            .into_owned()
            .try_inverse()?;
        let mut seen = self.seen(image, &warp)?;
        for _ in 0..STEPS {
            let step = shift * seen.gradient.fixed_rows::<SHIFT>(0) / seen.gain;
            warp.middle -= warp.stretch * step;
            seen = self.seen(image, &warp)?;
            if step.norm() < LEAST_STEP {
                break;
            }
        }
        if affine {
            let mut normal = self.normal;
            (SHIFT..AFFINE).for_each(|at| normal[(at, at)] += STIFFNESS);
            let inverse = normal.try_inverse()?;
            for _ in 0..STEPS {
                let step = inverse * seen.gradient / seen.gain;
                let change = Matrix2::identity() + Matrix2::new(step[2], step[3], step[4], step[5]);
                warp.stretch *= change.try_inverse()?;
                warp.middle -= warp.stretch * step.fixed_rows::<SHIFT>(0);
                if !is_sound(&warp.stretch) {
                    return None;
                }
                seen = self.seen(image, &warp)?;
                if step.fixed_rows::<SHIFT>(0).norm() < LEAST_STEP {
                    break;
                }
            }
        }
        // The residuals' variance over the gradients' sum of squares, as if each pixel's noise were
        // its own.
        let spread = shift.symmetric_eigenvalues().max() * seen.residual
            / (PIXELS as f64 * seen.gain * seen.gain);
        let deviation = spread.max(0.0).sqrt() * warp.stretch.singular_values().max();
        Some(Aligned {
            warp,
            correlation: seen.correlation,
            deviation,
        })
    }

    /// How `image` looks through a warp; `None` where that leaves the image, or where it is the
    /// negative.
    fn seen(&self, image: &Plane, warp: &Warp) -> Option<Seen> {
        let extent = warp.stretch.abs() * Vector2::repeat(REACH as f64);
        if !image.holds(warp.middle, extent.max() + 1.0) {
            return None;
        }
        let mut values: [f32; PIXELS] = std::array::from_fn(|index| {
            let place = warp.middle + warp.stretch * Vector2::from(offset(index));
            image.between(place.x, place.y)
        });
        let average = mean(&values);
        values.iter_mut().for_each(|value| *value -= average);
        let (mut product, mut variance) = (0f32, 0f32);
        let mut gradient = [0f32; AFFINE];
        for (((value, own), weight), slopes) in values
            .iter()
            .zip(&self.values)
            .zip(weights())
            .zip(&self.slopes)
        {
            product += weight * value * own;
            variance += weight * value * value;
            gradient
                .iter_mut()
                .zip(slopes)
                .for_each(|(sum, slope)| *sum += slope * value);
        }
        let gain = f64::from(product / self.variance);
        let correlation = f64::from(product) / f64::from(variance * self.variance).sqrt();
        let gradient = SVector::<f64, AFFINE>::from_fn(|which, _| f64::from(gradient[which]));
        let residual = f64::from(variance) * (1.0 - correlation * correlation);
        (gain > 0.0 && correlation.is_finite()).then_some(Seen {
            gain,
            correlation,
            residual,
            gradient,
        })
    }
}

/// How an image looks through a warp, beside the patch.
struct Seen {
    gain: f64,
    correlation: f64,
    /// Mean square of what gain and bias do not explain.
    residual: f64,
    gradient: SVector<f64, AFFINE>,
}
