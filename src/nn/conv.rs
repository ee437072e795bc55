//! Convolutions over channels-last maps `(batch, height, width, channels)`.

use candle_core::{D, Result, Tensor};
use custom_ops::{Activation, PackedConv3x3, has_implicit_conv3x3, implicit_conv3x3, plain};

use super::linear::{stackable, values, with_values};
use super::passes::{Epilogue, relu};
use super::products::FloatProducts;
use super::{Builder, Linear, work};
use crate::runtime::Optimisation;

/// A 3x3 convolution, padding 1, stride 1.
#[derive(Clone, Debug)]
pub struct Conv3x3 {
    weights: Weights,
    role: String,
}

#[derive(Clone, Debug)]
enum Weights {
    /// On the CPU. `fused`: the product ends with activation and residual; with the bias it ends
    /// always.
    Packed { layer: PackedConv3x3, fused: bool },
    /// For products of Candle's, with the bias `(out)`. `fused`: one pass in place after it.
    /// `products`: of float32 weights.
    Dense {
        kernel: Kernel,
        bias: Option<Tensor>,
        fused: bool,
        products: FloatProducts,
    },
}

#[derive(Clone, Debug)]
enum Kernel {
    /// On GPUs: `(9 in, out)`, taps row by row; of both views `(2, 9 in, out)`.
    Taps(Tensor),
    /// On GPUs that find the taps themselves: `(9, out, in)`, of both views `(2, 9, out, in)`.
    Implicit(Tensor),
    /// For Candle's `conv2d`: `(out, in, 3, 3)`.
    Plain(Tensor),
}

impl Conv3x3 {
    /// With bias.
    pub fn new(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let bias = vb.float32(output, "bias")?;
        Self::from_parts(input, output, Some(bias), vb)
    }

    /// Without bias.
    pub fn without_bias(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        Self::from_parts(input, output, None, vb)
    }

    fn from_parts(
        input: usize,
        output: usize,
        bias: Option<Tensor>,
        vb: Builder<'_>,
    ) -> Result<Self> {
        let weight = vb.float32((output, input, 3, 3), "weight")?;
        let fused = vb.has(Optimisation::FusedEpilogue);
        let channels_last = vb.has(Optimisation::ChannelsLastConv);
        let weights = if vb.device().is_cpu() && channels_last {
            let bias = bias.map(|bias| values(&bias)).transpose()?;
            let storage = vb.storage();
            let pack = |weight: &[f32]| PackedConv3x3::new(weight, input, bias.as_deref(), storage);
            Weights::Packed {
                layer: with_values(&weight, pack)?,
                fused,
            }
        } else {
            let weight = weight.to_dtype(vb.dtype())?;
            let is_implicit = vb.has(Optimisation::ImplicitConv)
                && has_implicit_conv3x3(vb.device(), vb.dtype(), input, output);
            let kernel = if channels_last && is_implicit {
                let taps = |weight: &Tensor| {
                    let taps = weight.permute((2, 3, 0, 1))?.contiguous()?;
                    taps.reshape((9, output, input))
                };
                Kernel::Implicit(vb.each(&weight, taps)?)
            } else if channels_last {
                let rows = |weight: &Tensor| {
                    let taps = weight.permute((2, 3, 1, 0))?.contiguous()?;
                    taps.reshape((9 * input, output))
                };
                Kernel::Taps(vb.each(&weight, rows)?)
            } else {
                Kernel::Plain(weight.contiguous()?)
            };
            let bias = bias
                .map(|bias| stackable(bias.to_dtype(vb.activations())?, &vb))
                .transpose()?;
            Weights::Dense {
                kernel,
                bias,
                fused: fused && custom_ops::has_finish(vb.device()),
                products: vb.products(),
            }
        };
        Ok(Self {
            weights,
            role: vb.role(),
        })
    }

