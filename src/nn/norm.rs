//! Layer normalisation.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::{float32, values};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the channels, population variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weights: Weights,
    eps: f32,
}

#[derive(Clone, Debug)]
enum Weights {
    Cpu { scale: Vec<f32>, shift: Vec<f32> },
    Device { scale: Tensor, shift: Tensor },
}

impl LayerNorm {
    /// Over `dim` channels: `weight` and `bias`, both `(dim)`.
    pub fn new(dim: usize, eps: f32, vb: VarBuilder) -> Result<Self> {
        let (scale, shift) = (float32(&vb, dim, "weight")?, float32(&vb, dim, "bias")?);
        let weights = if matches!(vb.device(), Device::Cpu) {
            Weights::Cpu { scale: values(&scale)?, shift: values(&shift)? }
        } else {
            Weights::Device { scale: scale.to_dtype(vb.dtype())?, shift: shift.to_dtype(vb.dtype())? }
        };
        Ok(Self { weights, eps })
    }

    /// `x` is `(…, dim)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!("layer_norm").entered();
        let x = x.contiguous()?;
        match &self.weights {
            Weights::Cpu { scale, shift } => custom_ops::layer_norm(&x, scale, shift, self.eps),
            Weights::Device { scale, shift } => candle_nn::ops::layer_norm(&x, scale, shift, self.eps),
        }
    }
}
