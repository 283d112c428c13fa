//! Frames in one piece and in many.

use super::*;
use crate::http2::frame::put;

#[derive(Debug, PartialEq, Eq, Default)]
struct Seen {
    /// Per stream: payload, what counted against the windows, and whether it ended.
    data: Vec<(u32, Vec<u8>, u32, bool)>,
    frames: Vec<(u8, u32, Vec<u8>)>,
}

/// Reads `bytes` in steps of `step`; DATA pieces of one stream that follow one another are joined.
fn read(bytes: &[u8], step: usize) -> Result<Seen, u32> {
    let mut reader = Reader::new(1 << 20);
    let mut seen = Seen::default();
    for mut part in bytes.chunks(step) {
        while let Some(piece) = reader.next(&mut part)? {
            match piece {
                Piece::Data { stream, bytes, flow, end, .. } => match seen.data.last_mut() {
                    Some(last) if last.0 == stream && !last.3 => {
                        last.1.extend_from_slice(bytes);
                        (last.2, last.3) = (last.2 + flow, end);
                    }
                    _ => seen.data.push((stream, bytes.to_vec(), flow, end)),
                },
                Piece::Frame { head, payload } => seen.frames.push((head.kind, head.stream, payload.to_vec())),
            }
        }
        assert!(part.is_empty());
    }
    Ok(seen)
}

#[test]
fn frames_are_the_same_however_they_are_cut() {
    let mut bytes = Vec::new();
    put(&mut bytes, kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    put(&mut bytes, kind::DATA, 0, 1, &[7; 300]);
    put(&mut bytes, kind::DATA, flag::PADDED, 3, &[[5].as_slice(), b"hello", &[0; 5]].concat());
    put(&mut bytes, kind::DATA, flag::PADDED | flag::END_STREAM, 3, &[2, 0, 0]);
    put(&mut bytes, kind::HEADERS, flag::END_HEADERS, 5, &[0x88; 40]);
    put(&mut bytes, kind::DATA, flag::END_STREAM, 1, &[]);
    put(&mut bytes, 0x55, 0xff, 9, b"unknown");
    let whole = read(&bytes, bytes.len()).unwrap();
    let data = vec![(1, vec![7; 300], 300, false), (3, b"hello".to_vec(), 14, true), (1, vec![], 0, true)];
    assert_eq!(whole.data, data);
    assert_eq!(whole.frames.iter().map(|f| f.0).collect::<Vec<_>>(), [kind::SETTINGS, kind::HEADERS, 0x55]);
    for step in 1..60 {
        assert_eq!(read(&bytes, step).as_ref(), Ok(&whole), "in steps of {step}");
    }
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let mut padded = Vec::new();
    put(&mut padded, kind::DATA, flag::PADDED, 1, &[4, 0, 0]);
    assert_eq!(read(&padded, 100), Err(code::PROTOCOL_ERROR), "more padding than payload");
    let mut padded = Vec::new();
    put(&mut padded, kind::DATA, flag::PADDED, 1, &[]);
    assert_eq!(read(&padded, 100), Err(code::FRAME_SIZE_ERROR), "no room for the length of the padding");
    let head = |len, kind| Head { len, kind, flags: 0, stream: 1 }.bytes();
    assert_eq!(read(&head((1 << 20) + 1, kind::DATA), 9), Err(code::FRAME_SIZE_ERROR));
    assert_eq!(read(&head(1 << 20, kind::HEADERS), 9), Err(code::ENHANCE_YOUR_CALM), "nobody gathers a mebibyte");
}

#[test]
fn more_follows_while_payload_is_missing_and_not_for_padding() {
    let mut bytes = Vec::new();
    put(&mut bytes, kind::DATA, flag::PADDED, 3, &[[5].as_slice(), b"hello", &[0; 5]].concat());
    let mut reader = Reader::new(1 << 20);
    let mut more = |part: &[u8]| {
        let mut part = part;
        match reader.next(&mut part) {
            Ok(Some(Piece::Data { bytes, more, .. })) => (bytes.to_vec(), more),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(more(&bytes[..13]), (b"hel".to_vec(), true));
    assert_eq!(more(&bytes[13..15]), (b"lo".to_vec(), false), "what is missing is padding");
}
