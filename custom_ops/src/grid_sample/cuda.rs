//! Sampling on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of grid_sample.cu.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result};

use super::{GridSample, GridSampleParams};
use crate::launch::cuda::{
    CudaElement, Launch, Module, elements_per_thread, for_dtype, from_first, grid, kernel_name,
    output, threads,
};

const MODULE: Module = Module {
    name: "mast3r_grid_sample",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/grid_sample.ptx")),
};

// As grid_sample.cu asserts it.
const _: () = assert!(size_of::<GridSampleParams>() == 36);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for GridSampleParams {}

/// As [`super::cpu::forward`].
pub(super) fn forward(
    op: &GridSample,
    x: &CudaStorage,
    layout: &Layout,
    places: &CudaStorage,
    places_layout: &Layout,
) -> Result<CudaStorage> {
    for_dtype(
        "grid_sample",
        x,
        &Kernel {
            op,
            x,
            layout,
            places,
            places_layout,
        },
    )
}

struct Kernel<'a> {
    op: &'a GridSample,
    x: &'a CudaStorage,
    layout: &'a Layout,
    places: &'a CudaStorage,
    places_layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let params = GridSampleParams::new(self.op, self.layout)?;
        let strides = self.layout.stride();
        let channels = params.channels as usize;
        let steps = [
            strides[0],
            strides[1],
            strides[2],
            self.layout.start_offset(),
        ];
        let vector = elements_per_thread::<T>(channels, &steps);
        let elements = self.op.output_shape(self.layout).elem_count();
        let count = threads("grid_sample", elements, vector)?;
        let mut out = output::<T>(device, elements)?;
        let x = from_first::<T>(self.x, self.layout)?;
        let places = from_first::<f32>(self.places, self.places_layout)?;
        let name = kernel_name::<T>("grid_sample", vector);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        let mut builder = function.builder();
        builder
            .arg(&mut out)
            .arg(&x)
            .arg(&places)
            .arg(&params)
            .arg(&count);
        // SAFETY: as the kernel declares them; it checks its index against `count`.
        unsafe { builder.launch(grid(count, 1)) }.w()?;
        Ok(out)
    }
}
