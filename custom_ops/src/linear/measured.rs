//! Which of several ways to compute a product is the fastest, of those that give the same bits.

#![allow(unsafe_code)] // Raw addresses, a launch; the arguments are those of differing.cu.

use std::cell::Cell;

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, PushKernelArg as _, result, sys,
};
use candle_core::cuda_backend::{CudaDevice, WrapErr as _};
use candle_core::{Result, bail};

use crate::launch::cuda::{BLOCK, Module, grid};
use crate::launch::kernel_number;

const MODULE: Module = Module {
    name: "mast3r_differing",
    ptx: include_str!(concat!(env!("OUT_DIR"), "/differing.ptx")),
};

/// Timed runs of each.
const RUNS: usize = 5;
/// A way must take at most this share of the first one's time: less is noise.
const WORTH_WHILE: f32 = 0.97;
/// Blocks that compare.
const BLOCKS: u32 = 264;

thread_local! {
    static MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in [`measuring_products`].
pub(super) fn is_measuring() -> bool {
    MEASURING.get()
}

/// Does `work`, and measures each product that this thread computes in it and whose shape was not
/// measured before, which takes about two milliseconds a shape. From then on products of this shape
/// are computed in the fastest way that the library has for them, of those that gave the same bits
/// as the one that it suggests: which one is chosen depends on times, results do not.
pub fn measuring_products<T>(work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            MEASURING.set(self.0);
        }
    }
    let _before = Before(MEASURING.replace(true));
    work()
}

/// What ways of computing one product have in common.
pub(super) struct Contest<'a> {
    pub(super) device: &'a CudaDevice,
    /// Written over before every timed run, so that weights do not come from the cache, as in a
    /// network they do not.
    pub(super) scratch: &'a CudaSlice<u8>,
    /// Where the first way's result goes, and how many bytes it has.
    pub(super) result: u64,
    pub(super) bytes: usize,
}

impl Contest<'_> {
    /// The fastest of `count` ways, of which `run` does one into an address. Ways that fail or whose
    /// bits are not those of the first do not count.
    pub(super) fn fastest(
        &self,
        count: usize,
        run: impl Fn(usize, u64) -> Result<()>,
    ) -> Result<usize> {
        if count < 2 || !self.bytes.is_multiple_of(4) {
            return Ok(0);
        }
        let stream = self.device.cuda_stream();
        // SAFETY: each way writes all of it, after it was poisoned.
        let other = unsafe { self.device.alloc::<u8>(self.bytes)? };
        let address = other.device_ptr(&stream).0;
        run(0, self.result)?;
        let mut eligible = vec![0];
        for way in 1..count {
            self.write_over(address, self.bytes)?;
            if run(way, address).is_ok() && self.is_same(address)? {
                eligible.push(way);
            }
        }
        if eligible.len() < 2 {
            return Ok(0);
        }
        let mut times: Vec<Vec<_>> = eligible.iter().map(|_| Vec::new()).collect();
        let scratch = self.scratch.device_ptr(&stream).0;
        for _ in 0..RUNS {
            for (&way, times) in eligible.iter().zip(&mut times) {
                let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
                self.write_over(scratch, self.scratch.len())?;
                let start = stream.record_event(timed).w()?;
                run(way, address)?;
                times.push((start, stream.record_event(timed).w()?));
            }
        }
        let mut medians = Vec::with_capacity(times.len());
        for times in &times {
            let mut times = times
                .iter()
                .map(|(start, end)| start.elapsed_ms(end).w())
                .collect::<Result<Vec<f32>>>()?;
            times.sort_by(f32::total_cmp);
            medians.push(times[times.len() / 2]);
        }
        let best = (0..medians.len()).min_by(|&a, &b| medians[a].total_cmp(&medians[b]));
        Ok(match best {
            Some(best) if medians[best] <= WORTH_WHILE * medians[0] => eligible[best],
            _ => 0,
        })
    }

    fn write_over(&self, address: u64, bytes: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        // SAFETY: so many bytes are there, and what reads them comes later on the stream.
        unsafe { result::memset_d8_async(address, 0xff, bytes, stream.cu_stream()) }.w()
    }

    fn is_same(&self, address: u64) -> Result<bool> {
        let words = kernel_number("product", "a result's size", self.bytes / 4)?;
        let mut found = self.device.alloc_zeros::<u32>(1)?;
        let function = self
            .device
            .get_or_load_custom_func("differing", MODULE.name, MODULE.ptx)?;
        let mut builder = function.builder();
        builder
            .arg(&self.result)
            .arg(&address)
            .arg(&words)
            .arg(&mut found);
        // SAFETY: as the kernel declares them; both results have so many words.
        unsafe { builder.launch(grid(BLOCKS * BLOCK, 1)) }.w()?;
        match self.device.clone_dtoh(&found)?[..] {
            [differing] => Ok(differing == 0),
            _ => bail!("product: one number expected"),
        }
    }
}
