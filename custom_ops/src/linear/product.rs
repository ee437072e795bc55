//! A product on a GPU that a library computes, with bias, ReLU and residual in the end.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Tensor, bail};

use super::{Activation, finish};
use crate::plain;

/// Of which numbers a [`product`] is made besides those of its operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// Float32 comes of operands in half precision.
    pub wide: bool,
    /// Float32 operands count as TF32.
    pub tf32: bool,
}

/// `relu?(x W + bias) + residual` on a GPU, of one dtype: float32, float16 or bfloat16, with sums in
/// float32. On CUDA the product is written with all of it, rounded once; on Metal [`finish`] comes
/// after it.
///
/// `x` is `(…, input)` and `weight` `(input, output)`, the transposed view of contiguous rows; or
/// `(parts, …, input)` and `(parts, input, output)`. `bias` has `output` numbers for each part;
/// `residual` and the result are `(…, output)`. A residual comes before the ReLU, so there is one or
/// the other. With `wide` the result is float32 of half-precision numbers, and so are bias and
/// residual.
pub fn product(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
    residual: Option<&Tensor>,
    Numbers { wide, tf32 }: Numbers,
) -> Result<Tensor> {
    let (parts, input, output) = match *weight.dims() {
        [input, output] => (1, input, output),
        [parts, input, output] => (parts, input, output),
        _ => bail!("product: weight {:?} is not a matrix", weight.dims()),
    };
    let rows = weight.transpose(D::Minus1, D::Minus2)?;
    let elements = x.elem_count();
    let fits = x.dims().last() == Some(&input)
        && (parts == 1 || x.dims().first() == Some(&parts))
        && rows.is_contiguous();
    if !fits || elements == 0 {
        bail!(
            "product: x {:?} and weight {:?} with strides {:?}",
            x.dims(),
            weight.dims(),
            weight.stride()
        );
    }
    if relu && residual.is_some() {
        bail!("product: a ReLU and a residual");
    }
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(output);
    let is_bias = |bias: &Tensor| bias.elem_count() == parts * output;
    let is_residual = |residual: &Tensor| residual.dims() == dims;
    if !bias.is_none_or(is_bias) || !residual.is_none_or(is_residual) {
        bail!(
            "product: bias {:?} and residual {:?} for {dims:?}",
            bias.map(Tensor::dims),
            residual.map(Tensor::dims)
        );
    }
    let dtype = if wide { DType::F32 } else { x.dtype() };
    let mut added = bias.into_iter().chain(residual);
    if weight.dtype() != x.dtype() || added.any(|t| t.dtype() != dtype) {
        bail!(
            "product: the weight must be {}, bias and residual {}",
            x.dtype().as_str(),
            dtype.as_str()
        );
    }
    if x.device().is_metal() {
        return then_finished(x, weight, bias, relu, residual, wide);
    }
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    x.contiguous()?.apply_op1_no_bwd(&Product {
        shape: Shape {
            parts,
            rows: elements / input / parts,
            input,
            output,
        },
        dims,
        relu,
        numbers: Numbers { wide, tf32 },
        weight: &rows,
        bias: bias.as_ref(),
        residual: residual.as_ref(),
    })
}

/// Candle's product, then what it ends with in one pass.
fn then_finished(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    relu: bool,
    residual: Option<&Tensor>,
    wide: bool,
) -> Result<Tensor> {
    let narrow = plain::product(x, weight)?;
    let product = if wide {
        narrow.to_dtype(DType::F32)?
    } else {
        narrow
    };
    if bias.is_none() && residual.is_none() {
        return if relu { product.relu() } else { Ok(product) };
    }
    let activation = if relu {
        Activation::Relu
    } else {
        Activation::Identity
    };
    let output = weight.dim(D::Minus1)?;
    let parts = bias.map_or(1, |bias| bias.elem_count() / output);
    let by_parts = |t: &Tensor| t.reshape((parts, (), output));
    let biases = bias.map(|bias| bias.reshape((parts, 1, output)));
    let residuals = residual.map(by_parts).transpose()?;
    // The same memory in another shape.
    finish(
        &by_parts(&product)?,
        biases.transpose()?.as_ref(),
        activation,
        residuals.as_ref(),
    )?;
    Ok(product)
}

/// Of so many products.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // As below.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) parts: usize,
    pub(super) rows: usize,
    pub(super) input: usize,
    pub(super) output: usize,
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // What the call on CUDA reads.
pub(super) struct Product<'a> {
    pub(super) shape: Shape,
    dims: Vec<usize>,
    pub(super) relu: bool,
    pub(super) numbers: Numbers,
    /// `(parts, output, input)`.
    pub(super) weight: &'a Tensor,
    pub(super) bias: Option<&'a Tensor>,
    pub(super) residual: Option<&'a Tensor>,
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        bail!("product: on the CPU `linear` computes products")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, candle_core::Shape)> {
        let out = super::library::forward(self, x, layout)?;
        Ok((out, self.dims.clone().into()))
    }
}
