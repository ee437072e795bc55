//! Keypoints with descriptors: SIFT (Lowe, IJCV 2004) with the square roots of its histograms
//! (Arandjelović and Zisserman, CVPR 2012).
//!
//! ```text
//! image ── Gaussian scale space, 3 scales an octave ──▶ extrema of its differences, refined to subpixels
//!       ── the strongest of each part of the image ──▶ orientation ──▶ 4x4 histograms of 8 directions
//! ```

use std::f32::consts::{PI, TAU};
use std::ops::Range;

use nalgebra::{Matrix3, Vector3};
use pulp::Arch;
use rayon::prelude::*;

use super::plane::Plane;

/// Numbers in a descriptor.
pub(super) const CHANNELS: usize = 128;

/// Scales an octave.
const SCALES: usize = 3;
/// Blur of an octave's first level, and that of an image as it is taken, pixels.
const FIRST_SIGMA: f32 = 1.6;
const CAMERA_SIGMA: f32 = 0.5;
/// Images are doubled if that makes no more pixels than this, and shrunk to it if they have more.
const MOST_PIXELS: f64 = 5e6;
/// Least difference of Gaussians at an extremum, of 1: half of Lowe's, since matching and geometry
/// sort out the rest.
const LEAST_CONTRAST: f32 = 0.02 / SCALES as f32;
/// Largest ratio of principal curvatures: beyond it lies an edge, along which a position is not
/// known.
const MOST_EDGE_RATIO: f32 = 10.0;
/// Extrema nearer than this to the edge of their level are left out, pixels.
const BORDER: usize = 5;
/// Parts of the image along its long side, of each of which the strongest extrema come first.
const PARTS: usize = 24;
/// Shortest side of an octave, pixels.
const LEAST_SIDE: usize = 24;

/// A keypoint.
#[derive(Clone, Debug)]
pub(super) struct Keypoint {
    /// Pixels of the file; the centre of the top left one is (0, 0).
    pub pixel: [f64; 2],
    /// Standard deviation of the Gaussian that it is largest at, pixels of the file.
    pub scale: f32,
    pub descriptor: [u8; CHANNELS],
}

/// An extremum of the scale space.
struct Extremum {
    octave: usize,
    /// The level of the octave, and the position there.
    level: usize,
    x: f32,
    y: f32,
    /// Blur, pixels of the octave.
    sigma: f32,
    response: f32,
}

/// The keypoints of an image, at most `most` and a few more that have two orientations, largest
/// scale first. `keeps` tells which pixels of the file count.
pub(super) fn keypoints(
    image: &Plane,
    most: usize,
    keeps: impl Fn([f64; 2]) -> bool,
) -> Vec<Keypoint> {
    let pixels = (image.width * image.height) as f64;
    let factor = if 4.0 * pixels <= MOST_PIXELS {
        2.0
    } else {
        (MOST_PIXELS / pixels).sqrt().min(1.0)
    };
    let scaled = image.scaled(factor);
    if scaled.plane.width.min(scaled.plane.height) < LEAST_SIDE {
        return Vec::new();
    }
    let blur = CAMERA_SIGMA * (factor as f32).max(1.0);
    let octaves = scale_space(&scaled.plane, blur);
    let in_file = |found: &Extremum| {
        let step = (1 << found.octave) as f64;
        scaled.to_whole([found.x, found.y].map(|at| f64::from(at) * step))
    };
    let mut extrema: Vec<Extremum> = octaves
        .par_iter()
        .enumerate()
        .flat_map(|(octave, levels)| extrema(octave, levels))
        .collect();
    extrema.retain(|found| keeps(in_file(found)));
    let part = PARTS as f64 / image.width.max(image.height) as f64;
    let extrema = strongest(extrema, most, |found| {
        in_file(found).map(|at| (at * part) as usize)
    });
    let described = |found: &Extremum| {
        let (levels, pixel) = (&octaves[found.octave], in_file(found));
        let scale = found.sigma * (1 << found.octave) as f32 * scaled.per_pixel[0] as f32;
        let level = &levels[found.level];
        let describe = |angle| Keypoint {
            pixel,
            scale,
            descriptor: descriptor(level, found, angle),
        };
        orientations(level, found)
            .into_iter()
            .map(describe)
            .collect::<Vec<_>>()
    };
    let mut keypoints: Vec<Keypoint> = extrema.par_iter().flat_map(described).collect();
    keypoints.sort_by(|one, two| two.scale.total_cmp(&one.scale));
    keypoints
}

