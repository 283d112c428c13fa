use super::*;

fn sent(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    send_pattern(&mut bytes, seed, length).unwrap();
    bytes
}

#[test]
fn what_was_sent_is_what_is_expected_at_every_size_near_a_border() {
    let border = CHUNK as u64;
    for length in [0, 1, 7, 8, 9, border - 1, border, border + 1, 3 * border + 5] {
        let bytes = sent(42, length);
        assert_eq!(bytes.len() as u64, length);
        expect_pattern(&mut bytes.as_slice(), 42, length).unwrap();
    }
}

#[test]
fn a_changed_a_missing_and_an_exchanged_byte_are_noticed() {
    let good = sent(42, 1000);
    let mut changed = good.clone();
    changed[999] ^= 1;
    assert!(expect_pattern(&mut changed.as_slice(), 42, 1000).is_err());
    assert!(expect_pattern(&mut &good[..999], 42, 1000).is_err());
    let mut exchanged = good.clone();
    exchanged.swap(100, 101);
    assert!(expect_pattern(&mut exchanged.as_slice(), 42, 1000).is_err());
    assert!(expect_pattern(&mut good.as_slice(), 43, 1000).is_err());
}

#[test]
fn a_byte_too_many_is_noticed() {
    expect_end(&mut [].as_slice()).unwrap();
    assert!(expect_end(&mut [0].as_slice()).is_err());
}
