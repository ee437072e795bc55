//! The one attention, and the two modules around it.

use candle_core::{DType, Result, Tensor};
use custom_ops::{HeadNorms, Storage, plain};

use super::passes::cast;
use super::products::FloatProducts;
use super::{Builder, LayerNorm, Linear, Rope, work};
use crate::runtime::Optimisation;

/// `softmax(q k^T / sqrt(head_dim)) v`, fused where the device has it.
///
/// `q` is `(batch, queries, heads, head_dim)`, `k` and `v` `(batch, keys, heads, head_dim)`,
/// strided views allowed. Returns `(batch, queries, heads * head_dim)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, precision: Storage) -> Result<Tensor> {
    if custom_ops::has_attention(q) {
        return custom_ops::attention(q, k, v, precision);
    }
    FloatProducts::Default.launch(q.device(), q.dtype(), || banded(q, k, v))
}

/// Most elements of scores in memory at a time where no kernel does without them.
const MOST_SCORES: usize = 1 << 28;

/// [`plain::attention`], a band of queries at a time: its scores grow with the square of the tokens
/// of all views, which would be gigabytes.
fn banded(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (batch, queries, heads, _) = q.dims4()?;
    let row = batch * heads * k.dim(1)?;
    let band = (MOST_SCORES / row.max(1)).max(1);
    if queries <= band {
        return plain::attention(q, k, v);
    }
    let bands = (0..queries)
        .step_by(band)
        .map(|first| plain::attention(&q.narrow(1, first, band.min(queries - first))?, k, v))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&bands, 1)
}

/// Which attention a module has.
#[derive(Clone, Debug)]
struct Mixing {
    /// What traces call it.
    kind: &'static str,
    precision: Storage,
    products: FloatProducts,
    fused: bool,
}

impl Mixing {
    fn new(kind: &'static str, vb: &Builder<'_>) -> Self {
        Self {
            kind,
            precision: vb.storage(),
            products: vb.products(),
            fused: vb.has(Optimisation::FusedAttention),
        }
    }

    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let _span = tracing::trace_span!(
            "attention",
            kind = self.kind,
            flop = work::attention(q, k),
            bytes = 2 * work::bytes(q) + work::bytes(k) + work::bytes(v),
        )
        .entered();
        if !self.fused {
            let plain = || banded(q, k, v);
            return self.products.launch(q.device(), q.dtype(), plain);
        }
        let is_tf32 = self.products.is_tf32(q.device(), q.dtype())?;
        if is_tf32 && q.dim(3)? == custom_ops::GPU_HEAD_DIM {
            // As many digits, and there is a kernel that stores no scores.
            let half = |t: &Tensor| cast(t, DType::F16);
            let mixed = attention(&half(q)?, &half(k)?, &half(v)?, self.precision)?;
            return cast(&mixed, DType::F32);
        }
        attention(q, k, v, self.precision)
    }
}

/// Self-attention with a fused projection: rows of `qkv` are q, k and v, each head after head.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    /// Over each head's channels of queries and keys, before any rotation.
    head_norms: Option<[LayerNorm; 2]>,
    /// The same where one kernel normalises and rotates.
    rotating_norms: Option<HeadNorms>,
    mixing: Mixing,
}

/// Epsilon of the layer norms of queries and keys.
const HEAD_NORM_EPS: f32 = 1e-5;

impl SelfAttention {
    /// `qkv` `(3 dim, dim)` and `proj` `(dim, dim)`, the latter scaled by `gamma` where given.
    pub fn new(dim: usize, heads: usize, gamma: Option<&Tensor>, vb: Builder<'_>) -> Result<Self> {
        let proj = match gamma {
            Some(gamma) => Linear::scaled(dim, dim, gamma, vb.pp("proj"))?,
            None => Linear::new(dim, dim, vb.pp("proj"))?,
        };
        Ok(Self {
            qkv: Linear::new(dim, 3 * dim, vb.pp("qkv"))?,
            proj,
            heads,
            head_norms: None,
            rotating_norms: None,
            mixing: Mixing::new("self", &vb),
        })
    }

    /// The layer with `q_norm` and `k_norm`, layer norms over the channels of every head.
    pub fn with_head_norms(self, dim: usize, vb: Builder<'_>) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(dim / self.heads, HEAD_NORM_EPS, vb.pp(name));
        let (q_norm, k_norm) = (norm("q_norm")?, norm("k_norm")?);
        Ok(Self {
            rotating_norms: q_norm.of_heads(&k_norm)?,
            head_norms: Some([q_norm, k_norm]),
            ..self
        })
    }

