//! What has come from one leg and not yet gone to the other.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces smaller than this are joined when they have to wait.
const SMALL: usize = 4 * 1024;
/// Joined pieces get as large as this.
const JOINED: usize = 16 * 1024;
/// When more than this waits, new pieces are copied, so that none keeps a larger buffer alive than itself.
const STALLED: usize = 256 * 1024;

/// Bytes in order, then perhaps the end.
#[derive(Debug, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Bytes>,
    /// Small pieces that wait behind `chunks`.
    tail: BytesMut,
    len: usize,
    /// Nothing will be pushed any more.
    pub(super) ended: bool,
    /// The end was passed on.
    pub(super) closed: bool,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is something to pass on: bytes, or the end.
    pub(super) fn has_work(&self) -> bool {
        !self.is_empty() || (self.ended && !self.closed)
    }

    pub(super) fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let waiting = self.len;
        self.len += data.len();
        if waiting > 0 && data.len() < SMALL {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= JOINED {
                self.settle();
            }
            return;
        }
        self.settle();
        let data = if waiting > STALLED { Bytes::copy_from_slice(&data) } else { data };
        self.chunks.push_back(data);
    }

    fn settle(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    /// The front of the queue as slices; gives how many there are.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let pieces = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        slices.iter_mut().zip(pieces).map(|(slot, piece)| *slot = IoSlice::new(piece)).count()
    }

    /// Drops `bytes` from the front: they have been passed on.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        self.len -= bytes;
        while bytes > 0 {
            match self.chunks.front_mut() {
                Some(front) if front.len() > bytes => {
                    front.advance(bytes);
                    return;
                }
                Some(front) => {
                    bytes -= front.len();
                    self.chunks.pop_front();
                }
                None => {
                    self.tail.advance(bytes);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
