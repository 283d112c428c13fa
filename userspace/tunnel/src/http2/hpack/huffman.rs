//! The fixed Huffman code of RFC 7541 appendix B, for reading.

use std::sync::LazyLock;

use super::Broken;

/// Length of each byte's code, in bits. The code is canonical: within one length, codes follow the order of the bytes;
/// so the lengths say it all. The end-of-string symbol, which must not occur, has the last code of 30 bits.
pub(super) const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
const LONGEST: usize = 30;
/// Bits that are looked up at once.
const LOOK: u32 = 8;

struct Code {
    /// By the next eight bits: the byte and its length, for codes that are no longer than that; otherwise length 0.
    short: [(u8, u8); 1 << LOOK],
    /// By length: the first code, the number of codes, and where its bytes begin in `bytes`.
    lengths: [(u32, u32, usize); LONGEST + 1],
    /// All bytes, by code.
    bytes: Vec<u8>,
}

static CODE: LazyLock<Code> = LazyLock::new(Code::build);

impl Code {
    fn build() -> Self {
        let mut all = Self { short: [(0, 0); 1 << LOOK], lengths: [(0, 0, 0); LONGEST + 1], bytes: Vec::new() };
        let mut code = 0_u32;
        for length in 1..=LONGEST {
            code <<= 1;
            all.lengths[length] = (code, 0, all.bytes.len());
            for byte in (0..=255_u8).filter(|byte| usize::from(LENGTHS[usize::from(*byte)]) == length) {
                all.bytes.push(byte);
                all.lengths[length].1 += 1;
                if let Some(free) = LOOK.checked_sub(length as u32) {
                    let first = (code << free) as usize;
                    all.short[first..first + (1 << free)].fill((byte, length as u8));
                }
                code += 1;
            }
        }
        all
    }
}

/// Unpacks a string. Its end is filled with at most seven one-bits (RFC 7541 section 5.2).
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, Broken> {
    let code = &*CODE;
    let mut text = Vec::with_capacity(packed.len() * 8 / 5);
    let mut input = packed.iter();
    // The next `have` bits are the highest of `bits`.
    let (mut bits, mut have) = (0_u64, 0_u32);
    loop {
        while have <= 56 {
            let Some(byte) = input.next() else { break };
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let (byte, length) = match code.short[(bits >> (64 - LOOK)) as usize] {
            (_, 0) => long(code, bits),
            found => found,
        };
        let length = u32::from(length);
        if length == 0 || length > have {
            // Nothing but the filling may be left.
            let filling = have < 8 && bits >> (64 - have.max(1)) == (1 << have.max(1)) - 1;
            return if have == 0 || filling { Ok(text) } else { Err(Broken) };
        }
        text.push(byte);
        bits <<= length;
        have -= length;
    }
}

/// A code of more than eight bits; length 0 when there is none.
fn long(code: &Code, bits: u64) -> (u8, u8) {
    for length in LOOK as usize + 1..=LONGEST {
        let (first, count, at) = code.lengths[length];
        let offset = ((bits >> (64 - length)) as u32).wrapping_sub(first);
        if offset < count {
            return (code.bytes[at + offset as usize], length as u8);
        }
    }
    (0, 0)
}
