//! Cutting a stream of bytes into frames. DATA is passed on as it comes; other frames are gathered first.

use super::{
    code,
    frame::{HEAD, Head, flag, kind},
};

/// Largest payload of a frame other than DATA, in bytes: a header block is bounded by more than this, in several.
const LARGEST_CONTROL: u32 = 72 * 1024;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A part of a DATA frame.
    Data {
        stream: u32,
        /// Payload, without padding.
        bytes: &'a [u8],
        /// What counts against the windows: the payload, and the padding with the frame's last piece.
        flow: u32,
        /// The frame goes on.
        more: bool,
        /// END_STREAM; only with the last piece.
        end: bool,
    },
    /// A whole frame of another type.
    Frame { head: Head, payload: &'a [u8] },
}

/// Where in the stream of frames we are.
#[derive(Debug)]
pub(crate) struct Reader {
    /// A head, or the payload of a frame that is gathered.
    gathered: Vec<u8>,
    at: At,
    max_frame: u32,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Head,
    /// In DATA: so much payload and padding is to come; a padded frame's first byte is the length of its padding.
    Data {
        head: Head,
        payload: u32,
        padding: u32,
        length_due: bool,
    },
    Control(Head),
    /// A frame was given out; the buffer can be emptied.
    Given,
}

impl Reader {
    /// A reader that refuses frames with more payload than `max_frame` bytes.
    pub(crate) fn new(max_frame: u32) -> Self {
        Self { gathered: Vec::new(), at: At::Head, max_frame }
    }

    /// Reads on in `input` and takes from its front what was used. `None`: all of it is used and more is needed.
    /// An error is the HTTP/2 code to end the connection with.
    pub(crate) fn next<'p, 'i: 'p>(&'p mut self, input: &mut &'i [u8]) -> Result<Option<Piece<'p>>, u32> {
        if matches!(self.at, At::Given) {
            self.gathered.clear();
            self.at = At::Head;
        }
        loop {
            match self.at {
                At::Head | At::Given => {
                    let Some(head) = self.head(input) else { return Ok(None) };
                    self.at = self.enter(head)?;
                }
                At::Data { head, payload, padding, length_due: true } => {
                    let Some((length, rest)) = input.split_first() else { return Ok(None) };
                    *input = rest;
                    let length = u32::from(*length);
                    let payload = payload.checked_sub(length).ok_or(code::PROTOCOL_ERROR)?;
                    self.at = At::Data { head, payload, padding: padding + length, length_due: false };
                }
                At::Data { head, payload, padding, .. } => return Ok(self.data(head, payload, padding, input)),
                At::Control(head) => return Ok(self.control(head, input)),
            }
        }
    }

    fn head(&mut self, input: &mut &[u8]) -> Option<Head> {
        if let (true, Some((head, rest))) = (self.gathered.is_empty(), input.split_first_chunk::<HEAD>()) {
            *input = rest;
            return Some(Head::read(*head));
        }
        let (part, rest) = input.split_at(input.len().min(HEAD - self.gathered.len()));
        self.gathered.extend_from_slice(part);
        *input = rest;
        let head = Head::read(*self.gathered.first_chunk()?);
        self.gathered.clear();
        Some(head)
    }

    fn enter(&self, head: Head) -> Result<At, u32> {
        if head.len > self.max_frame {
            return Err(code::FRAME_SIZE_ERROR);
        }
        if head.kind != kind::DATA {
            // What else is large is either a header block beyond every limit or of a type that nobody knows.
            return if head.len <= LARGEST_CONTROL { Ok(At::Control(head)) } else { Err(code::ENHANCE_YOUR_CALM) };
        }
        let padded = head.has(flag::PADDED);
        // The byte that says how much padding there is counts as padding too.
        let payload = head.len.checked_sub(u32::from(padded)).ok_or(code::FRAME_SIZE_ERROR)?;
        Ok(At::Data { head, payload, padding: u32::from(padded), length_due: padded })
    }

    fn data<'a>(&mut self, head: Head, payload: u32, padding: u32, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let (bytes, rest) = input.split_at(input.len().min(payload as usize));
        *input = rest;
        let left = payload - bytes.len() as u32;
        let due = padding - u32::from(head.has(flag::PADDED) && padding > 0);
        if left == 0 && input.len() >= due as usize {
            *input = &input[due as usize..];
            self.at = At::Head;
            let (flow, end) = (bytes.len() as u32 + padding, head.has(flag::END_STREAM));
            return Some(Piece::Data { stream: head.stream, bytes, flow, more: false, end });
        }
        self.at = At::Data { head, payload: left, padding, length_due: false };
        if bytes.is_empty() {
            return self.skip(head, left, padding, input);
        }
        Some(Piece::Data { stream: head.stream, bytes, flow: bytes.len() as u32, more: left > 0, end: false })
    }

    /// Swallows padding that comes in parts; it counts as it comes.
    fn skip<'a>(&mut self, head: Head, left: u32, padding: u32, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        if left > 0 || input.is_empty() {
            return None;
        }
        let skipped = input.len() as u32;
        *input = &[];
        self.at = At::Data { head, payload: 0, padding: padding - skipped, length_due: false };
        Some(Piece::Data { stream: head.stream, bytes: &[], flow: skipped, more: true, end: false })
    }

    fn control<'p, 'i: 'p>(&'p mut self, head: Head, input: &mut &'i [u8]) -> Option<Piece<'p>> {
        let len = head.len as usize;
        if self.gathered.is_empty() && input.len() >= len {
            let (payload, rest) = input.split_at(len);
            *input = rest;
            self.at = At::Head;
            return Some(Piece::Frame { head, payload });
        }
        let (part, rest) = input.split_at(input.len().min(len - self.gathered.len()));
        self.gathered.extend_from_slice(part);
        *input = rest;
        if self.gathered.len() < len {
            return None;
        }
        self.at = At::Given;
        Some(Piece::Frame { head, payload: &self.gathered })
    }
}

#[cfg(test)]
mod tests;
