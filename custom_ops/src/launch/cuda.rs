//! Launching our kernels on CUDA.

#![allow(unsafe_code)] // Launches: the arguments' number, types and sizes are the kernels' own.

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, CudaView, DevicePtr as _, DeviceRepr,
    LaunchConfig, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{DType, Device, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::kernel_number;

/// Threads of a block, for kernels that do not care.
pub(crate) const BLOCK: u32 = 256;

/// A kernel's source: PTX that build.rs made, under the name that Candle caches it by.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    pub(crate) ptx: &'static str,
}

/// The elements of a CUDA tensor: how kernels are named for them and how many fit in 16 bytes.
pub(crate) trait CudaElement: CudaDType + DeviceRepr {
    const NAME: &'static str;
    const DTYPE: DType;
    const VECTOR: usize;
}

impl CudaElement for f32 {
    const NAME: &'static str = "f32";
    const DTYPE: DType = DType::F32;
    const VECTOR: usize = 4;
}

impl CudaElement for f16 {
    const NAME: &'static str = "f16";
    const DTYPE: DType = DType::F16;
    const VECTOR: usize = 8;
}

impl CudaElement for bf16 {
    const NAME: &'static str = "bf16";
    const DTYPE: DType = DType::BF16;
    const VECTOR: usize = 8;
}

/// Something to be run for the element type of a tensor.
pub(crate) trait Launch {
    /// The result, of `T`.
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>>;
}

/// Runs `launch` for the dtype of `like`.
pub(crate) fn for_dtype(op: &str, like: &CudaStorage, launch: &impl Launch) -> Result<CudaStorage> {
    let device = like.device.clone();
    match &like.slice {
        CudaStorageSlice::F32(_) => Ok(CudaStorage::wrap_cuda_slice(
            launch.launch::<f32>(&device)?,
            device,
        )),
        CudaStorageSlice::F16(_) => Ok(CudaStorage::wrap_cuda_slice(
            launch.launch::<f16>(&device)?,
            device,
        )),
        CudaStorageSlice::BF16(_) => Ok(CudaStorage::wrap_cuda_slice(
            launch.launch::<bf16>(&device)?,
            device,
        )),
        _ => bail!("{op}: on CUDA f32, f16 or bf16 expected"),
    }
}

/// A tensor's elements from its first one on.
pub(crate) fn from_first<'a, T: CudaDType>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> Result<CudaView<'a, T>> {
    Ok(storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..))
}

/// Where the first number of a contiguous float32 tensor is, for work that is given to `stream`
/// while the tensor lives: its memory is freed after it, on the same stream.
pub(crate) fn address(op: &str, tensor: &Tensor, stream: &CudaStream) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("{op}: a tensor that is not on CUDA")
    };
    let (address, _) = from_first::<f32>(storage, layout)?.device_ptr(stream);
    Ok(address)
}

/// Where the first number of a contiguous tensor of any of these dtypes is; as [`address`].
pub(crate) fn first_element(op: &str, tensor: &Tensor, stream: &CudaStream) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("{op}: a tensor that is not on CUDA")
    };
    Ok(match &storage.slice {
        CudaStorageSlice::F16(_) => from_first::<f16>(storage, layout)?.device_ptr(stream).0,
        CudaStorageSlice::BF16(_) => from_first::<bf16>(storage, layout)?.device_ptr(stream).0,
        CudaStorageSlice::F32(_) => from_first::<f32>(storage, layout)?.device_ptr(stream).0,
        CudaStorageSlice::U32(_) => from_first::<u32>(storage, layout)?.device_ptr(stream).0,
        _ => bail!("{op}: f32, f16, bf16 or u32 expected"),
    })
}

/// Whether the GPU takes kernels that are made for compute capability 9.0 alone.
pub(crate) fn is_hopper(device: &CudaDevice) -> bool {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let stream = device.cuda_stream();
    let number = |attribute| stream.context().attribute(attribute);
    number(MAJOR) == Ok(9) && number(MINOR) == Ok(0)
}

