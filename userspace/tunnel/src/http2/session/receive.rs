//! What the peer sends.

use super::{
    Asked, Greeting, KEEPALIVE, LAST_CALL, LONG_WAY, Leaving, OUT_HARD_LIMIT, PROVEN, Role, Session, stream::Stream,
};
use crate::{
    error::StreamError,
    http2::{
        code,
        frame::{self, Head, LARGEST_MAX_FRAME, LARGEST_WINDOW, PREFACE, SMALLEST_MAX_FRAME, flag, kind, setting},
        headers::{Heading, Unfit},
        reader::{Piece, Reader},
    },
};

/// A stream may keep so many bytes when the agent holds too much for readers that have stopped.
const MODEST: usize = 64 * 1024;
/// Settings, and frames of them, that a peer may send between two of our PINGs.
const MOST_SETTINGS: usize = 1000;
/// Frames that say nothing (DATA without a byte or an end, PRIORITY, kinds that nobody knows, a further GOAWAY) that a
/// peer may send between two of our PINGs: they cost us and not the peer's windows (CVE-2019-9513, CVE-2019-9518).
const MOST_EMPTY: usize = 1000;
/// A header block may be so much longer than what it says, in bytes.
const PACKING: usize = 16 * 1024;

impl Session {
    /// Takes in bytes from the peer. `follows` says that more are at hand. An error is the HTTP/2 code to end the
    /// connection with.
    pub(crate) fn absorb(&mut self, mut input: &[u8], follows: bool) -> Result<(), u32> {
        self.preface(&mut input)?;
        // The reader is put aside, because it lends out what it has gathered.
        let mut reader = std::mem::replace(&mut self.reader, Reader::new(0));
        let done = self.absorb_frames(&mut reader, input, follows);
        self.reader = reader;
        done?;
        if !follows {
            self.batch += 1;
        }
        if self.out.len() > OUT_HARD_LIMIT {
            return Err(code::ENHANCE_YOUR_CALM);
        }
        if self.has_out() {
            self.wake_driver();
        }
        Ok(())
    }

    fn preface(&mut self, input: &mut &[u8]) -> Result<(), u32> {
        let Greeting::Preface(begun) = self.greeted else { return Ok(()) };
        let (part, rest) = input.split_at(input.len().min(PREFACE.len() - begun));
        if PREFACE[begun..begun + part.len()] != *part {
            return Err(code::PROTOCOL_ERROR);
        }
        *input = rest;
        let begun = begun + part.len();
        self.greeted = if begun == PREFACE.len() { Greeting::Settings } else { Greeting::Preface(begun) };
        Ok(())
    }

    fn absorb_frames(&mut self, reader: &mut Reader, mut input: &[u8], follows: bool) -> Result<(), u32> {
        while let Some(piece) = reader.next(&mut input)? {
            let first =
                matches!(piece, Piece::Frame { head, .. } if head.kind == kind::SETTINGS && !head.has(flag::ACK));
            if self.greeted != Greeting::Done && !first {
                return Err(code::PROTOCOL_ERROR);
            }
            self.greeted = Greeting::Done;
            match piece {
                Piece::Data { stream, bytes, flow, more, end } => {
                    // The end of the stream follows its last bytes at once.
                    self.data(stream, bytes, flow, end || (more && follows), end)?;
                }
                Piece::Frame { head, payload } => self.frame(head, payload)?,
            }
        }
        Ok(())
    }

    fn data(&mut self, id: u32, bytes: &[u8], flow: u32, more: bool, end: bool) -> Result<(), u32> {
        if id == 0 || self.block.is_some() {
            return Err(code::PROTOCOL_ERROR);
        }
        if bytes.is_empty() && !end {
            self.nothing_said()?;
        }
        self.take_from_window(flow)?;
        let Some(stream) = self.streams.get_mut(&id) else { return self.closed_or_idle(id) };
        if stream.recv_done {
            return Err(code::STREAM_CLOSED);
        }
        // Of one that we have reset already whatever was on its way is late.
        if stream.unanswered && stream.reset.is_none() && self.role == Role::Dialling {
            return Err(code::PROTOCOL_ERROR);
        }
        stream.recv_window -= i64::from(flow);
        if stream.recv_window < 0 {
            return Err(code::FLOW_CONTROL_ERROR);
        }
        if end {
            stream.recv_done = true;
            stream.wake();
        }
        if stream.reset.is_some() {
            return Ok(());
        }
        let delivered = stream.deliver(bytes, more, self.batch);
        if stream.queue.len() > MODEST && self.held.is_too_much() {
            stream.discard();
            stream.reset = Some(StreamError::Ended("memory_pressure"));
            stream.wake();
            return Ok(());
        }
        // Padding counts as delivered.
        let padding = flow - bytes.len() as u32;
        self.delivered(id, delivered, padding);
        Ok(())
    }

