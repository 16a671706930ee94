//! Tuning of the C library's allocator, which libtorch uses.

/// Keeps freed memory in the process for the next step. glibc returns blocks of over 32 MB to the kernel at once, and a
/// step of base size would spend a fifth of its time on pages that the kernel clears again. Must be called before any
/// threads exist; a no-op without glibc.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only affects later allocations; existing blocks are untouched.
    unsafe {
        // Turns off mmap for large blocks and trimming (-1). If mallopt refuses, steps are only slower.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
