//! Layer normalisation.

use candle_core::{Result, Tensor};
use custom_ops::plain;

use super::{Builder, work};
use crate::runtime::Optimisation;

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the channels, population variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Float32; on Metal of the activations' dtype, as Candle's kernel wants it.
    scale: Tensor,
    shift: Tensor,
    eps: f32,
    fused: bool,
    /// The layer's own name in the checkpoint, for traces.
    role: String,
}

impl LayerNorm {
    /// Over `dim` channels: `weight` and `bias`, both `(dim)`.
    pub fn new(dim: usize, eps: f32, vb: Builder<'_>) -> Result<Self> {
        let (scale, shift) = (vb.float32(dim, "weight")?, vb.float32(dim, "bias")?);
        let kept = |values: Tensor| {
            if vb.device().is_metal() {
                values.to_dtype(vb.dtype())
            } else {
                values.contiguous()
            }
        };
        let fused = vb.has(Optimisation::FusedLayerNorm);
        Ok(Self {
            scale: kept(scale)?,
            shift: kept(shift)?,
            eps,
            fused,
            role: vb.role(),
        })
    }

    /// `x` is `(…, dim)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(
            "layer_norm",
            role = self.role,
            flop = work::LAYER_NORM * work::elements(x),
            bytes = 2 * work::bytes(x) + work::bytes(&self.scale) + work::bytes(&self.shift),
        )
        .entered();
        if !self.fused {
            return plain::layer_norm(x, &self.scale, &self.shift, self.eps);
        }
        let x = x.contiguous()?;
        if x.device().is_metal() {
            candle_nn::ops::layer_norm(&x, &self.scale, &self.shift, self.eps)
        } else {
            custom_ops::layer_norm(&x, &self.scale, &self.shift, self.eps)
        }
    }
}
