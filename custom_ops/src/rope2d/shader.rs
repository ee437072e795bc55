//! The rotation's Metal kernel, and its launch for given layouts.

use candle_core::{DType, Layout, Result, bail};

use super::RopeParams;
use crate::launch::shader::{Argument, Plan, Shader, Use, vector};

/// rope2d.metal.
pub(crate) const SHADER: Shader = Shader {
    op: "rope2d",
    source: include_str!("rope2d.metal"),
    arguments: &[
        Argument::new("first", Use::Read, "V"),
        Argument::new("second", Use::Read, "V"),
        Argument::new("table", Use::Read, "F"),
        Argument::new("out", Use::Written, "V"),
        Argument::new("params", Use::Params, "RopeParams"),
    ],
};

/// For one or two sources `(batch, tokens, heads, dim)` of one shape, channels contiguous.
pub(crate) fn plan(sources: &[&Layout], dtype: DType) -> Result<Plan<RopeParams>> {
    let (Some(first), Some(second)) = (sources.first(), sources.last()) else {
        bail!("rope2d: nothing to rotate")
    };
    let params = RopeParams::new(first, second)?;
    let vector = vector(params.quarter as usize, sources);
    let elements = first.shape().elem_count();
    let batch = first.dims()[0];
    Ok(Plan {
        kernel: SHADER.kernel(dtype, vector)?,
        params: in_vectors(params, vector as u32),
        threads: [elements / (2 * vector * batch), batch, sources.len()],
        elements: sources.len() * elements,
    })
}

/// Counts vectors where `params` count elements.
fn in_vectors(params: RopeParams, vector: u32) -> RopeParams {
    RopeParams {
        quarter: params.quarter / vector,
        batch_stride: params.batch_stride / vector,
        token_stride: params.token_stride / vector,
        head_stride: params.head_stride / vector,
        second_batch_stride: params.second_batch_stride / vector,
        second_token_stride: params.second_token_stride / vector,
        second_head_stride: params.second_head_stride / vector,
        ..params
    }
}
