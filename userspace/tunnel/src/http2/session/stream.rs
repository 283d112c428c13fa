//! One stream of a connection.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use super::{Session, backlog::Backlog};
use crate::{connect::Baggage, error::StreamError, limits::Held};

/// Where a stream's bytes go: the application's socket.
pub(crate) trait Near {
    /// Takes what it can take at once. `more` says that the next bytes follow in the same turn.
    fn give(&self, bytes: &[u8], more: bool) -> Given;
}

/// What a [`Near`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// It took so many bytes.
    Took(usize),
    /// It is broken.
    Broken,
}

/// Small pieces that the near end is given one by one while one batch of the peer's bytes is read; the rest of them is
/// kept and written at once. Each costs a system call, and thousands of them fit into one record.
const PIECES: u32 = 16;
/// What is small, in bytes.
const SMALL: usize = 1024;

pub(super) struct Stream {
    pub(super) send_window: i64,
    /// What the peer may send.
    pub(super) recv_window: i64,
    /// The size that the window is kept at.
    pub(super) target: u32,
    /// Bytes that are to be given back to the window.
    pub(super) credit: u32,
    /// Bytes that the near end has taken.
    pub(super) delivered: u64,
    /// Small pieces that were given in this batch.
    pieces: (u64, u32),
    /// What the near end has not taken.
    pub(super) queue: Backlog,
    held: Arc<Held>,
    pub(super) near: Option<Box<dyn Near>>,
    pub(super) near_broken: bool,
    /// END_STREAM has come.
    pub(super) recv_done: bool,
    /// END_STREAM is sent.
    pub(super) send_done: bool,
    /// The peer's reset, or the end of this stream alone.
    pub(super) reset: Option<StreamError>,
    /// A request of the peer that is not answered, or one of ours.
    pub(super) unanswered: bool,
    pub(super) answer: Option<(u16, Arc<Baggage>)>,
    /// It is in the list of those who wait for room.
    pub(super) waits: bool,
    /// It waits for its own window.
    pub(super) blocked: bool,
    /// The turn in which it last had room.
    pub(super) served: u64,
    /// Where in `out` the head of its last DATA frame is, and in which turn.
    pub(super) last_frame: (u64, usize),
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(send_window: i64, recv_window: u32, held: &Arc<Held>) -> Self {
        Self {
            send_window,
            recv_window: i64::from(recv_window),
            target: recv_window,
            credit: 0,
            delivered: 0,
            pieces: (0, 0),
            queue: Backlog::default(),
            held: Arc::clone(held),
            near: None,
            near_broken: false,
            recv_done: false,
            send_done: false,
            reset: None,
            unanswered: true,
            answer: None,
            waits: false,
            blocked: false,
            served: 0,
            last_frame: (u64::MAX, 0),
            waker: None,
        }
    }

    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Passes bytes on to the near end, and keeps the rest. Gives how many were passed on. `batch` counts what is read at
    /// once.
    pub(super) fn deliver(&mut self, bytes: &[u8], more: bool, batch: u64) -> usize {
        let mut taken = 0;
        if bytes.is_empty() {
            return 0;
        }
        let goes = self.queue.is_empty() && (bytes.len() >= SMALL || self.may_give(batch));
        if let (true, Some(near)) = (goes, &self.near) {
            match near.give(bytes, more) {
                Given::Took(count) => taken = count,
                Given::Broken => self.near_broken = true,
            }
        }
        if self.near_broken {
            self.wake();
            return bytes.len();
        }
        if taken < bytes.len() {
            let rest = &bytes[taken..];
            if self.queue.is_empty() {
                self.wake();
            }
            self.queue.push(rest);
            self.held.add(rest.len());
        }
        taken
    }

    fn may_give(&mut self, batch: u64) -> bool {
        if self.pieces.0 != batch {
            self.pieces = (batch, 0);
        }
        self.pieces.1 += 1;
        self.pieces.1 <= PIECES
    }

    /// So many bytes were taken out of the queue.
    pub(super) fn let_go(&mut self, bytes: usize) {
        self.queue.advance(bytes);
        self.held.sub(bytes);
    }

    /// Forgets what was not taken: nobody wants it.
    pub(super) fn discard(&mut self) -> usize {
        let bytes = self.queue.len();
        self.let_go(bytes);
        bytes
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.held.sub(self.queue.len());
    }
}

impl Session {
    /// From now on the stream's bytes go here.
    pub(crate) fn attach(&mut self, id: u32, near: Box<dyn Near>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.near = Some(near);
        }
    }

    /// What the near end has not taken, as slices.
    pub(crate) fn queued(&self, id: u32) -> (&[u8], &[u8]) {
        self.streams.get(&id).map_or((&[], &[]), |stream| stream.queue.front())
    }

    /// Whether END_STREAM has come; what is queued comes before it.
    pub(crate) fn is_recv_done(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|stream| stream.recv_done)
    }

    /// Whether the near end broke while bytes were given to it.
    pub(crate) fn is_near_broken(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.near_broken)
    }
}
