//! Layer normalisation on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of layer_norm.cu.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result};

use super::LayerNorm;
use crate::launch::cuda::{
    CudaElement, Launch, Module, elements_per_thread, for_dtype, from_first, kernel_name, output,
    threads,
};

/// Threads of a block, a warp a row: few, so that short inputs spread over all multiprocessors.
const BLOCK: u32 = 128;

const MODULE: Module = Module {
    name: "mast3r_layer_norm",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/layer_norm.ptx")),
};

/// Contiguous `x` `(…, dim)`; `scale` and `shift` float32, `dim` of them for each part.
pub(super) fn forward(
    op: &LayerNorm,
    x: (&CudaStorage, &Layout),
    scale: (&CudaStorage, &Layout),
    shift: (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    for_dtype(
        "layer_norm",
        x.0,
        &Kernel {
            op,
            x,
            scale,
            shift,
        },
    )
}

struct Kernel<'a> {
    op: &'a LayerNorm,
    x: (&'a CudaStorage, &'a Layout),
    scale: (&'a CudaStorage, &'a Layout),
    shift: (&'a CudaStorage, &'a Layout),
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let LayerNorm { eps, parts, turn } = *self.op;
        let (elements, columns) = (
            self.x.1.shape().elem_count(),
            self.scale.1.shape().elem_count() / parts,
        );
        let rows = threads("layer_norm", elements, 1)? / columns as u32;
        let steps = [
            self.x.1.start_offset(),
            self.scale.1.start_offset(),
            self.shift.1.start_offset(),
        ];
        let vector = elements_per_thread::<T>(columns, &steps);
        let mut out = output::<T>(device, elements)?;
        let x = from_first::<T>(self.x.0, self.x.1)?;
        let scale = from_first::<f32>(self.scale.0, self.scale.1)?;
        let shift = from_first::<f32>(self.shift.0, self.shift.1)?;
        let name = kernel_name::<T>("layer_norm", vector);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        let (columns, part) = (columns as u32, rows / parts as u32);
        let turn = turn as u32 * part;
        let mut builder = function.builder();
        builder
            .arg(&mut out)
            .arg(&x)
            .arg(&scale)
            .arg(&shift)
            .arg(&columns)
            .arg(&eps)
            .arg(&rows)
            .arg(&part)
            .arg(&turn);
        let grid_dim = (rows.div_ceil(BLOCK / 32), 1, 1);
        // SAFETY: as the kernel declares them; it checks its row against `rows`.
        unsafe {
            builder.launch(LaunchConfig {
                grid_dim,
                block_dim: (BLOCK, 1, 1),
                shared_mem_bytes: 0,
            })
        }
        .w()?;
        Ok(out)
    }
}
