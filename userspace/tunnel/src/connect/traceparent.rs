//! `traceparent` (W3C Trace Context, version 00).

use std::fmt;

const LEN: usize = 55;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// What a byte that is no digit counts.
const NO_DIGIT: u8 = 0x80;
/// What each byte counts as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// The trace that a connection belongs to: `00-<32 hex>-<16 hex>-<2 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// 16 bytes of trace id, not all zero.
    pub trace: u128,
    /// 8 bytes of parent id, not all zero.
    pub parent: u64,
    /// The flags; 1 means sampled.
    pub flags: u8,
}

impl Traceparent {
    /// Reads exactly the 55 characters of version 00; anything else is absent.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let dashes = bytes.len() == LEN && [2, 35, 52].iter().all(|&at| bytes[at] == b'-');
        if !dashes || !text.is_ascii() || &text[..2] != "00" {
            return None;
        }
        let trace = u128::from_be_bytes(number(&bytes[3..35])?);
        let parent = u64::from_be_bytes(number(&bytes[36..52])?);
        let [flags] = number(&bytes[53..55])?;
        (trace != 0 && parent != 0).then_some(Self { trace, parent, flags })
    }

    /// Its 55 characters.
    pub fn text(self) -> [u8; LEN] {
        let mut text = [b'-'; LEN];
        text[..2].copy_from_slice(b"00");
        put(&mut text[3..35], &self.trace.to_be_bytes());
        put(&mut text[36..52], &self.parent.to_be_bytes());
        put(&mut text[53..55], &[self.flags]);
        text
    }

    /// A new trace, not sampled.
    pub fn random() -> Self {
        Self { trace: rand::random::<u128>() | 1, parent: rand::random::<u64>() | 1, flags: 0 }
    }
}

/// The bytes that twice as many digits in small letters say; nothing else is allowed (section 3.2.2).
fn number<const LEN: usize>(digits: &[u8]) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    // One mark for all digits instead of one decision for each.
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        wrong |= high | low;
        *byte = high << 4 | low & 15;
    }
    (wrong & NO_DIGIT == 0).then_some(bytes)
}

/// Two digits for each byte.
fn put(digits: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
