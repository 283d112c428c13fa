use super::*;

#[test]
fn a_text_cut_by_a_segment_border_is_found_and_counted_once() {
    let mut seen = Seen::default();
    let segment = |payload: &[u8]| {
        let mut frame = vec![0_u8; 12];
        frame.extend([0x08, 0x00]);
        let total = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        // Padding of a short frame is no payload.
        frame.extend([0; 6]);
        frame
    };
    seen.add("a", &segment(b"one mar"));
    seen.add("a", &segment(b"ker two"));
    assert_eq!(seen.count(b"marker"), 1);
    assert!(!seen.contains(b"one marker three"));
    assert_eq!(seen.payload_bytes(), 14);
}

#[test]
fn a_needle_longer_than_everything_is_not_found() {
    assert_eq!(occurrences(b"ab", b"abc"), 0);
    assert_eq!(occurrences(b"aaaa", b"aa"), 3);
    assert_eq!(occurrences(b"", b"a"), 0);
}
