//! The one attention, and the two modules around it.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use custom_ops::{RopeTable, Storage, rope2d, rope2d_pair};

use super::Linear;
use super::linear::storage;

/// `softmax(q k^T / sqrt(head_dim)) v`, fused where the device has it.
///
/// `q` is `(batch, queries, heads, head_dim)`, `k` and `v` `(batch, keys, heads, head_dim)`, strided views allowed.
/// Returns `(batch, queries, heads * head_dim)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, precision: Storage) -> Result<Tensor> {
    let _span = tracing::trace_span!("attention").entered();
    let scale = 1. / (q.dim(3)? as f64).sqrt();
    let heads_first = |t: &Tensor| t.transpose(1, 2);
    match q.device() {
        Device::Cpu => custom_ops::attention(q, k, v, precision),
        Device::Metal(_) if sdpa_takes(q) => {
            let (q, k, v) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
            let mixed = candle_nn::ops::sdpa(&q, &k, &v, None, false, scale as f32, 1.)?;
            mixed.transpose(1, 2)?.flatten_from(2)
        }
        Device::Cuda(_) if q.dtype() != DType::F32 && q.dim(3)? == custom_ops::GPU_HEAD_DIM => {
            custom_ops::attention(q, k, v, precision)
        }
        _ => {
            let (q, k, v) =
                (heads_first(q)?.contiguous()?, heads_first(k)?.contiguous()?, heads_first(v)?.contiguous()?);
            let scores = (q.matmul(&k.transpose(D::Minus2, D::Minus1)?)? * scale)?;
            candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?.transpose(1, 2)?.flatten_from(2)
        }
    }
}

/// Whether Candle's fused attention on Metal takes these queries: of one of the head dims that its shaders are made for,
/// and more than one, because its kernel for a single query ignores the strides of `q`.
fn sdpa_takes(q: &Tensor) -> bool {
    matches!(q.dims(), &[_, queries, _, 32 | 64 | 72 | 80 | 96 | 128 | 256] if queries > 1)
}

/// Self-attention with a fused projection: rows of `qkv` are q, k and v, each head after head.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    precision: Storage,
}

impl SelfAttention {
    /// `qkv` `(3 dim, dim)` and `proj` `(dim, dim)`, the latter scaled by `gamma` where given.
    pub fn new(dim: usize, heads: usize, gamma: Option<&Tensor>, vb: VarBuilder) -> Result<Self> {
        let proj = match gamma {
            Some(gamma) => Linear::scaled(dim, dim, gamma, vb.pp("proj"))?,
            None => Linear::new(dim, dim, vb.pp("proj"))?,
        };
        Ok(Self { qkv: Linear::new(dim, 3 * dim, vb.pp("qkv"))?, proj, heads, precision: storage(&vb) })
    }

    /// `residual + proj(attention(x))`; `x` and `residual` are `(batch, tokens, dim)`.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor, rope: Option<&RopeTable>) -> Result<Tensor> {
        let (batch, tokens, dim) = x.dims3()?;
        let qkv = self.qkv.forward(x)?.reshape((batch, tokens, 3, self.heads, dim / self.heads))?;
        let third = |index| qkv.get_on_dim(2, index);
        let (mut q, mut k) = (third(0)?, third(1)?);
        if let Some(rope) = rope {
            let _span = tracing::trace_span!("rope").entered();
            (q, k) = rope2d_pair(&q, &k, rope)?;
        }
        self.proj.forward_onto(residual, &attention(&q, &k, &third(2)?, self.precision)?)
    }
}

/// Cross-attention: queries from one view, keys and values from the other.
#[derive(Clone, Debug)]
pub struct CrossAttention {
    projq: Linear,
    /// Rows of `projk`, then of `projv`: both read the same tokens.
    projkv: Linear,
    proj: Linear,
    heads: usize,
    precision: Storage,
}

impl CrossAttention {
    /// Four projections `(dim, dim)`.
    pub fn new(dim: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let linear = |name: &str| Linear::new(dim, dim, vb.pp(name));
        Ok(Self {
            projq: linear("projq")?,
            projkv: Linear::stacked(dim, [dim, dim], [vb.pp("projk"), vb.pp("projv")])?,
            proj: linear("proj")?,
            heads,
            precision: storage(&vb),
        })
    }

    /// `residual + proj(attention(x, memory))`; `x` `(batch, tokens, dim)` with its positions in `rope`, `memory`
    /// `(batch, memory_tokens, dim)` with its own in `memory_rope`.
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        x: &Tensor,
        memory: &Tensor,
        rope: &RopeTable,
        memory_rope: &RopeTable,
    ) -> Result<Tensor> {
        let (batch, tokens, dim) = x.dims3()?;
        let head_dim = dim / self.heads;
        let rotated = |tokens: &Tensor, rope: &RopeTable| {
            let _span = tracing::trace_span!("rope").entered();
            rope2d(tokens, rope)
        };
        let q = self.projq.forward(x)?.reshape((batch, tokens, self.heads, head_dim))?;
        let kv = self.projkv.forward(memory)?.reshape((batch, memory.dim(1)?, 2, self.heads, head_dim))?;
        let (q, k) = (rotated(&q, rope)?, rotated(&kv.get_on_dim(2, 0)?, memory_rope)?);
        let v = kv.get_on_dim(2, 1)?;
        self.proj.forward_onto(residual, &attention(&q, &k, &v, self.precision)?)
    }
}
