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

/// From this size on an allocation has pages of its own, which go back to the kernel with it, and so many free bytes at
/// the end of a heap go back as well.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 512 * 1024;

/// Keeps glibc's allocator from holding on to what a moment needed. Left alone it raises both limits to the size of
/// whatever large buffer is freed: the kernel's types, read at each enrolment, are 10 MB that would then stay in the
/// heap of each thread that ever read them. To be called before threads are made. Nothing to do with other allocators.
pub fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes no pointers; both parameters exist, and a value that it did not like would change nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, OWN_PAGES);
    }
}
