//! The walks on CUDA.

#![allow(unsafe_code)] // A launch; the argument is those of reciprocal.cu.

use candle_core::Result;
use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig, PushKernelArg as _,
};

use super::plan::{BUFFERS, Plan, SHARED, STARTS, STATISTICS, Sizes, THREADS, WALKERS, ZEROED};
use super::{MatchedMap, Settled};
use crate::download::cuda::{Copies, Pool};
use crate::launch::cuda::{Module, address, allow_shared, multiprocessors};
use crate::launch::graph::device_turn;

const MODULE: Module = Module {
    name: "mast3r_reciprocal",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/reciprocal.ptx")),
};

/// For the largest products of queries: those of all seeds of images of 512x384 in two decodes
/// fit.
const MEMORY: usize = 128 << 20;

/// The kernels' own struct: device pointers, then numbers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Search {
    descriptors: [u64; 4],
    confidences: [u64; 4],
    buffers: [u64; BUFFERS],
    sizes: Sizes,
}

// As reciprocal.cu asserts it.
const _: () = assert!(size_of::<Search>() == 200);
// SAFETY: plain numbers, laid out as the kernels' struct.
unsafe impl DeviceRepr for Search {}

/// A search that the device was given.
#[derive(Debug)]
pub(super) struct Walking {
    plan: Plan,
    copies: Copies,
}

impl Walking {
    pub(super) fn begin(
        decodes: &[[MatchedMap<'_>; 2]],
        starts: [&[u32]; 2],
        rounds: usize,
        pool: &Pool,
    ) -> Result<Self> {
        let _turn = device_turn();
        let [first, second] = decodes[0].each_ref().map(|map| map.descriptors.dims3());
        let (first, second) = (first?, second?);
        let sizes = [[first.0, first.1], [second.0, second.1]];
        let device = decodes[0][0].descriptors.device().as_cuda_device()?.clone();
        let stream = device.cuda_stream();
        let plan = Plan::new(sizes, first.2, decodes.len(), starts, rounds, MEMORY)?;

        // Their memory is free again after the kernels, as they are freed on the same stream.
        let mut search = Search {
            descriptors: [0; 4],
            confidences: [0; 4],
            buffers: [0; BUFFERS],
            sizes: plan.sizes,
        };
        let mut whole = Vec::new();
        for (index, map) in decodes.iter().flatten().enumerate() {
            for (tensor, pointer) in [
                (map.descriptors, &mut search.descriptors[index]),
                (map.confidence, &mut search.confidences[index]),
            ] {
                let tensor = tensor.contiguous()?;
                *pointer = address("reciprocal walks", &tensor, &stream)?;
                whole.push(tensor);
            }
        }
        let mut buffers: Vec<CudaSlice<u32>> = Vec::with_capacity(BUFFERS);
        for (index, &bytes) in plan.buffers.iter().enumerate() {
            // In words; every buffer has whole ones, and the pool aligns them for vectors.
            let words = bytes / size_of::<u32>();
            buffers.push(match index {
                STARTS => device.clone_htod(&plan.starts)?,
                _ if ZEROED.contains(&index) => device.alloc_zeros::<u32>(words)?,
                // SAFETY: the kernels write each element before they read it; what the host reads
                // of walkers that do not exist means nothing.
                _ => unsafe { device.alloc::<u32>(words) }?,
            });
        }
        for (buffer, pointer) in buffers.iter().zip(&mut search.buffers) {
            *pointer = buffer.device_ptr(&stream).0;
        }
        let function =
            device.get_or_load_custom_func("reciprocal_walks", MODULE.name, MODULE.ptx)?;
        allow_shared(&function, SHARED as usize)?;
        // All that there is room for at once, as they wait for each other.
        let of_each = function
            .occupancy_max_active_blocks_per_multiprocessor(THREADS, SHARED as usize, None)
            .w()?;
        let config = LaunchConfig {
            grid_dim: (of_each * multiprocessors(&device)? as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: SHARED,
        };
        let mut builder = function.builder();
        builder.arg(&search);
        // SAFETY: the argument is what the kernel declares, and the plan's buffers have room for its
        // sizes.
        unsafe { builder.launch_cooperative(config) }.w()?;
        let copies = pool.begin_words(&device, &[&buffers[STATISTICS], &buffers[WALKERS]])?;
        Ok(Self { plan, copies })
    }

    pub(super) fn wait(&self) -> Result<Vec<Settled>> {
        let (statistics, walkers) = self
            .copies
            .words()?
            .split_at(self.plan.buffers[STATISTICS] / size_of::<u32>());
        Ok(self.plan.results(statistics, walkers))
    }
}
