//! The work of layers, as their spans state it.
//!
//! Every span of a leaf layer has a field `flop`, floating-point operations, and a field `bytes`,
//! the least that must move: inputs, weights and outputs once each. Products have their own `input`
//! and `output` among them. A product counts a
//! multiplication and an addition for each pair of numbers; other layers count a fixed number of
//! operations for each element of their result, which is near enough to tell that memory bounds
//! them. Spans evaluate their fields only where somebody listens.

use candle_core::Tensor;

/// Mean, variance and normalisation.
pub(crate) const LAYER_NORM: u64 = 8;
/// Two products and a sum.
pub(crate) const ROPE: u64 = 3;
/// Three blends of two values.
pub(crate) const UPSAMPLE: u64 = 9;
/// The error function by a rational approximation, and its product with the value.
pub(crate) const GELU: u64 = 12;
/// A bias, a residual, a scale, a ReLU or a position.
pub(crate) const ONE: u64 = 1;
/// Subtraction and division of a colour.
pub(crate) const NORMALISE: u64 = 2;
/// Exponentials and norms, spread over the channels of a pixel.
pub(crate) const POSTPROCESS: u64 = 4;

/// Elements of a tensor.
pub(crate) fn elements(tensor: &Tensor) -> u64 {
    tensor.elem_count() as u64
}

/// Bytes of a tensor's elements.
pub(crate) fn bytes(tensor: &Tensor) -> u64 {
    elements(tensor) * tensor.dtype().size_in_bytes() as u64
}

/// Bytes of `channels` in the dtype of `x` for each of its rows.
pub(crate) fn row_bytes(x: &Tensor, channels: usize) -> u64 {
    let rows = x.elem_count() / x.dims().last().copied().unwrap_or(1).max(1);
    (rows * channels * x.dtype().size_in_bytes()) as u64
}

/// Operations of a product that makes `outputs` of every row of `x`, summing over `taps` times its
/// channels.
pub(crate) fn product(x: &Tensor, taps: usize, outputs: usize) -> u64 {
    2 * elements(x) * (taps * outputs) as u64
}

/// Operations of attention: both products.
pub(crate) fn attention(q: &Tensor, k: &Tensor) -> u64 {
    let keys = k.dims().get(1).copied().unwrap_or_default();
    4 * elements(q) * keys as u64
}