/// How many of a GPU's blocks run at a time, at the least.
pub(crate) fn multiprocessors(device: &CudaDevice) -> Result<usize> {
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let count = device.cuda_stream().context().attribute(attribute).w()?;
    Ok(count.max(1) as usize)
}

/// Lets blocks of `function` have `bytes` of shared memory, which is more than most are given.
pub(crate) fn allow_shared(function: &CudaFunction, bytes: usize) -> Result<()> {
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(attribute, bytes as i32).w()
}

/// Memory for `length` elements that the kernel writes, all of them.
pub(crate) fn output<T: DeviceRepr>(device: &CudaDevice, length: usize) -> Result<CudaSlice<T>> {
    // SAFETY: the kernels write every element before anyone reads one.
    unsafe { device.alloc::<T>(length) }
}

/// The elements that one thread takes: 16 bytes of them if a run of `width` neighbouring ones and
/// all `steps` between runs, offsets of first elements among them, are whole vectors; else one.
pub(crate) fn elements_per_thread<T: CudaElement>(width: usize, steps: &[usize]) -> usize {
    let whole = |n: &usize| n.is_multiple_of(T::VECTOR);
    if whole(&width) && steps.iter().all(whole) {
        T::VECTOR
    } else {
        1
    }
}

/// The name of `op`'s kernel that takes `vector` elements a thread.
pub(crate) fn kernel_name<T: CudaElement>(op: &str, vector: usize) -> String {
    format!(
        "{op}_{}{}",
        T::NAME,
        if vector > 1 { "_vector" } else { "" }
    )
}

/// Blocks for `threads` threads by `rows`.
pub(crate) fn grid(threads: u32, rows: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (threads.div_ceil(BLOCK), rows, 1),
        block_dim: (BLOCK, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// The threads that cover `elements` of `op`, `vector` of them each; kernels index both with 32
/// bits.
pub(crate) fn threads(op: &str, elements: usize, vector: usize) -> Result<u32> {
    Ok(kernel_number(op, "a tensor's number of elements", elements)? / vector as u32)
}

/// The memory pool of the device, whose context is made current for this thread; `None` if the
/// driver has none for it, as with some virtual GPUs: tensors are then allocated one by one.
pub(crate) fn default_pool(device: &CudaDevice) -> Result<Option<sys::CUmemoryPool>> {
    let context = device.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    context.bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the context is current, and the out-parameter outlives the call.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) }
        .result()
        .w()?;
    Ok(Some(pool))
}

/// Opens GPU `index` with a stream of its own, on which everything happens in the order in which it
/// is asked for, from whatever thread, so that tensors are not tracked across streams. Its memory
/// pool, if it has one, keeps what tensors gave back, so that the next ones need no call to the
/// driver.
///
/// Other streams of the same context, as [`CudaStream::fork`] makes them, are not ordered with the
/// tensors of this device: whoever makes one has to synchronise it.
///
/// # Errors
/// No driver, or no GPU of this number; errors of the driver.
pub fn open(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: the context was made for this device just now, no tensor of it exists yet, and its
    // only stream orders all uses of those to come.
    unsafe { cuda.disable_event_tracking() };
    if let Some(pool) = default_pool(cuda)? {
        let mut keep = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the context is current, and the attribute is a 64-bit number.
        unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut keep).cast()) }
            .result()
            .w()?;
    }
    Ok(device)
}

/// How many GPUs the driver shows.
///
/// # Errors
/// Of the driver.
pub fn count() -> Result<usize> {
    let count = CudaContext::device_count().w()?;
    Ok(count.max(0) as usize)
}

/// The device of a test; without one there is nothing to test, and the test says so.
#[cfg(test)]
pub(crate) fn test_device() -> Option<Device> {
    crate::devices::gpu("CUDA", open(0))
}
