//! Attention on CUDA, for heads of 64 channels.

#![allow(unsafe_code)] // Launches; the arguments are those of attention.cuh.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DeviceRepr, LaunchConfig, PushKernelArg as _,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr as _};
use candle_core::{DType, Layout, Result, bail};

use super::Attention;
use crate::launch::boxes::TensorMap;
use crate::launch::cuda::{
    CudaElement, Launch, Module, allow_shared, for_dtype, from_first, is_hopper, kernel_name,
    multiprocessors, output, threads,
};
use crate::launch::kernel_number;

const MODULE: Module = Module {
    name: "mast3r_attention",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
};

/// The same in float32.
const FLOAT32: Module = Module {
    name: "mast3r_attention_f32",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention_f32.ptx")),
};

/// The same for Hopper GPUs, and for few queries on them.
const HOPPER: Module = Module {
    name: "mast3r_attention_sm90",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention_sm90.ptx")),
};
const HOPPER_SPLIT: Module = Module {
    name: "mast3r_attention_split_sm90",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/attention_split_sm90.ptx")),
};

/// Shared memory of 64 queries, and of 128 keys or values, as the kernels for Hopper assert them.
const QUERY_BYTES: usize = 8192;
const KEY_BYTES: usize = 16384;
/// Shared memory of two tiles of keys and two of values in float32, as its kernel asserts it.
const FLOAT32_BYTES: usize = 69632;
/// Keys that a warpgroup of Hopper takes at a time.
const HOPPER_KEYS: u32 = 128;
/// Queries of a block, or of each of its warpgroups.
const TILE: u32 = 64;
/// Threads of a block, or of each of its warpgroups.
const THREADS: u32 = 128;

/// Which kernel.
#[derive(Clone, Copy)]
enum Way {
    /// Of any GPU.
    Plain,
    /// Of any GPU, in float32.
    Float32,
    /// Two warpgroups of Hopper that share 64 queries.
    Split,
    /// Warpgroups of Hopper with 64 queries each.
    Together(&'static Together),
}

/// A kernel whose blocks are of several warpgroups.
struct Together {
    groups: u32,
    /// Tiles of keys, and of values, that there is room for.
    stages: usize,
    /// The time of a block relative to the other's: on an H200 two warpgroups reach 445 TFLOP/s where
    /// three reach 520.
    cost: f64,
}

const TOGETHER: [Together; 2] = [
    Together {
        groups: 2,
        stages: 3,
        cost: 2.0 / 445.0,
    },
    Together {
        groups: 3,
        stages: 2,
        cost: 3.0 / 520.0,
    },
];

impl Way {
    /// For `queries` of each of `heads` on a Hopper GPU with so many multiprocessors, each of which
    /// has one block at a time.
    fn on_hopper(queries: u32, keys: u32, heads: usize, multiprocessors: usize) -> Self {
        let blocks = |groups: u32| queries.div_ceil(groups * TILE) as usize * heads;
        if blocks(1) <= multiprocessors && keys > HOPPER_KEYS {
            return Self::Split;
        }
        let cost = |way: &Together| blocks(way.groups).div_ceil(multiprocessors) as f64 * way.cost;
        let [two, three] = &TOGETHER;
        Self::Together(if cost(two) < cost(three) { two } else { three })
    }
}

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

/// Of kernels that copy boxes.
#[repr(C)]
#[derive(Clone, Copy)]
struct BoxedAttentionParams {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
}

// As attention.cuh asserts them.
const _: () = assert!(size_of::<AttentionParams>() == 52);
const _: () = assert!(size_of::<BoxedAttentionParams>() == 16);
// SAFETY: plain numbers, laid out as the kernels' structs.
unsafe impl DeviceRepr for AttentionParams {}
// SAFETY: as above.
unsafe impl DeviceRepr for BoxedAttentionParams {}

/// `q`, `k` and `v` of one dtype; every stride and the first element are whole 16-byte vectors.
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
        if dim != super::GPU_HEAD_DIM {
            bail!(
                "attention: on CUDA heads of {} channels, got {dim}",
                super::GPU_HEAD_DIM
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
        let way = if T::DTYPE == DType::F32 {
            Way::Float32
        } else if is_hopper(device) && self.inputs.iter().all(|(_, layout)| has_boxes(layout)) {
            Way::on_hopper(
                params.queries,
                keys,
                batch * heads,
                multiprocessors(device)?,
            )
        } else {
            Way::Plain
        };
        match way {
            Way::Plain => {
                self.by_addresses(device, &mut out, &MODULE, "attention", [1, 0], &params)
            }
            Way::Float32 => {
                let blocks = [1, FLOAT32_BYTES];
                self.by_addresses(device, &mut out, &FLOAT32, "attention", blocks, &params)
            }
            Way::Split => {
                let shared = QUERY_BYTES + 2 * 4 * KEY_BYTES;
                let name = "attention_split_sm90";
                self.by_addresses(device, &mut out, &HOPPER_SPLIT, name, [2, shared], &params)
            }
            Way::Together(way) => self.by_boxes(device, &mut out, way, &params),
        }?;
        Ok(out)
    }
}

impl Kernel<'_> {
    /// By a kernel whose blocks take [`TILE`] queries, with so many times [`THREADS`] and bytes of
    /// shared memory.
    fn by_addresses<T: CudaElement>(
        &self,
        device: &CudaDevice,
        out: &mut CudaSlice<T>,
        module: &Module,
        name: &str,
        [groups, shared]: [usize; 2],
        params: &AttentionParams,
    ) -> Result<()> {
        let [q, k, v] = self.inputs;
        let (q, k, v) = (
            from_first::<T>(q.0, q.1)?,
            from_first::<T>(k.0, k.1)?,
            from_first::<T>(v.0, v.1)?,
        );
        let name = kernel_name::<T>(name, 1);
        let function = device.get_or_load_custom_func(&name, module.name, module.ptx)?;
        if shared > 0 {
            allow_shared(&function, shared)?;
        }
        let mut builder = function.builder();
        builder.arg(out).arg(&q).arg(&k).arg(&v).arg(params);
        // SAFETY: as the kernel declares them; tiles past the last query or key are masked.
        unsafe {
            builder.launch(LaunchConfig {
                grid_dim: (params.queries.div_ceil(TILE), self.heads_of_batch(), 1),
                block_dim: (groups as u32 * THREADS, 1, 1),
                shared_mem_bytes: shared as u32,
            })
        }
        .w()?;
        Ok(())
    }

