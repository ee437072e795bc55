//! The allocator's habits.

/// Keeps large freed blocks for the next tensor instead of returning them to the system.
///
/// A forward pass allocates and frees the same tens of megabytes hundreds of times; returned and asked for anew, each
/// page is cleared by the kernel again, which takes several percent of the time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn keep_freed_blocks() {
    const NEVER: libc::c_int = libc::c_int::MAX;
    // SAFETY: `mallopt` only sets two numbers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, NEVER);
        libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
    }
}

/// Other systems' allocators keep large blocks by themselves, or offer no such choice.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_blocks() {}

/// Returns the blocks that [`keep_freed_blocks`] kept to the system, for a measurement of what comes next.
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
