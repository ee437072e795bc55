//! An allocator with a limit. libFuzzer measures resident memory, which does not show memory that
//! was asked for and not yet touched; a reader that believes a length in a file shows here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator; it ends the process when more than the limit is in use.
pub struct Bounded;

/// Sets the limit to `bytes` beyond what is in use now.
pub fn limit(bytes: usize) {
    LIMIT.store(LIVE.load(Relaxed) + bytes, Relaxed);
}

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    let limit = LIMIT.load(Relaxed);
    if live > limit {
        // The report allocates too.
        LIMIT.store(usize::MAX, Relaxed);
        eprintln!("MEMORY: {live} bytes are in use after {bytes} more, and {limit} are allowed");
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        std::process::abort();
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; only counters are kept
// beside it.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}
