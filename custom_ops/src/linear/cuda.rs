//! The finish of a product on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of finish.cu.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg as _;
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice, WrapErr as _};
use candle_core::{Layout, Result, bail};
use half::{bf16, f16};

use super::Activation;
use super::finish::Finish;
use crate::launch::cuda::{
    CudaElement, Module, elements_per_thread, from_first, grid, kernel_name, threads,
};

const MODULE: Module = Module {
    name: "mast3r_finish",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/finish.ptx")),
};

pub(super) fn finish(
    op: &Finish,
    product: (&mut CudaStorage, &Layout),
    bias: (&CudaStorage, &Layout),
    residual: (&CudaStorage, &Layout),
) -> Result<()> {
    match product.0.slice {
        CudaStorageSlice::F32(_) => launch::<f32>(op, product, bias, residual),
        CudaStorageSlice::F16(_) => launch::<f16>(op, product, bias, residual),
        CudaStorageSlice::BF16(_) => launch::<bf16>(op, product, bias, residual),
        _ => bail!("finish: on CUDA f32, f16 or bf16 expected"),
    }
}

fn launch<T: CudaElement>(
    op: &Finish,
    (product, layout): (&mut CudaStorage, &Layout),
    bias: (&CudaStorage, &Layout),
    residual: (&CudaStorage, &Layout),
) -> Result<()> {
    let device = product.device.clone();
    let elements = layout.shape().elem_count();
    let columns = layout.dims().last().copied().unwrap_or(1);
    let mut steps = vec![
        layout.start_offset(),
        bias.1.start_offset(),
        residual.1.start_offset(),
    ];
    steps.retain(|step| *step > 0);
    let vector = elements_per_thread::<T>(columns, &steps);
    let start = layout.start_offset();
    let mut out = product
        .as_cuda_slice_mut::<T>()?
        .slice_mut(start..start + elements);
    let (bias_slice, residual) = (
        from_first::<T>(bias.0, bias.1)?,
        from_first::<T>(residual.0, residual.1)?,
    );
    let function = device.get_or_load_custom_func(
        &kernel_name::<T>("finish", vector),
        MODULE.name,
        MODULE.ptx,
    )?;
    let activation: u32 = match op.activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
    };
    let (has_bias, has_residual) = (u32::from(op.bias), u32::from(op.residual));
    // Rows that have the same bias.
    let rows = elements / columns.max(1) / (bias.1.shape().elem_count() / columns.max(1)).max(1);
    let (columns, count) = (columns as u32, threads("finish", elements, vector)?);
    let rows = rows as u32;
    let mut builder = function.builder();
    builder
        .arg(&mut out)
        .arg(&bias_slice)
        .arg(&residual)
        .arg(&columns)
        .arg(&rows)
        .arg(&activation);
    builder.arg(&has_bias).arg(&has_residual).arg(&count);
    // SAFETY: as the kernel declares them; it checks its index against `count`.
    unsafe { builder.launch(grid(count, 1)) }.w()?;
    Ok(())
}
