//! Layer normalisation over the last axis.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    Shared, contiguous_f32,
    levels::{self, Level, Task},
    written,
};

/// `(x - mean) / sqrt(variance + eps) * scale + shift` over the last axis, population variance, in two passes.
///
/// `x` is `(…, dim)`, contiguous float32 on the CPU; `scale` and `shift` have `dim` values.
pub fn layer_norm(x: &Tensor, scale: &[f32], shift: &[f32], eps: f32) -> Result<Tensor> {
    match x.dims().last() {
        Some(&dim) if dim > 0 && dim == scale.len() && dim == shift.len() => {}
        _ => bail!("layer_norm: input {:?}, scale {}, shift {}", x.dims(), scale.len(), shift.len()),
    }
    x.apply_op1_no_bwd(&LayerNorm { scale, shift, eps })
}

struct LayerNorm<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    eps: f32,
}

impl CustomOp1 for LayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32("layer_norm", storage, layout)?;
        let rows = 16 * self.scale.len();
        // SAFETY: the chunks are whole rows, and each task writes all of its rows.
        let out = unsafe {
            written(x.len(), |out| {
                out.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(out, x)| {
                    levels::run(&RowsTask { out: Shared::new(out), x, op: self });
                });
            })
        };
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct RowsTask<'a> {
    out: Shared<MaybeUninit<f32>>,
    x: &'a [f32],
    op: &'a LayerNorm<'a>,
}

/// Partial sums that a sum over a row runs in, so that it vectorises.
const LANES: usize = 32;

/// The sum of `term` over a row.
#[inline(always)]
fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&x| term(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += term(x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

impl Task for RowsTask<'_> {
    #[inline(always)]
    fn run<L: Level>(&self) {
        let LayerNorm { scale, shift, eps } = *self.op;
        // SAFETY: these rows are this task's alone.
        let out = unsafe { self.out.range(0, self.x.len()) };
        let dim = scale.len() as f32;
        for (out, row) in out.chunks_exact_mut(scale.len()).zip(self.x.chunks_exact(scale.len())) {
            let mean = sum(row, |x| x) / dim;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / dim;
            let inverse = 1. / (variance + eps).sqrt();
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                out.write(L::mul_add((x - mean) * inverse, scale, shift));
            }
        }
    }
}
