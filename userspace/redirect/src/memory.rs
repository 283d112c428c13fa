//! Giving memory back to the kernel.

/// Returns what the allocator holds but nobody uses. glibc's keeps the pages of thousands of ended connections for as
/// long as anything newer lies above them, so resident memory would stay at its peak. Takes the allocator's locks for
/// milliseconds: call it after a peak, from a thread that carries no connections. Nothing to do with other allocators.
pub fn return_unused_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers, may be called at any time from any thread, and frees only pages that hold
    // no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
