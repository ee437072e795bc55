//! The rotation on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of rope2d.cu.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result, bail};

use super::{HeadNorms, RopeParams};
use crate::launch::cuda::{
    CudaElement, Launch, Module, address, elements_per_thread, for_dtype, from_first, grid,
    kernel_name, output, threads,
};

const MODULE: Module = Module {
    name: "mast3r_rope2d",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/rope2d.ptx")),
};

// As rope2d.cu asserts it.
const _: () = assert!(size_of::<RopeParams>() == 36);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for RopeParams {}

/// Threads of a warp.
const WARP: usize = 32;

/// Whether the norms of heads of `dim` channels can come with the rotation, whatever the alignment:
/// the threads of a head are neighbours in a warp.
pub(super) fn has_norms(dim: usize) -> bool {
    (dim / 2).is_power_of_two() && dim / 2 <= WARP
}

/// As [`super::cpu::forward`], after `norms` if there are any.
pub(super) fn forward(
    sources: &[(&CudaStorage, &Layout)],
    table: &CudaStorage,
    norms: Option<&HeadNorms>,
) -> Result<CudaStorage> {
    let Some((like, _)) = sources.first() else {
        bail!("rope2d: nothing to rotate")
    };
    for_dtype(
        "rope2d",
        like,
        &Rope {
            sources,
            table,
            norms,
        },
    )
}

struct Rope<'a> {
    sources: &'a [(&'a CudaStorage, &'a Layout)],
    table: &'a CudaStorage,
    norms: Option<&'a HeadNorms>,
}

impl Launch for Rope<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let (first, first_layout) = self.sources[0];
        let (second, second_layout) = *self.sources.last().unwrap_or(&self.sources[0]);
        let params = RopeParams::new(first_layout, second_layout)?;
        let quarter = params.quarter as usize;
        let steps: Vec<usize> = self
            .sources
            .iter()
            .flat_map(|(_, layout)| {
                layout.stride()[..3]
                    .iter()
                    .copied()
                    .chain([layout.start_offset()])
            })
            .collect();
        let vector = elements_per_thread::<T>(quarter, &steps);
        let elements = first_layout.shape().elem_count();
        let count = threads("rope2d", elements, 2 * vector)?;
        let mut out = output::<T>(device, self.sources.len() * elements)?;
        let (first, second) = (
            from_first::<T>(first, first_layout)?,
            from_first::<T>(second, second_layout)?,
        );
        let table = self.table.as_cuda_slice::<f32>()?;
        let function = device.get_or_load_custom_func(
            &kernel_name::<T>("rope2d", vector),
            MODULE.name,
            MODULE.ptx,
        )?;
        let (norms, eps) = match self.norms {
            Some(norms) => {
                let stream = device.cuda_stream();
                (address("rope2d", &norms.values, &stream)?, norms.eps)
            }
            None => (0, 0.),
        };
        let mut builder = function.builder();
        builder
            .arg(&mut out)
            .arg(&first)
            .arg(&second)
            .arg(table)
            .arg(&params)
            .arg(&count)
            .arg(&norms)
            .arg(&eps);
        // SAFETY: as the kernel declares them; it checks its index against `count`, and norms are as
        // large as `has_norms` and their own check say.
        unsafe { builder.launch(grid(count, self.sources.len() as u32)) }.w()?;
        Ok(out)
    }
}