    /// What comes for a stream that is over is late, and ignored; one that never was is a mistake.
    fn closed_or_idle(&self, id: u32) -> Result<(), u32> {
        let idle = match self.role {
            Role::Dialling => id >= self.next || id.is_multiple_of(2),
            Role::Serving => id > self.last,
        };
        if idle { Err(code::PROTOCOL_ERROR) } else { Ok(()) }
    }

    /// The connection's window is given back at once: what is held is bounded by the streams' windows.
    fn take_from_window(&mut self, flow: u32) -> Result<(), u32> {
        self.recv_window -= i64::from(flow);
        if self.recv_window < 0 {
            return Err(code::FLOW_CONTROL_ERROR);
        }
        self.recv_credit += flow;
        if self.recv_credit >= self.limits.connection_window / 4 {
            frame::put_window_update(&mut self.out, 0, self.recv_credit);
            self.recv_window += i64::from(self.recv_credit);
            self.recv_credit = 0;
        }
        Ok(())
    }

    /// The near end has taken `bytes`; they and `padding` are given back to the stream's window in due course.
    pub(super) fn delivered(&mut self, id: u32, bytes: usize, padding: u32) {
        let far = self.pings.round_trip.is_some_and(|took| took >= LONG_WAY);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.delivered += bytes as u64;
        stream.credit += bytes as u32 + padding;
        if stream.recv_done || stream.reset.is_some() {
            return;
        }
        let target = if self.held.is_much() { stream.target } else { grown(stream, far, self.limits.largest_window) };
        let more = stream.credit + (target - stream.target);
        if more > stream.credit || more >= target / 4 {
            frame::put_window_update(&mut self.out, id, more);
            stream.recv_window += i64::from(more);
            (stream.credit, stream.target) = (0, target);
        }
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        if self.block.is_some() && head.kind != kind::CONTINUATION {
            return Err(code::PROTOCOL_ERROR);
        }
        match head.kind {
            kind::HEADERS => self.headers_frame(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.reset_by_peer(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pinged(head, payload),
            kind::GOAWAY => self.goaway(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            kind::PUSH_PROMISE => Err(code::PROTOCOL_ERROR),
            kind::PRIORITY if head.stream == 0 => Err(code::PROTOCOL_ERROR),
            kind::PRIORITY if head.len != 5 => Err(code::FRAME_SIZE_ERROR),
            // PRIORITY, and types that are not known (RFC 9113 section 5.5).
            _ => self.nothing_said(),
        }
    }

    fn nothing_said(&mut self) -> Result<(), u32> {
        self.empty_seen += 1;
        if self.empty_seen > MOST_EMPTY { Err(code::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    fn headers_frame(&mut self, head: Head, mut payload: &[u8]) -> Result<(), u32> {
        if head.stream == 0 {
            return Err(code::PROTOCOL_ERROR);
        }
        if head.has(flag::PADDED) {
            let (length, rest) = payload.split_first().ok_or(code::FRAME_SIZE_ERROR)?;
            let used = rest.len().checked_sub(usize::from(*length)).ok_or(code::PROTOCOL_ERROR)?;
            payload = &rest[..used];
        }
        if head.has(flag::PRIORITY) {
            payload = payload.get(5..).ok_or(code::FRAME_SIZE_ERROR)?;
        }
        if head.has(flag::END_HEADERS) {
            return self.headers(head.stream, head.flags, payload);
        }
        self.block = Some((head.stream, head.flags, payload.to_vec()));
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        let (stream, flags, mut block) = self.block.take().ok_or(code::PROTOCOL_ERROR)?;
        if stream != head.stream {
            return Err(code::PROTOCOL_ERROR);
        }
        block.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.headers(stream, flags, &block);
        }
        // Frames without end, or a block beyond every limit.
        if payload.is_empty() || block.len() > self.limits.header_list + PACKING {
            return Err(code::ENHANCE_YOUR_CALM);
        }
        self.block = Some((stream, flags, block));
        Ok(())
    }

    fn headers(&mut self, id: u32, flags: u8, block: &[u8]) -> Result<(), u32> {
        let heading = Heading::read(&mut self.decoder, block, self.limits.header_list);
        let heading = heading.map_err(|_| code::COMPRESSION_ERROR)?;
        let end = flags & flag::END_STREAM != 0;
        match (self.streams.get(&id).map(|stream| stream.unanswered), self.role) {
            (Some(true), Role::Dialling) => self.answered(id, heading, end),
            (Some(_), _) => self.trailers(id, end),
            (None, Role::Dialling) => self.closed_or_idle(id),
            (None, Role::Serving) if id.is_multiple_of(2) => Err(code::PROTOCOL_ERROR),
            (None, Role::Serving) if id <= self.last => Ok(()),
            (None, Role::Serving) => {
                self.last = id;
                self.requested(id, heading, end);
                Ok(())
            }
        }
    }

    fn requested(&mut self, id: u32, heading: Heading, end: bool) {
        if self.leaving == Leaving::Now || self.is_full() {
            return frame::put_reset(&mut self.out, id, code::REFUSED_STREAM);
        }
        match heading.request(&mut self.heard) {
            Ok(request) => {
                let mut stream = Stream::new(self.peer.initial_window, self.limits.stream_window, &self.held);
                stream.recv_done = end;
                self.streams.insert(id, stream);
                self.asked.push_back(Asked::Connect(id, Box::new(request)));
            }
            Err(Unfit::Broken) => frame::put_reset(&mut self.out, id, code::PROTOCOL_ERROR),
            Err(Unfit::TooLarge) => self.answer_at_once(id, 431, end),
            Err(Unfit::Malformed(why)) => {
                self.answer_at_once(id, 400, end);
                self.asked.push_back(Asked::Malformed(why));
            }
        }
    }

    /// Whether the peer has as many streams as it may have. Those that are over for it, and only wait for our side to
    /// let go of them, do not count; they are few, because whoever has them is woken by their end.
    fn is_full(&self) -> bool {
        let most = self.limits.max_peer_streams;
        let counts = |stream: &&Stream| !(stream.recv_done && stream.send_done);
        self.streams.len() >= most
            && (self.streams.len() >= 2 * most || self.streams.values().filter(counts).count() >= most)
    }

    fn answered(&mut self, id: u32, heading: Heading, end: bool) -> Result<(), u32> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        match heading.answer(&mut self.heard) {
            // An interim answer; the real one follows.
            Ok((100..=199, _)) if !end => return Ok(()),
            Ok((status, about)) => {
                stream.unanswered = false;
                stream.recv_done = end;
                stream.answer = Some((status, about));
            }
            Err(_) => {
                stream.reset = Some(StreamError::Protocol(code::PROTOCOL_ERROR));
                frame::put_reset(&mut self.out, id, code::PROTOCOL_ERROR);
            }
        }
        stream.wake();
        Ok(())
    }

    /// Trailers say nothing here but that the stream ends.
    fn trailers(&mut self, id: u32, end: bool) -> Result<(), u32> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.recv_done => Err(code::STREAM_CLOSED),
            Some(stream) if end => {
                stream.recv_done = true;
                stream.wake();
                Ok(())
            }
            _ => Err(code::PROTOCOL_ERROR),
        }
    }

    fn reset_by_peer(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        let reason = frame::number(payload).filter(|_| payload.len() == 4).ok_or(code::FRAME_SIZE_ERROR)?;
        let id = head.stream;
        if id == 0 {
            return Err(code::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return self.closed_or_idle(id) };
        let served_unanswered = stream.unanswered && self.role == Role::Serving;
        stream.reset.get_or_insert(StreamError::Reset(reason));
        stream.wake();
        if served_unanswered {
            // Asked and taken back, over and over, is an attack (CVE-2023-44487).
            self.taken_back += 1;
            if self.taken_back as usize > 4 * self.limits.max_peer_streams {
                return Err(code::ENHANCE_YOUR_CALM);
            }
            let waiting = self.asked.len();
            self.asked.retain(|asked| !matches!(asked, Asked::Connect(asked, _) if *asked == id));
            if self.asked.len() < waiting {
                self.streams.remove(&id);
            }
        }
        Ok(())
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        if head.stream != 0 {
            return Err(code::PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            self.acknowledged = true;
            return if payload.is_empty() { Ok(()) } else { Err(code::FRAME_SIZE_ERROR) };
        }
        let (settings, []) = payload.as_chunks::<6>() else { return Err(code::FRAME_SIZE_ERROR) };
        // Each may concern every stream.
        self.settings_seen += 1 + settings.len();
        if self.settings_seen > MOST_SETTINGS {
            return Err(code::ENHANCE_YOUR_CALM);
        }
        for [i0, i1, v0, v1, v2, v3] in settings {
            let (id, value) = (u16::from_be_bytes([*i0, *i1]), u32::from_be_bytes([*v0, *v1, *v2, *v3]));
            self.setting(id, value)?;
        }
        frame::put(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), u32> {
        match id {
            setting::ENABLE_PUSH if value > 1 => return Err(code::PROTOCOL_ERROR),
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::MAX_FRAME_SIZE if !(SMALLEST_MAX_FRAME..=LARGEST_MAX_FRAME).contains(&value) => {
                return Err(code::PROTOCOL_ERROR);
            }
            setting::MAX_FRAME_SIZE => self.peer.max_frame = value,
            setting::INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                if window > LARGEST_WINDOW {
                    return Err(code::FLOW_CONTROL_ERROR);
                }
                let change = window - std::mem::replace(&mut self.peer.initial_window, window);
                for stream in self.streams.values_mut() {
                    stream.send_window += change;
                    if stream.send_window > LARGEST_WINDOW {
                        return Err(code::FLOW_CONTROL_ERROR);
                    }
                    unblock(stream);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pinged(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        let payload: &[u8; 8] = payload.try_into().map_err(|_| code::FRAME_SIZE_ERROR)?;
        if head.stream != 0 {
            return Err(code::PROTOCOL_ERROR);
        }
        if !head.has(flag::ACK) {
            frame::put(&mut self.out, kind::PING, flag::ACK, 0, payload);
        } else if *payload == KEEPALIVE && std::mem::take(&mut self.pings.waiting) {
            self.pings.answered = true;
        } else if *payload == LAST_CALL && self.leaving == Leaving::Soon {
            self.leaving = Leaving::Now;
            frame::put_goaway(&mut self.out, self.last, code::NO_ERROR);
        }
        Ok(())
    }

    fn goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        let (last, reason) = frame::number31(payload)
            .zip(payload.get(4..).and_then(frame::number))
            .filter(|_| head.stream == 0)
            .ok_or(if head.stream == 0 { code::FRAME_SIZE_ERROR } else { code::PROTOCOL_ERROR })?;
        if self.going.replace((last, reason)).is_some() {
            self.nothing_said()?;
        }
        if self.role == Role::Dialling {
            // These were not looked at, whatever the reason (RFC 9113 section 6.8).
            for (_, stream) in self.streams.iter_mut().filter(|(id, _)| **id > last) {
                stream.reset.get_or_insert(StreamError::GoAway(code::NO_ERROR));
                stream.wake();
            }
        }
        Ok(())
    }

    fn window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), u32> {
        let more = frame::number31(payload).filter(|_| payload.len() == 4).ok_or(code::FRAME_SIZE_ERROR)?;
        if more == 0 {
            return Err(code::PROTOCOL_ERROR);
        }
        if head.stream == 0 {
            let blocked = self.send_window <= 0;
            self.send_window += i64::from(more);
            self.grants += 1;
            if self.send_window > LARGEST_WINDOW {
                return Err(code::FLOW_CONTROL_ERROR);
            }
            if blocked {
                self.admit();
            }
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else { return self.closed_or_idle(head.stream) };
        stream.send_window += i64::from(more);
        if stream.send_window > LARGEST_WINDOW {
            return Err(code::FLOW_CONTROL_ERROR);
        }
        unblock(stream);
        Ok(())
    }
}

/// The window that a stream has earned.
fn grown(stream: &Stream, far: bool, largest: u32) -> u32 {
    if !stream.queue.is_empty() {
        return stream.target;
    }
    let used_up = stream.recv_window < i64::from(stream.target / 4);
    let target = match (far && used_up, stream.delivered >= PROVEN) {
        (true, _) => stream.target.saturating_mul(2),
        (false, true) => largest,
        (false, false) => stream.target,
    };
    target.min(largest)
}

fn unblock(stream: &mut Stream) {
    if stream.send_window > 0 && std::mem::take(&mut stream.blocked) {
        stream.wake();
    }
}
