//! Work of a CUDA device that is captured once and replayed: one launch in place of hundreds.

#![allow(unsafe_code)] // Copies between raw addresses; a captured graph between threads.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;

use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, result, sys};
use candle_core::cuda_backend::{CudaDevice, WrapErr as _};
use candle_core::{Device, Result, Tensor, bail};

use super::cuda::first_element;

/// Held by whoever gives work to a stream, alone by whoever captures one: what another thread gave
/// it meanwhile would become a part of the graph.
static TURN: RwLock<()> = RwLock::new(());

/// To be held while work is given to a device from a thread that may not be the only one; see
/// [`CapturedWork::new`]. A thread must not ask for a second one.
pub fn device_turn() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

fn only_turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// What [`keep_captured`] was given, while this thread captures.
    static KEPT: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) };
}

/// Says that a tensor which work reads lives in a cache that may let go of it: where the work is
/// being captured, its graph keeps the tensor.
pub fn keep_captured(tensor: &Tensor) {
    KEPT.with_borrow_mut(|kept| {
        if let Some(kept) = kept {
            kept.push(tensor.clone());
        }
    });
}

/// A function of tensors on a CUDA device, captured with the memory that it reads and writes.
pub struct CapturedWork {
    graph: Graph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Read by the graph, besides the inputs and what the function itself owns.
    _kept: Vec<Tensor>,
}

struct Graph(CudaGraph);

// SAFETY: whoever has it is the only one to use it, and launching makes its context current.
unsafe impl Send for Graph {}

/// A function of tensors.
pub type Work<'a> = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Sync + 'a;

impl CapturedWork {
    /// Captures what `work` gives to the device for inputs of these shapes. It is run once before,
    /// so that modules and tables are there, and once while its stream is captured.
    ///
    /// `work` must be the same at every call: tensors that it reads besides its inputs must live as
    /// long as it, or be said to [`keep_captured`]; it may neither wait for the device nor upload
    /// anything while it is captured, which is an error here. The device must be one that
    /// [`open_cuda`](crate::open_cuda) opened. Work that other threads give to the device while this
    /// goes on has to hold a [`device_turn`].
    ///
    /// # Errors
    /// Of `work` and of the device; the stream is as before then.
    pub fn new(device: &Device, inputs: &[&Tensor], work: &Work<'_>) -> Result<Self> {
        let cuda = device.as_cuda_device()?;
        if cuda.is_event_tracking() {
            bail!("a graph of a device whose tensors are tracked across streams");
        }
        let owned = |tensors: &[&Tensor]| {
            let copies = tensors.iter().map(|tensor| tensor.force_contiguous());
            copies.collect::<Result<Vec<_>>>()
        };
        let _turn = only_turn();
        let inputs = owned(inputs)?;
        let outputs = {
            // What Candle uploads for a launch stays on the device from now on.
            let _kept = cuda.enable_cuda_graph_htod_cache();
            owned(&work(&inputs)?.iter().collect::<Vec<_>>())?
        };
        cuda.cuda_stream().synchronize().w()?;
        // Other things that Candle uploads stay there as long as the thread: a thread that has none
        // of them cannot capture what would be read after its end.
        let captured = thread::scope(|scope| {
            scope
                .spawn(|| capture(cuda, &inputs, &outputs, work))
                .join()
        });
        let (graph, kept) = match captured {
            Ok(captured) => captured?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok(Self {
            graph,
            inputs,
            outputs,
            _kept: kept,
        })
    }

    /// The outputs for other inputs of the same shapes and dtypes, in memory of their own.
    ///
    /// # Errors
    /// Inputs unlike those captured; errors of the device.
    pub fn replay(&mut self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            bail!(
                "{} inputs for a graph of {}",
                inputs.len(),
                self.inputs.len()
            );
        }
        let Some(device) = self.inputs.first().map(Tensor::device) else {
            bail!("a graph without inputs");
        };
        let stream = device.as_cuda_device()?.cuda_stream();
        for (to, from) in self.inputs.iter().zip(inputs) {
            copy_into(to, from, &stream)?;
        }
        self.graph.0.launch().w()?;
        self.outputs.iter().map(Tensor::copy).collect()
    }
}

/// Gives back the memory that graphs which are no more had, once the device is done with them.
///
/// # Errors
/// Of the device.
pub fn release_graph_memory(device: &Device) -> Result<()> {
    let stream = device.as_cuda_device()?.cuda_stream();
    stream.synchronize().w()?;
    // SAFETY: the context is current; only memory that nothing uses is given back.
    unsafe { sys::cuDeviceGraphMemTrim(stream.context().cu_device()) }
        .result()
        .w()
}

/// Ends a capture that nobody ended, so that the stream can be used again.
struct Capturing<'a>(Option<&'a std::sync::Arc<CudaStream>>);

