//! A view's head: points and confidence from a DPT, descriptors from an MLP; float32 maps, whatever
//! the precision of the rest.

use candle_core::{D, DType, Result, Tensor};

use super::config::{Config, HeadConfig};
use crate::nn::passes::{cast, joined};
use crate::nn::{
    Builder, DescriptorMaps, Dpt, DptDims, Mlp, Observer, descriptor_maps, geometry_maps, work,
};
use crate::runtime::Optimisation;

/// One view's head.
#[derive(Clone, Debug)]
pub struct Head {
    dpt: Dpt,
    local_features: Mlp,
    config: HeadConfig,
    patch: usize,
    /// 1 or 2, for traces; 0 of both.
    view: usize,
    fused_outputs: bool,
    /// Of its layers.
    dtype: DType,
}

/// What a head says of one view, `(batch, height, width[, channels])`, float32.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// `(…, 3)`: points in the first view's camera frame.
    pub points: Tensor,
    /// Confidence of the points, at least 1.
    pub confidence: Tensor,
    /// `(…, channels)`: descriptors of unit length.
    pub descriptors: Tensor,
    /// Confidence of the descriptors.
    pub descriptor_confidence: Tensor,
}

impl Prediction {
    /// That of `count` views of a batch from one on.
    pub(super) fn narrow(&self, from: usize, count: usize) -> Result<Self> {
        Ok(Self {
            points: self.points.narrow(0, from, count)?,
            confidence: self.confidence.narrow(0, from, count)?,
            descriptors: self.descriptors.narrow(0, from, count)?,
            descriptor_confidence: self.descriptor_confidence.narrow(0, from, count)?,
        })
    }
}

impl Head {
    /// The head of view 1 or 2, or 0 of a builder of both. Reads `dpt.*` and
    /// `head_local_features.*`; a builder [in float32](Builder::in_float32).
    pub fn new(
        view: usize,
        config: &Config,
        head: &HeadConfig,
        decoder_dim: usize,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let (encoder_dim, patch) = (config.encoder.stack.dim, config.encoder.patch);
        let dims = DptDims {
            inputs: [encoder_dim, decoder_dim, decoder_dim, decoder_dim],
            levels: head.layer_dims,
            features: head.features,
            head: head.head_channels,
            last: head.last,
            output: 4,
        };
        let (input, output) = (
            encoder_dim + decoder_dim,
            head.descriptor_channels() * patch * patch,
        );
        Ok(Self {
            dtype: vb.activations(),
            fused_outputs: vb.has(Optimisation::FusedOutputs),
            dpt: Dpt::new(&dims, vb.pp("dpt"))?,
            local_features: Mlp::new(
                input,
                head.descriptor_hidden,
                output,
                None,
                vb.pp("head_local_features"),
            )?,
            config: head.clone(),
            patch,
            view,
        })
    }

