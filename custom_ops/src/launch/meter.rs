//! What a GPU says of itself and of its memory.

#![cfg_attr(feature = "cuda", allow(unsafe_code))] // Calls of the driver with out-parameters of the types it documents.

use candle_core::{Device, Result};

/// A GPU's name and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuReport {
    /// As the driver spells it, for example `NVIDIA H200`.
    pub name: String,
    /// Memory in bytes: all of it on CUDA, what Metal recommends to use at most on an Apple GPU.
    pub total_bytes: u64,
    /// Bytes of it that nobody uses now.
    pub free_bytes: u64,
    /// The version of the interface that the driver speaks, for example `CUDA 13.0`.
    pub interface: String,
}

/// What the GPU behind `device` says of itself; `None` on the CPU.
pub fn gpu_report(device: &Device) -> Result<Option<GpuReport>> {
    match device {
        Device::Cpu => Ok(None),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::report(device).map(Some),
        #[cfg(feature = "metal")]
        Device::Metal(device) => Ok(Some(metal::report(device))),
        #[allow(unreachable_patterns)] // Candle has all three kinds in every build.
        _ => Ok(None),
    }
}

/// Begins to count anew what [`gpu_peak`] reports. Does nothing where that is nothing, and on
/// Metal.
pub fn reset_gpu_peak(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::reset_peak(device),
        _ => Ok(()),
    }
}

/// The most bytes of the GPU's memory that this process's tensors held at a time since
/// [`reset_gpu_peak`].
///
/// On CUDA that is the high-water mark of the device's memory pool, with that of what captured
/// graphs hold: tensors and workspaces allocated in order with a stream, not the context, the kernels' code or what a library allocates
/// past the pool. On Metal it is what is allocated now, unused buffers that Candle keeps included,
/// since the interface has no high-water mark. `None` on the CPU and on NVIDIA GPUs without memory
/// pools.
pub fn gpu_peak(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::peak(device),
        #[cfg(feature = "metal")]
        Device::Metal(device) => Ok(Some(device.device().current_allocated_size() as u64)),
        _ => Ok(None),
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::Result;
    use candle_core::cuda_backend::cudarc::driver::sys;
    use candle_core::cuda_backend::{CudaDevice, WrapErr};

    use super::GpuReport;
    use crate::launch::cuda::default_pool;

    const GRAPHS_HIGH_WATER: sys::CUgraphMem_attribute =
        sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
    const HIGH_WATER: sys::CUmemPool_attribute =
        sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;

    pub(super) fn report(device: &CudaDevice) -> Result<GpuReport> {
        let context = device.cuda_stream().context().clone();
        let (free, total) = context.mem_get_info().w()?;
        let mut version = 0;
        // SAFETY: the out-parameter outlives the call.
        unsafe { sys::cuDriverGetVersion(&mut version) }
            .result()
            .w()?;
        Ok(GpuReport {
            name: context.name().w()?,
            total_bytes: total as u64,
            free_bytes: free as u64,
            interface: format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
        })
    }

    pub(super) fn reset_peak(device: &CudaDevice) -> Result<()> {
        // Zero is the one value that this attribute may be set to: the mark then starts from what
        // is in use.
        let mut mark = 0_u64;
        let Some(pool) = default_pool(device)? else {
            return Ok(());
        };
        // SAFETY: the context is current, and the attribute is a 64-bit number.
        unsafe { sys::cuMemPoolSetAttribute(pool, HIGH_WATER, (&raw mut mark).cast()) }
            .result()
            .w()?;
        let gpu = device.cuda_stream().context().cu_device();
        // SAFETY: as above.
        unsafe { sys::cuDeviceSetGraphMemAttribute(gpu, GRAPHS_HIGH_WATER, (&raw mut mark).cast()) }
            .result()
            .w()
    }

    pub(super) fn peak(device: &CudaDevice) -> Result<Option<u64>> {
        let mut mark = 0_u64;
        let Some(pool) = default_pool(device)? else {
            return Ok(None);
        };
        // SAFETY: the context is current, and the attribute is a 64-bit number.
        unsafe { sys::cuMemPoolGetAttribute(pool, HIGH_WATER, (&raw mut mark).cast()) }
            .result()
            .w()?;
        let mut graphs = 0_u64;
        let gpu = device.cuda_stream().context().cu_device();
        // SAFETY: as above.
        unsafe {
            sys::cuDeviceGetGraphMemAttribute(gpu, GRAPHS_HIGH_WATER, (&raw mut graphs).cast())
        }
        .result()
        .w()?;
        Ok(Some(mark + graphs))
    }
}

#[cfg(feature = "metal")]
mod metal {
    use candle_core::MetalDevice;

    use super::GpuReport;

    pub(super) fn report(device: &MetalDevice) -> GpuReport {
        let gpu = device.device();
        let total = gpu.recommended_max_working_set_size() as u64;
        GpuReport {
            name: gpu.architecture_name(),
            total_bytes: total,
            free_bytes: total.saturating_sub(gpu.current_allocated_size() as u64),
            interface: "Metal".into(),
        }
    }
}
