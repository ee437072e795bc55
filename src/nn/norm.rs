//! Layer normalisation.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::float32;

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the channels, population variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Float32; on Metal of the activations' dtype, as Candle's kernel wants it.
    scale: Tensor,
    shift: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// Over `dim` channels: `weight` and `bias`, both `(dim)`.
    pub fn new(dim: usize, eps: f32, vb: VarBuilder) -> Result<Self> {
        let (scale, shift) = (float32(&vb, dim, "weight")?, float32(&vb, dim, "bias")?);
        let kept =
            |values: Tensor| if vb.device().is_metal() { values.to_dtype(vb.dtype()) } else { values.contiguous() };
        Ok(Self { scale: kept(scale)?, shift: kept(shift)?, eps })
    }

    /// `x` is `(…, dim)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!("layer_norm").entered();
        let x = x.contiguous()?;
        if x.device().is_metal() {
            candle_nn::ops::layer_norm(&x, &self.scale, &self.shift, self.eps)
        } else {
            custom_ops::layer_norm(&x, &self.scale, &self.shift, self.eps)
        }
    }
}
