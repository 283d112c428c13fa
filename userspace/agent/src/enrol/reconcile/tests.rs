use super::{Tide, WORTH_IT};

#[test]
fn memory_is_given_back_when_a_peak_is_over_also_one_between_two_looks() {
    let mut tide = Tide::default();
    assert!(!tide.is_out(0, 0) && !tide.is_out(WORTH_IT / 2, 0), "too little has ended");
    assert!(!tide.is_out(5_000, 0), "they are still ending");
    assert!(!tide.is_out(9_000, 0), "they are still ending");
    assert!(tide.is_out(9_001, 0), "it has become quiet");
    assert!(!tide.is_out(9_001, 0), "once is enough");
    assert!(!tide.is_out(10, 0) && !tide.is_out(11, 0), "a pod has gone and taken its count along");
    assert!(!tide.is_out(5_000, 0) && tide.is_out(5_000, 0), "the next peak");
}

#[test]
fn what_a_capture_leaves_goes_while_connections_come_and_go() {
    let mut tide = Tide::default();
    assert!(tide.is_out(5_000, 1) && !tide.is_out(10_000, 1), "once for a capture");
    assert!(tide.is_out(15_000, 3) && !tide.is_out(20_000, 3), "once for two");
    assert!(tide.is_out(20_001, 3), "the peak is another matter");
}
