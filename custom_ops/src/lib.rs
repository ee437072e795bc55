//! The tensor operations that the mast3r networks need and Candle lacks or does slowly.
//!
//! Maps are channels-last, `(batch, height, width, channels)`: a token sequence is such a map
//! without a copy, a 1x1 convolution is a linear layer, and a 3x3 convolution reads whole runs of
//! channels.
//!
//! | op | CPU | CUDA | Metal |
//! |---|---|---|---|
//! | [`linear`] | packed weights in float32, float16, bfloat16 or int8, bias, GELU and residual in one pass | | |
//! | [`linear_to_packed`], [`linear_of_packed`] | a [`linear`] for another one alone: bfloat16 between them, laid out as the second reads it | | |
//! | [`conv3x3`] | as [`linear`], reading its nine taps in place | | |
//! | [`taps3x3`], [`every_second_taps3x3`] | a plain loop | the taps side by side, for a product | the same |
//! | [`implicit_conv3x3`] | | on Hopper GPUs: taps read in place by a matrix product, bias, ReLU and residual | |
//! | [`product`] | | cublasLt's, with bias, ReLU or residual as it is written | Candle's, then [`finish`] |
//! | [`finish`] | inside [`linear`] and [`conv3x3`] | bias, activation and residual of a product, in place | the same |
//! | [`attention`] | softmax attention without a score matrix in memory | the same | Candle's |
//! | [`layer_norm`], [`layer_norm_both`] | two passes, float32 | the same | the same |
//! | [`rope2d`], [`rope2d_pair`] | any strides, one pass, all three dtypes | the same | the same |
//! | [`rope2d_pair_of_normalised`] | a [`layer_norm`] each, then [`rope2d_pair`] | one pass | as on the CPU |
//! | [`upsample_bilinear2d`] | both corner conventions, all three dtypes | the same | the same |
//! | [`upsample_bilinear2d_onto`] | [`upsample_bilinear2d`], then a sum | one pass | as on the CPU |
//! | [`geometry_maps`], [`descriptor_maps`] | plain loops | a head's last numbers to its maps, one pass each | the same |
//! | [`reciprocal_walks`] | | nearest neighbours among descriptors, there and back until they agree | the same |
//! | [`grid_sample`] | both corner conventions, two paddings, all three dtypes | the same | the same |
//!
//! [`plain`] has each of them as a plain Candle expression.
//!
//! The README beside this crate says what was run where; nothing was on Metal.

mod attention;
mod conv2d;
mod cpu;
#[cfg(all(test, any(feature = "cuda", feature = "metal")))]
#[path = "../tests/devices/mod.rs"]
mod devices;
mod download;
mod grid_sample;
#[cfg(test)]
#[path = "../tests/cuda/kernels.rs"]
mod kernels_as_cpp;
mod launch;
mod layer_norm;
mod linear;
#[cfg(test)]
#[path = "../tests/metal/mod.rs"]
mod metal_shaders;
mod outputs;
pub mod plain;
#[cfg(test)]
mod random;
mod reciprocal;
mod rope2d;
#[cfg(test)]
#[path = "../tests/sanitized.rs"]
mod sanitized;
mod upsample_bilinear2d;

pub use attention::{GPU_HEAD_DIM, attention, has_attention};
pub use conv2d::{
    MOST_TAPS_ON_METAL, PackedConv3x3, conv3x3, every_second_taps3x3, has_implicit_conv3x3,
    implicit_conv3x3, most_taps, taps3x3,
};
pub use cpu::levels::{check_instruction_set, instruction_set};
pub use cpu::words::quantise;
pub use download::{Download, Downloader};
pub use grid_sample::{Padding, grid_sample};
#[cfg(feature = "cuda")]
pub use launch::cuda::{count as cuda_devices, open as open_cuda};
#[cfg(feature = "cuda")]
pub use launch::graph::{CapturedWork, Work, device_turn, release_graph_memory};
pub use launch::keep_captured;
pub use launch::meter::{GpuReport, gpu_peak, gpu_report, reset_gpu_peak};
pub use layer_norm::{layer_norm, layer_norm_both};
#[cfg(feature = "cuda")]
pub use linear::measuring_products;
pub use linear::{
    Activation, Numbers, PackedInput, PackedLinear, PackedMatrix, Storage, finish, has_finish,
    linear, linear_of_packed, linear_to_packed, product, reads_packed,
};
pub use outputs::{DescriptorMaps, descriptor_maps, geometry_maps};
pub use reciprocal::{
    MOST_DESCRIPTOR_CHANNELS, MatchedMap, Settled, SettledSeed, Walks, has_reciprocal_walks,
    reciprocal_walks,
};
pub use rope2d::{
    HeadNorms, RopeTable, RopeTables, rope2d, rope2d_pair, rope2d_pair_of_normalised,
};
pub use upsample_bilinear2d::{upsample_bilinear2d, upsample_bilinear2d_onto};
