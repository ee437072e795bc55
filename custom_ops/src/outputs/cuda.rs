//! The maps of a head on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of outputs.cu.

use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, PushKernelArg as _};
use candle_core::cuda_backend::{CudaStorage, WrapErr as _};
use candle_core::{Layout, Result, bail};

use super::{DescriptorMaps, GeometryMaps};
use crate::launch::cuda::{Module, from_first, grid, output, threads};
use crate::launch::kernel_number;

const MODULE: Module = Module {
    name: "mast3r_outputs",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/outputs.ptx")),
};

/// The kernel's own struct.
#[repr(C)]
#[derive(Clone, Copy)]
struct DescriptorParams {
    rows: u32,
    columns: u32,
    patch: u32,
    channels: u32,
    has_confidence: u32,
    floor: f32,
}

// As outputs.cu asserts it.
const _: () = assert!(size_of::<DescriptorParams>() == 24);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for DescriptorParams {}

pub(super) fn geometry(
    op: &GeometryMaps,
    storage: &CudaStorage,
    layout: &Layout,
) -> Result<CudaStorage> {
    if !layout.start_offset().is_multiple_of(4) {
        bail!("geometry_maps: pixels of four numbers must begin at a multiple of four");
    }
    let device = storage.device.clone();
    let pixels = threads("geometry_maps", op.pixels * 4, 4)?;
    let mut out = output::<f32>(&device, op.pixels * 4)?;
    let raw = from_first::<f32>(storage, layout)?;
    let function = device.get_or_load_custom_func("geometry_maps", MODULE.name, MODULE.ptx)?;
    let mut builder = function.builder();
    builder.arg(&mut out).arg(&raw).arg(&pixels);
    // SAFETY: as the kernel declares them; it checks its index against `pixels`.
    unsafe { builder.launch(grid(pixels, 1)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(out, device))
}

pub(super) fn descriptors(
    op: &DescriptorMaps,
    storage: &CudaStorage,
    layout: &Layout,
) -> Result<CudaStorage> {
    let device = storage.device.clone();
    let number = |name, value| kernel_number("descriptor_maps", name, value);
    let params = DescriptorParams {
        rows: number("rows", op.grid[0])?,
        columns: number("columns", op.grid[1])?,
        patch: number("a patch's side", op.patch)?,
        channels: number("channels", op.channels)?,
        has_confidence: op.confidence_floor.is_some().into(),
        floor: op.confidence_floor.unwrap_or_default(),
    };
    let elements = layout.shape().elem_count();
    threads("descriptor_maps", elements, 1)?;
    let pixels = number("pixels", elements / op.numbers())?;
    let mut out = output::<f32>(&device, elements)?;
    let tokens = from_first::<f32>(storage, layout)?;
    let function = device.get_or_load_custom_func("descriptor_maps", MODULE.name, MODULE.ptx)?;
    let mut builder = function.builder();
    builder.arg(&mut out).arg(&tokens).arg(&params).arg(&pixels);
    // SAFETY: as the kernel declares them; it checks its index against `pixels`.
    unsafe { builder.launch(grid(pixels, 1)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(out, device))
}
