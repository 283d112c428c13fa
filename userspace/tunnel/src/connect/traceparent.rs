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
        let trace = u128::from_str_radix(hex(&text[3..35])?, 16).ok()?;
        let parent = u64::from_str_radix(hex(&text[36..52])?, 16).ok()?;
        let flags = u8::from_str_radix(hex(&text[53..55])?, 16).ok()?;
        (trace != 0 && parent != 0).then_some(Self { trace, parent, flags })
    }

    /// A new trace, not sampled.
    pub fn random() -> Self {
        Self { trace: rand::random::<u128>() | 1, parent: rand::random::<u64>() | 1, flags: 0 }
    }
}

/// The text, if it is nothing but lower-case hexadecimal digits (`from_str_radix` would accept a sign).
fn hex(text: &str) -> Option<&str> {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(text)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }
}

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
