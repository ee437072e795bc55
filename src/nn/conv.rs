//! Convolutions over channels-last maps `(batch, height, width, channels)`.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use custom_ops::{Activation, PackedConv3x3};

use super::Linear;
use super::linear::{finish, float32, storage, values, with_values};

/// A 3x3 convolution, padding 1, stride 1.
#[derive(Clone, Debug)]
pub struct Conv3x3 {
    weights: Weights,
    role: String,
}

#[derive(Clone, Debug)]
enum Weights {
    /// On the CPU.
    Packed(PackedConv3x3),
    /// On CUDA: `(9 in, out)`, taps row by row, and the bias `(out)`.
    Taps { weight: Tensor, bias: Option<Tensor> },
    /// Elsewhere: `(out, in, 3, 3)`, contiguous, and the bias `(out)`.
    Dense { weight: Tensor, bias: Option<Tensor> },
}

impl Conv3x3 {
    /// With bias.
    pub fn new(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let bias = float32(&vb, output, "bias")?;
        Self::from_parts(input, output, Some(bias), vb)
    }

    /// Without bias.
    pub fn without_bias(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        Self::from_parts(input, output, None, vb)
    }

    fn from_parts(input: usize, output: usize, bias: Option<Tensor>, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (output, input, 3, 3), "weight")?;
        let weights = if matches!(vb.device(), Device::Cpu) {
            let bias = bias.map(|bias| values(&bias)).transpose()?;
            let storage = storage(&vb);
            let pack = |weight: &[f32]| PackedConv3x3::new(weight, input, bias.as_deref(), storage);
            Weights::Packed(with_values(&weight, pack)?)
        } else {
            let weight = weight.to_dtype(vb.dtype())?.contiguous()?;
            let bias = bias.map(|bias| bias.to_dtype(vb.dtype())).transpose()?;
            if vb.device().is_cuda() {
                let weight = weight.permute((2, 3, 1, 0))?.contiguous()?.reshape((9 * input, output))?;
                Weights::Taps { weight, bias }
            } else {
                Weights::Dense { weight, bias }
            }
        };
        Ok(Self { weights, role: vb.prefix() })
    }

    /// `conv(x) + b`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false, Activation::Identity, None)
    }

    /// `relu(conv(x) + b)`.
    pub fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false, Activation::Relu, None)
    }

    /// `conv(relu(x)) + b`.
    pub fn forward_after_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true, Activation::Identity, None)
    }

    /// `residual + conv(relu(x)) + b`.
    pub fn forward_after_relu_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true, Activation::Identity, Some(residual))
    }

    fn apply(&self, x: &Tensor, relu_first: bool, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let _span = tracing::trace_span!("conv3x3", role = self.role).entered();
        match &self.weights {
            Weights::Packed(layer) => custom_ops::conv3x3(&x.contiguous()?, layer, relu_first, activation, residual),
            Weights::Taps { weight, bias } => {
                let product = product_of_taps(&x.contiguous()?, weight, relu_first)?;
                finish(product, bias.as_ref(), activation, residual)
            }
            Weights::Dense { weight, bias } => {
                let x = if relu_first { x.relu()? } else { x.clone() };
                let channels_first = x.permute((0, 3, 1, 2))?.contiguous()?;
                let product = channels_first.conv2d(weight, 1, 1, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
                finish(product, bias.as_ref(), activation, residual)
            }
        }
    }
}

/// Bytes of taps that are gathered at once.
const MOST_TAPS: usize = 1 << 30;

/// The convolution as a product of gathered taps, a band of rows at a time.
fn product_of_taps(x: &Tensor, weight: &Tensor, relu: bool) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let row = 9 * width * channels * x.dtype().size_in_bytes();
    let (rows, band) = (batch * height, (MOST_TAPS / row).max(1));
    let bands = (0..rows)
        .step_by(band)
        .map(|first| custom_ops::taps3x3(x, first, band.min(rows - first), relu)?.matmul(weight));
    let mut bands = bands.collect::<Result<Vec<_>>>()?;
    let product = if bands.len() == 1 { bands.remove(0) } else { Tensor::cat(&bands, 0)? };
    product.reshape((batch, height, width, weight.dim(1)?))
}

/// A transposed convolution whose stride is its kernel: a linear layer, then each pixel opens into a square.
#[derive(Clone, Debug)]
pub struct PixelShuffleConv {
    proj: Linear,
    factor: usize,
    output: usize,
}

impl PixelShuffleConv {
    /// `weight` `(input, output, factor, factor)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, factor: usize, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (input, output, factor, factor), "weight")?;
        let rows = factor * factor * output;
        let weight = weight.permute((2, 3, 1, 0))?.contiguous()?.reshape((rows, input))?;
        let bias = float32(&vb, output, "bias")?.repeat(factor * factor)?;
        Ok(Self { proj: Linear::from_tensors(&weight, Some(&bias), &vb)?, factor, output })
    }

    /// `(batch, height, width, input)` to `(batch, factor height, factor width, output)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, _) = x.dims4()?;
        let (f, channels) = (self.factor, self.output);
        let squares = self.proj.forward(x)?.reshape((batch, height, width, f, f, channels))?;
        squares.permute((0, 1, 3, 2, 4, 5))?.contiguous()?.reshape((batch, f * height, f * width, channels))
    }
}

/// A 3x3 convolution, padding 1, stride 2, as a linear layer over gathered taps; used on one small map only.
#[derive(Clone, Debug)]
pub struct StridedConv3x3 {
    /// Over `(tap, channel)`, taps row by row.
    taps: Linear,
}

impl StridedConv3x3 {
    /// `weight` `(output, input, 3, 3)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (output, input, 3, 3), "weight")?;
        let weight = weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((output, 9 * input))?;
        let bias = float32(&vb, output, "bias")?;
        Ok(Self { taps: Linear::from_tensors(&weight, Some(&bias), &vb)? })
    }

    /// `(batch, height, width, input)` to `(batch, ceil(height / 2), ceil(width / 2), output)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let framed = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
        let every_second = |length: usize, tap: usize| {
            let indices: Vec<u32> = (0..length.div_ceil(2)).map(|i| (2 * i + tap) as u32).collect();
            Tensor::new(indices, x.device())
        };
        let mut taps = Vec::with_capacity(9);
        for dy in 0..3 {
            let rows = framed.index_select(&every_second(height, dy)?, 1)?;
            for dx in 0..3 {
                taps.push(rows.index_select(&every_second(width, dx)?, 2)?);
            }
        }
        self.taps.forward(&Tensor::cat(&taps, 3)?)
    }
}