impl<'a> Capturing<'a> {
    fn begin(stream: &'a std::sync::Arc<CudaStream>) -> Result<Self> {
        KEPT.set(Some(Vec::new()));
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).w()?;
        Ok(Self(Some(stream)))
    }

    /// The graph, and what it needs kept.
    fn end(mut self) -> Result<(Graph, Vec<Tensor>)> {
        let Some(stream) = self.0.take() else {
            bail!("a capture ends once");
        };
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        match stream.end_capture(flags).w()? {
            Some(graph) => Ok((Graph(graph), KEPT.take().unwrap_or_default())),
            None => bail!("the capture was broken off"),
        }
    }
}

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        KEPT.set(None);
        if let Some(stream) = self.0.take() {
            // The graph of a part of the work is of no use; a capture that an error has ended says
            // so again, as do the tensors that it left behind.
            let flags = sys::CUgraphInstantiate_flags(0);
            drop(stream.end_capture(flags));
            let _ = stream.context().check_err();
        }
    }
}

fn capture(
    device: &CudaDevice,
    inputs: &[Tensor],
    outputs: &[Tensor],
    work: &Work<'_>,
) -> Result<(Graph, Vec<Tensor>)> {
    let stream = device.cuda_stream();
    let _kept = device.enable_cuda_graph_htod_cache();
    let capturing = Capturing::begin(&stream)?;
    {
        let made = work(inputs)?;
        if made.len() != outputs.len() {
            bail!("{} outputs, and {} before", made.len(), outputs.len());
        }
        for (to, from) in outputs.iter().zip(&made) {
            copy_into(to, from, &stream)?;
        }
    }
    capturing.end()
}

/// Copies `from` into the memory of `to`, which is contiguous, in order with the stream.
fn copy_into(to: &Tensor, from: &Tensor, stream: &CudaStream) -> Result<()> {
    if to.shape() != from.shape() || to.dtype() != from.dtype() {
        bail!(
            "{:?} {} in place of {:?} {}",
            from.dims(),
            from.dtype().as_str(),
            to.dims(),
            to.dtype().as_str()
        );
    }
    let from = from.contiguous()?;
    let bytes = to.elem_count() * to.dtype().size_in_bytes();
    let at = |tensor: &Tensor| first_element("graph", tensor, stream);
    let (target, source) = (at(to)?, at(&from)?);
    stream.context().bind_to_thread().w()?;
    // SAFETY: both are that large, and contiguous; whoever writes or frees them does so in order
    // with the stream.
    unsafe { result::memcpy_dtod_async(target, source, bytes, stream.cu_stream()) }.w()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::cuda::test_device;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn numbers(from: f32, device: &Device) -> Tensor {
        Tensor::arange(from, from + 6., &Device::Cpu)
            .unwrap()
            .reshape((2, 3))
            .unwrap()
            .to_device(device)
            .unwrap()
    }

    #[test]
    fn a_replay_is_the_work_on_other_inputs() {
        let Some(device) = test_device() else { return };
        let weight = numbers(1., &device);
        let work = |inputs: &[Tensor]| {
            // A product, a sum with strides, and a view of a part of another.
            let product = inputs[0].matmul(&weight.t()?.contiguous()?)?;
            let sum = (&inputs[0] + inputs[1].t()?)?;
            Ok(vec![product, sum.narrow(1, 1, 2)?])
        };
        let turned = |from: f32| numbers(from, &device).reshape((3, 2)).unwrap();
        let (first, second) = (numbers(0., &device), turned(3.));
        let mut captured = CapturedWork::new(&device, &[&first, &second], &work).unwrap();
        let mut earlier: Option<(Vec<Tensor>, Vec<Vec<f32>>)> = None;
        for start in [5., -7., 11.] {
            let inputs = [numbers(start, &device), turned(2. * start)];
            let want: Vec<_> = work(&inputs).unwrap().iter().map(values).collect();
            let got = captured.replay(&[&inputs[0], &inputs[1]]).unwrap();
            assert_eq!(got.iter().map(values).collect::<Vec<_>>(), want);
            // What an earlier replay returned is not written over.
            if let Some((tensors, numbers)) = &earlier {
                assert_eq!(&tensors.iter().map(values).collect::<Vec<_>>(), numbers);
            }
            earlier = Some((got, want));
        }
        let message = captured.replay(&[&first, &first]).unwrap_err().to_string();
        assert!(
            message.contains("[2, 3] f32 in place of [3, 2]"),
            "{message}"
        );
    }

    #[test]
    fn work_that_uploads_or_waits_is_refused_and_the_stream_lives_on() {
        let Some(device) = test_device() else { return };
        let x = numbers(0., &device);
        let uploads = |inputs: &[Tensor]| {
            let added = Tensor::new(&[[1f32, 2., 3.]], inputs[0].device())?;
            Ok(vec![inputs[0].broadcast_add(&added)?])
        };
        let waits = |inputs: &[Tensor]| {
            let sum = inputs[0].sum_all()?.to_scalar::<f32>()?;
            Ok(vec![(&inputs[0] * f64::from(sum))?])
        };
        assert!(CapturedWork::new(&device, &[&x], &uploads).is_err());
        assert!(CapturedWork::new(&device, &[&x], &waits).is_err());
        let twice = |inputs: &[Tensor]| Ok(vec![(&inputs[0] * 2.)?]);
        let mut captured = CapturedWork::new(&device, &[&x], &twice).unwrap();
        let got = captured.replay(&[&numbers(1., &device)]).unwrap();
        assert_eq!(values(&got[0]), [2., 4., 6., 8., 10., 12.]);
    }
}
