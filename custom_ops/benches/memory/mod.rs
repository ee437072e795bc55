//! The allocator's habits, as the program sets them.

/// Keeps freed blocks for the next output, so that no side of a comparison waits for the system to
/// clear new pages.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn keep_freed_blocks() {
    // SAFETY: `mallopt` only sets two numbers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Other systems' allocators keep large blocks by themselves, or offer no such choice.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_blocks() {}
