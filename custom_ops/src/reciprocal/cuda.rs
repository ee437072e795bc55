//! The walks on CUDA.

#![allow(unsafe_code)] // Launches; the arguments are those of reciprocal.cu.

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig, PushKernelArg as _,
};
use candle_core::{Result, Storage, Tensor, bail};

use super::Settled;
use super::plan::{BUFFERS, Plan, STATISTICS, Sizes, WALKERS, ZEROED};
use crate::launch::cuda::Module;

const MODULE: Module =
    Module { name: "mast3r_reciprocal", ptx: include_str!(concat!(env!("OUT_DIR"), "/reciprocal.ptx")) };

/// For the largest products of queries: those of all seeds of pictures of 512x384 in two decodes fit.
const MEMORY: usize = 128 << 20;

/// The kernels' own struct: device pointers, then numbers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Search {
    descriptors: [u64; 4],
    buffers: [u64; BUFFERS],
    sizes: Sizes,
}

// SAFETY: plain numbers, laid out as the kernels' struct.
unsafe impl DeviceRepr for Search {}

pub(super) fn walk(decodes: &[[&Tensor; 2]], seeds: [&[u32]; 2], rounds: usize) -> Result<Vec<Settled>> {
    let (first, second) = (decodes[0][0].dims3()?, decodes[0][1].dims3()?);
    let sizes = [[first.0, first.1], [second.0, second.1]];
    let plan = Plan::new(sizes, first.2, decodes.len(), seeds, rounds, MEMORY)?;
    let device = decodes[0][0].device().as_cuda_device()?.clone();
    let stream = device.cuda_stream();

    // Kept until the kernels have run.
    let maps: Vec<Tensor> = decodes.iter().flatten().map(|map| map.contiguous()).collect::<Result<_>>()?;
    let mut search = Search { descriptors: [0; 4], buffers: [0; BUFFERS], sizes: plan.sizes };
    for (map, pointer) in maps.iter().zip(&mut search.descriptors) {
        let (storage, layout) = map.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("reciprocal walks: a map that is not on CUDA") };
        let values = storage.as_cuda_slice::<f32>()?.slice(layout.start_offset()..);
        *pointer = values.device_ptr(&stream).0;
    }
    let mut buffers: Vec<CudaSlice<u32>> = Vec::with_capacity(BUFFERS);
    for (index, &bytes) in plan.buffers.iter().enumerate() {
        // In words; every buffer has whole ones, and the pool aligns them for vectors.
        let words = bytes / size_of::<u32>();
        buffers.push(match index {
            WALKERS => device.clone_htod(&plan.walkers)?,
            _ if ZEROED.contains(&index) => device.alloc_zeros::<u32>(words)?,
            // SAFETY: the kernels write each element before they read it.
            _ => unsafe { device.alloc::<u32>(words) }?,
        });
    }
    for (buffer, pointer) in buffers.iter().zip(&mut search.buffers) {
        *pointer = buffer.device_ptr(&stream).0;
    }
    for launch in &plan.launches {
        let function = device.get_or_load_custom_func(launch.kernel, MODULE.name, MODULE.ptx)?;
        let mut builder = function.builder();
        builder.arg(&search);
        for number in &launch.numbers {
            builder.arg(number);
        }
        let [x, y, z] = launch.blocks;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those that the kernel declares, and the plan's buffers have room for its sizes.
        unsafe { builder.launch(config) }.w()?;
    }
    let statistics = device.clone_dtoh(&buffers[STATISTICS])?;
    let walkers = device.clone_dtoh(&buffers[WALKERS])?;
    Ok(plan.results(&statistics, &walkers))
}
