//! What we send.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, buf::Limit};

use super::{Leaving, OUT_LIMIT, SHARE, Session, stream::Stream};
use crate::{
    connect::{Baggage, ConnectRequest},
    error::StreamError,
    http2::{
        code,
        frame::{self, HEAD, Head, flag, kind},
        headers, hpack,
    },
};

/// Room that is not worth a frame, in bytes, while more is on its way.
const SCRAP: usize = 1024;

impl Session {
    /// Sends a CONNECT; gives its stream.
    pub(crate) fn open(&mut self, request: &ConnectRequest) -> Result<u32, StreamError> {
        self.limit()?;
        let id = self.next;
        self.next += 2;
        let stream = Stream::new(self.peer.initial_window, self.limits.stream_window, &self.held);
        self.streams.insert(id, stream);
        let block = headers::write_request(request, self.said.field(&request.baggage));
        self.put_headers(id, 0, &block);
        Ok(id)
    }

    /// Answers a CONNECT of the peer with 200.
    pub(crate) fn accept(&mut self, id: u32, about: &Arc<Baggage>) -> Result<(), StreamError> {
        let ended = self.ended;
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Reset(code::CANCEL))?;
        if let Some(why) = stream.reset.or(ended) {
            return Err(why);
        }
        stream.unanswered = false;
        self.taken_back = 0;
        let block = headers::write_ok(self.said.field(about));
        self.put_headers(id, 0, &block);
        Ok(())
    }

    /// Answers a CONNECT of the peer with a failure. The stream is over.
    pub(crate) fn refuse(&mut self, id: u32, status: u16) {
        if let Some(stream) = self.streams.remove(&id)
            && stream.reset.is_none()
        {
            self.answer_at_once(id, status, stream.recv_done);
        }
        self.wake_driver();
    }

    /// Answers a request that gets no stream.
    pub(super) fn answer_at_once(&mut self, id: u32, status: u16, ended: bool) {
        self.put_headers(id, flag::END_STREAM, &headers::write_status(status));
        if !ended {
            frame::put_reset(&mut self.out, id, code::NO_ERROR);
        }
    }

    fn put_headers(&mut self, id: u32, flags: u8, block: &[u8]) {
        if !std::mem::replace(&mut self.table_given_up, true) {
            return self.put_block(id, flags, &[&[hpack::NO_TABLE], block].concat());
        }
        self.put_block(id, flags, block);
    }

    fn put_block(&mut self, id: u32, flags: u8, block: &[u8]) {
        let most = self.peer.max_frame as usize;
        let (first, rest) = block.split_at(block.len().min(most));
        let last = |rest: &[u8]| if rest.is_empty() { flag::END_HEADERS } else { 0 };
        frame::put(&mut self.out, kind::HEADERS, flags | last(rest), id, first);
        let mut rest = rest;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(most));
            frame::put(&mut self.out, kind::CONTINUATION, last(after), id, part);
            rest = after;
        }
        self.wake_driver();
    }

    /// How many bytes the stream may send now: at least one. An error is the peer's reset, or the connection's end.
    pub(crate) fn poll_room(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        let ended = self.ended;
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamError::Reset(0))) };
        if let Some(why) = stream.reset.or(ended) {
            return Poll::Ready(Err(why));
        }
        if stream.send_window <= 0 {
            stream.blocked = true;
            stream.watch(cx);
            if std::mem::take(&mut stream.waits) {
                // Those behind it need not wait for this one.
                self.leave_queue(id);
                self.admit();
            }
            return Poll::Pending;
        }
        let free = (OUT_LIMIT.saturating_sub(self.out.len())) as i64;
        let room = free.min(stream.send_window).min(self.send_window).min(i64::from(self.peer.max_frame));
        if free <= SCRAP as i64 || self.send_window <= 0 || self.is_behind(id) {
            self.enter_queue(id, cx);
            return Poll::Pending;
        }
        if self.streams.get_mut(&id).is_some_and(|stream| std::mem::take(&mut stream.waits)) {
            self.leave_queue(id);
        }
        Poll::Ready(Ok((room as usize).min(SHARE)))
    }

    /// How many bytes the stream may send without waiting; none while others wait.
    pub(crate) fn room_at_once(&self, id: u32) -> usize {
        let Some(stream) = self.streams.get(&id) else { return 0 };
        if stream.reset.is_some() || self.ended.is_some() || !self.waiting.is_empty() {
            return 0;
        }
        let free = OUT_LIMIT.saturating_sub(self.out.len()) as i64;
        let room = free.min(stream.send_window).min(self.send_window).min(i64::from(self.peer.max_frame));
        usize::try_from(room).unwrap_or_default()
    }

    /// The stream sends nothing more: nobody needs to wait for its turn.
    pub(crate) fn forgo(&mut self, id: u32) {
        if self.streams.get_mut(&id).is_some_and(|stream| std::mem::take(&mut stream.waits)) {
            self.leave_queue(id);
            self.admit();
        }
    }

    /// Whether somebody waits who was served longer ago.
    fn is_behind(&self, id: u32) -> bool {
        let served = |id: &u32| self.streams.get(id).map_or(u64::MAX, |stream| stream.served);
        self.waiting.iter().any(|other| served(other) < served(&id))
    }

    fn enter_queue(&mut self, id: u32, cx: &Context<'_>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.watch(cx);
            if !std::mem::replace(&mut stream.waits, true) {
                self.waiting.push(id);
            }
        }
    }

    /// Appends a DATA frame of at most `most` bytes, for which there must be room; `fill` gives how many it has written,
    /// zero for none.
    pub(crate) fn append(
        &mut self,
        id: u32,
        most: usize,
        fill: impl FnOnce(&mut Limit<&mut Vec<u8>>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let begin = self.out.len();
        self.out.reserve(HEAD + most);
        self.out.extend_from_slice(&[0; HEAD]);
        let filled = fill(&mut (&mut self.out).limit(most));
        let written = self.out.len() - begin - HEAD;
        let (true, Some(stream)) = (written > 0, self.streams.get_mut(&id)) else {
            self.out.truncate(begin);
            // It had its turn and did not use it: nothing will be drained that would let the others look again.
            self.admit();
            return filled;
        };
        let head = Head { len: written as u32, kind: kind::DATA, flags: 0, stream: id };
        self.out[begin..begin + HEAD].copy_from_slice(&head.bytes());
        stream.send_window -= written as i64;
        self.send_window -= written as i64;
        stream.served = self.turn;
        stream.last_frame = (self.turn, begin);
        self.wake_driver();
        filled
    }

    /// Sends END_STREAM: with the stream's last bytes, if they are still here.
    pub(crate) fn finish(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::replace(&mut stream.send_done, true) || stream.reset.is_some() {
            return;
        }
        let (turn, at) = stream.last_frame;
        // The flags are the fifth byte of a frame.
        match self.out.get_mut(at + 4) {
            Some(flags) if turn == self.turn => *flags |= flag::END_STREAM,
            _ => frame::put(&mut self.out, kind::DATA, flag::END_STREAM, id, &[]),
        }
        self.wake_driver();
    }

    /// The application has taken so many bytes of what was queued.
    pub(crate) fn took(&mut self, id: u32, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.let_go(bytes);
            self.delivered(id, bytes, 0);
            if self.has_out() {
                self.wake_driver();
            }
        }
    }

    /// Resets the stream, unless it is over in both directions.
    pub(crate) fn reset(&mut self, id: u32, code: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.discard();
        stream.near = None;
        let told = matches!(stream.reset, Some(StreamError::Reset(_) | StreamError::Protocol(_)));
        let over = stream.recv_done && stream.send_done;
        (stream.recv_done, stream.send_done) = (true, true);
        if !told && !over && self.ended.is_none() {
            stream.reset = Some(StreamError::Reset(code));
            frame::put_reset(&mut self.out, id, code);
            self.wake_driver();
        }
    }

    /// Nobody has the stream any more.
    pub(crate) fn release(&mut self, id: u32) {
        if self.streams.remove(&id).is_some_and(|stream| stream.waits) {
            self.leave_queue(id);
            self.admit();
        }
        if self.leaving != Leaving::No && self.streams.is_empty() {
            self.wake_driver();
        }
    }
}