    /// The layer of one view of a layer of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        let Weights::Dense {
            kernel,
            bias,
            fused,
            products,
        } = &self.weights
        else {
            candle_core::bail!("packed weights are those of one view")
        };
        Ok(Self {
            weights: Weights::Dense {
                kernel: match kernel {
                    Kernel::Taps(weight) => Kernel::Taps(weight.get(view)?),
                    Kernel::Implicit(weight) => Kernel::Implicit(weight.get(view)?),
                    Kernel::Plain(_) => candle_core::bail!("a convolution of one view"),
                },
                bias: bias
                    .as_ref()
                    .map(|bias| bias.get(view)?.get(0))
                    .transpose()?,
                fused: *fused,
                products: *products,
            },
            role: self.role.clone(),
        })
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

    /// `residual + conv(x) + b`.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false, Activation::Identity, Some(residual))
    }

    /// `relu(conv(relu(x)) + b)`.
    pub fn forward_between_relus(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true, Activation::Relu, None)
    }

    /// Whether a ReLU costs nothing where the convolution is written.
    pub(crate) fn ends_with_relu(&self) -> bool {
        matches!(
            self.weights,
            Weights::Dense {
                kernel: Kernel::Implicit(_),
                fused: true,
                ..
            }
        )
    }

    /// `residual + conv(relu(x)) + b`.
    pub fn forward_after_relu_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true, Activation::Identity, Some(residual))
    }

    fn apply(
        &self,
        x: &Tensor,
        relu_first: bool,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        match &self.weights {
            Weights::Packed { layer, fused } => {
                let (inside, after) = Epilogue {
                    bias: None,
                    activation,
                    residual,
                }
                .split(*fused);
                let product = {
                    let parts = || inside.parts(layer.has_bias());
                    let _span = self
                        .span(x, layer.output(), layer.bytes() as u64, inside, parts)
                        .entered();
                    custom_ops::conv3x3(
                        &x.contiguous()?,
                        layer,
                        relu_first,
                        inside.activation,
                        inside.residual,
                    )?
                };
                after.passes(product)
            }
            Weights::Dense {
                kernel,
                bias,
                fused,
                products,
            } => {
                let epilogue = Epilogue {
                    bias: bias.as_ref(),
                    activation,
                    residual,
                };
                let is_implicit = matches!(kernel, Kernel::Implicit(_));
                let (inside, after) =
                    epilogue.split(*fused && (is_implicit || epilogue.has_operand()));
                let (output, weight) = match kernel {
                    Kernel::Taps(weight) => (weight.dim(D::Minus1)?, weight),
                    Kernel::Implicit(weight) => (weight.dim(D::Minus2)?, weight),
                    Kernel::Plain(weight) => (weight.dim(0)?, weight),
                };
                let seen = if relu_first && !matches!(kernel, Kernel::Taps(_)) {
                    relu(x)?
                } else {
                    x.clone()
                };
                let product = {
                    let parts = || inside.parts(false);
                    let _span = self
                        .span(x, output, work::bytes(weight), inside, parts)
                        .entered();
                    let launch = |product: &dyn Fn() -> Result<Tensor>| {
                        products.launch(x.device(), weight.dtype(), product)
                    };
                    match kernel {
                        Kernel::Taps(weight) => {
                            let (seen, most) =
                                (seen.contiguous()?, custom_ops::most_taps(x.device()));
                            let product =
                                launch(&|| product_of_taps(&seen, weight, relu_first, most))?;
                            inside.in_place(&product)?;
                            product
                        }
                        Kernel::Implicit(weight) => {
                            let is_relu = inside.activation == Activation::Relu;
                            implicit_conv3x3(&seen, weight, inside.bias, is_relu, inside.residual)?
                        }
                        Kernel::Plain(weight) => {
                            let product = launch(&|| plain::conv3x3(&seen, weight))?;
                            inside.in_place(&product)?;
                            product
                        }
                    }
                };
                after.passes(product)
            }
        }
    }

    fn span(
        &self,
        x: &Tensor,
        output: usize,
        weights: u64,
        inside: Epilogue<'_>,
        parts: impl Fn() -> Option<String>,
    ) -> tracing::Span {
        tracing::trace_span!(
            "conv3x3",
            role = self.role,
            fused = parts(),
            flop = work::product(x, 9, output),
            input = work::bytes(x),
            output = work::row_bytes(x, output),
            bytes = work::bytes(x) + weights + inside.bytes() + work::row_bytes(x, output),
        )
    }
}

/// The convolution as a product of gathered taps, a band of rows with at most `most` bytes of them
/// at a time.
fn product_of_taps(x: &Tensor, weight: &Tensor, relu: bool, most: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let output = weight.dim(D::Minus1)?;
    if weight.rank() == 3 {
        let half = batch / 2;
        if 9 * x.elem_count() * x.dtype().size_in_bytes() <= most {
            let taps = custom_ops::taps3x3(x, 0, batch * height, relu)?;
            let taps = taps.reshape((2, half * height * width, 9 * channels))?;
            return taps.matmul(weight)?.reshape((batch, height, width, output));
        }
        let view = |view: usize| {
            let x = x.narrow(0, view * half, half)?;
            product_of_taps(&x, &weight.get(view)?, relu, most)
        };
        return Tensor::cat(&[view(0)?, view(1)?], 0);
    }
    let row = 9 * width * channels * x.dtype().size_in_bytes();
    let (rows, band) = (batch * height, (most / row).max(1));
    let bands = (0..rows)
        .step_by(band)
        .map(|first| custom_ops::taps3x3(x, first, band.min(rows - first), relu)?.matmul(weight));
    let mut bands = bands.collect::<Result<Vec<_>>>()?;
    let product = if bands.len() == 1 {
        bands.remove(0)
    } else {
        Tensor::cat(&bands, 0)?
    };
    product.reshape((batch, height, width, output))
}

