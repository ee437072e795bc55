//! 3x3 convolutions on Hopper GPUs without gathered taps.

#![allow(unsafe_code)] // Launches; the arguments are those of conv3x3_sm90.cu.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result, Tensor};

use super::implicit::{BLOCK_PIXELS, Conv, STEP, block_outputs, tiles};
use crate::launch::boxes::TensorMap;
use crate::launch::cuda::{
    CudaElement, Launch, Module, allow_shared, first_element, for_dtype, from_first,
    multiprocessors, output,
};
use crate::launch::kernel_number;

const MODULE: Module = Module {
    name: "mast3r_conv3x3_sm90",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/conv3x3_sm90.ptx")),
};

/// Threads of a block.
const THREADS: u32 = 288;
/// Bytes of a row of a tile in shared memory.
const ROW: usize = 128;

/// The kernel's own struct.
#[repr(C)]
#[derive(Clone, Copy)]
struct ConvParams {
    height: u32,
    width: u32,
    output: u32,
    steps: u32,
    log_width: u32,
    maps: u32,
    relu: u32,
    has_bias: u32,
    has_residual: u32,
}

// As conv3x3_sm90.cu asserts it.
const _: () = assert!(size_of::<ConvParams>() == 36);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for ConvParams {}

/// What the op is made of; all of it contiguous.
pub(super) fn forward(op: &Conv<'_>, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
    for_dtype("conv3x3", x, &Kernel { op, x, layout })
}

struct Kernel<'a> {
    op: &'a Conv<'a>,
    x: &'a CudaStorage,
    layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let Conv {
            size: [batch, height, width],
            input,
            output: channels,
            parts,
            ..
        } = *self.op;
        let (log_width, tiles) = tiles(height, width);
        let columns = block_outputs(channels, batch * tiles, multiprocessors(device)?);
        let number = |name, value| kernel_number("conv3x3", name, value);
        let params = ConvParams {
            height: number("rows", height)?,
            width: number("columns", width)?,
            output: number("output channels", channels)?,
            steps: number("input channels", input.div_ceil(STEP))?,
            log_width,
            maps: number("maps", batch / parts)?,
            relu: self.op.relu.into(),
            has_bias: self.op.bias.is_some().into(),
            has_residual: self.op.residual.is_some().into(),
        };
        let elements = batch * height * width * channels;
        number("elements", elements)?;
        let mut out = output::<T>(device, elements)?;
        let stream = device.cuda_stream();
        let at = |tensor: &Tensor| first_element("conv3x3", tensor, &stream);
        let x = from_first::<T>(self.x, self.layout)?.device_ptr(&stream).0;
        let weight = at(self.op.weight)?;
        // Of what is not there the kernel reads nothing.
        let bias = self.op.bias.map_or(Ok(0), at)?;
        let residual = self.op.residual.map_or(Ok(0), at)?;
        let dtype = self.op.weight.dtype();
        let columns_of_box = 1 << log_width;
        let x_map = TensorMap::contiguous(
            dtype,
            x,
            &[input, width, height, batch],
            &[
                STEP as u32,
                columns_of_box,
                BLOCK_PIXELS as u32 / columns_of_box,
                1,
            ],
        )?;
        let weight_map = TensorMap::contiguous(
            dtype,
            weight,
            &[input, parts * 9 * channels],
            &[STEP as u32, columns as u32],
        )?;
        let name = format!("conv3x3_sm90_{}_{columns}", T::NAME);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        // As the kernels are made: blocks of two fit in one multiprocessor.
        let stages = if columns == 64 { 4 } else { 3 };
        let shared = stages * (BLOCK_PIXELS + columns) * ROW;
        allow_shared(&function, shared)?;
        let mut builder = function.builder();
        builder
            .arg(&x_map)
            .arg(&weight_map)
            .arg(&mut out)
            .arg(&bias)
            .arg(&residual)
            .arg(&params);
        let config = LaunchConfig {
            grid_dim: ((channels / columns) as u32, tiles as u32, batch as u32),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: as the kernel declares them; boxes end at the tensors' ends, and pixels outside of
        // a map are not written.
        unsafe { builder.launch(config) }.w()?;
        Ok(out)
    }
}
