//! Layers, from small to large: what every network here is composed of.
//!
//! Token sequences are `(batch, tokens, channels)`, maps `(batch, height, width, channels)`; a token sequence over a
//! grid of patches is such a map without a copy. A `VarBuilder`'s dtype is the precision of the products. On the CPU
//! activations are float32 always and only weights (and, in bfloat16, the operands of products) are rounded; on other
//! devices activations have the builder's dtype.

mod attention;
mod block;
mod conv;
mod dpt;
mod linear;
mod norm;
mod patch;

pub use attention::{CrossAttention, SelfAttention, attention};
pub use block::{DecoderBlock, EncoderBlock, Mlp};
pub use conv::{Conv3x3, PixelShuffleConv, StridedConv3x3};
pub use dpt::{Dpt, DptDims};
pub use linear::Linear;
pub(crate) use linear::float32;
pub use norm::LayerNorm;
pub use patch::PatchEmbed;

/// Receives every named intermediate result of a forward pass, in the order of computation.
///
/// Names are those of the stages in the networks' description: `patch_embed`, `block0`, `dpt.fuse.4`, …
pub type Observer<'a> = dyn FnMut(&str, &candle_core::Tensor) -> candle_core::Result<()> + 'a;

/// An observer that looks at nothing.
pub fn unobserved() -> impl FnMut(&str, &candle_core::Tensor) -> candle_core::Result<()> {
    |_, _| Ok(())
}
