//! Grey images in single precision: what keypoints are found in.

use std::borrow::Cow;

use image::RgbImage;
use nalgebra::Vector2;
use pulp::Arch;
use rayon::prelude::*;

/// Rows that one task works on.
const ROWS: usize = 32;

/// A grey image, row major, 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f32>,
}

impl Plane {
    /// Luma of an image (ITU-R BT.601).
    pub fn of_rgb(image: &RgbImage) -> Self {
        let luma = |[r, g, b]: [u8; 3]| {
            (0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)) / 255.0
        };
        let values = image
            .as_raw()
            .as_chunks::<3>()
            .0
            .iter()
            .map(|rgb| luma(*rgb))
            .collect();
        Self {
            width: image.width() as usize,
            height: image.height() as usize,
            values,
        }
    }

    #[inline]
    pub fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y * self.width + x]
    }

    /// The value between pixels, bilinear, of a place that the image [holds](Self::holds).
    #[inline]
    pub fn between(&self, x: f64, y: f64) -> f32 {
        let (left, top) = (x as usize, y as usize);
        let (u, v) = ((x - left as f64) as f32, (y - top as f64) as f32);
        let at = top * self.width + left;
        let row = |at: usize| self.values[at] + u * (self.values[at + 1] - self.values[at]);
        let (above, below) = (row(at), row(at + self.width));
        above + v * (below - above)
    }

    /// Whether all places up to `reach` from `middle` along both axes lie between pixels.
    pub fn holds(&self, middle: Vector2<f64>, reach: f64) -> bool {
        let inside = |at: f64, size: usize| at - reach >= 0.0 && at + reach < size as f64 - 1.0;
        inside(middle.x, self.width) && inside(middle.y, self.height)
    }

    fn row(&self, y: usize) -> &[f32] {
        &self.values[y * self.width..(y + 1) * self.width]
    }

    /// Every second pixel of every second row.
    pub fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let values = (0..height)
            .flat_map(|y| self.row(2 * y).iter().step_by(2).copied())
            .collect();
        Self {
            width,
            height,
            values,
        }
    }

    /// With sides of `factor` times the length.
    pub fn scaled(&self, factor: f64) -> Scaled<'_> {
        let size = |side: usize| ((side as f64 * factor).round() as usize).max(1);
        let (width, height) = (size(self.width), size(self.height));
        let plane = if factor == 1.0 {
            Cow::Borrowed(self)
        } else {
            Cow::Owned(self.resized(width, height))
        };
        Scaled {
            plane,
            per_pixel: [
                self.width as f64 / width as f64,
                self.height as f64 / height as f64,
            ],
        }
    }

    /// At another size, by a triangle filter as wide as the larger of both pixels; corners stay
    /// corners.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let (across, down) = (
            Filter::new(self.width, width),
            Filter::new(self.height, height),
        );
        let mut narrow = vec![0.0; width * self.height];
        narrow
            .par_chunks_mut(width)
            .zip(self.values.par_chunks(self.width))
            .for_each(|(out, row)| {
                for (value, (first, weights)) in out.iter_mut().zip(&across.taps) {
                    *value = weights
                        .iter()
                        .zip(&row[*first..])
                        .map(|(weight, value)| weight * value)
                        .sum();
                }
            });
        let mut values = vec![0.0; width * height];
        values
            .par_chunks_mut(width)
            .zip(&down.taps)
            .for_each(|(out, (first, weights))| {
                for (tap, weight) in weights.iter().enumerate() {
                    let row = &narrow[(first + tap) * width..(first + tap + 1) * width];
                    out.iter_mut()
                        .zip(row)
                        .for_each(|(sum, value)| *sum += weight * value);
                }
            });
        Self {
            width,
            height,
            values,
        }
    }

    /// Convolved with a Gaussian of this standard deviation, pixels; beyond its edges the image
    /// goes on as its edges are.
    pub fn blurred(&self, sigma: f32) -> Self {
        let reach = (4.0 * sigma).ceil() as usize;
        let bell = |at: usize| (-0.5 * (at as f32 / sigma).powi(2)).exp();
        let sum = 1.0 + 2.0 * (1..=reach).map(bell).sum::<f32>();
        let kernel: Vec<f32> = (0..=reach).map(|at| bell(at) / sum).collect();
        let arch = Arch::new();
        let width = self.width;
        let mut across = vec![0.0; self.values.len()];
        across
            .par_chunks_mut(ROWS * width)
            .zip(self.values.par_chunks(ROWS * width))
            .for_each(|(out, rows)| {
                let mut padded = vec![0.0; width + 2 * reach];
                for (out, row) in out.chunks_mut(width).zip(rows.chunks(width)) {
                    padded[..reach].fill(row[0]);
                    padded[reach..reach + width].copy_from_slice(row);
                    padded[reach + width..].fill(row[width - 1]);
                    arch.dispatch(|| {
                        weighted(out, &padded[reach..], kernel[0]);
                        for (at, &weight) in kernel.iter().enumerate().skip(1) {
                            add_both(out, &padded[reach - at..], &padded[reach + at..], weight);
                        }
                    });
                }
            });
        let mut values = vec![0.0; self.values.len()];
        let row = |y: isize| {
            let y = y.clamp(0, self.height as isize - 1) as usize;
            &across[y * width..(y + 1) * width]
        };
        values
            .par_chunks_mut(ROWS * width)
            .enumerate()
            .for_each(|(task, out)| {
                for (index, out) in out.chunks_mut(width).enumerate() {
                    let y = (task * ROWS + index) as isize;
                    arch.dispatch(|| {
                        weighted(out, row(y), kernel[0]);
                        for (at, &weight) in kernel.iter().enumerate().skip(1) {
                            add_both(out, row(y - at as isize), row(y + at as isize), weight);
                        }
                    });
                }
            });
        Self {
            width,
            height: self.height,
            values,
        }
    }
}

