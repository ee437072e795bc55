//! Tensors as copies of boxes see them, on Hopper GPUs.

#![allow(unsafe_code)] // The driver's description of a tensor.

use std::ffi::c_void;

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, sys};
use candle_core::{DType, Result, bail};

/// A tensor of half-precision numbers that a kernel copies boxes of.
#[repr(C, align(64))]
pub(crate) struct TensorMap(sys::CUtensorMap);
// SAFETY: the driver's own struct, which kernels take by value.
unsafe impl DeviceRepr for TensorMap {}

impl TensorMap {
    /// Of contiguous numbers at `address`; `dims` and the box from the innermost axis on.
    pub(crate) fn contiguous(
        dtype: DType,
        address: u64,
        dims: &[usize],
        box_dims: &[u32],
    ) -> Result<Self> {
        let mut strides = Vec::with_capacity(dims.len());
        let mut stride = 1;
        for dim in &dims[..dims.len() - 1] {
            stride *= dim;
            strides.push(stride);
        }
        Self::strided(dtype, address, dims, &strides, box_dims)
    }

    /// As [`TensorMap::contiguous`], with the `strides`, in elements, of all axes but the innermost,
    /// whose numbers are neighbours: whole 16-byte vectors.
    pub(crate) fn strided(
        dtype: DType,
        address: u64,
        dims: &[usize],
        strides: &[usize],
        box_dims: &[u32],
    ) -> Result<Self> {
        let data_type = match dtype {
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            other => bail!("boxes of f16 or bf16 expected, got {}", other.as_str()),
        };
        let is_whole = dims.len() == box_dims.len() && dims.len() == strides.len() + 1;
        if !is_whole {
            bail!("boxes {box_dims:?} of a tensor {dims:?} with strides {strides:?}");
        }
        let sizes: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
        let bytes = dtype.size_in_bytes();
        let strides: Vec<u64> = strides.iter().map(|&s| (s * bytes) as u64).collect();
        let steps = vec![1u32; dims.len()];
        let mut map = std::mem::MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: arrays of as many numbers as there are axes; the map is written on success.
        let map = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                dims.len() as u32,
                address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                box_dims.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .w()?;
            map.assume_init()
        };
        Ok(Self(map))
    }
}
