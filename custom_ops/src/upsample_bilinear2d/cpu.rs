//! Resampling on the CPU: one task an output row, which walks along the two source rows and blends
//! them pixel by pixel as it comes by.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::{Upsample, step};
use crate::cpu::{
    element::Element,
    levels::{self, Level, Task},
    written,
};
use crate::launch::four_axes;

/// Channels that are walked along the row together: two such pixels stay in the first-level cache.
const CHANNELS: usize = 256;

/// `x` `(batch, height, width, channels)` with contiguous channels.
pub(super) fn forward(op: &Upsample, x: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
    match x {
        CpuStorage::F32(x) => Ok(CpuStorage::F32(resampled(op, x, layout)?)),
        CpuStorage::F16(x) => Ok(CpuStorage::F16(resampled(op, x, layout)?)),
        CpuStorage::BF16(x) => Ok(CpuStorage::BF16(resampled(op, x, layout)?)),
        _ => bail!("upsample_bilinear2d: input must be f32, f16 or bf16"),
    }
}

/// The two source indices of a target index and the second one's weight.
#[derive(Clone, Copy)]
struct Taps {
    low: usize,
    high: usize,
    weight: f32,
}

fn taps(from: usize, to: usize, align_corners: bool) -> Vec<Taps> {
    let step = step(from, to, align_corners);
    (0..to)
        .map(|target| {
            let source = if align_corners {
                target as f32 * step
            } else {
                ((target as f32 + 0.5) * step - 0.5).max(0.)
            };
            let low = (source as usize).min(from - 1);
            Taps {
                low,
                high: (low + 1).min(from - 1),
                weight: source - low as f32,
            }
        })
        .collect()
}

fn resampled<T: Element>(op: &Upsample, x: &[T], layout: &Layout) -> Result<Vec<T>> {
    let ([batch, height, width, channels], [batch_stride, row_stride, column_stride, _]) =
        four_axes("upsample_bilinear2d", layout)?;
    let [to_height, to_width] = op.to;
    let (rows, columns) = (
        taps(height, to_height, op.align_corners),
        taps(width, to_width, op.align_corners),
    );
    let x = &x[layout.start_offset()..];
    // SAFETY: each task writes all pixels of its row.
    Ok(unsafe {
        written(batch * to_height * to_width * channels, |out| {
            out.par_chunks_mut(to_width * channels)
                .enumerate()
                .for_each(|(index, out)| {
                    let taps = rows[index % to_height];
                    let image = &x[index / to_height * batch_stride..];
                    levels::run(&mut RowTask {
                        low: &image[taps.low * row_stride..],
                        high: &image[taps.high * row_stride..],
                        weight: taps.weight,
                        column_stride,
                        columns: &columns,
                        channels,
                        out,
                    });
                });
        })
    })
}

/// One output row between two source rows.
struct RowTask<'a, T> {
    low: &'a [T],
    high: &'a [T],
    weight: f32,
    column_stride: usize,
    columns: &'a [Taps],
    channels: usize,
    out: &'a mut [MaybeUninit<T>],
}

impl<T: Element> Task for RowTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&mut self) {
        let out = std::mem::take(&mut self.out);
        for start in (0..self.channels).step_by(CHANNELS) {
            let length = CHANNELS.min(self.channels - start);
            // Two neighbouring pixels between the source rows, and their columns. On the way right
            // each source pixel is blended once: the right one of two becomes the left one of the
            // next two.
            let mut buffers = [[0f32; CHANNELS]; 2];
            let [left, right] = &mut buffers;
            let (mut left, mut right) = (&mut left[..length], &mut right[..length]);
            let (mut left_column, mut right_column) = (None, None);
            for (out, taps) in out.chunks_exact_mut(self.channels).zip(self.columns) {
                if left_column != Some(taps.low) {
                    std::mem::swap(&mut left, &mut right);
                    std::mem::swap(&mut left_column, &mut right_column);
                }
                if left_column != Some(taps.low) {
                    self.between_rows::<L>(left, taps.low, start);
                    left_column = Some(taps.low);
                }
                if right_column != Some(taps.high) {
                    self.between_rows::<L>(right, taps.high, start);
                    right_column = Some(taps.high);
                }
                between_pixels::<L, T>(&mut out[start..][..length], left, right, taps.weight);
            }
        }
    }
}

impl<T: Element> RowTask<'_, T> {
    #[inline(always)]
    fn between_rows<L: Level>(&self, out: &mut [f32], column: usize, start: usize) {
        let at = column * self.column_stride + start;
        let (low, high) = (&self.low[at..][..out.len()], &self.high[at..][..out.len()]);
        for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
            *out = L::mul_add(1. - self.weight, low.widen(), self.weight * high.widen());
        }
    }
}

#[inline(always)]
fn between_pixels<L: Level, T: Element>(
    out: &mut [MaybeUninit<T>],
    left: &[f32],
    right: &[f32],
    weight: f32,
) {
    for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
        out.write(T::round(L::mul_add(1. - weight, left, weight * right)));
    }
}