    /// The head of one view, 0 or 1, of a head of both.
    pub(super) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            dpt: self.dpt.of_view(view)?,
            local_features: self.local_features.of_view(view)?,
            config: self.config.clone(),
            patch: self.patch,
            view: view + 1,
            fused_outputs: self.fused_outputs,
            dtype: self.dtype,
        })
    }

    /// `tokens` are the hooked entries of the token list over a `grid` of `[rows, columns]`.
    pub fn forward(
        &self,
        tokens: &[Tensor; 4],
        grid: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Prediction> {
        let _span = tracing::debug_span!("head", view = self.view).entered();
        let [t0, t1, t2, t3] = tokens;
        let own = |tokens: &Tensor| cast(tokens, self.dtype);
        let (t0, t1, t2, t3) = (own(t0)?, own(t1)?, own(t2)?, own(t3)?);
        let size = grid.map(|n| n * self.patch);
        let geometry = self
            .dpt
            .forward([&t0, &t1, &t2, &t3], grid, size, observe)?;
        if self.fused_outputs && !observe.looks() {
            let local = self.local_tokens([&t0, &t3], observe)?;
            return self.maps(&geometry, &local, grid);
        }
        let local = self.local_pixels([&t0, &t3], grid, observe)?;
        observe.see_made("head.raw", || Tensor::cat(&[&geometry, &local], D::Minus1))?;
        self.activate(&geometry, &local)
    }

    /// Descriptors and their confidence before activation, `(batch, height, width, channels)`, of
    /// the first and the last token list.
    fn local_pixels(
        &self,
        tokens: [&Tensor; 2],
        grid: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let _span = tracing::debug_span!("descriptor_mlp").entered();
        let local = self.mlp(tokens, observe)?;
        pixels_from_tokens(&local, grid, self.config.descriptor_channels(), self.patch)
    }

    /// The same before tokens open into pixels.
    fn local_tokens(&self, tokens: [&Tensor; 2], observe: &mut Observer<'_>) -> Result<Tensor> {
        let _span = tracing::debug_span!("descriptor_mlp").entered();
        self.mlp(tokens, observe)
    }

    fn mlp(&self, tokens: [&Tensor; 2], observe: &mut Observer<'_>) -> Result<Tensor> {
        let local = self.local_features.forward_wide(&joined(&tokens, 2)?)?;
        observe.see("head.local_tokens", &local)?;
        Ok(local)
    }

    /// As [`Head::activate`] in one pass each, from tokens that have not opened yet.
    fn maps(&self, geometry: &Tensor, local: &Tensor, grid: [usize; 2]) -> Result<Prediction> {
        let _span = tracing::trace_span!(
            "postprocess",
            flop = work::POSTPROCESS * (work::elements(geometry) + work::elements(local)),
            bytes = 2 * (work::bytes(geometry) + work::bytes(local)),
        )
        .entered();
        let [points, confidence] = geometry_maps(geometry)?;
        let maps = DescriptorMaps {
            grid,
            patch: self.patch,
            channels: self.config.descriptor,
            confidence_floor: self
                .config
                .two_confidences
                .then_some(self.config.descriptor_confidence_floor),
        };
        let (descriptors, descriptor_confidence) = descriptor_maps(local, maps)?;
        Ok(Prediction {
            descriptor_confidence: descriptor_confidence.unwrap_or_else(|| confidence.clone()),
            points,
            confidence,
            descriptors,
        })
    }

    fn activate(&self, geometry: &Tensor, local: &Tensor) -> Result<Prediction> {
        let _span = tracing::trace_span!(
            "postprocess",
            flop = work::POSTPROCESS * (work::elements(geometry) + work::elements(local)),
            bytes = 2 * (work::bytes(geometry) + work::bytes(local)),
        )
        .entered();
        let raw_confidence = geometry.narrow(3, 3, 1)?.squeeze(3)?;
        let confidence = (raw_confidence.exp()? + 1.)?;
        let descriptor_confidence = if self.config.two_confidences {
            let raw = local.narrow(3, self.config.descriptor, 1)?.squeeze(3)?;
            (raw.exp()? + f64::from(self.config.descriptor_confidence_floor))?
        } else {
            confidence.clone()
        };
        Ok(Prediction {
            points: points(&geometry.narrow(3, 0, 3)?)?,
            confidence,
            descriptors: descriptors(&local.narrow(3, 0, self.config.descriptor)?)?,
            descriptor_confidence,
        })
    }
}

/// Opens every token of a `grid` of `[rows, columns]` into a square of `patch` by `patch` pixels:
/// channel `c patch^2 + i patch + j` of the token at `(row, column)` is channel `c` of pixel `(row
/// patch + i, column patch + j)`.
///
/// `(batch, rows * columns, channels * patch * patch)` to `(batch, rows * patch, columns * patch,
/// channels)`.
pub fn pixels_from_tokens(
    tokens: &Tensor,
    [rows, columns]: [usize; 2],
    channels: usize,
    patch: usize,
) -> Result<Tensor> {
    let _span =
        tracing::trace_span!("open", flop = 0u64, bytes = 2 * work::bytes(tokens)).entered();
    let batch = tokens.dim(0)?;
    let pixels = tokens
        .reshape((batch, rows, columns, channels, patch, patch))?
        .permute((0, 1, 4, 2, 5, 3))?;
    pixels
        .contiguous()?
        .reshape((batch, rows * patch, columns * patch, channels))
}

/// `xyz / max(d, 1e-8) * (e^d - 1)` with `d = |xyz|`, over the last axis.
pub fn points(raw: &Tensor) -> Result<Tensor> {
    let raw = raw.contiguous()?;
    let distance = raw.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let scale = (expm1(&distance)? / distance.maximum(1e-8)?)?;
    raw.broadcast_mul(&scale)
}

/// `e^x - 1` for `x >= 0` without cancellation: `2 t / (1 - t)` with `t = tanh(x / 2)` where `x` is
/// small.
fn expm1(x: &Tensor) -> Result<Tensor> {
    let t = (x * 0.5)?.tanh()?;
    let small = ((&t * 2.)? / (1. - &t)?)?;
    x.lt(1.)?.where_cond(&small, &(x.exp()? - 1.)?)
}

/// `raw / |raw|` over the last axis, without an epsilon: a zero vector has no direction and gives
/// NaN.
pub fn descriptors(raw: &Tensor) -> Result<Tensor> {
    let raw = raw.contiguous()?;
    raw.broadcast_div(&raw.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
