//! The one linear layer.

use candle_core::{D, DType, Result, Storage as TensorStorage, Tensor, WithDType};
use custom_ops::{Activation, Numbers, PackedInput, PackedLinear, plain, product, reads_packed};

use super::passes::{Epilogue, cast, halves, scaled};
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
    /// For Candle's product: `(in, out)` as a transposed view, and the bias `(out)` in the dtype of
    /// activations; of both views `(2, in, out)` and `(2, 1, out)`. `fused`: one pass in place after
    /// it, or none. `products`: of float32 weights.
    Dense {
        weight: Tensor,
        bias: Option<Tensor>,
        fused: bool,
        products: FloatProducts,
    },
}

/// What one layer makes for another one alone.
pub(crate) enum Hidden {
    Tensor(Tensor),
    /// On the CPU, where the other's product reads it so.
    Packed(PackedInput),
}

/// The weights of a layer as they are read, `(output, input)`, or both views' stacked.
enum Matrix {
    Floats(Tensor),
    /// int8 as bytes, and the unit of each output.
    Int8(Tensor, Tensor),
}

impl Matrix {
    fn read(input: usize, output: usize, vb: &Builder<'_>) -> Result<Self> {
        if vb.has_int8("weight") {
            let (numbers, units) = vb.int8((output, input), "weight")?;
            return Ok(Self::Int8(numbers, units));
        }
        vb.float32((output, input), "weight").map(Self::Floats)
    }

    /// Each output multiplied by its value of `gamma` `(output)`.
    fn scaled(self, gamma: &Tensor) -> Result<Self> {
        Ok(match self {
            Self::Floats(weight) => {
                let gamma = gamma.reshape((gamma.elem_count(), 1))?;
                Self::Floats(weight.broadcast_mul(&gamma)?)
            }
            Self::Int8(numbers, units) => Self::Int8(numbers, (units * gamma)?),
        })
    }
}

/// The values of a float32 tensor, row major.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Values for each channel as layers add them: those of both views `(2, 1, channels)`.
pub(crate) fn stackable(values: Tensor, vb: &Builder<'_>) -> Result<Tensor> {
    if vb.is_both() {
        values.unsqueeze(1)
    } else {
        Ok(values)
    }
}

/// Shows `read` the values of a tensor on the CPU, row major, in place.
pub(crate) fn with_values<V: WithDType, T>(
    tensor: &Tensor,
    read: impl FnOnce(&[V]) -> Result<T>,
) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (TensorStorage::Cpu(storage), Some((start, end))) => {
            read(&storage.as_slice::<V>()?[start..end])
        }
        _ => candle_core::bail!("a contiguous tensor on the CPU expected"),
    }
}

impl Linear {
    /// A layer with bias: `weight` `(output, input)` and `bias` `(output)`.
    pub fn new(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = Matrix::read(input, output, &vb)?;
        let bias = vb.float32(output, "bias")?;
        Self::from_matrix(&weight, Some(&bias), &vb)
    }

