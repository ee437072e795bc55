//! What follows a product that a library computed on a GPU: bias, activation and residual in one
//! pass, in place.

use candle_core::{CpuStorage, Device, InplaceOp3, Layout, Result, Tensor, bail};

use super::Activation;
use crate::launch::check_size;

/// Whether [`finish`] has a kernel on this device.
pub fn has_finish(device: &Device) -> bool {
    !device.is_cpu()
}

/// `product = activation(product + bias) + residual`, in place, on a GPU.
///
/// `product` is `(…, columns)`, contiguous and shared with nobody who still needs it; `bias` is
/// `(columns)`, or `(n, 1, columns)` for the parts of a product `(n, …, columns)`; `residual` of the
/// product's shape; all of one dtype.
pub fn finish(
    product: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<()> {
    let columns = product.dims().last().copied().unwrap_or_default();
    let parts = product.dims().first().copied().unwrap_or_default();
    if let Some(bias) = bias
        && bias.dims() != [columns]
        && bias.dims() != [parts, 1, columns]
    {
        bail!(
            "finish: bias {:?} for a product {:?}",
            bias.dims(),
            product.dims()
        );
    }
    if let Some(residual) = residual
        && residual.dims() != product.dims()
    {
        bail!(
            "finish: residual {:?} for a product {:?}",
            residual.dims(),
            product.dims()
        );
    }
    for other in bias.iter().chain(&residual) {
        if other.dtype() != product.dtype() {
            bail!(
                "finish: {} beside a product of {}",
                other.dtype().as_str(),
                product.dtype().as_str()
            );
        }
    }
    check_size("finish", "product", product)?;
    if !product.is_contiguous() {
        bail!(
            "finish: product {:?} with strides {:?} must be contiguous",
            product.dims(),
            product.stride()
        );
    }
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let bias = bias.as_ref();
    let op = Finish {
        activation,
        bias: bias.is_some(),
        residual: residual.is_some(),
    };
    // An argument that is not there is not read: any other tensor stands for it.
    match (bias, &residual) {
        (Some(bias), Some(residual)) => product.inplace_op3(bias, residual, &op),
        (Some(bias), None) => product.inplace_op3(bias, bias, &op),
        (None, Some(residual)) => product.inplace_op3(residual, residual, &op),
        (None, None) if activation == Activation::Identity => Ok(()),
        (None, None) => bail!("finish: an activation alone is an op of its own"),
    }
}

#[cfg_attr(not(any(test, feature = "cuda", feature = "metal")), allow(dead_code))]
// What launches read.
pub(crate) struct Finish {
    pub(crate) activation: Activation,
    pub(crate) bias: bool,
    pub(crate) residual: bool,
}

impl InplaceOp3 for Finish {
    fn name(&self) -> &'static str {
        "finish"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        bail!("finish: on the CPU `linear` does this as it computes the product")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        product: &mut candle_core::CudaStorage,
        layout: &Layout,
        bias: &candle_core::CudaStorage,
        bias_layout: &Layout,
        residual: &candle_core::CudaStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        super::cuda::finish(
            self,
            (product, layout),
            (bias, bias_layout),
            (residual, residual_layout),
        )
    }
    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        product: &mut candle_core::MetalStorage,
        layout: &Layout,
        bias: &candle_core::MetalStorage,
        bias_layout: &Layout,
        residual: &candle_core::MetalStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        super::metal::finish(
            self,
            (product, layout),
            (bias, bias_layout),
            (residual, residual_layout),
        )
    }
}
