//! The sampling's Metal kernel, and its launch for given layouts.

use candle_core::{DType, Layout, Result};

use super::{GridSample, GridSampleParams};
use crate::launch::shader::{Argument, Plan, Shader, Use, vector};

/// grid_sample.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "grid_sample",
    source: include_str!("grid_sample.metal"),
    arguments: &[
        Argument::new("x", Use::Read, "V"),
        Argument::new("grid", Use::Read, "float"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "GridSampleParams"),
    ],
};

/// For an input `(batch, height, width, channels)`, channels contiguous.
pub(crate) fn plan(
    op: &GridSample,
    layout: &Layout,
    dtype: DType,
) -> Result<Plan<GridSampleParams>> {
    let params = GridSampleParams::new(op, layout)?;
    let (channels, places, batch) = (
        params.channels as usize,
        params.places as usize,
        layout.dims()[0],
    );
    let vector = vector(channels, &[layout]);
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: in_vectors(params, vector as u32),
        threads: [places * channels / vector, batch, 1],
        elements: batch * places * channels,
    })
}

/// Counts vectors where `params` count elements.
fn in_vectors(params: GridSampleParams, vector: u32) -> GridSampleParams {
    GridSampleParams {
        channels: params.channels / vector,
        batch_stride: params.batch_stride / vector,
        row_stride: params.row_stride / vector,
        column_stride: params.column_stride / vector,
        ..params
    }
}
