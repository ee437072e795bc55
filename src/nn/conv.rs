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
    /// On GPUs: `(9 in, out)`, taps row by row, and the bias `(out)`.
    Taps { weight: Tensor, bias: Option<Tensor> },
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
            let weight = weight.to_dtype(vb.dtype())?.permute((2, 3, 1, 0))?.contiguous()?;
            let weight = weight.reshape((9 * input, output))?;
            Weights::Taps { weight, bias: bias.map(|bias| bias.to_dtype(vb.dtype())).transpose()? }
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
                let product = product_of_taps(&x.contiguous()?, weight, relu_first, most_taps(x.device()))?;
                finish(product, bias.as_ref(), activation, residual)
            }
        }
    }
}

/// Bytes of taps that are gathered at once: few launches, or little of the memory that a Mac's GPU shares.
fn most_taps(device: &Device) -> usize {
    if device.is_metal() { 1 << 26 } else { 1 << 30 }
}

/// The convolution as a product of gathered taps, a band of rows with at most `most` bytes of them at a time.
fn product_of_taps(x: &Tensor, weight: &Tensor, relu: bool, most: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let row = 9 * width * channels * x.dtype().size_in_bytes();
    let (rows, band) = (batch * height, (most / row).max(1));
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

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn a_convolution_in_bands_equals_the_whole() {
        let device = Device::Cpu;
        let (batch, height, width, input, output) = (2, 7, 5, 6, 4);
        let x = Tensor::randn(0f32, 1., (batch, height, width, input), &device).unwrap();
        let weight = Tensor::randn(0f32, 1., (output, input, 3, 3), &device).unwrap();
        let taps = weight.permute((2, 3, 1, 0)).unwrap().reshape((9 * input, output)).unwrap();
        let row = 9 * width * input * DType::F32.size_in_bytes();
        for relu in [false, true] {
            let seen = if relu { x.relu().unwrap() } else { x.clone() };
            let want = seen.permute((0, 3, 1, 2)).unwrap().conv2d(&weight, 1, 1, 1, 1).unwrap();
            let want = want.permute((0, 2, 3, 1)).unwrap();
            // Less than a row, one row, bands that end inside a picture and cross into the next, and everything.
            for most in [1, row, 4 * row, 9 * row, 100 * row] {
                let got = product_of_taps(&x, &taps, relu, most).unwrap();
                assert_eq!(got.dims(), want.dims());
                let gap = (got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                // Sums of 54 products of values around 1 in another order.
                assert!(gap < 1e-4, "bands of {most} bytes: gap {gap}");
            }
        }
    }
}
