//! The allocator: what it does when memory is refused, and its habits.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The system's allocator, but for memory that it refuses: the program then ends with a message and
/// exit code 1, where the standard library would abort it.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: every call goes to the system's allocator as it is; null is the only result that is not
// passed on, and how large a block's pages are changes nothing that is in it.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        granted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        granted(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        granted(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// A block of `size` bytes that is there; otherwise the program ends.
fn granted(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        end_for_want_of(size);
    }
    #[cfg(target_os = "linux")]
    if size >= 2 * LARGE_PAGE {
        ask_for_large_pages(block, size);
    }
    block
}

/// Bytes of a large page of most processors.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Asks the system for large pages where a block fills them: one is cleared much faster than the 512
/// small ones in its place, and its address is found faster from then on, most of all in a virtual
/// machine.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn ask_for_large_pages(block: *mut u8, size: usize) {
    let skipped = block.align_offset(LARGE_PAGE);
    let whole = size.saturating_sub(skipped) / LARGE_PAGE * LARGE_PAGE;
    // SAFETY: the range is inside the block. Advice changes no contents; refused, pages are small.
    unsafe {
        libc::madvise(
            block.wrapping_add(skipped).cast(),
            whole,
            libc::MADV_HUGEPAGE,
        );
    }
}

/// Ends the program because the system refuses `size` bytes. Nothing here allocates but the removal
/// of unfinished outputs, a few hundred bytes.
#[cold]
fn end_for_want_of(size: usize) -> ! {
    static IS_ENDING: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static IS_ENDING_HERE: Cell<bool> = const { Cell::new(false) };
    }
    if IS_ENDING_HERE.get() {
        // Not even the little that an orderly end takes is there.
        std::process::abort();
    }
    IS_ENDING_HERE.set(true);
    if IS_ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is ending the program.
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let mebibytes = size as f64 / f64::from(1u32 << 20);
    // Where nobody listens there is nobody to be told.
    let _ = writeln!(
        io::stderr(),
        "error: out of memory: the system refused {size} bytes ({mebibytes:.1} MiB); use a smaller --res, fewer \
         --threads or fewer images, or raise the memory limit (ulimit -v)"
    );
    mast3r::export::try_remove_temporaries();
    std::process::exit(1);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use libc::c_int;

/// Sizes from which on the allocator asks the system for each block, the best first. glibc before
/// 2.35 refuses more than 32 MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLDS: [c_int; 2] = [c_int::MAX, 32 << 20];

/// Keeps large freed blocks for the next tensor instead of returning them to the system.
///
/// A forward pass allocates and frees the same tens of megabytes hundreds of times; returned and
/// asked for anew, each page is cleared by the kernel again, which takes several percent of the
/// time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn keep_freed_blocks() {
    // SAFETY: `mallopt` only sets a number; no other thread runs yet.
    keep_by(|parameter, value| unsafe { libc::mallopt(parameter, value) } == 1);
}

/// Sets by `set`, which says whether a value was accepted.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_by(mut set: impl FnMut(c_int, c_int) -> bool) {
    // Setting either number ends glibc's own adaptation of both. Where no threshold is accepted
    // that adaptation is better than what would be left: 128 KiB for good, so that the system is
    // asked for every tensor.
    if THRESHOLDS
        .into_iter()
        .any(|threshold| set(libc::M_MMAP_THRESHOLD, threshold))
    {
        // If this is refused, freed blocks at the end of the heap go back to the system, which
        // costs time alone.
        set(libc::M_TRIM_THRESHOLD, c_int::MAX);
    }
}

/// Other systems' allocators keep large blocks by themselves, or offer no such choice.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_blocks() {}

/// Returns the blocks that [`keep_freed_blocks`] kept to the system, for a measurement of what
/// comes next.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn release() {
    // SAFETY: `malloc_trim` touches free blocks only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Nothing was kept on purpose.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn release() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// What is set where thresholds of at most `most` are accepted.
    fn set_below(most: c_int) -> Vec<(c_int, c_int)> {
        let mut accepted = Vec::new();
        keep_by(|parameter, value| {
            let accepts = parameter != libc::M_MMAP_THRESHOLD || value <= most;
            if accepts {
                accepted.push((parameter, value));
            }
            accepts
        });
        accepted
    }

    #[test]
    fn old_glibc_gets_the_largest_threshold_that_it_accepts() {
        let trim = (libc::M_TRIM_THRESHOLD, c_int::MAX);
        assert_eq!(
            set_below(c_int::MAX),
            [(libc::M_MMAP_THRESHOLD, c_int::MAX), trim]
        );
        assert_eq!(
            set_below(32 << 20),
            [(libc::M_MMAP_THRESHOLD, 32 << 20), trim]
        );
    }

    #[test]
    fn without_a_threshold_the_allocator_adapts_by_itself() {
        assert_eq!(set_below(0), []);
    }
}
