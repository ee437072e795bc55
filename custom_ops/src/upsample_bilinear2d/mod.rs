//! Bilinear resampling of channels-last maps to any size.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    Shared, contiguous_f32,
    levels::{self, Level, Task},
};

/// Resamples `x` `(batch, height, width, channels)` to `(batch, to_height, to_width, channels)`.
///
/// With `align_corners` the corner pixels of both pictures coincide: `source = target (in - 1) / (out - 1)`, 0 where
/// `out = 1`. Without, the outer edges do: `source = max((target + 0.5) in / out - 0.5, 0)`.
pub fn upsample_bilinear2d(x: &Tensor, to_height: usize, to_width: usize, align_corners: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    if batch * height * width * channels * to_height * to_width == 0 {
        bail!("upsample_bilinear2d: from {:?} to {to_height} x {to_width}: nothing may be empty", x.dims());
    }
    if !x.device().is_cpu() {
        let x = x.permute((0, 3, 1, 2))?.contiguous()?;
        return x.upsample_bilinear2d(to_height, to_width, align_corners)?.permute((0, 2, 3, 1))?.contiguous();
    }
    let op = Upsample {
        rows: taps(height, to_height, align_corners),
        columns: taps(width, to_width, align_corners),
        size: [batch, height, width, channels],
    };
    x.apply_op1_no_bwd(&op)
}

/// The two source indices of a target index and the second one's weight.
#[derive(Clone, Copy)]
struct Taps {
    low: usize,
    high: usize,
    weight: f32,
}

fn taps(from: usize, to: usize, align_corners: bool) -> Vec<Taps> {
    (0..to)
        .map(|target| {
            let source = if align_corners {
                let scale = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0. };
                target as f32 * scale
            } else {
                ((target as f32 + 0.5) * (from as f32 / to as f32) - 0.5).max(0.)
            };
            let low = (source as usize).min(from - 1);
            Taps { low, high: (low + 1).min(from - 1), weight: source - low as f32 }
        })
        .collect()
}

struct Upsample {
    rows: Vec<Taps>,
    columns: Vec<Taps>,
    size: [usize; 4],
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample_bilinear2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32("upsample_bilinear2d", storage, layout)?;
        let [batch, height, width, channels] = self.size;
        let (to_height, to_width) = (self.rows.len(), self.columns.len());
        let mut out = vec![0f32; batch * to_height * to_width * channels];
        let row = width * channels;
        out.par_chunks_mut(to_width * channels).enumerate().for_each_init(
            || vec![0f32; row],
            |blended, (index, out)| {
                let taps = self.rows[index % to_height];
                let image = index / to_height * height;
                let low = &x[(image + taps.low) * row..][..row];
                let high = &x[(image + taps.high) * row..][..row];
                levels::run(&RowTask {
                    low,
                    high,
                    weight: taps.weight,
                    columns: &self.columns,
                    channels,
                    blended: Shared::new(blended),
                    out: Shared::new(out),
                });
            },
        );
        Ok((CpuStorage::F32(out), Shape::from((batch, to_height, to_width, channels))))
    }
}

/// One output row: the two source rows are blended first, then their pixels.
struct RowTask<'a> {
    low: &'a [f32],
    high: &'a [f32],
    weight: f32,
    columns: &'a [Taps],
    channels: usize,
    blended: Shared<f32>,
    out: Shared<f32>,
}

impl Task for RowTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        // SAFETY: the buffer and the output row are this task's alone.
        let (blended, out) =
            unsafe { (self.blended.range(0, self.low.len()), self.out.range(0, self.columns.len() * self.channels)) };
        for ((blended, &low), &high) in blended.iter_mut().zip(self.low).zip(self.high) {
            *blended = L::mul_add(1. - self.weight, low, self.weight * high);
        }
        for (out, taps) in out.chunks_exact_mut(self.channels).zip(self.columns) {
            let low = &blended[taps.low * self.channels..][..self.channels];
            let high = &blended[taps.high * self.channels..][..self.channels];
            for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                *out = L::mul_add(1. - taps.weight, low, taps.weight * high);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn resampling_equals_candles_in_both_conventions() {
        for (size, to) in
            [((2, 3, 5, 4), (6, 10)), ((1, 8, 4, 17), (14, 7)), ((1, 1, 1, 3), (4, 5)), ((1, 5, 6, 2), (1, 3))]
        {
            for align_corners in [true, false] {
                let x = Tensor::randn(0f32, 1., size, &Device::Cpu).unwrap();
                let want = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
                let want = want.upsample_bilinear2d(to.0, to.1, align_corners).unwrap();
                let got = upsample_bilinear2d(&x, to.0, to.1, align_corners).unwrap();
                let gap = (got.permute((0, 3, 1, 2)).unwrap() - want).unwrap().abs().unwrap();
                let gap = gap.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(gap < 3e-6, "{size:?} to {to:?}, align_corners {align_corners}: gap {gap}");
            }
        }
    }
}
