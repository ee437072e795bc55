//! Attention on CUDA, for heads of 64 channels in float16 and bfloat16.

#![allow(unsafe_code)] // Launches; the arguments are those of attention.cu.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{Layout, Result, bail};

use super::Attention;
use crate::launch::cuda::{
    CudaElement, Launch, Module, allow_shared, for_dtype, from_first, is_hopper, kernel_name,
    multiprocessors, output, threads,
};
use crate::launch::kernel_number;

const MODULE: Module = Module {
    name: "mast3r_attention",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
};

/// The same for Hopper GPUs.
const HOPPER: Module = Module {
    name: "mast3r_attention_sm90",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention_sm90.ptx")),
};

/// Shared memory of a block of the latter, for queries and for each of its warpgroups;
/// attention_sm90.cu asserts it.
const HOPPER_SHARED: [usize; 2] = [8192, 65536];
/// Keys that a warpgroup of it takes at a time.
const HOPPER_KEYS: u32 = 128;
/// Queries of a block.
const TILE: u32 = 64;
/// Threads of a block, or of each of its warpgroups.
const THREADS: u32 = 128;

/// The kernel's own struct; strides in elements.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionParams {
    queries: u32,
    keys: u32,
    heads: u32,
    /// Of q, k and v: batch, token, head.
    strides: [[u32; 3]; 3],
    scale: f32,
}

// As attention.cu asserts it.
const _: () = assert!(size_of::<AttentionParams>() == 52);
// SAFETY: plain numbers, laid out as the kernel's struct.
unsafe impl DeviceRepr for AttentionParams {}

/// Half-precision `q`, `k` and `v`; every stride and the first element are whole 16-byte vectors.
pub(super) fn forward(op: &Attention, inputs: [(&CudaStorage, &Layout); 3]) -> Result<CudaStorage> {
    for_dtype("attention", inputs[0].0, &Kernel { op, inputs })
}

struct Kernel<'a> {
    op: &'a Attention,
    inputs: [(&'a CudaStorage, &'a Layout); 3],
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let Attention {
            batch,
            queries,
            keys,
            heads,
            dim,
            ..
        } = *self.op;
        if dim != super::GPU_HEAD_DIM || T::NAME == "f32" {
            bail!(
                "attention: on CUDA heads of {} channels in f16 or bf16, got {dim} in {}",
                super::GPU_HEAD_DIM,
                T::NAME
            );
        }
        let number = |name, number| kernel_number("attention", name, number);
        let mut strides = [[0; 3]; 3];
        for ((_, layout), strides) in self.inputs.iter().zip(&mut strides) {
            // The last element that is read.
            let reach = layout
                .dims()
                .iter()
                .zip(layout.stride())
                .map(|(dim, stride)| (dim - 1) * stride)
                .sum();
            number("the reach of an argument", reach)?;
            for (stride, &elements) in strides.iter_mut().zip(layout.stride()) {
                *stride = number("a stride", elements)?;
            }
        }
        threads("attention", batch * queries * heads * dim, 1)?;
        let (queries_number, keys) = (
            number("the number of queries", queries)?,
            number("the number of keys", keys)?,
        );
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let params = AttentionParams {
            queries: queries_number,
            keys,
            heads: heads as u32,
            strides,
            scale,
        };
        let mut out = output::<T>(device, batch * queries * heads * dim)?;
        let [q, k, v] = self.inputs;
        let (q, k, v) = (
            from_first::<T>(q.0, q.1)?,
            from_first::<T>(k.0, k.1)?,
            from_first::<T>(v.0, v.1)?,
        );
        let grid_dim = (params.queries.div_ceil(TILE), (batch * heads) as u32, 1);
        let blocks = (grid_dim.0 * grid_dim.1) as usize;
        let (module, name, groups) = if !is_hopper(device) {
            (MODULE, "attention", 1)
        } else if blocks <= multiprocessors(device)? && keys > HOPPER_KEYS {
            (HOPPER, "attention_sm90_split", 2)
        } else {
            (HOPPER, "attention_sm90", 1)
        };
        let shared = if name == "attention" {
            0
        } else {
            HOPPER_SHARED[0] + groups * HOPPER_SHARED[1]
        };
        let name = kernel_name::<T>(name, 1);
        let function = device.get_or_load_custom_func(&name, module.name, module.ptx)?;
        if shared > 0 {
            allow_shared(&function, shared)?;
        }
        let mut builder = function.builder();
        builder.arg(&mut out).arg(&q).arg(&k).arg(&v).arg(&params);
        // SAFETY: as the kernel declares them; tiles past the last query or key are masked.
        unsafe {
            builder.launch(LaunchConfig {
                grid_dim,
                block_dim: (groups as u32 * THREADS, 1, 1),
                shared_mem_bytes: shared as u32,
            })
        }
        .w()?;
        Ok(out)
    }
}