/// A transposed convolution whose stride is its kernel: a linear layer, then each pixel opens into
/// a square.
#[derive(Clone, Debug)]
pub struct PixelShuffleConv {
    proj: Linear,
    factor: usize,
    output: usize,
}

impl PixelShuffleConv {
    /// `weight` `(input, output, factor, factor)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, factor: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = vb.float32((input, output, factor, factor), "weight")?;
        let rows = factor * factor * output;
        let weight = vb.each(&weight, |weight| {
            let squares = weight.permute((2, 3, 1, 0))?.contiguous()?;
            squares.reshape((rows, input))
        })?;
        let bias = vb.each(&vb.float32(output, "bias")?, |bias| {
            bias.repeat(factor * factor)
        })?;
        Ok(Self {
            proj: Linear::from_tensors(&weight, Some(&bias), &vb)?,
            factor,
            output,
        })
    }

    /// The layer of one view of a layer of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            proj: self.proj.of_view(view)?,
            ..*self
        })
    }

    /// `(batch, height, width, input)` to `(batch, factor height, factor width, output)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, _) = x.dims4()?;
        let (f, channels) = (self.factor, self.output);
        let squares = self
            .proj
            .forward(x)?
            .reshape((batch, height, width, f, f, channels))?;
        let _span =
            tracing::trace_span!("open", flop = 0u64, bytes = 2 * work::bytes(&squares)).entered();
        squares.permute((0, 1, 3, 2, 4, 5))?.contiguous()?.reshape((
            batch,
            f * height,
            f * width,
            channels,
        ))
    }
}

/// A 3x3 convolution, padding 1, stride 2, as a linear layer over gathered taps; used on one small
/// map only.
#[derive(Clone, Debug)]
pub struct StridedConv3x3 {
    /// Over `(tap, channel)`, taps row by row.
    taps: Linear,
}

impl StridedConv3x3 {
    /// `weight` `(output, input, 3, 3)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = vb.float32((output, input, 3, 3), "weight")?;
        let weight = vb.each(&weight, |weight| {
            let taps = weight.permute((0, 2, 3, 1))?.contiguous()?;
            taps.reshape((output, 9 * input))
        })?;
        let bias = vb.float32(output, "bias")?;
        Ok(Self {
            taps: Linear::from_tensors(&weight, Some(&bias), &vb)?,
        })
    }

    /// The layer of one view of a layer of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            taps: self.taps.of_view(view)?,
        })
    }

    /// `(batch, height, width, input)` to `(batch, ceil(height / 2), ceil(width / 2), output)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let taps = {
            // Nine taps for each of a quarter of the pixels.
            let bytes = || work::bytes(x) * 13 / 4;
            let _span = tracing::trace_span!("gather", flop = 0u64, bytes = bytes()).entered();
            custom_ops::every_second_taps3x3(x)?
        };
        self.taps.forward(&taps)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_convolution_in_bands_equals_the_whole() {
        let device = Device::Cpu;
        let (batch, height, width, input, output) = (2, 7, 5, 6, 4);
        let x = Tensor::randn(0f32, 1., (batch, height, width, input), &device).unwrap();
        let weight = Tensor::randn(0f32, 1., (output, input, 3, 3), &device).unwrap();
        let taps = weight
            .permute((2, 3, 1, 0))
            .unwrap()
            .reshape((9 * input, output))
            .unwrap();
        let row = 9 * width * input * DType::F32.size_in_bytes();
        for relu in [false, true] {
            let seen = if relu { x.relu().unwrap() } else { x.clone() };
            let want = plain::conv3x3(&seen, &weight).unwrap();
            // Less than a row, one row, bands that end inside an image and cross into the next,
            // and everything.
            for most in [1, row, 4 * row, 9 * row, 100 * row] {
                let got = product_of_taps(&x, &taps, relu, most).unwrap();
                assert_eq!(got.dims(), want.dims());
                let gap = (got - &want)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .max_all()
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap();
                // Sums of 54 products of values around 1 in another order.
                assert!(gap < 1e-4, "bands of {most} bytes: gap {gap}");
            }
        }
    }
}
