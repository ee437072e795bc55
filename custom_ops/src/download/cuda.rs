//! Copies from a CUDA device that the host need not wait for.

#![allow(unsafe_code)] // Copies between raw addresses.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, DevicePtr, DriverError, PinnedHostSlice, result,
};
use candle_core::{CudaDevice, Result, Tensor};

use crate::launch::cuda::address;
use crate::launch::graph::device_turn;

/// Ordinary page-locked memory: the host reads what arrives in it.
const PLAIN: u32 = 0;
/// Pieces of page-locked memory that are kept, at most. A pair of views takes two, and several
/// groups of pairs may arrive at a time.
const MOST_KEPT: usize = 64;

/// Page-locked memory that no download uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<PinnedHostSlice<u32>>>>);

/// Words on their way to page-locked memory.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Until it goes back to the pool.
    memory: Option<PinnedHostSlice<u32>>,
    words: usize,
    /// When they have all arrived.
    arrival: CudaEvent,
    pool: Pool,
}

impl Pool {
    pub(super) fn begin_tensors(&self, device: &CudaDevice, tensors: &[&Tensor]) -> Result<Copies> {
        let _turn = device_turn();
        let whole: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.contiguous())
            .collect::<Result<_>>()?;
        let stream = device.cuda_stream();
        let source =
            |tensor: &Tensor| Ok((address("download", tensor, &stream)?, tensor.elem_count()));
        let sources = whole.iter().map(source).collect::<Result<Vec<_>>>()?;
        self.begin(device, &sources)
    }

    /// Begins to bring whole buffers to the host. They may be let go of at once: what is freed on
    /// their stream is free after the copies.
    pub(crate) fn begin_words(
        &self,
        device: &CudaDevice,
        buffers: &[&CudaSlice<u32>],
    ) -> Result<Copies> {
        let stream = device.cuda_stream();
        let sources: Vec<_> = buffers
            .iter()
            .map(|buffer| (buffer.device_ptr(&stream).0, buffer.len()))
            .collect();
        self.begin(device, &sources)
    }

    /// Begins to bring so many words from each address to the host, one after the other.
    fn begin(&self, device: &CudaDevice, sources: &[(u64, usize)]) -> Result<Copies> {
        let stream = device.cuda_stream();
        let words = sources.iter().map(|(_, words)| words).sum();
        let mut memory = self.take(stream.context(), words)?;
        let arrival = stream.context().new_event(None).w()?;
        let mut rest = memory.as_mut_slice().w()?;
        let copy = |&(from, words): &(u64, usize)| {
            let (to, after) = std::mem::take(&mut rest).split_at_mut(words);
            rest = after;
            // SAFETY: that many words are at the address, and `Copies` neither reads nor lets go of
            // theirs before they have arrived.
            unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }
        };
        let begun = sources.iter().try_for_each(copy);
        // Some may be under way where another could not begin, and an event that was not recorded
        // counts as past: only the stream tells when they are done.
        if let Err(error) = begun.and_then(|()| arrival.record(&stream)) {
            self.give_back_after(memory, stream.synchronize());
            return Err(error).w();
        }
        Ok(Copies {
            memory: Some(memory),
            words,
            arrival,
            pool: self.clone(),
        })
    }

    /// The smallest piece that is large enough.
    fn take(&self, context: &Arc<CudaContext>, words: usize) -> Result<PinnedHostSlice<u32>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &PinnedHostSlice<u32>| {
            memory.len() >= words && Arc::ptr_eq(memory.context(), context)
        };
        let fitting = (0..kept.len()).filter(|&index| fits(&kept[index]));
        if let Some(index) = fitting.min_by_key(|&index| kept[index].len()) {
            return Ok(kept.swap_remove(index));
        }
        drop(kept);
        // SAFETY: nothing is read before it was copied there.
        unsafe { context.alloc_pinned_with_flags(words.max(1), PLAIN) }.w()
    }

    /// Keeps memory for later downloads if waiting for the copies into it succeeded; else something
    /// may still be on its way to it, and nobody gets it.
    fn give_back_after(
        &self,
        memory: PinnedHostSlice<u32>,
        waited: std::result::Result<(), DriverError>,
    ) {
        if waited.is_err() {
            return std::mem::forget(memory);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(memory);
        if kept.len() > MOST_KEPT {
            let smallest = (0..kept.len()).min_by_key(|&index| kept[index].len());
            smallest.map(|index| kept.swap_remove(index));
        }
    }
}

impl Copies {
    /// The words, once they have arrived.
    pub(crate) fn words(&self) -> Result<&[u32]> {
        self.arrival.synchronize().w()?;
        let Some(memory) = &self.memory else {
            return Ok(&[]);
        };
        Ok(&memory.as_slice().w()?[..self.words])
    }

    /// The words, which must be numbers.
    pub(super) fn floats(&self) -> Result<&[f32]> {
        let words = self.words()?;
        // SAFETY: of the same size and alignment, and any word is a float32 number.
        Ok(unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) })
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool
                .give_back_after(memory, self.arrival.synchronize());
        }
    }
}
