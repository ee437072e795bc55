//! Layer normalisation over the last axis.

#![allow(unsafe_code)] // Threads write disjoint rows of one output; each use states its invariant.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "metal")]
mod metal;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    contiguous_f32,
    levels::{self, Level, Task},
    written,
};
use crate::launch::check_size;

/// `(x - mean) / sqrt(variance + eps) * scale + shift` over the last axis, population variance, in
/// two passes in float32.
///
/// `x` is `(…, dim)`, contiguous; float32 on the CPU, float32, float16 or bfloat16 on GPUs. `scale`
/// and `shift` are `(dim)`, float32, contiguous.
pub fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f32) -> Result<Tensor> {
    match x.dims().last() {
        Some(dim) if *dim > 0 && scale.dims() == [*dim] && shift.dims() == [*dim] => {}
        _ => bail!(
            "layer_norm: input {:?}, scale {:?}, shift {:?}",
            x.dims(),
            scale.dims(),
            shift.dims()
        ),
    }
    check_float32(scale, shift)?;
    check_size("layer_norm", "input", x)?;
    let op = LayerNorm {
        eps,
        parts: 1,
        turn: 0,
    };
    x.contiguous()?.apply_op3_no_bwd(scale, shift, &op)
}

/// [`layer_norm`] of both halves of `x` `(2, …, dim)`, each with its own `scale` and `shift` `(2, 1,
/// dim)`; `crossed` puts into each place what its scale and shift make of the other half.
pub fn layer_norm_both(
    x: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    eps: f32,
    crossed: bool,
) -> Result<Tensor> {
    match *x.dims() {
        [2, .., dim] if scale.dims() == [2, 1, dim] && shift.dims() == [2, 1, dim] => {}
        _ => bail!(
            "layer_norm: both halves of {:?}, scale {:?}, shift {:?}",
            x.dims(),
            scale.dims(),
            shift.dims()
        ),
    }
    check_float32(scale, shift)?;
    check_size("layer_norm", "input", x)?;
    let op = LayerNorm {
        eps,
        parts: 2,
        turn: crossed.into(),
    };
    x.contiguous()?
        .apply_op3_no_bwd(&scale.contiguous()?, &shift.contiguous()?, &op)
}

fn check_float32(scale: &Tensor, shift: &Tensor) -> Result<()> {
    for (name, tensor) in [("scale", scale), ("shift", shift)] {
        if tensor.dtype() != DType::F32 {
            bail!(
                "layer_norm: {name} must be f32, got {}",
                tensor.dtype().as_str()
            );
        }
    }
    Ok(())
}

pub(crate) struct LayerNorm {
    pub(crate) eps: f32,
    /// Equal parts of the rows that have a scale and a shift each.
    pub(crate) parts: usize,
    /// How many parts further on the rows lie that a part is made of, counted around.
    pub(crate) turn: usize,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous_f32("layer_norm", x, layout)?;
        let scale = contiguous_f32("layer_norm", scale, scale_layout)?;
        let shift = contiguous_f32("layer_norm", shift, shift_layout)?;
        let columns = scale.len() / self.parts;
        let part = x.len() / self.parts;
        let rows = 16 * columns;
        // SAFETY: the chunks are whole rows, and each task writes all of its rows.
        let out = unsafe {
            written(x.len(), |out| {
                for (index, out) in out.chunks_exact_mut(part).enumerate() {
                    let x = &x[(index + self.turn) % self.parts * part..][..part];
                    let own = index * columns..(index + 1) * columns;
                    let (scale, shift) = (&scale[own.clone()], &shift[own]);
                    out.par_chunks_mut(rows)
                        .zip(x.par_chunks(rows))
                        .for_each(|(out, x)| {
                            levels::run(&mut RowsTask {
                                out,
                                x,
                                scale,
                                shift,
                                eps: self.eps,
                            });
                        });
                }
            })
        };
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
        scale: &candle_core::CudaStorage,
        scale_layout: &Layout,
        shift: &candle_core::CudaStorage,
        shift_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let out = cuda::forward(
            self,
            (x, layout),
            (scale, scale_layout),
            (shift, shift_layout),
        )?;
        Ok((out, layout.shape().clone()))
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        x: &candle_core::MetalStorage,
        layout: &Layout,
        scale: &candle_core::MetalStorage,
        scale_layout: &Layout,
        shift: &candle_core::MetalStorage,
        shift_layout: &Layout,
    ) -> Result<(candle_core::MetalStorage, Shape)> {
        let out = metal::forward(
            self,
            (x, layout),
            (scale, scale_layout),
            (shift, shift_layout),
        )?;
        Ok((out, layout.shape().clone()))
    }
}

struct RowsTask<'a> {
    out: &'a mut [MaybeUninit<f32>],
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    eps: f32,
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
    fn run<L: Level>(&mut self) {
        let Self {
            scale, shift, eps, ..
        } = *self;
        let dim = scale.len() as f32;
        for (out, row) in self
            .out
            .chunks_exact_mut(scale.len())
            .zip(self.x.chunks_exact(scale.len()))
        {
            let mean = sum(row, |x| x) / dim;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / dim;
            let inverse = 1. / (variance + eps).sqrt();
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                out.write(L::mul_add((x - mean) * inverse, scale, shift));
            }
        }
    }
}