    /// The layer of one view of a layer of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            qkv: self.qkv.of_view(view)?,
            proj: self.proj.of_view(view)?,
            heads: self.heads,
            head_norms: match &self.head_norms {
                Some([q, k]) => Some([q.of_view(view)?, k.of_view(view)?]),
                None => None,
            },
            rotating_norms: None,
            mixing: self.mixing.clone(),
        })
    }

    /// `residual + proj(attention(x))`; `x` and `residual` are `(batch, tokens, dim)`.
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        rope: Option<&Rope>,
    ) -> Result<Tensor> {
        let _span = tracing::debug_span!("attn").entered();
        let (batch, tokens, dim) = x.dims3()?;
        let qkv = self
            .qkv
            .forward(x)?
            .reshape((batch, tokens, 3, self.heads, dim / self.heads))?;
        let third = |index| qkv.get_on_dim(2, index);
        let (q, k) = self.placed(third(0)?, third(1)?, rope)?;
        self.proj
            .forward_onto(residual, &self.mixing.forward(&q, &k, &third(2)?)?)
    }

    /// Queries and keys with their norms, if they have any, and rotated.
    fn placed(&self, q: Tensor, k: Tensor, rope: Option<&Rope>) -> Result<(Tensor, Tensor)> {
        if let (Some(norms), Some(rope)) = (&self.rotating_norms, rope)
            && let Some(placed) = rope.rotated_pair_of_normalised(&q, &k, norms)
        {
            return placed;
        }
        let (q, k) = match &self.head_norms {
            Some([q_norm, k_norm]) => (q_norm.forward(&q)?, k_norm.forward(&k)?),
            None => (q, k),
        };
        match rope {
            Some(rope) => rope.rotated_pair(&q, &k),
            None => Ok((q, k)),
        }
    }
}

/// Cross-attention: queries from one view, keys and values from the other.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    projq: Linear,
    memory: Memory,
    proj: Linear,
    heads: usize,
    mixing: Mixing,
}

/// The projections of the other view's tokens.
#[derive(Clone, Debug)]
enum Memory {
    /// Rows of `projk`, then of `projv`: both read the same tokens.
    Stacked(Linear),
    Apart([Linear; 2]),
}

impl CrossAttention {
    /// Four projections `(dim, dim)`.
    pub fn new(dim: usize, heads: usize, vb: Builder<'_>) -> Result<Self> {
        let linear = |name: &str| Linear::new(dim, dim, vb.pp(name));
        let memory = if vb.has(Optimisation::StackedKeyValue) {
            Memory::Stacked(Linear::stacked(
                dim,
                [dim, dim],
                [vb.pp("projk"), vb.pp("projv")],
                "projkv",
            )?)
        } else {
            Memory::Apart([linear("projk")?, linear("projv")?])
        };
        Ok(Self {
            projq: linear("projq")?,
            memory,
            proj: linear("proj")?,
            heads,
            mixing: Mixing::new("cross", &vb),
        })
    }

    /// The layer of one view of a layer of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            projq: self.projq.of_view(view)?,
            memory: match &self.memory {
                Memory::Stacked(projkv) => Memory::Stacked(projkv.of_view(view)?),
                Memory::Apart([projk, projv]) => {
                    Memory::Apart([projk.of_view(view)?, projv.of_view(view)?])
                }
            },
            proj: self.proj.of_view(view)?,
            heads: self.heads,
            mixing: self.mixing.clone(),
        })
    }

    /// `residual + proj(attention(x, memory))`; `x` `(batch, tokens, dim)` with its positions in
    /// `rope`, `memory` `(batch, memory_tokens, dim)` with its own in `memory_rope`.
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        memory: &Tensor,
        rope: &Rope,
        memory_rope: &Rope,
    ) -> Result<Tensor> {
        let _span = tracing::debug_span!("cross_attn").entered();
        let (batch, tokens, dim) = x.dims3()?;
        let head_dim = dim / self.heads;
        let q = self
            .projq
            .forward(x)?
            .reshape((batch, tokens, self.heads, head_dim))?;
        let memory_tokens = memory.dim(1)?;
        let [k, v] = match &self.memory {
            Memory::Stacked(projkv) => {
                let kv = projkv.forward(memory)?.reshape((
                    batch,
                    memory_tokens,
                    2,
                    self.heads,
                    head_dim,
                ))?;
                [kv.get_on_dim(2, 0)?, kv.get_on_dim(2, 1)?]
            }
            Memory::Apart([projk, projv]) => {
                let heads =
                    |tokens: Tensor| tokens.reshape((batch, memory_tokens, self.heads, head_dim));
                [
                    heads(projk.forward(memory)?)?,
                    heads(projv.forward(memory)?)?,
                ]
            }
        };
        let (q, k) = if std::ptr::eq(rope, memory_rope) && q.dims() == k.dims() {
            rope.rotated_pair(&q, &k)?
        } else {
            (rope.rotated(&q)?, memory_rope.rotated(&k)?)
        };
        self.proj
            .forward_onto(residual, &self.mixing.forward(&q, &k, &v)?)
    }
}
