//! Resampling on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of upsample_bilinear2d.cu.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result};

use super::{Upsample, UpsampleParams};
use crate::launch::cuda::{
    CudaElement, Launch, Module, elements_per_thread, first_element, for_dtype, from_first, grid,
    kernel_name, output, threads,
};

const MODULE: Module = Module {
    name: "mast3r_upsample_bilinear2d",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/upsample_bilinear2d.ptx")),
};

// As upsample_bilinear2d.cu asserts it.
const _: () = assert!(size_of::<UpsampleParams>() == 44);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for UpsampleParams {}

/// As [`super::cpu::forward`].
pub(super) fn forward(op: &Upsample, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
    for_dtype("upsample_bilinear2d", x, &Kernel { op, x, layout })
}

struct Kernel<'a> {
    op: &'a Upsample,
    x: &'a CudaStorage,
    layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let params = UpsampleParams::new(self.op, self.layout)?;
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
        let count = threads("upsample_bilinear2d", elements, vector)?;
        let mut out = output::<T>(device, elements)?;
        let x = from_first::<T>(self.x, self.layout)?;
        let name = kernel_name::<T>("upsample_bilinear2d", vector);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        let base = match &self.op.base {
            Some(base) => first_element("upsample_bilinear2d", base, &device.cuda_stream())?,
            None => 0,
        };
        let mut builder = function.builder();
        builder
            .arg(&mut out)
            .arg(&x)
            .arg(&params)
            .arg(&count)
            .arg(&base);
        // SAFETY: as the kernel declares them; it checks its index against `count`, and the base is
        // a contiguous map of the output's dtype, as `upsample_bilinear2d_onto` checks.
        unsafe { builder.launch(grid(count, 1)) }.w()?;
        Ok(out)
    }
}
