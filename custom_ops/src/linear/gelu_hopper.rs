//! Products that end with GELU on Hopper GPUs.

#![allow(unsafe_code)] // Launches; the arguments are those of linear_gelu_sm90.cu.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result, Tensor};

use super::gelu::ProductGelu;
use super::product::Shape;
use crate::launch::cuda::{
    CudaElement, Launch, Module, allow_shared, first_element, for_dtype, from_first,
    multiprocessors, output,
};
use crate::launch::kernel_number;
use crate::launch::tensor_map::TensorMap;

const MODULE: Module = Module {
    name: "mast3r_linear_gelu_sm90",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/linear_gelu_sm90.ptx")),
};

/// Threads of a block.
const THREADS: u32 = 288;
/// Rows of a block.
const ROWS: usize = 128;
/// Input channels of a step, and the bytes of a row of them in shared memory.
const STEP: usize = 64;
const STEP_BYTES: usize = 128;

/// The kernel's own struct.
#[repr(C)]
#[derive(Clone, Copy)]
struct GeluParams {
    rows: u32,
    output: u32,
    steps: u32,
}

// As linear_gelu_sm90.cu asserts it.
const _: () = assert!(size_of::<GeluParams>() == 12);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for GeluParams {}

/// What the op is made of; all of it contiguous.
pub(super) fn forward(
    op: &ProductGelu<'_>,
    x: &CudaStorage,
    layout: &Layout,
) -> Result<CudaStorage> {
    for_dtype("product_gelu", x, &Kernel { op, x, layout })
}

struct Kernel<'a> {
    op: &'a ProductGelu<'a>,
    x: &'a CudaStorage,
    layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let Shape {
            parts,
            rows,
            input,
            output: channels,
        } = self.op.shape;
        let tiles = rows.div_ceil(ROWS);
        // Narrow where there would be less than two blocks for each multiprocessor.
        let wide = channels.is_multiple_of(128)
            && parts * tiles * (channels / 128) >= 2 * multiprocessors(device)?;
        let (columns, stages) = if wide { (128, 3) } else { (64, 4) };
        let number = |name, value| kernel_number("product_gelu", name, value);
        let params = GeluParams {
            rows: number("rows", rows)?,
            output: number("output channels", channels)?,
            steps: number("input channels", input.div_ceil(STEP))?,
        };
        let elements = parts * rows * channels;
        number("elements", elements)?;
        let mut out = output::<T>(device, elements)?;
        let stream = device.cuda_stream();
        let at = |tensor: &Tensor| first_element("product_gelu", tensor, &stream);
        let x = from_first::<T>(self.x, self.layout)?.device_ptr(&stream).0;
        let (weight, bias) = (at(self.op.weight)?, at(self.op.bias)?);
        let dtype = self.op.weight.dtype();
        let x_map = TensorMap::new(
            dtype,
            x,
            &[input, parts * rows],
            &[STEP as u32, ROWS as u32],
        )?;
        let weight_map = TensorMap::new(
            dtype,
            weight,
            &[input, parts * channels],
            &[STEP as u32, columns as u32],
        )?;
        let name = format!("linear_gelu_sm90_{}_{columns}", T::NAME);
        let function = device.get_or_load_custom_func(&name, MODULE.name, MODULE.ptx)?;
        let shared = stages * (ROWS + columns) * STEP_BYTES;
        allow_shared(&function, shared)?;
        let mut builder = function.builder();
        builder
            .arg(&x_map)
            .arg(&weight_map)
            .arg(&mut out)
            .arg(&bias)
            .arg(&params);
        let config = LaunchConfig {
            grid_dim: ((channels / columns) as u32, tiles as u32, parts as u32),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: as the kernel declares them; boxes end at the tensors' ends, and rows past the
        // last are not written.
        unsafe { builder.launch(config) }.w()?;
        Ok(out)
    }
}
