//! Sampling on the CPU: one task a row of places. The pixels and weights of some places are found together, then each
//! place's channels are summed in one pass.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::{GridSample, Padding};
use crate::cpu::{
    Shared,
    element::Element,
    levels::{self, Level, Task},
    written,
};

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
    let CpuStorage::F32(grid) = grid else { bail!("grid_sample: grid must be f32") };
    let grid = &grid[grid_layout.start_offset()..];
    match x {
        CpuStorage::F32(x) => Ok(CpuStorage::F32(sampled(op, x, layout, grid)?)),
        CpuStorage::F16(x) => Ok(CpuStorage::F16(sampled(op, x, layout, grid)?)),
        CpuStorage::BF16(x) => Ok(CpuStorage::BF16(sampled(op, x, layout, grid)?)),
        _ => bail!("grid_sample: input must be f32, f16 or bf16"),
    }
}

fn sampled<T: Element>(op: &GridSample, x: &[T], layout: &Layout, grid: &[f32]) -> Result<Vec<T>> {
    let (&[batch, height, width, channels], &[batch_stride, row_stride, column_stride, _]) =
        (layout.dims(), layout.stride())
    else {
        bail!("grid_sample: four axes expected, got {:?}", layout.dims());
    };
    let x = &x[layout.start_offset()..];
    let [to_height, to_width] = op.to;
    // SAFETY: each task writes all channels of all its places.
    Ok(unsafe {
        written(batch * to_height * to_width * channels, |out| {
            let rows = out.par_chunks_mut(to_width * channels).zip(grid.par_chunks(to_width * 2)).enumerate();
            rows.for_each(|(index, (out, places))| {
                levels::run(&RowTask {
                    op,
                    image: &x[index / to_height * batch_stride..],
                    size: [height, width],
                    strides: [row_stride, column_stride],
                    channels,
                    places,
                    out: Shared::new(out),
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
    out: Shared<MaybeUninit<T>>,
}

/// Along one axis, the offsets of the two pixels that each place lies between, and their weights: 0 outside the map.
struct Taps {
    offsets: [[usize; 2]; PLACES],
    weights: [[f32; 2]; PLACES],
}

impl Taps {
    /// Of the coordinates `axis` of `places`: 0 for x, 1 for y.
    #[inline(always)]
    fn new(op: &GridSample, places: &[f32], axis: usize, size: usize, stride: usize) -> Self {
        let mut taps = Self { offsets: [[0; 2]; PLACES], weights: [[0.; 2]; PLACES] };
        let last = (size - 1) as f32;
        for ((offsets, weights), place) in taps.offsets.iter_mut().zip(&mut taps.weights).zip(places.chunks_exact(2)) {
            let place = place[axis] + 1.;
            let pixel = if op.align_corners { place * 0.5 * last } else { (place * size as f32 - 1.) * 0.5 };
            // `max` first: it turns what is not a number into 0.
            let pixel = if op.padding == Padding::Border { pixel.max(0.).min(last) } else { pixel };
            // Beyond one pixel outside nothing is seen; a comparison with what is not a number fails.
            let pixel = if pixel > -1. && pixel < size as f32 { pixel } else { -2. };
            let low = pixel.floor();
            let high = low + 1.;
            let weight = pixel - low;
            *weights = [if low >= 0. { 1. - weight } else { 0. }, if high >= 0. && high <= last { weight } else { 0. }];
            *offsets = [low.max(0.) as u32 as usize * stride, high.max(0.).min(last) as u32 as usize * stride];
        }
        taps
    }
}

impl<T: Element> Task for RowTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        let channels = self.channels;
        // SAFETY: the output row is this task's alone.
        let out = unsafe { self.out.range(0, self.places.len() / 2 * channels) };
        for (out, places) in out.chunks_mut(PLACES * channels).zip(self.places.chunks(2 * PLACES)) {
            let rows = Taps::new(self.op, places, 1, self.size[0], self.strides[0]);
            let columns = Taps::new(self.op, places, 0, self.size[1], self.strides[1]);
            for (index, out) in out.chunks_exact_mut(channels).enumerate() {
                // Pixels without weight are not read: what is infinite there does not show.
                let mut pixels = [self.image; 4];
                let mut weights = [0.; 4];
                let mut seen = 0;
                for (row, row_weight) in rows.offsets[index].into_iter().zip(rows.weights[index]) {
                    for (column, column_weight) in columns.offsets[index].into_iter().zip(columns.weights[index]) {
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
fn sum<L: Level, T: Element, const SEEN: usize>(out: &mut [MaybeUninit<T>], pixels: [&[T]; 4], weights: [f32; 4]) {
    let pixels: [&[T]; SEEN] = std::array::from_fn(|i| &pixels[i][..out.len()]);
    for (channel, out) in out.iter_mut().enumerate() {
        let mut sum = weights[0] * pixels[0][channel].widen();
        for i in 1..SEEN {
            sum = L::mul_add(weights[i], pixels[i][channel].widen(), sum);
        }
        out.write(T::round(sum));
    }
}
