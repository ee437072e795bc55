//! The Metal kernel that gathers the taps of a convolution, and its launch for given layouts.

use candle_core::{DType, Layout, Result};

use super::taps::Taps;
use crate::launch::four_axes;
use crate::launch::shader::{Argument, Plan, Shader, Use, vector};

/// taps3x3.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "taps3x3",
    source: include_str!("taps3x3.metal"),
    arguments: &[
        Argument::new("x", Use::Read, "V"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "TapsParams"),
    ],
};

/// What the kernel is told, in the order of its own `TapsParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TapsParams {
    pub(crate) height: u32,
    pub(crate) width: u32,
    /// In vectors, where the kernel takes vectors.
    pub(crate) channels: u32,
    pub(crate) first_row: u32,
    /// From one pixel and one row to the next.
    pub(crate) step: u32,
    /// 0 or 1.
    pub(crate) relu: u32,
}

/// For a contiguous input `(batch, height, width, channels)`.
pub(crate) fn plan(op: &Taps, layout: &Layout, dtype: DType) -> Result<Plan<TapsParams>> {
    let ([_, height, width, channels], _) = four_axes("taps3x3", layout)?;
    let vector = vector(channels, &[layout]);
    let columns = width.div_ceil(op.step);
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: TapsParams {
            height: height as u32,
            width: width as u32,
            channels: (channels / vector) as u32,
            first_row: op.first_row as u32,
            step: op.step as u32,
            relu: op.relu.into(),
        },
        threads: [9 * columns * channels / vector, op.rows, 1],
        elements: 9 * op.rows * columns * channels,
    })
}
