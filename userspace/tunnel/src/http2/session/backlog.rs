//! What the near end has not taken yet, in order.

use std::collections::VecDeque;

/// Bytes that a piece has room for when something waits already. The first has as much as it needs: few streams wait, and
/// most of those wait for little.
const PIECE: usize = 32 * 1024;

/// Bytes in pieces: a queue that grows by doubling would touch half as much memory again as it ever holds, and would give
/// nothing back before it is empty.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Vec<u8>>,
    /// What is gone of the first piece.
    gone: usize,
    len: usize,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(last) = self.pieces.back_mut() {
            let room = last.capacity() - last.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE));
            let mut piece = Vec::with_capacity(if self.pieces.is_empty() { now.len() } else { PIECE });
            piece.extend_from_slice(now);
            self.pieces.push_back(piece);
            bytes = later;
        }
    }

    /// The front: what is first and what follows it. Both are empty only if nothing waits.
    pub(super) fn front(&self) -> (&[u8], &[u8]) {
        let mut pieces = self.pieces.iter();
        let first = pieces.next().map_or(&[][..], |piece| &piece[self.gone..]);
        (first, pieces.next().map_or(&[], Vec::as_slice))
    }

    /// Drops so many bytes of the front, or all.
    pub(super) fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.len);
        self.len -= bytes;
        self.gone += bytes;
        while let Some(first) = self.pieces.front()
            && self.gone >= first.len()
        {
            self.gone -= first.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random and are the same in each run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut number = numbers();
        let (mut backlog, mut expected) = (Backlog::default(), VecDeque::new());
        for step in 0..2000 {
            let most = [10, 5000, 100_000][step % 3];
            let bytes: Vec<u8> = (0..number(most)).map(|_| number(256) as u8).collect();
            backlog.push(&bytes);
            expected.extend(bytes);
            let (first, second) = backlog.front();
            assert_eq!((backlog.len(), backlog.is_empty()), (expected.len(), first.is_empty()));
            assert!(first.iter().chain(second).zip(&expected).all(|(one, other)| one == other));
            let shown = first.len() + second.len();
            let taken = number(shown + 1);
            backlog.advance(taken);
            expected.drain(..taken);
        }
        backlog.advance(usize::MAX);
        assert!(backlog.is_empty() && backlog.pieces.is_empty());
    }

    #[test]
    fn a_full_one_has_little_more_memory_than_bytes() {
        let mut backlog = Backlog::default();
        for _ in 0..262 {
            backlog.push(&[1; 1000]);
        }
        let room: usize = backlog.pieces.iter().map(Vec::capacity).sum();
        assert!(room < backlog.len() + PIECE, "{room} for {}", backlog.len());
    }
}