/// Octaves of `SCALES + 3` levels each, every octave half as large as the one before; `blur` is
/// that of `image`.
fn scale_space(image: &Plane, blur: f32) -> Vec<Vec<Plane>> {
    let step = 2f32.powf(1.0 / SCALES as f32);
    let mut octaves: Vec<Vec<Plane>> = Vec::new();
    let mut first = image.blurred((FIRST_SIGMA * FIRST_SIGMA - blur * blur).max(0.01).sqrt());
    loop {
        let mut levels = vec![first];
        for level in 1..SCALES + 3 {
            let before = FIRST_SIGMA * step.powi(level as i32 - 1);
            levels.push(levels[level - 1].blurred(before * (step * step - 1.0).sqrt()));
        }
        first = levels[SCALES].halved();
        octaves.push(levels);
        if first.width.min(first.height) < LEAST_SIDE {
            return octaves;
        }
    }
}

fn extrema(octave: usize, levels: &[Plane]) -> Vec<Extremum> {
    let (width, height) = (levels[0].width, levels[0].height);
    let rows = BORDER..height.saturating_sub(BORDER).max(BORDER);
    let of_row = |y: usize| {
        let mut found = Vec::new();
        for level in 1..=SCALES {
            let (below, above) = (
                &levels[level].values[y * width..],
                &levels[level + 1].values[y * width..],
            );
            for x in BORDER..width.saturating_sub(BORDER) {
                let value = above[x] - below[x];
                if value.abs() > 0.8 * LEAST_CONTRAST && is_extremum(levels, level, x, y, value) {
                    found.extend(refined(octave, levels, level, x, y));
                }
            }
        }
        found
    };
    rows.into_par_iter().flat_map(of_row).collect()
}

/// The difference of two levels.
#[inline]
fn difference(levels: &[Plane], level: usize, x: usize, y: usize) -> f32 {
    levels[level + 1].at(x, y) - levels[level].at(x, y)
}

fn is_extremum(levels: &[Plane], level: usize, x: usize, y: usize, value: f32) -> bool {
    let sign = value.signum();
    [level, level - 1, level + 1].into_iter().all(|near| {
        (y - 1..=y + 1).all(|row| {
            (x - 1..=x + 1).all(|column| {
                sign * difference(levels, near, column, row) <= sign * value
                    || (near, row, column) == (level, y, x)
            })
        })
    })
}

/// Where a quadratic function through the neighbours has its extremum, if that is near, high and on
/// no edge.
fn refined(
    octave: usize,
    levels: &[Plane],
    mut level: usize,
    mut x: usize,
    mut y: usize,
) -> Option<Extremum> {
    let (width, height) = (levels[0].width, levels[0].height);
    for _ in 0..5 {
        let at = |dx: isize, dy: isize, ds: isize| {
            let [x, y, level] =
                [(x, dx), (y, dy), (level, ds)].map(|(at, by)| at.wrapping_add_signed(by));
            difference(levels, level, x, y)
        };
        let middle = at(0, 0, 0);
        let gradient = Vector3::new(
            at(1, 0, 0) - at(-1, 0, 0),
            at(0, 1, 0) - at(0, -1, 0),
            at(0, 0, 1) - at(0, 0, -1),
        ) / 2.0;
        let xx = at(1, 0, 0) + at(-1, 0, 0) - 2.0 * middle;
        let yy = at(0, 1, 0) + at(0, -1, 0) - 2.0 * middle;
        let ss = at(0, 0, 1) + at(0, 0, -1) - 2.0 * middle;
        let xy = (at(1, 1, 0) - at(-1, 1, 0) - at(1, -1, 0) + at(-1, -1, 0)) / 4.0;
        let xs = (at(1, 0, 1) - at(-1, 0, 1) - at(1, 0, -1) + at(-1, 0, -1)) / 4.0;
        let ys = (at(0, 1, 1) - at(0, -1, 1) - at(0, 1, -1) + at(0, -1, -1)) / 4.0;
        let hessian = Matrix3::new(xx, xy, xs, xy, yy, ys, xs, ys, ss);
        let step = -(hessian.try_inverse()? * gradient);
        if step.amax() < 0.6 {
            let response = (middle + 0.5 * gradient.dot(&step)).abs();
            let (trace, determinant) = (xx + yy, xx * yy - xy * xy);
            let edge = (MOST_EDGE_RATIO + 1.0).powi(2) / MOST_EDGE_RATIO;
            if response < LEAST_CONTRAST
                || determinant <= 0.0
                || trace * trace >= edge * determinant
            {
                return None;
            }
            let sigma = FIRST_SIGMA * 2f32.powf((level as f32 + step.z) / SCALES as f32);
            return Some(Extremum {
                octave,
                level,
                x: x as f32 + step.x,
                y: y as f32 + step.y,
                sigma,
                response,
            });
        }
        let moved =
            |at: usize, by: f32| at.checked_add_signed(by.round().clamp(-1.0, 1.0) as isize);
        (x, y, level) = (moved(x, step.x)?, moved(y, step.y)?, moved(level, step.z)?);
        let inside = |at: usize, size: usize| (BORDER..size - BORDER).contains(&at);
        if !inside(x, width) || !inside(y, height) || !(1..=SCALES).contains(&level) {
            return None;
        }
    }
    None
}

