//! The layer norm's Metal kernel, and its launch for given layouts.

use candle_core::{DType, Layout, Result};

use super::LayerNorm;
use crate::launch::shader::{Argument, Plan, SIMD, Shader, Use, vector};

/// layer_norm.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "layer_norm",
    source: include_str!("layer_norm.metal"),
    arguments: &[
        Argument::new("x", Use::Read, "V"),
        Argument::new("scale", Use::Read, "F"),
        Argument::new("shift", Use::Read, "F"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "LayerNormParams"),
    ],
};

/// What the kernel is told, in the order of its own `LayerNormParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNormParams {
    /// In vectors, where the kernel takes vectors.
    pub(crate) columns: u32,
    /// Numbers of a row.
    pub(crate) numbers: u32,
    pub(crate) rows: u32,
    /// Rows that have a scale and a shift of their own.
    pub(crate) part: u32,
    /// How many rows further on those lie that a row is made of.
    pub(crate) turn: u32,
    pub(crate) eps: f32,
}

/// For a contiguous `x` `(…, dim)` and contiguous `scale` and `shift`, `dim` numbers for each part.
pub(crate) fn plan(
    op: &LayerNorm,
    x: &Layout,
    scale: &Layout,
    shift: &Layout,
    dtype: DType,
) -> Result<Plan<LayerNormParams>> {
    let numbers = scale.shape().elem_count() / op.parts;
    let elements = x.shape().elem_count();
    let rows = elements / numbers;
    let vector = vector(numbers, &[x, scale, shift]);
    let part = rows / op.parts;
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: LayerNormParams {
            columns: (numbers / vector) as u32,
            numbers: numbers as u32,
            rows: rows as u32,
            part: part as u32,
            turn: (op.turn * part) as u32,
            eps: op.eps,
        },
        threads: [SIMD * rows, 1, 1],
        elements,
    })
}
