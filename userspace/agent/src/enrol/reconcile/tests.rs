use super::{Tide, WORTH_IT};

#[test]
fn memory_is_given_back_when_a_peak_is_over_also_one_between_two_looks() {
    let mut tide = Tide::default();
    assert!(!tide.is_out(0) && !tide.is_out(WORTH_IT / 2), "too little has ended");
    assert!(!tide.is_out(5_000), "they are still ending");
    assert!(!tide.is_out(9_000), "they are still ending");
    assert!(tide.is_out(9_001), "it has become quiet");
    assert!(!tide.is_out(9_001), "once is enough");
    assert!(!tide.is_out(10) && !tide.is_out(11), "a pod has gone and taken its count along");
    assert!(!tide.is_out(5_000) && tide.is_out(5_000), "the next peak");
}
