//! The one linear layer.

use candle_core::{Result, Storage as TensorStorage, Tensor};
use custom_ops::{Activation, PackedLinear, plain};

use super::passes::{Epilogue, scaled};
use super::products::FloatProducts;
use super::{Builder, work};
use crate::runtime::Optimisation;

/// `activation(x W^T + b) + residual`.
#[derive(Clone, Debug)]
pub struct Linear {
    weights: Weights,
    /// Multiplies the output before the residual, where it is not folded into the weights.
    gamma: Option<Tensor>,
    /// The layer's own name in the checkpoint, for traces.
    role: String,
}

#[derive(Clone, Debug)]
enum Weights {
    /// On the CPU. `fused`: the product ends with activation and residual; with the bias it ends
    /// always.
    Packed { layer: PackedLinear, fused: bool },
    /// For Candle's product: `(in, out)` as a transposed view, and the bias in the dtype of
    /// activations. `fused`: one pass in place after it, which CUDA has. `products`: of float32
    /// weights.
    Dense {
        weight: Tensor,
        bias: Option<Tensor>,
        fused: bool,
        products: FloatProducts,
    },
}

/// The values of a float32 tensor, row major.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Shows `read` the values of a float32 tensor on the CPU, row major, in place.
pub(crate) fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (TensorStorage::Cpu(storage), Some((start, end))) => {
            read(&storage.as_slice::<f32>()?[start..end])
        }
        _ => candle_core::bail!("a contiguous tensor on the CPU expected"),
    }
}

impl Linear {
    /// A layer with bias: `weight` `(output, input)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = vb.float32((output, input), "weight")?;
        let bias = vb.float32(output, "bias")?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// Two layers that read the same input, as one whose output is theirs side by side, called
    /// `role` in traces.
    pub fn stacked(
        input: usize,
        outputs: [usize; 2],
        vbs: [Builder<'_>; 2],
        role: &str,
    ) -> Result<Self> {
        let read = |i: usize| -> Result<(Tensor, Tensor)> {
            Ok((
                vbs[i].float32((outputs[i], input), "weight")?,
                vbs[i].float32(outputs[i], "bias")?,
            ))
        };
        let [(weight, bias), (second_weight, second_bias)] = [read(0)?, read(1)?];
        let (weight, bias) = (
            Tensor::cat(&[weight, second_weight], 0)?,
            Tensor::cat(&[bias, second_bias], 0)?,
        );
        Ok(Self {
            role: role.to_string(),
            ..Self::from_tensors(&weight, Some(&bias), &vbs[0])?
        })
    }

    /// The layer with its output multiplied by `gamma` `(output)`, float32, before a residual is
    /// added.
    pub fn scaled(input: usize, output: usize, gamma: &Tensor, vb: Builder<'_>) -> Result<Self> {
        let (weight, bias) = (
            vb.float32((output, input), "weight")?,
            vb.float32(output, "bias")?,
        );
        if vb.has(Optimisation::FoldedLayerScale) {
            let weight = weight.broadcast_mul(&gamma.reshape((output, 1))?)?;
            return Self::from_tensors(&weight, Some(&(bias * gamma)?), &vb);
        }
        let gamma = Some(gamma.to_dtype(vb.activations())?);
        Ok(Self {
            gamma,
            ..Self::from_tensors(&weight, Some(&bias), &vb)?
        })
    }

    /// A 1x1 convolution, which on channels-last maps is a linear layer: `weight` `(output, input,
    /// 1, 1)`.
    pub fn conv1x1(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = vb
            .float32((output, input, 1, 1), "weight")?
            .reshape((output, input))?;
        let bias = vb.float32(output, "bias")?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// From float32 `weight` `(output, input)` and `bias` `(output)`.
    pub(crate) fn from_tensors(
        weight: &Tensor,
        bias: Option<&Tensor>,
        vb: &Builder<'_>,
    ) -> Result<Self> {
        let fused = vb.has(Optimisation::FusedEpilogue);
        let weights = if vb.device().is_cpu() && vb.has(Optimisation::PackedLinear) {
            let bias = bias.map(values).transpose()?;
            let (input, storage) = (weight.dim(1)?, vb.storage());
            let layer = with_values(weight, |weight| {
                PackedLinear::new(weight, input, bias.as_deref(), storage)
            })?;
            Weights::Packed { layer, fused }
        } else {
            let weight = weight.to_dtype(vb.dtype())?.contiguous()?.t()?;
            let bias = bias
                .map(|bias| bias.to_dtype(vb.activations()))
                .transpose()?;
            Weights::Dense {
                weight,
                bias,
                fused: fused && vb.device().is_cuda(),
                products: vb.products(),
            }
        };
        Ok(Self {
            weights,
            gamma: None,
            role: vb.role(),
        })
    }

    /// `x W^T + b`; `x` is `(…, input)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, Activation::Identity, None)
    }

    /// `x W^T + b + residual`.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.apply(x, Activation::Identity, Some(residual))
    }

    /// `gelu(x W^T + b)`, the exact form of GELU.
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, Activation::Gelu, None)
    }

    fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        match &self.gamma {
            None => self.multiply(x, activation, residual),
            Some(gamma) => {
                let scaled = scaled(&self.multiply(x, Activation::Identity, None)?, gamma)?;
                Epilogue {
                    bias: None,
                    activation,
                    residual,
                }
                .passes(scaled)
            }
        }
    }

    fn multiply(
        &self,
        x: &Tensor,
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
                    custom_ops::linear(&x.contiguous()?, layer, inside.activation, inside.residual)?
                };
                after.passes(product)
            }
            Weights::Dense {
                weight,
                bias,
                fused,
                products,
            } => {
                let epilogue = Epilogue {
                    bias: bias.as_ref(),
                    activation,
                    residual,
                };
                let (inside, after) = epilogue.split(*fused && epilogue.has_operand());
                let product = {
                    let (output, parts) = (weight.dim(1)?, || inside.parts(false));
                    let _span = self
                        .span(x, output, work::bytes(weight), inside, parts)
                        .entered();
                    let product = products
                        .launch(x.device(), weight.dtype(), || plain::product(x, weight))?;
                    inside.in_place(&product)?;
                    product
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
            "linear",
            role = self.role,
            fused = parts(),
            flop = work::product(x, 1, output),
            bytes = work::bytes(x) + weights + inside.bytes() + work::row_bytes(x, output),
        )
    }
}
