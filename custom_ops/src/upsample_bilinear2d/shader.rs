//! The resampling's Metal kernel, and its launch for given layouts.

use candle_core::{DType, Layout, Result};

use super::{Upsample, UpsampleParams};
use crate::launch::shader::{Argument, Plan, Shader, Use, vector};

/// upsample_bilinear2d.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "upsample_bilinear2d",
    source: include_str!("upsample_bilinear2d.metal"),
    arguments: &[
        Argument::new("x", Use::Read, "V"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "UpsampleParams"),
    ],
};

/// For an input `(batch, height, width, channels)`, channels contiguous.
pub(crate) fn plan(op: &Upsample, layout: &Layout, dtype: DType) -> Result<Plan<UpsampleParams>> {
    let params = UpsampleParams::new(op, layout)?;
    let (channels, batch) = (params.channels as usize, layout.dims()[0]);
    let vector = vector(channels, &[layout]);
    let [to_height, to_width] = op.to;
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: in_vectors(params, vector as u32),
        threads: [to_width * channels / vector, to_height, batch],
        elements: batch * to_height * to_width * channels,
    })
}

/// Counts vectors where `params` count elements.
fn in_vectors(params: UpsampleParams, vector: u32) -> UpsampleParams {
    UpsampleParams {
        channels: params.channels / vector,
        batch_stride: params.batch_stride / vector,
        row_stride: params.row_stride / vector,
        column_stride: params.column_stride / vector,
        ..params
    }
}