/// At most `most` extrema: first the strongest of each part of the image, then the second of each,
/// and so on.
fn strongest(
    mut extrema: Vec<Extremum>,
    most: usize,
    part: impl Fn(&Extremum) -> [usize; 2],
) -> Vec<Extremum> {
    extrema.sort_by(|one, two| two.response.total_cmp(&one.response));
    let mut counts = std::collections::HashMap::new();
    let mut ranked: Vec<(usize, Extremum)> = extrema
        .into_iter()
        .map(|found| {
            let count = counts.entry(part(&found)).or_insert(0);
            *count += 1;
            (*count, found)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.truncate(most);
    ranked.into_iter().map(|(_, found)| found).collect()
}

/// Gradients of some pixels of a row.
#[derive(Default)]
struct Gradients {
    lengths: Vec<f32>,
    /// 0 to 2 pi.
    directions: Vec<f32>,
}

impl Gradients {
    /// Those of a level's `columns` in a row, neither at its edge.
    fn of_row(&mut self, level: &Plane, y: usize, columns: Range<usize>) {
        let row = |y: usize, shift: usize| {
            let start = y * level.width + columns.start + shift - 1;
            &level.values[start..start + columns.len()]
        };
        let (left, right) = (row(y, 0), row(y, 2));
        let (above, below) = (row(y - 1, 1), row(y + 1, 1));
        self.lengths.resize(columns.len(), 0.0);
        self.directions.resize(columns.len(), 0.0);
        Arch::new().dispatch(|| {
            for (at, (length, angle)) in self
                .lengths
                .iter_mut()
                .zip(&mut self.directions)
                .enumerate()
            {
                let (dx, dy) = (right[at] - left[at], below[at] - above[at]);
                *length = (dx * dx + dy * dy).sqrt();
                *angle = direction(dy, dx);
            }
        });
    }
}

/// The angle of (x, y), 0 to 2 pi, to 2e-4: Abramowitz and Stegun 4.4.49 in one octant.
#[inline(always)]
fn direction(y: f32, x: f32) -> f32 {
    let (low, high) = (x.abs().min(y.abs()), x.abs().max(y.abs()));
    let ratio = low / high.max(f32::MIN_POSITIVE);
    let square = ratio * ratio;
    let polynomial = 0.999_866
        + square
            * (-0.330_299_5 + square * (0.180_141 + square * (-0.085_133 + square * 0.020_835_1)));
    let angle = ratio * polynomial;
    let angle = if y.abs() > x.abs() {
        PI / 2.0 - angle
    } else {
        angle
    };
    let angle = if x < 0.0 { PI - angle } else { angle };
    if y < 0.0 { TAU - angle } else { angle }
}

/// exp(-(at - middle)² / (2 sigma²)) for `at` from `-reach` to `reach`.
fn bell(reach: isize, middle: f32, sigma: f32) -> Vec<f32> {
    let value = |at: isize| (-0.5 * ((at as f32 - middle) / sigma).powi(2)).exp();
    (-reach..=reach).map(value).collect()
}

/// The directions that prevail around an extremum: the first, and a second that is nearly as
/// strong.
fn orientations(level: &Plane, found: &Extremum) -> Vec<f32> {
    const BINS: usize = 36;
    let sigma = 1.5 * found.sigma;
    let reach = (3.0 * sigma).round() as isize;
    let middle = [found.x, found.y].map(|at| at.round() as isize);
    let range = |axis: usize, size: usize| {
        (middle[axis] - reach).max(1)..(middle[axis] + reach + 1).min(size as isize - 1)
    };
    let (across, down) = (range(0, level.width), range(1, level.height));
    let bell = bell(reach, 0.0, sigma);
    let mut gradients = Gradients::default();
    let mut histogram = [0f32; BINS];
    for y in down {
        gradients.of_row(
            level,
            y as usize,
            across.start as usize..across.end as usize,
        );
        let weight_y = bell[(y - middle[1] + reach) as usize];
        let weights = &bell[(across.start - middle[0] + reach) as usize..];
        let row = gradients.lengths.iter().zip(&gradients.directions);
        for ((length, angle), weight_x) in row.zip(weights) {
            let bin = (angle / TAU * BINS as f32 + 0.5) as usize % BINS;
            histogram[bin] += weight_x * weight_y * length;
        }
    }
    for _ in 0..2 {
        let raw = histogram;
        for (bin, value) in histogram.iter_mut().enumerate() {
            *value = (raw[(bin + BINS - 1) % BINS] + raw[bin] + raw[(bin + 1) % BINS]) / 3.0;
        }
    }
    let largest = histogram.iter().copied().fold(0.0, f32::max);
    let mut peaks: Vec<(f32, f32)> = Vec::new();
    for bin in 0..BINS {
        let [before, value, after] = [BINS - 1, 0, 1].map(|by| histogram[(bin + by) % BINS]);
        if value > before && value > after && value >= 0.8 * largest {
            let shift = 0.5 * (before - after) / (before - 2.0 * value + after);
            peaks.push((value, (bin as f32 + shift) / BINS as f32 * TAU));
        }
    }
    peaks.sort_by(|one, two| two.0.total_cmp(&one.0));
    peaks.truncate(2);
    peaks.into_iter().map(|(_, angle)| angle).collect()
}

/// Histograms of gradients in 4x4 parts of a square that is turned by `angle`.
fn descriptor(level: &Plane, found: &Extremum, angle: f32) -> [u8; CHANNELS] {
    const SIDE: usize = 4;
    const BINS: usize = 8;
    let part = 3.0 * found.sigma;
    let reach = (part * std::f32::consts::SQRT_2 * (SIDE as f32 + 1.0) / 2.0).round() as isize;
    let (sin, cos) = angle.sin_cos();
    let (sin, cos) = (sin / part, cos / part);
    let middle = [found.x, found.y].map(|at| at.round() as isize);
    let [off_x, off_y] = [found.x - middle[0] as f32, found.y - middle[1] as f32];
    // A bell half as wide as the square, whose axes may be those of the image.
    let [bell_x, bell_y] = [off_x, off_y].map(|off| bell(reach, off, 0.5 * SIDE as f32 * part));
    // Where gradients are known.
    let range = |axis: usize, size: usize| {
        let first = (1 - middle[axis]).max(-reach);
        first..(size as isize - 1 - middle[axis]).min(reach + 1)
    };
    let (across, down) = (range(0, level.width), range(1, level.height));
    let mut gradients = Gradients::default();
    // One part more on each side, so that what belongs to a neighbour outside needs no test.
    const EDGE: usize = SIDE + 2;
    let mut sums = [[0f32; BINS]; EDGE * EDGE];
    for dy in down {
        let y = dy as f32 - off_y;
        let first = across.start;
        gradients.of_row(
            level,
            (middle[1] + dy) as usize,
            (middle[0] + first) as usize..(middle[0] + across.end) as usize,
        );
        let weight_y = bell_y[(dy + reach) as usize];
        let row = gradients.lengths.iter().zip(&gradients.directions);
        for ((dx, (length, direction)), weight_x) in across
            .clone()
            .zip(row)
            .zip(&bell_x[(first + reach) as usize..])
        {
            let x = dx as f32 - off_x;
            // Of the parts, with the one more.
            let [column, row] =
                [cos * x + sin * y, cos * y - sin * x].map(|at| at + SIDE as f32 / 2.0 + 0.5);
            let inner = 0.0..(SIDE + 1) as f32;
            if !inner.contains(&column) || !inner.contains(&row) {
                continue;
            }
            let bin = (direction - angle) / TAU * BINS as f32;
            let bin = if bin < 0.0 { bin + BINS as f32 } else { bin };
            let (left, top, first) = (column as usize, row as usize, bin as usize);
            let (u, v, w) = (column - left as f32, row - top as f32, bin - first as f32);
            let weight = weight_x * weight_y * length;
            let (below, above) = ((1.0 - w) * weight, w * weight);
            let at = top * EDGE + left;
            for (part, share) in [
                (at, (1.0 - u) * (1.0 - v)),
                (at + 1, u * (1.0 - v)),
                (at + EDGE, (1.0 - u) * v),
                (at + EDGE + 1, u * v),
            ] {
                let bins = &mut sums[part];
                bins[first % BINS] += share * below;
                bins[(first + 1) % BINS] += share * above;
            }
        }
    }
    let mut values = [0f32; CHANNELS];
    let inner = (1..=SIDE).flat_map(|row| sums[row * EDGE + 1..][..SIDE].as_flattened());
    values
        .iter_mut()
        .zip(inner)
        .for_each(|(value, sum)| *value = *sum);
    let norm = values
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    values
        .iter_mut()
        .for_each(|value| *value = value.min(0.2 * norm));
    let sum = values.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    values.map(|value| (512.0 * (value / sum).sqrt()).round().min(255.0) as u8)
}
