//! The one linear layer.

use candle_core::{DType, Device, Result, Storage as TensorStorage, Tensor};
use candle_nn::{Init, VarBuilder};
use custom_ops::{Activation, PackedLinear, Storage};

/// `activation(x W^T + b) + residual`.
#[derive(Clone, Debug)]
pub struct Linear {
    weights: Weights,
    /// The layer's own name in the checkpoint, for traces.
    role: String,
}

#[derive(Clone, Debug)]
enum Weights {
    /// On the CPU.
    Packed(PackedLinear),
    /// Elsewhere: `(in, out)` as a transposed view, and the bias.
    Dense { weight: Tensor, bias: Option<Tensor> },
}

/// The precision of products that a builder's dtype stands for.
pub(crate) fn storage(vb: &VarBuilder) -> Storage {
    match vb.dtype() {
        DType::F16 => Storage::F16,
        DType::BF16 => Storage::Bf16,
        _ => Storage::F32,
    }
}

/// A tensor of the checkpoint in float32, whatever the builder's dtype.
pub(crate) fn float32(vb: &VarBuilder, shape: impl Into<candle_core::Shape>, name: &str) -> Result<Tensor> {
    vb.get_with_hints_dtype(shape, name, Init::default(), DType::F32)
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
        (TensorStorage::Cpu(storage), Some((start, end))) => read(&storage.as_slice::<f32>()?[start..end]),
        _ => candle_core::bail!("a contiguous tensor on the CPU expected"),
    }
}

impl Linear {
    /// A layer with bias: `weight` `(output, input)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (output, input), "weight")?;
        let bias = float32(&vb, output, "bias")?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// Two layers that read the same input, as one whose output is theirs side by side.
    pub fn stacked(input: usize, outputs: [usize; 2], vbs: [VarBuilder; 2]) -> Result<Self> {
        let read = |index: usize| -> Result<(Tensor, Tensor)> {
            let (output, vb) = (outputs[index], &vbs[index]);
            Ok((float32(vb, (output, input), "weight")?, float32(vb, output, "bias")?))
        };
        let [(weight, bias), (second_weight, second_bias)] = [read(0)?, read(1)?];
        let (weight, bias) = (Tensor::cat(&[weight, second_weight], 0)?, Tensor::cat(&[bias, second_bias], 0)?);
        Self::from_tensors(&weight, Some(&bias), &vbs[0])
    }

    /// The layer with its output multiplied by `gamma` `(output)`, which is folded into weight and bias.
    pub fn scaled(input: usize, output: usize, gamma: &Tensor, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (output, input), "weight")?.broadcast_mul(&gamma.reshape((output, 1))?)?;
        let bias = (float32(&vb, output, "bias")? * gamma)?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// A 1x1 convolution, which on channels-last maps is a linear layer: `weight` `(output, input, 1, 1)`.
    pub fn conv1x1(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let weight = float32(&vb, (output, input, 1, 1), "weight")?.reshape((output, input))?;
        let bias = float32(&vb, output, "bias")?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// From float32 `weight` `(output, input)` and `bias` `(output)`.
    pub(crate) fn from_tensors(weight: &Tensor, bias: Option<&Tensor>, vb: &VarBuilder) -> Result<Self> {
        let role = vb.prefix().rsplit('.').next().unwrap_or_default().to_string();
        let weights = if matches!(weight.device(), Device::Cpu) {
            let bias = bias.map(values).transpose()?;
            let (input, storage) = (weight.dim(1)?, storage(vb));
            Weights::Packed(with_values(weight, |weight| PackedLinear::new(weight, input, bias.as_deref(), storage))?)
        } else {
            let weight = weight.to_dtype(vb.dtype())?.contiguous()?.t()?;
            Weights::Dense { weight, bias: bias.map(|bias| bias.to_dtype(vb.dtype())).transpose()? }
        };
        Ok(Self { weights, role })
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

    fn apply(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let _span = tracing::trace_span!("linear", role = self.role).entered();
        match &self.weights {
            Weights::Packed(layer) => custom_ops::linear(&x.contiguous()?, layer, activation, residual),
            Weights::Dense { weight, bias } => {
                let mut dims = x.dims().to_vec();
                let Some(last) = dims.last_mut() else {
                    candle_core::bail!("linear {}: a scalar has no channels", self.role);
                };
                let input = std::mem::replace(last, weight.dim(1)?);
                let product = x.contiguous()?.reshape(((), input))?.matmul(weight)?.reshape(dims)?;
                finish(product, bias.as_ref(), activation, residual)
            }
        }
    }
}

/// `activation(product + bias) + residual` of a product that a library has just computed: in place and in one pass on
/// CUDA, so `product` must be shared with nobody; as tensor operations elsewhere.
pub(crate) fn finish(
    product: Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    if product.device().is_cuda() && (bias.is_some() || residual.is_some()) {
        custom_ops::finish(&product, bias, activation, residual)?;
        return Ok(product);
    }
    let biased = match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    let activated = match activation {
        Activation::Identity => biased,
        Activation::Relu => biased.relu()?,
        Activation::Gelu => biased.gelu_erf()?,
    };
    match residual {
        Some(residual) => activated + residual,
        None => Ok(activated),
    }
}
