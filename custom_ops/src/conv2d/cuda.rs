//! The taps of a convolution on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of taps3x3.cu.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, PushKernelArg as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result};

use super::taps::Taps;
use crate::launch::cuda::{
    CudaElement, Launch, Module, elements_per_thread, for_dtype, from_first, grid, kernel_name,
    output, threads,
};

const MODULE: Module = Module {
    name: "mast3r_taps3x3",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/taps3x3.ptx")),
};

pub(super) fn taps(op: &Taps, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
    for_dtype("taps3x3", x, &Kernel { op, x, layout })
}

struct Kernel<'a> {
    op: &'a Taps,
    x: &'a CudaStorage,
    layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let (_, height, width, channels) = self.layout.shape().dims4()?;
        let vector = elements_per_thread::<T>(channels, &[self.layout.start_offset()]);
        let elements = 9 * self.op.rows * width.div_ceil(self.op.step) * channels;
        let count = threads("taps3x3", elements, vector)?;
        let mut out = output::<T>(device, elements)?;
        let x = from_first::<T>(self.x, self.layout)?;
        let name = kernel_name::<T>("taps3x3", vector);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        let sizes = [height, width, channels, self.op.first_row].map(|size| size as u32);
        let (step, relu) = (self.op.step as u32, u32::from(self.op.relu));
        let mut builder = function.builder();
        builder.arg(&mut out).arg(&x);
        sizes.iter().for_each(|size| {
            builder.arg(size);
        });
        builder.arg(&step).arg(&relu).arg(&count);
        // SAFETY: as the kernel declares them; it checks its index against `count`.
        unsafe { builder.launch(grid(count, 1)) }.w()?;
        Ok(out)
    }
}
