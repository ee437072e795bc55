//! A product that a GPU ends with GELU before it is in memory.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Tensor, bail};

use super::product::Shape;
use crate::launch::check_size;

/// Whether [`product_gelu`] has a kernel for rows of `input` numbers of `dtype` on `device`, to
/// `output`: on Hopper GPUs in half precision.
pub fn has_product_gelu(device: &Device, dtype: DType, input: usize, output: usize) -> bool {
    let fits = matches!(dtype, DType::F16 | DType::BF16)
        && input > 0
        && input.is_multiple_of(8)
        && output > 0
        && output.is_multiple_of(64);
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => fits && crate::launch::cuda::is_hopper(device),
        _ => {
            let _ = fits;
            false
        }
    }
}

/// `gelu(x W + bias)`, the exact (erf) form, on a GPU, in float16 or bfloat16 with sums in float32.
///
/// `x` is `(…, input)` and `weight` `(input, output)`, the transposed view of contiguous rows; or
/// `(parts, …, input)` and `(parts, input, output)`. `bias` has `output` numbers for each part; the
/// result is `(…, output)`; all of one dtype. Needs [`has_product_gelu`].
pub fn product_gelu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (parts, input, output) = match *weight.dims() {
        [input, output] => (1, input, output),
        [parts, input, output] => (parts, input, output),
        _ => bail!("product_gelu: weight {:?} is no matrix", weight.dims()),
    };
    let rows = weight.transpose(D::Minus1, D::Minus2)?;
    check_size("product_gelu", "input", x)?;
    let elements = x.elem_count();
    let fits = elements > 0
        && x.dims().last() == Some(&input)
        && (parts == 1 || x.dims().first() == Some(&parts))
        && rows.is_contiguous()
        && bias.elem_count() == parts * output;
    if !fits {
        bail!(
            "product_gelu: x {:?}, weight {:?} with strides {:?} and bias {:?}",
            x.dims(),
            weight.dims(),
            weight.stride(),
            bias.dims()
        );
    }
    if !has_product_gelu(x.device(), x.dtype(), input, output) {
        bail!(
            "product_gelu: no kernel for {input} to {output} numbers of {} on this device",
            x.dtype().as_str()
        );
    }
    if weight.dtype() != x.dtype() || bias.dtype() != x.dtype() {
        bail!(
            "product_gelu: weight and bias must be {}",
            x.dtype().as_str()
        );
    }
    // Copies of boxes begin at multiples of 16 bytes.
    let whole = |t: &Tensor| {
        let t = t.contiguous()?;
        if t.layout().start_offset().is_multiple_of(8) {
            Ok(t)
        } else {
            t.force_contiguous()
        }
    };
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(output);
    whole(x)?.apply_op1_no_bwd(&ProductGelu {
        shape: Shape {
            parts,
            rows: elements / input / parts,
            input,
            output,
        },
        dims,
        weight: &whole(&rows)?,
        bias: &whole(bias)?,
    })
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // What the launch on CUDA reads.
pub(super) struct ProductGelu<'a> {
    pub(super) shape: Shape,
    dims: Vec<usize>,
    /// `(parts, output, input)`.
    pub(super) weight: &'a Tensor,
    pub(super) bias: &'a Tensor,
}

impl CustomOp1 for ProductGelu<'_> {
    fn name(&self) -> &'static str {
        "product_gelu"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        bail!("product_gelu: on the CPU `linear` ends a product with GELU")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, candle_core::Shape)> {
        let out = super::gelu_hopper::forward(self, x, layout)?;
        Ok((out, self.dims.clone().into()))
    }
}
