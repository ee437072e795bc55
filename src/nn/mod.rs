//! Layers, from small to large: what every network here is composed of.
//!
//! Token sequences are `(batch, tokens, channels)`, maps `(batch, height, width, channels)`; a
//! token sequence over a grid of patches is such a map without a copy. A [`Builder`]'s dtype is the
//! precision of the products. On the CPU activations are float32 always and only weights (and, in
//! bfloat16, the operands of products) are rounded; on other devices activations have the builder's
//! dtype.
//!
//! Every layer learns from its builder which [optimisations](crate::runtime::Optimisation) it has,
//! and works under a `tracing` span: leaves, of level TRACE, state their floating-point operations
//! and least bytes in the fields `flop` and `bytes`; groups of them, of level DEBUG, have none. A
//! product's field `fused` says what it ends with: bias, activation, residual.

mod attention;
mod block;
mod builder;
mod captured;
mod conv;
mod dpt;
mod linear;
mod norm;
mod observer;
pub(crate) mod passes;
mod patch;
pub mod products;
mod rope;
pub(crate) mod work;

pub use attention::{CrossAttention, SelfAttention, attention};
pub(crate) use captured::Captured;
pub(crate) use custom_ops::{
    DescriptorMaps, descriptor_maps, geometry_maps, keep_captured, quantise,
};

pub use block::{DecoderBlock, EncoderBlock, Mlp};
pub use builder::Builder;
pub(crate) use builder::UNITS;
pub use conv::{Conv3x3, PixelShuffleConv, StridedConv3x3};
pub use dpt::{Dpt, DptDims};
pub(crate) use dpt::{Refine, Upsample};
pub use linear::Linear;
pub use norm::LayerNorm;
pub use observer::{Observer, unobserved};
pub use patch::PatchEmbed;
pub use rope::{Rope, Ropes};