    /// Two layers that read the same input, as one whose output is theirs side by side, called
    /// `role` in traces.
    pub fn stacked(
        input: usize,
        outputs: [usize; 2],
        vbs: [Builder<'_>; 2],
        role: &str,
    ) -> Result<Self> {
        let [first, second] = &vbs;
        let both_int8 = vbs.iter().all(|vb| vb.has_int8("weight"));
        let weight = if both_int8 {
            let (numbers, units) = first.int8((outputs[0], input), "weight")?;
            let (more_numbers, more_units) = second.int8((outputs[1], input), "weight")?;
            Matrix::Int8(
                Tensor::cat(&[numbers, more_numbers], 0)?,
                Tensor::cat(&[units, more_units], 0)?,
            )
        } else {
            let weight = first.float32((outputs[0], input), "weight")?;
            let more = second.float32((outputs[1], input), "weight")?;
            Matrix::Floats(Tensor::cat(&[weight, more], D::Minus2)?)
        };
        let (bias, more) = (
            first.float32(outputs[0], "bias")?,
            second.float32(outputs[1], "bias")?,
        );
        let bias = Tensor::cat(&[bias, more], D::Minus1)?;
        Ok(Self {
            role: role.to_string(),
            ..Self::from_matrix(&weight, Some(&bias), first)?
        })
    }

    /// The layer with its output multiplied by `gamma` `(output)`, float32, before a residual is
    /// added.
    pub fn scaled(input: usize, output: usize, gamma: &Tensor, vb: Builder<'_>) -> Result<Self> {
        let weight = Matrix::read(input, output, &vb)?;
        let bias = vb.float32(output, "bias")?;
        if vb.has(Optimisation::FoldedLayerScale) {
            return Self::from_matrix(&weight.scaled(gamma)?, Some(&(bias * gamma)?), &vb);
        }
        let gamma = Some(gamma.to_dtype(vb.activations())?);
        Ok(Self {
            gamma,
            ..Self::from_matrix(&weight, Some(&bias), &vb)?
        })
    }

    /// A 1x1 convolution, which on channels-last maps is a linear layer: `weight` `(output, input,
    /// 1, 1)`.
    pub fn conv1x1(input: usize, output: usize, vb: Builder<'_>) -> Result<Self> {
        let weight = vb.each(&vb.float32((output, input, 1, 1), "weight")?, |weight| {
            weight.reshape((output, input))
        })?;
        let bias = vb.float32(output, "bias")?;
        Self::from_tensors(&weight, Some(&bias), &vb)
    }

    /// From float32 `weight` `(output, input)` and `bias` `(output)`, or both views' stacked.
    pub(crate) fn from_tensors(
        weight: &Tensor,
        bias: Option<&Tensor>,
        vb: &Builder<'_>,
    ) -> Result<Self> {
        Self::from_matrix(&Matrix::Floats(weight.clone()), bias, vb)
    }

    fn from_matrix(matrix: &Matrix, bias: Option<&Tensor>, vb: &Builder<'_>) -> Result<Self> {
        let fused = vb.has(Optimisation::FusedEpilogue);
        let packs = vb.has(Optimisation::PackedLinear);
        let weights = match matrix {
            Matrix::Int8(numbers, units) => {
                let (bias, units) = (bias.map(values).transpose()?, values(units)?);
                let layer = with_values(numbers, |numbers| {
                    PackedLinear::from_int8(numbers, &units, bias.as_deref(), vb.storage())
                })?;
                Weights::Packed { layer, fused }
            }
            Matrix::Floats(weight) if packs => {
                let bias = bias.map(values).transpose()?;
                let (input, storage) = (weight.dim(1)?, vb.storage());
                let layer = with_values(weight, |weight| {
                    PackedLinear::new(weight, input, bias.as_deref(), storage)
                })?;
                Weights::Packed { layer, fused }
            }
            Matrix::Floats(weight) => {
                let weight = weight.to_dtype(vb.dtype())?.contiguous()?.t()?;
                let bias = bias
                    .map(|bias| stackable(bias.to_dtype(vb.activations())?, vb))
                    .transpose()?;
                Weights::Dense {
                    weight,
                    bias,
                    fused: fused && custom_ops::has_finish(vb.device()),
                    products: vb.products(),
                }
            }
        };
        Ok(Self {
            weights,
            gamma: None,
            role: vb.role(),
        })
    }

    /// The layer of one view, 0 or 1, of a layer of both; their memory is the same.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        let Weights::Dense {
            weight,
            bias,
            fused,
            products,
        } = &self.weights
        else {
            candle_core::bail!("packed weights are those of one view")
        };
        Ok(Self {
            weights: Weights::Dense {
                // `get` would copy the transposed view.
                weight: weight.narrow(0, view, 1)?.squeeze(0)?,
                bias: bias
                    .as_ref()
                    .map(|bias| bias.get(view)?.get(0))
                    .transpose()?,
                fused: *fused,
                products: *products,
            },
            gamma: None,
            role: self.role.clone(),
        })
    }

    /// `x W^T + b`; `x` is `(…, input)`. Of a layer of both views the first half of `x` is the first
    /// view's.
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

    /// `gelu(x W^T + b)`, which `next` alone reads.
    pub(crate) fn forward_gelu_for(&self, next: &Self, x: &Tensor) -> Result<Hidden> {
        let (Some(layer), Some(_)) = (self.packing(), next.packing()) else {
            return self.forward_gelu(x).map(Hidden::Tensor);
        };
        let epilogue = Epilogue {
            activation: Activation::Gelu,
            ..Epilogue::default()
        };
        let output = work::row_bytes(x, layer.output()) / 2;
        let _span = self.packed_span(layer, work::elements(x), [work::bytes(x), output], epilogue);
        let x = x.contiguous()?;
        custom_ops::linear_to_packed(&x, layer, Activation::Gelu).map(Hidden::Packed)
    }

    /// [`Linear::forward`], or with a residual [`Linear::forward_onto`] it.
    pub(crate) fn forward_hidden(&self, residual: Option<&Tensor>, x: &Hidden) -> Result<Tensor> {
        let (x, layer) = match (x, self.packing()) {
            (Hidden::Tensor(x), _) => return self.apply(x, Activation::Identity, residual),
            (Hidden::Packed(x), Some(layer)) => (x, layer),
            _ => candle_core::bail!("input that was packed for another layer"),
        };
        let epilogue = Epilogue {
            residual,
            ..Epilogue::default()
        };
        let elements = x.dims().iter().product::<usize>() as u64;
        let output = 4 * elements / layer.input() as u64 * layer.output() as u64;
        let _span = self.packed_span(layer, elements, [2 * elements, output], epilogue);
        custom_ops::linear_of_packed(x, layer, Activation::Identity, residual)
    }

    /// The weights, where a product with them reads packed input and ends with all that follows.
    fn packing(&self) -> Option<&PackedLinear> {
        match &self.weights {
            Weights::Packed { layer, fused: true }
                if self.gamma.is_none() && reads_packed(layer) =>
            {
                Some(layer)
            }
            _ => None,
        }
    }

    fn packed_span(
        &self,
        layer: &PackedLinear,
        elements: u64,
        [input, output]: [u64; 2],
        end: Epilogue<'_>,
    ) -> tracing::span::EnteredSpan {
        tracing::trace_span!(
            "linear",
            role = self.role,
            fused = end.parts(layer.has_bias()),
            flop = 2 * elements * layer.output() as u64,
            input = input,
            output = output,
            bytes = input + layer.bytes() as u64 + end.bytes() + output,
        )
        .entered()
    }

    fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        match &self.gamma {
            None => self.multiply(x, activation, residual, false),
            Some(gamma) => {
                let scaled = scaled(&self.multiply(x, Activation::Identity, None, false)?, gamma)?;
                Epilogue {
                    bias: None,
                    activation,
                    residual,
                }
                .passes(scaled)
            }
        }
    }

    /// `x W^T + b` in float32, without a rounding to half precision where the library can.
    pub(crate) fn forward_wide(&self, x: &Tensor) -> Result<Tensor> {
        cast(
            &self.multiply(x, Activation::Identity, None, true)?,
            DType::F32,
        )
    }

    fn multiply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        wide: bool,
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
                let output = weight.dim(D::Minus1)?;
                let mut dims = x.dims().to_vec();
                dims.pop();
                dims.push(output);
                let x = if weight.rank() == 3 { &halves(x)? } else { x };
                let epilogue = Epilogue {
                    bias: bias.as_ref(),
                    activation,
                    residual,
                };
                let (inside, after) = epilogue.split(*fused && epilogue.has_operand());
                let product = {
                    let parts = || inside.parts(false);
                    let _span = self
                        .span(x, output, work::bytes(weight), inside, parts)
                        .entered();
                    if inside.has_operand() && x.dtype() == weight.dtype() {
                        let numbers = Numbers {
                            wide,
                            tf32: products.is_tf32(x.device(), weight.dtype())?,
                        };
                        let product = library_product(x, weight, inside, numbers)?;
                        return product.reshape(dims);
                    }
                    let product = products
                        .launch(x.device(), weight.dtype(), || plain::product(x, weight))?;
                    inside.in_place(&product)?;
                    product
                };
                after.passes(product.reshape(dims)?)
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
            input = work::bytes(x),
            output = work::row_bytes(x, output),
            bytes = work::bytes(x) + weights + inside.bytes() + work::row_bytes(x, output),
        )
    }
}

/// A product that ends with bias and residual. The GELU of the library on CUDA is another than ours,
/// which comes with the bias in one pass.
fn library_product(
    x: &Tensor,
    weight: &Tensor,
    end: Epilogue<'_>,
    numbers: Numbers,
) -> Result<Tensor> {
    if end.activation == Activation::Gelu {
        let product = product(x, weight, None, false, None, numbers)?;
        end.in_place(&product)?;
        return Ok(product);
    }
    let residual = match end.residual {
        Some(residual) if weight.rank() == 3 => Some(halves(residual)?),
        residual => residual.cloned(),
    };
    let bias = match end.bias {
        Some(bias) if numbers.wide => Some(bias.to_dtype(DType::F32)?),
        bias => bias.cloned(),
    };
    let is_relu = end.activation == Activation::Relu;
    product(
        x,
        weight,
        bias.as_ref(),
        is_relu,
        residual.as_ref(),
        numbers,
    )
}
