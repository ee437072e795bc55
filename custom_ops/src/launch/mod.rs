//! What the ops share before a kernel runs: checks at the door, layouts, and the launch on each
//! device.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod layout;
#[cfg(feature = "metal")]
pub(crate) mod metal;
pub(crate) mod meter;
#[cfg(any(test, feature = "metal"))]
pub(crate) mod shader;

#[cfg(feature = "cuda")]
pub(crate) use layout::kernel_number;
pub(crate) use layout::{check_dtype, check_size, with_contiguous_channels};
