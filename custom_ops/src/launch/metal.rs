//! Launching our kernels on Metal, in Candle's own command buffer.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::metal_backend::{DeviceId, MetalDevice, MetalStorage};
use candle_core::{DType, Error, Layout, Result, bail};
use candle_metal_kernels::metal::{Buffer, ComputePipeline};
use objc2_metal::{MTLCompileOptions, MTLSize};

use super::shader::{Grid, Plan, Shader, Use};

/// Memory that a kernel gets, under the name of the kernel's argument.
pub(crate) struct Bound<'a> {
    name: &'static str,
    buffer: &'a Buffer,
    /// Bytes from the buffer's start to what the kernel sees.
    offset: usize,
}

impl<'a> Bound<'a> {
    /// A tensor from its first element on.
    pub(crate) fn new(name: &'static str, storage: &'a MetalStorage, layout: &Layout) -> Self {
        Self {
            name,
            buffer: storage.buffer(),
            offset: layout.start_offset() * storage.dtype().size_in_bytes(),
        }
    }

    /// All of a buffer.
    pub(crate) fn whole(name: &'static str, buffer: &'a Buffer) -> Self {
        Self {
            name,
            buffer,
            offset: 0,
        }
    }
}

/// Encodes `plan` over `bound` and returns the output, of `dtype`; nothing waits for the GPU.
pub(crate) fn launch<P>(
    shader: &Shader,
    plan: &Plan<P>,
    bound: Vec<Bound<'_>>,
    dtype: DType,
    device: &MetalDevice,
) -> Result<MetalStorage> {
    let out = device.new_buffer(plan.elements, dtype, shader.op)?;
    let written = shader
        .arguments
        .iter()
        .filter(|argument| argument.used == Use::Written)
        .map(|argument| Bound::whole(argument.name, &out));
    let bound: Vec<Bound<'_>> = bound.into_iter().chain(written).collect();
    encode(shader, plan, &bound, device)?;
    Ok(MetalStorage::new(out, device.clone(), plan.elements, dtype))
}

/// Encodes `plan` over memory for all of the kernel's arguments; nothing waits for the GPU.
pub(crate) fn encode<P>(
    shader: &Shader,
    plan: &Plan<P>,
    bound: &[Bound<'_>],
    device: &MetalDevice,
) -> Result<()> {
    let pipeline = pipeline(shader, &plan.kernel, device)?;
    let encoder = device.command_encoder()?;
    encoder.set_label(shader.op);
    encoder.set_compute_pipeline_state(&pipeline);
    let arguments = encoder.as_ref();
    for (index, argument) in shader.arguments.iter().enumerate() {
        if argument.used == Use::Params {
            arguments.set_bytes(index, &plan.params);
            continue;
        }
        let Some(bound) = bound.iter().find(|bound| bound.name == argument.name) else {
            bail!("{}: nothing is bound to {}", plan.kernel, argument.name);
        };
        // Both remember the buffer, so that Candle places a barrier between a write and what reads
        // it.
        match argument.used {
            Use::Read => arguments.set_input_buffer(index, Some(bound.buffer), bound.offset),
            _ => arguments.set_output_buffer(index, Some(bound.buffer), bound.offset),
        }
    }
    let grid = Grid::covering(plan.threads, pipeline.max_total_threads_per_threadgroup());
    arguments.dispatch_thread_groups(size(grid.groups), size(grid.threads));
    Ok(())
}

fn size([width, height, depth]: [usize; 3]) -> MTLSize {
    MTLSize {
        width,
        height,
        depth,
    }
}

/// The pipelines of one op on one device, by the kernels' names.
type Pipelines = HashMap<String, ComputePipeline>;

/// Every kernel compiled so far.
static PIPELINES: Mutex<Option<HashMap<(DeviceId, &'static str), Pipelines>>> = Mutex::new(None);

/// The pipeline of a kernel; the first use of an op on a device compiles the op's source.
fn pipeline(shader: &Shader, kernel: &str, device: &MetalDevice) -> Result<ComputePipeline> {
    let mut cache = PIPELINES.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = cache
        .get_or_insert_default()
        .entry((device.id(), shader.op))
        .or_default();
    if let Some(pipeline) = compiled.get(kernel) {
        return Ok(pipeline.clone());
    }
    let options = MTLCompileOptions::new();
    // The kernels wait for memory, not for arithmetic, and a place may be infinite or not a number.
    // The newer `setMathMode` is not on every macOS that Candle supports.
    #[allow(deprecated)]
    options.setFastMathEnabled(false);
    let failed = |error| Error::Msg(format!("{kernel}: {error}")).bt();
    let library = device
        .device()
        .new_library_with_source(shader.source, Some(&options))
        .map_err(failed)?;
    // A kernel on bfloat16 is missing where the system's Metal is older than 3.1.
    let function = library.get_function(kernel, None).map_err(failed)?;
    let pipeline = device
        .device()
        .new_compute_pipeline_state_with_function(&function)
        .map_err(failed)?;
    compiled.insert(kernel.to_string(), pipeline.clone());
    Ok(pipeline)
}
