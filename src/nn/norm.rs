//! Layer normalisation.

use candle_core::{Result, Tensor};
use custom_ops::{HeadNorms, plain};

use super::linear::stackable;
use super::passes::halves;
use super::{Builder, work};
use crate::runtime::Optimisation;

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the channels, population variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `(dim)`, of both views `(2, 1, dim)`; float32.
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
        let kept = |values: Tensor| stackable(values, &vb)?.contiguous();
        let fused = vb.has(Optimisation::FusedLayerNorm);
        Ok(Self {
            scale: kept(scale)?,
            shift: kept(shift)?,
            eps,
            fused,
            role: vb.role(),
        })
    }

    /// The norm of one view, 0 or 1, of a norm of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            scale: self.scale.get(view)?.get(0)?,
            shift: self.shift.get(view)?.get(0)?,
            role: self.role.clone(),
            ..*self
        })
    }

    /// This norm of queries and `keys`' of keys as the kernel takes them that rotates them too, if
    /// there is one for both.
    pub(crate) fn of_heads(&self, keys: &Self) -> Result<Option<HeadNorms>> {
        let fits = self.fused && keys.fused && self.eps == keys.eps && self.scale.rank() == 1;
        let norms = || {
            HeadNorms::new(
                [&self.scale, &self.shift],
                [&keys.scale, &keys.shift],
                self.eps,
            )
        };
        fits.then(norms).transpose()
    }

    /// `x` is `(…, dim)`; of a norm of both views the first half of it is the first view's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false)
    }

    /// For a norm of both views: each view's norm of the other view's half of `x`, where its own
    /// was.
    pub(crate) fn forward_crossed(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true)
    }

    fn apply(&self, x: &Tensor, crossed: bool) -> Result<Tensor> {
        let _span = tracing::trace_span!(
            "layer_norm",
            role = self.role,
            flop = work::LAYER_NORM * work::elements(x),
            bytes = 2 * work::bytes(x) + work::bytes(&self.scale) + work::bytes(&self.shift),
        )
        .entered();
        if self.scale.rank() == 3 {
            let halves = halves(x)?;
            let normal = if self.fused {
                custom_ops::layer_norm_both(&halves, &self.scale, &self.shift, self.eps, crossed)?
            } else {
                let halves = if crossed {
                    Tensor::cat(&[halves.narrow(0, 1, 1)?, halves.narrow(0, 0, 1)?], 0)?
                } else {
                    halves
                };
                plain::layer_norm(&halves, &self.scale, &self.shift, self.eps)?
            };
            return normal.reshape(x.dims());
        }
        if !self.fused {
            return plain::layer_norm(x, &self.scale, &self.shift, self.eps);
        }
        custom_ops::layer_norm(x, &self.scale, &self.shift, self.eps)
    }
}
