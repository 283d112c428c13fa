//! `traceparent` (W3C Trace Context, version 00).

use std::fmt;

const LEN: usize = 55;

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
        let trace = number(&bytes[3..35])?;
        let parent = u64::try_from(number(&bytes[36..52])?).ok()?;
        let flags = u8::try_from(number(&bytes[53..55])?).ok()?;
        (trace != 0 && parent != 0).then_some(Self { trace, parent, flags })
    }

    /// Its 55 characters.
    pub fn text(self) -> [u8; LEN] {
        let mut text = [b'-'; LEN];
        text[..2].copy_from_slice(b"00");
        put(&mut text[3..35], self.trace);
        put(&mut text[36..52], self.parent.into());
        put(&mut text[53..55], self.flags.into());
        text
    }

    /// A new trace, not sampled.
    pub fn random() -> Self {
        Self { trace: rand::random::<u128>() | 1, parent: rand::random::<u64>() | 1, flags: 0 }
    }
}

/// What at most 32 digits in small letters say; nothing else is allowed (section 3.2.2).
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The digits of a number, as many as there is room for.
fn put(digits: &mut [u8], number: u128) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
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
