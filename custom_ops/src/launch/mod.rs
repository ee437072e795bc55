//! What the ops share before a kernel runs: checks at the door, layouts, and the launch on each
//! device.

#[cfg(feature = "cuda")]
pub(crate) mod boxes;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "cuda")]
pub(crate) mod graph;
mod layout;
#[cfg(feature = "metal")]
pub(crate) mod metal;
pub(crate) mod meter;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

#[cfg(feature = "cuda")]
pub use graph::keep_captured;
#[cfg(feature = "cuda")]
pub(crate) use layout::kernel_number;
pub(crate) use layout::{check_dtype, check_size, four_axes, with_contiguous_channels};

/// Nothing is captured in this build.
#[cfg(not(feature = "cuda"))]
pub fn keep_captured(_: &candle_core::Tensor) {}
