//! Giving memory back to the kernel.

use std::ptr;

/// `arena.<all>.purge`: jemalloc's word for all arenas together is this number (`MALLCTL_ARENAS_ALL`).
const PURGE_ALL: &std::ffi::CStr = c"arena.4096.purge";

/// Returns what the allocator holds but nobody uses. By itself it gives pages back while others are asked for, and a pod
/// whose connections have ended asks for nothing: resident memory would stay at its peak. Takes the allocator's locks
/// for milliseconds: call it after a peak, from a thread that carries no connections. In a program with another
/// allocator it does nothing.
pub fn return_unused_memory() {
    // SAFETY: the name is a C string, and this control takes no value and gives none, so that all pointers may be null.
    unsafe {
        tikv_jemalloc_sys::mallctl(PURGE_ALL.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    }
}
