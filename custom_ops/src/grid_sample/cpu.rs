//! Sampling on the CPU: one task a row of places. The pixels and weights of some places are found
//! together, then each place's channels are summed in one pass.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::{GridSample, Padding};
use crate::cpu::{
    element::Element,
    levels::{self, Level, Task},
    written,
};
use crate::launch::four_axes;

/// Places whose pixels are found together.
const PLACES: usize = 64;

/// `x` `(batch, height, width, channels)` with contiguous channels at `grid`, contiguous float32.
pub(super) fn forward(
    op: &GridSample,
    x: &CpuStorage,
    layout: &Layout,
    grid: &CpuStorage,
    grid_layout: &Layout,
) -> Result<CpuStorage> {
    let CpuStorage::F32(grid) = grid else {
        bail!("grid_sample: grid must be f32")
    };
    let grid = &grid[grid_layout.start_offset()..];
    match x {
        CpuStorage::F32(x) => Ok(CpuStorage::F32(sampled(op, x, layout, grid)?)),
        CpuStorage::F16(x) => Ok(CpuStorage::F16(sampled(op, x, layout, grid)?)),
        CpuStorage::BF16(x) => Ok(CpuStorage::BF16(sampled(op, x, layout, grid)?)),
        _ => bail!("grid_sample: input must be f32, f16 or bf16"),
    }
}

fn sampled<T: Element>(op: &GridSample, x: &[T], layout: &Layout, grid: &[f32]) -> Result<Vec<T>> {
    let ([batch, height, width, channels], [batch_stride, row_stride, column_stride, _]) =
        four_axes("grid_sample", layout)?;
    let x = &x[layout.start_offset()..];
    let [to_height, to_width] = op.to;
    // SAFETY: each task writes all channels of all its places.
    Ok(unsafe {
        written(batch * to_height * to_width * channels, |out| {
            let rows = out
                .par_chunks_mut(to_width * channels)
                .zip(grid.par_chunks(to_width * 2))
                .enumerate();
            rows.for_each(|(index, (out, places))| {
                levels::run(&mut RowTask {
                    op,
                    image: &x[index / to_height * batch_stride..],
                    size: [height, width],
                    strides: [row_stride, column_stride],
                    channels,
                    places,
                    out,
                });
            });
        })
    })
}

struct RowTask<'a, T> {
    op: &'a GridSample,
    image: &'a [T],
    /// Height and width.
    size: [usize; 2],
    /// Of rows and columns.
    strides: [usize; 2],
    channels: usize,
    /// `(x, y)` of each.
    places: &'a [f32],
    out: &'a mut [MaybeUninit<T>],
}

/// Along one axis, the two pixels that each place lies between, and their weights: 0 outside the
/// map.
struct Taps {
    low: [i32; PLACES],
    high: [i32; PLACES],
    low_weight: [f32; PLACES],
    high_weight: [f32; PLACES],
}

impl Taps {
    /// Of the coordinates `axis` of up to [`PLACES`] `places`: 0 for x, 1 for y.
    #[inline(always)]
    fn new(op: &GridSample, places: &[f32], axis: usize, size: usize) -> Self {
        let mut coordinates = [0f32; PLACES];
        for (coordinate, place) in coordinates.iter_mut().zip(places.chunks_exact(2)) {
            *coordinate = place[axis];
        }
        let (length, last) = (size as f32, (size - 1) as f32);
        let (scale, shift) = if op.align_corners {
            (last, 0.)
        } else {
            (length, 1.)
        };
        let (least, most) = if op.padding == Padding::Border {
            (0., last)
        } else {
            (-2., length + 1.)
        };
        let mut taps = Self {
            low: [0; PLACES],
            high: [0; PLACES],
            low_weight: [0.; PLACES],
            high_weight: [0.; PLACES],
        };
        // Loops of a known length, without branches, vectorise.
        for (i, coordinate) in coordinates.into_iter().enumerate() {
            // `max` first: it turns what is not a number into the least.
            let pixel = (((coordinate + 1.) * scale - shift) * 0.5)
                .max(least)
                .min(most);
            let low = pixel.floor();
            let high = low + 1.;
            let weight = pixel - low;
            taps.low_weight[i] = if low >= 0. && low <= last {
                1. - weight
            } else {
                0.
            };
            taps.high_weight[i] = if high >= 0. && high <= last {
                weight
            } else {
                0.
            };
            taps.low[i] = low.max(0.).min(last) as i32;
            taps.high[i] = high.max(0.).min(last) as i32;
        }
        taps
    }

    /// Offsets and weights of the two pixels of place `i`.
    #[inline(always)]
    fn of(&self, i: usize, stride: usize) -> [(usize, f32); 2] {
        [
            (self.low[i] as usize * stride, self.low_weight[i]),
            (self.high[i] as usize * stride, self.high_weight[i]),
        ]
    }
}

impl<T: Element> Task for RowTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let channels = self.channels;
        for (out, places) in self
            .out
            .chunks_mut(PLACES * channels)
            .zip(self.places.chunks(2 * PLACES))
        {
            let rows = Taps::new(self.op, places, 1, self.size[0]);
            let columns = Taps::new(self.op, places, 0, self.size[1]);
            for (index, out) in out.chunks_exact_mut(channels).enumerate() {
                // Pixels without weight are not read: what is infinite there does not show.
                let mut pixels = [self.image; 4];
                let mut weights = [0.; 4];
                let mut seen = 0;
                for (row, row_weight) in rows.of(index, self.strides[0]) {
                    for (column, column_weight) in columns.of(index, self.strides[1]) {
                        let weight = row_weight * column_weight;
                        if weight != 0. {
                            pixels[seen] = &self.image[row + column..][..channels];
                            weights[seen] = weight;
                            seen += 1;
                        }
                    }
                }
                match seen {
                    0 => out.fill(MaybeUninit::new(T::zero())),
                    1 => sum::<L, T, 1>(out, pixels, weights),
                    2 => sum::<L, T, 2>(out, pixels, weights),
                    3 => sum::<L, T, 3>(out, pixels, weights),
                    _ => sum::<L, T, 4>(out, pixels, weights),
                }
            }
        }
    }
}

/// The weighted sum of the first `SEEN` pixels.
#[inline(always)]
fn sum<L: Level, T: Element, const SEEN: usize>(
    out: &mut [MaybeUninit<T>],
    pixels: [&[T]; 4],
    weights: [f32; 4],
) {
    let pixels: [&[T]; SEEN] = std::array::from_fn(|i| &pixels[i][..out.len()]);
    for (channel, out) in out.iter_mut().enumerate() {
        let mut sum = weights[0] * pixels[0][channel].widen();
        for i in 1..SEEN {
            sum = L::mul_add(weights[i], pixels[i][channel].widen(), sum);
        }
        out.write(T::round(sum));
    }
}