    fn by_boxes<T: CudaElement>(
        &self,
        device: &CudaDevice,
        out: &mut CudaSlice<T>,
        way: &Together,
        params: &AttentionParams,
    ) -> Result<()> {
        let stream = device.cuda_stream();
        let map = |index: usize, tokens: u32| {
            let (storage, layout) = self.inputs[index];
            let address = from_first::<T>(storage, layout)?.device_ptr(&stream).0;
            let (dims, strides) = boxes_of(layout)?;
            TensorMap::strided(
                T::DTYPE,
                address,
                &dims,
                &strides,
                &[dims[0] as u32, 1, tokens, 1],
            )
        };
        let (q, k, v) = (map(0, TILE)?, map(1, HOPPER_KEYS)?, map(2, HOPPER_KEYS)?);
        let params = BoxedAttentionParams {
            queries: params.queries,
            keys: params.keys,
            heads: params.heads,
            scale: params.scale,
        };
        let name = format!("attention_sm90_{}_{}", T::NAME, way.groups);
        let function = device.get_or_load_custom_func(&name, HOPPER.name, HOPPER.ptx)?;
        let shared = way.groups as usize * QUERY_BYTES + 2 * way.stages * KEY_BYTES;
        allow_shared(&function, shared)?;
        let mut builder = function.builder();
        builder.arg(&q).arg(&k).arg(&v).arg(out).arg(&params);
        let tiles = params.queries.div_ceil(way.groups * TILE);
        // SAFETY: as the kernel declares them; boxes end at the tensors' ends, and queries past the
        // last are not written.
        unsafe {
            builder.launch(LaunchConfig {
                grid_dim: (tiles, self.heads_of_batch(), 1),
                block_dim: ((way.groups + 1) * THREADS, 1, 1),
                shared_mem_bytes: shared as u32,
            })
        }
        .w()?;
        Ok(())
    }

    fn heads_of_batch(&self) -> u32 {
        (self.op.batch * self.op.heads) as u32
    }
}

/// Whether copies of boxes can step through a tensor `(batch, tokens, heads, dim)`: not from one
/// element to the same.
fn has_boxes(layout: &Layout) -> bool {
    let steps = layout.dims().iter().zip(layout.stride());
    steps
        .into_iter()
        .all(|(&dim, &stride)| dim == 1 || stride > 0)
}

/// Dims of a tensor `(batch, tokens, heads, dim)` from the innermost on, and the strides of all but
/// that; those of axes of one element are what the driver takes.
fn boxes_of(layout: &Layout) -> Result<([usize; 4], [usize; 3])> {
    let (&[batch, tokens, heads, dim], &[by_batch, by_token, by_head, _]) =
        (layout.dims(), layout.stride())
    else {
        bail!("attention: four axes expected, got {:?}", layout.dims());
    };
    let step = |count: usize, stride: usize| if count == 1 { dim } else { stride };
    Ok((
        [dim, heads, tokens, batch],
        [
            step(heads, by_head),
            step(tokens, by_token),
            step(batch, by_batch),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_makes_the_fewest_rounds() {
        let groups = |queries, keys, heads| match Way::on_hopper(queries, keys, heads, 132) {
            Way::Together(way) => way.groups,
            Way::Split => 1,
            Way::Plain | Way::Float32 => 0,
        };
        // Encoder and decoder of a pair at 672x512 and at 512x384, in measured order.
        assert_eq!([groups(1344, 1344, 32), groups(1344, 1344, 24)], [3, 2]);
        assert_eq!([groups(768, 768, 32), groups(768, 768, 24)], [3, 3]);
        // An image of 336x336 alone has few queries; few keys leave nothing to split.
        assert_eq!([groups(576, 576, 12), groups(576, 100, 12)], [1, 2]);
    }
}
