//! What a peak has used goes back to the kernel when it is told to.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Resident memory in pages (proc_pid_statm(5)).
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_peak_is_given_back() {
    const PEAK: usize = 16 * 1024;
    let peak: Vec<Box<[u8]>> = (0..PEAK).map(|_| vec![1; 4096].into_boxed_slice()).collect();
    let before = resident();
    drop(peak);
    let kept = resident();
    assert!(kept + PEAK / 2 > before, "most of the peak is still here, or this test shows nothing: {before} -> {kept}");
    culvert_redirect::return_unused_memory();
    let after = resident();
    assert!(after + PEAK / 2 < kept, "{kept} pages before, {after} after");
}
