//! Transformer blocks.

use candle_core::{Result, Tensor};

use super::linear::Hidden;
use super::{Builder, CrossAttention, LayerNorm, Linear, Rope, SelfAttention};

/// Epsilon of every layer norm inside a block, but for those of [`EncoderBlock::with_eps`].
const EPS: f32 = 1e-6;

/// `fc2(gelu(fc1(x)))`.
#[derive(Clone, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// From `input` over `hidden` to `output` channels; the output is scaled by `gamma` where
    /// given.
    pub fn new(
        input: usize,
        hidden: usize,
        output: usize,
        gamma: Option<&Tensor>,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let fc2 = match gamma {
            Some(gamma) => Linear::scaled(hidden, output, gamma, vb.pp("fc2"))?,
            None => Linear::new(hidden, output, vb.pp("fc2"))?,
        };
        Ok(Self {
            fc1: Linear::new(input, hidden, vb.pp("fc1"))?,
            fc2,
        })
    }

    /// The layers of one view of layers of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            fc1: self.fc1.of_view(view)?,
            fc2: self.fc2.of_view(view)?,
        })
    }

    /// `x` is `(…, input)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward_hidden(None, &self.hidden(x)?)
    }

    /// [`Mlp::forward`] in float32, without a rounding to half precision where the device can.
    pub(crate) fn forward_wide(&self, x: &Tensor) -> Result<Tensor> {
        match self.hidden(x)? {
            Hidden::Tensor(hidden) => self.fc2.forward_wide(&hidden),
            // On the CPU, where outputs are float32.
            hidden => self.fc2.forward_hidden(None, &hidden),
        }
    }

    fn hidden(&self, x: &Tensor) -> Result<Hidden> {
        self.fc1.forward_gelu_for(&self.fc2, x)
    }

    /// `residual + mlp(x)`.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::debug_span!("mlp").entered();
        self.fc2.forward_hidden(Some(residual), &self.hidden(x)?)
    }
}

/// An encoder block, with or without layer scale.
#[derive(Clone, Debug)]
pub struct EncoderBlock {
    norm1: LayerNorm,
    attn: SelfAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl EncoderBlock {
    /// A block of `dim` channels; `layer_scale` reads `ls1.gamma` and `ls2.gamma`.
    pub fn new(
        dim: usize,
        heads: usize,
        mlp_dim: usize,
        layer_scale: bool,
        vb: Builder<'_>,
    ) -> Result<Self> {
        Self::with_eps(EPS, dim, heads, mlp_dim, layer_scale, vb)
    }

    /// [`EncoderBlock::new`] with another epsilon of both layer norms.
    pub fn with_eps(
        eps: f32,
        dim: usize,
        heads: usize,
        mlp_dim: usize,
        layer_scale: bool,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let gamma = |name: &str| layer_scale.then(|| vb.float32(dim, name)).transpose();
        let (gamma1, gamma2) = (gamma("ls1.gamma")?, gamma("ls2.gamma")?);
        Ok(Self {
            norm1: LayerNorm::new(dim, eps, vb.pp("norm1"))?,
            attn: SelfAttention::new(dim, heads, gamma1.as_ref(), vb.pp("attn"))?,
            norm2: LayerNorm::new(dim, eps, vb.pp("norm2"))?,
            mlp: Mlp::new(dim, mlp_dim, dim, gamma2.as_ref(), vb.pp("mlp"))?,
        })
    }

    /// The block with `attn.q_norm` and `attn.k_norm`: see [`SelfAttention::with_head_norms`].
    pub fn with_head_norms(self, dim: usize, vb: Builder<'_>) -> Result<Self> {
        Ok(Self {
            attn: self.attn.with_head_norms(dim, vb.pp("attn"))?,
            ..self
        })
    }

    /// `x` is `(batch, tokens, dim)`; without `rope` positions play no part.
    pub fn forward(&self, x: &Tensor, rope: Option<&Rope>) -> Result<Tensor> {
        let x = self.attn.forward_onto(x, &self.norm1.forward(x)?, rope)?;
        self.mlp.forward_onto(&x, &self.norm2.forward(&x)?)
    }
}

/// A decoder block: attention to itself, then to the other view.
#[derive(Clone, Debug)]
pub struct DecoderBlock {
    norm1: LayerNorm,
    attn: SelfAttention,
    norm2: LayerNorm,
    norm_y: LayerNorm,
    cross_attn: CrossAttention,
    norm3: LayerNorm,
    mlp: Mlp,
}

impl DecoderBlock {
    /// A block of `dim` channels.
    pub fn new(dim: usize, heads: usize, mlp_dim: usize, vb: Builder<'_>) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(dim, EPS, vb.pp(name));
        Ok(Self {
            norm1: norm("norm1")?,
            attn: SelfAttention::new(dim, heads, None, vb.pp("attn"))?,
            norm2: norm("norm2")?,
            norm_y: norm("norm_y")?,
            cross_attn: CrossAttention::new(dim, heads, vb.pp("cross_attn"))?,
            norm3: norm("norm3")?,
            mlp: Mlp::new(dim, mlp_dim, dim, None, vb.pp("mlp"))?,
        })
    }

    /// The block of one view of a block of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            norm1: self.norm1.of_view(view)?,
            attn: self.attn.of_view(view)?,
            norm2: self.norm2.of_view(view)?,
            norm_y: self.norm_y.of_view(view)?,
            cross_attn: self.cross_attn.of_view(view)?,
            norm3: self.norm3.of_view(view)?,
            mlp: self.mlp.of_view(view)?,
        })
    }

    /// `x` `(batch, tokens, dim)` of this view, `y` `(batch, memory_tokens, dim)` of the other.
    pub fn forward(
        &self,
        x: &Tensor,
        y: &Tensor,
        rope: &Rope,
        memory_rope: &Rope,
    ) -> Result<Tensor> {
        self.after_norm_y(x, &self.norm_y.forward(y)?, rope, memory_rope)
    }

    /// Of a block of both views: `x` `(2 batch, tokens, dim)`, each view's memory being the other.
    pub(crate) fn forward_both(&self, x: &Tensor, rope: &Rope) -> Result<Tensor> {
        self.after_norm_y(x, &self.norm_y.forward_crossed(x)?, rope, rope)
    }

    fn after_norm_y(
        &self,
        x: &Tensor,
        memory: &Tensor,
        rope: &Rope,
        memory_rope: &Rope,
    ) -> Result<Tensor> {
        let x = self
            .attn
            .forward_onto(x, &self.norm1.forward(x)?, Some(rope))?;
        let normal = self.norm2.forward(&x)?;
        let x = self
            .cross_attn
            .forward_onto(&x, &normal, memory, rope, memory_rope)?;
        self.mlp.forward_onto(&x, &self.norm3.forward(&x)?)
    }
}
