//! Resampling on the CPU: one task an output row.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::{Upsample, step};
use crate::cpu::{
    Shared,
    element::Element,
    levels::{self, Level, Task},
};

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
            let source =
                if align_corners { target as f32 * step } else { ((target as f32 + 0.5) * step - 0.5).max(0.) };
            let low = (source as usize).min(from - 1);
            Taps { low, high: (low + 1).min(from - 1), weight: source - low as f32 }
        })
        .collect()
}

fn resampled<T: Element>(op: &Upsample, x: &[T], layout: &Layout) -> Result<Vec<T>> {
    let (&[batch, height, width, channels], &[batch_stride, row_stride, column_stride, _]) =
        (layout.dims(), layout.stride())
    else {
        bail!("upsample_bilinear2d: four axes expected");
    };
    let [to_height, to_width] = op.to;
    let (rows, columns) = (taps(height, to_height, op.align_corners), taps(width, to_width, op.align_corners));
    let x = &x[layout.start_offset()..];
    let mut out = vec![T::zero(); batch * to_height * to_width * channels];
    out.par_chunks_mut(to_width * channels).enumerate().for_each_init(
        || vec![0f32; width * channels],
        |blended, (index, out)| {
            let taps = rows[index % to_height];
            let image = &x[index / to_height * batch_stride..];
            levels::run(&RowTask {
                low: &image[taps.low * row_stride..],
                high: &image[taps.high * row_stride..],
                weight: taps.weight,
                column_stride,
                columns: &columns,
                channels,
                blended: Shared::new(blended),
                width,
                out: Shared::new(out),
            });
        },
    );
    Ok(out)
}

/// One output row: the two source rows are blended first, then their pixels.
struct RowTask<'a, T> {
    low: &'a [T],
    high: &'a [T],
    weight: f32,
    column_stride: usize,
    columns: &'a [Taps],
    channels: usize,
    blended: Shared<f32>,
    width: usize,
    out: Shared<T>,
}

impl<T: Element> Task for RowTask<'_, T> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        let channels = self.channels;
        // SAFETY: the buffer and the output row are this task's alone.
        let (blended, out) =
            unsafe { (self.blended.range(0, self.width * channels), self.out.range(0, self.columns.len() * channels)) };
        for (column, blended) in blended.chunks_exact_mut(channels).enumerate() {
            let low = &self.low[column * self.column_stride..][..channels];
            let high = &self.high[column * self.column_stride..][..channels];
            for ((blended, &low), &high) in blended.iter_mut().zip(low).zip(high) {
                *blended = L::mul_add(1. - self.weight, low.widen(), self.weight * high.widen());
            }
        }
        for (out, taps) in out.chunks_exact_mut(channels).zip(self.columns) {
            let low = &blended[taps.low * channels..][..channels];
            let high = &blended[taps.high * channels..][..channels];
            for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                *out = T::round(L::mul_add(1. - taps.weight, low, taps.weight * high));
            }
        }
    }
}
