//! The C library's allocator, which libtorch uses.

/// Keeps freed memory in the process, for the next step to use. glibc gives blocks of over 32 MB back at once, and a step of base size
/// would spend a fifth of its time on pages that the kernel clears anew. To be called before there are threads; elsewhere than under
/// glibc it does nothing.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt changes how later blocks are had and given back, and no block that is there.
    unsafe {
        // No blocks of their own from the kernel, and none given back (-1). Where it refuses, a step is slower and nothing else.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
