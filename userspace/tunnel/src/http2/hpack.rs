//! Header compression (RFC 7541). What we send uses the static table's names only; what peers send may use all of it.

mod huffman;
mod table;

use std::borrow::Cow;

use table::Table;

/// Why a header block cannot be read. The connection's compression state is lost with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// The reading side's state.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: Table,
}

/// A change of the table's size to nothing. Our blocks refer to no table, and a peer that allows none waits for that to be
/// said in the first block (RFC 7541 section 4.2, RFC 9113 section 4.3.1).
pub(crate) const NO_TABLE: u8 = 0x20;

impl Decoder {
    /// Gives each field of a block to `take`.
    pub(crate) fn read(&mut self, mut block: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Result<(), Broken> {
        let mut may_resize = true;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                let (name, value) = self.table.get(index).ok_or(Broken)?;
                take(name, value);
            } else if first & 0xe0 == 0x20 {
                // A change of the table's size comes before all fields (RFC 7541 section 4.2).
                let size = integer(&mut block, 5)?;
                if !may_resize || !self.table.resize(size) {
                    return Err(Broken);
                }
                continue;
            } else {
                self.literal(&mut block, first & 0x40 != 0, &mut take)?;
            }
            may_resize = false;
        }
        Ok(())
    }

    fn literal(&mut self, block: &mut &[u8], index: bool, take: &mut impl FnMut(&[u8], &[u8])) -> Result<(), Broken> {
        let known = integer(block, if index { 6 } else { 4 })?;
        let spelled = if known == 0 { Some(string(block)?) } else { None };
        let name = match &spelled {
            Some(name) => name,
            None => self.table.get(known).ok_or(Broken)?.0,
        };
        let value = string(block)?;
        take(name, &value);
        if index {
            let name = match spelled {
                Some(name) => (*name).into(),
                None => self.table.name(known).ok_or(Broken)?,
            };
            self.table.add(name, value.into_owned());
        }
        Ok(())
    }
}

/// Appends a field whose name is in the static table.
pub(crate) fn put_known(out: &mut Vec<u8>, name: u8, value: &[u8]) {
    // Without indexing: the peer remembers nothing, so that a tunnel costs it no table.
    put_integer(out, 0, 4, usize::from(name));
    put_string(out, value);
}

/// Appends a field with its name.
pub(crate) fn put_new(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    put_string(out, name);
    put_string(out, value);
}

/// Appends a whole field of the static table.
pub(crate) fn put_indexed(out: &mut Vec<u8>, index: u8) {
    put_integer(out, 0x80, 7, usize::from(index));
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1). Nothing that we read is larger than 2^28.
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let (first, rest) = block.split_first().ok_or(Broken)?;
    *block = rest;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = block.split_first().ok_or(Broken)?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Broken)
}

/// A string (section 5.2); copied only where it is packed.
fn string<'a>(block: &mut &'a [u8]) -> Result<Cow<'a, [u8]>, Broken> {
    let packed = block.first().ok_or(Broken)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(Broken)?;
    *block = rest;
    if packed { huffman::unpack(text).map(Cow::Owned) } else { Ok(Cow::Borrowed(text)) }
}

#[cfg(test)]
mod tests;