/// An image at another size.
pub(super) struct Scaled<'a> {
    pub plane: Cow<'a, Plane>,
    /// Pixels of the image that it was made of, per pixel, along x and y.
    pub per_pixel: [f64; 2],
}

impl Scaled<'_> {
    /// A place in it, as one of the image that it was made of.
    pub fn to_whole(&self, pixel: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| (pixel[axis] + 0.5) * self.per_pixel[axis] - 0.5)
    }

    /// The other way.
    pub fn of_whole(&self, pixel: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| (pixel[axis] + 0.5) / self.per_pixel[axis] - 0.5)
    }

    pub fn into_owned(self) -> Scaled<'static> {
        Scaled {
            plane: Cow::Owned(self.plane.into_owned()),
            per_pixel: self.per_pixel,
        }
    }
}

#[inline(always)]
fn weighted(out: &mut [f32], values: &[f32], weight: f32) {
    out.iter_mut()
        .zip(values)
        .for_each(|(out, value)| *out = weight * value);
}

#[inline(always)]
fn add_both(out: &mut [f32], one: &[f32], other: &[f32], weight: f32) {
    out.iter_mut()
        .zip(one.iter().zip(other))
        .for_each(|(out, (one, other))| *out += weight * (one + other));
}

/// A triangle filter between two sizes of an axis.
struct Filter {
    /// For each output pixel the first input pixel and the weights from there on, whose sum is 1.
    taps: Vec<(usize, Vec<f32>)>,
}

impl Filter {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let reach = scale.max(1.0);
        let tap = |at: usize| {
            let middle = (at as f64 + 0.5) * scale - 0.5;
            let first = (middle - reach).ceil().max(0.0) as usize;
            let last = ((middle + reach).floor() as usize).min(from - 1);
            let weights: Vec<f64> = (first..=last)
                .map(|at| (1.0 - (at as f64 - middle).abs() / reach).max(0.0))
                .collect();
            let sum: f64 = weights.iter().sum();
            (
                first,
                weights.iter().map(|weight| (weight / sum) as f32).collect(),
            )
        };
        Self {
            taps: (0..to).map(tap).collect(),
        }
    }
}
