//! The form of DER, checked before anything is read from it: parsers that skip what they do not need would otherwise
//! accept what others refuse.
//!
//! Source: X.690 sections 8 and 10 (definite lengths in the shortest form, no end-of-contents, values in their only form).

/// More levels than any certificate has.
const MAX_DEPTH: usize = 24;
const BOOLEAN: u8 = 1;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const NULL: u8 = 5;
pub(crate) const OBJECT_IDENTIFIER: u8 = 6;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
const CONSTRUCTED: u8 = 0x20;
const CLASS: u8 = 0xc0;

/// Whether the bytes are one well-formed value and nothing else.
pub(crate) fn is_strict(bytes: &[u8]) -> bool {
    matches!(next(bytes), Some((tag, content, [])) if is_well_formed(tag, content, 0))
}

/// Whether a value (`SEQUENCE OF SET OF SEQUENCE { type, value }`) has the form of a distinguished name.
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    let Some((SEQUENCE, sets, [])) = next(bytes) else { return false };
    all(sets, |tag, set| {
        tag == SET
            && !set.is_empty()
            && all(set, |tag, pair| {
                let value = match next(pair) {
                    Some((OBJECT_IDENTIFIER, _, value)) => value,
                    _ => return false,
                };
                tag == SEQUENCE && matches!(next(value), Some((_, _, [])))
            })
    })
}

/// The first value: its tag, its content and what follows.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            // The shortest form that can hold it.
            (digits[0] != 0 && length > 0x7f).then_some((length, rest))?
        }
        _ => return None,
    };
    // Tags above 30 have a longer form, which no certificate uses; 0 is the end of contents.
    let known = tag & 0x1f != 0x1f && (tag & CLASS != 0 || tag != 0);
    let (content, rest) = rest.split_at_checked(length).filter(|_| known)?;
    Some((tag, content, rest))
}

fn all(mut bytes: &[u8], holds: impl Fn(u8, &[u8]) -> bool) -> bool {
    while !bytes.is_empty() {
        match next(bytes) {
            Some((tag, content, rest)) if holds(tag, content) => bytes = rest,
            _ => return false,
        }
    }
    true
}

fn is_well_formed(tag: u8, content: &[u8], depth: usize) -> bool {
    if tag & CLASS == 0 && (tag & CONSTRUCTED != 0) != matches!(tag | CONSTRUCTED, SEQUENCE | SET) {
        return false;
    }
    match tag {
        _ if tag & CONSTRUCTED != 0 => {
            depth < MAX_DEPTH && all(content, |tag, content| is_well_formed(tag, content, depth + 1))
        }
        BOOLEAN => matches!(content, [0 | 0xff]),
        INTEGER => match content {
            [] => false,
            [0, second, ..] => second & 0x80 != 0,
            [0xff, second, ..] => second & 0x80 == 0,
            _ => true,
        },
        BIT_STRING => match content {
            [unused, .., last] => *unused < 8 && last & ((1 << unused) - 1) == 0,
            other => other == [0],
        },
        NULL => content.is_empty(),
        OBJECT_IDENTIFIER => {
            let begins = |at: usize| at == 0 || content[at - 1] & 0x80 == 0;
            content.last().is_some_and(|last| last & 0x80 == 0)
                && content.iter().enumerate().all(|(at, byte)| !(begins(at) && *byte == 0x80))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests;
