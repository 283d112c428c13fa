//! The state of one connection: its streams, windows, and what is to be sent next.
//!
//! Bytes from the peer go in by [`Session::absorb`]; what is to be sent gathers in one buffer, which whoever drives the
//! connection takes out ([`Session::drain`]) once per turn, so that all streams that were ready share one record and
//! one write. A stream's bytes are handed straight to its [`Near`] end; only what that does not take is kept.
//!
//! Windows. What a peer may have under way is bounded per stream: [`Limits::stream_window`] until the stream has proven
//! that it is read ([`PROVEN`]) or that the way is long ([`LONG_WAY`]). The connection's window is given back as bytes
//! come, so that a reader that has stopped holds up nobody else.

mod backlog;
mod receive;
mod send;
mod stream;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use self::stream::Stream;
pub(crate) use self::stream::{Given, Near};
use super::{
    frame::{self, FIRST_WINDOW, SMALLEST_MAX_FRAME, kind, setting},
    hpack::Decoder,
    reader::Reader,
    remembered::{Heard, Said},
};
use crate::{
    connect::{Baggage, ConnectRequest},
    error::StreamError,
    limits::{Held, Limits},
    serve::Malformed,
};

/// Bytes that may wait to be sent before streams have to wait instead.
const OUT_LIMIT: usize = 128 * 1024;
/// Bytes that may wait at all: a peer that provokes more answers than this, and reads none, is cut off.
const OUT_HARD_LIMIT: usize = 1 << 20;
/// One stream's share of a turn while others wait, in bytes.
const SHARE: usize = 64 * 1024;
/// A stream whose reader has taken so many bytes is a bulk transfer that is being read.
const PROVEN: u64 = 16 << 20;
/// From this round trip on, windows grow as long as they are used up.
const LONG_WAY: Duration = Duration::from_millis(1);

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// We dialled: streams are ours.
    Dialling,
    /// We serve: streams are the peer's.
    Serving,
}

/// One HTTP/2 connection without its I/O.
pub(crate) struct Session {
    role: Role,
    /// Frames to be sent.
    out: Vec<u8>,
    /// How often something was taken from `out`.
    turn: u64,
    /// How often all that was at hand from the peer has been read.
    batch: u64,
    /// The peer has acknowledged our SETTINGS.
    acknowledged: bool,
    reader: Reader,
    decoder: Decoder,
    heard: Heard,
    said: Said,
    /// A header block that goes on in CONTINUATION frames: its stream, flags and the bytes so far.
    block: Option<(u32, u8, Vec<u8>)>,
    /// Whether the peer was told that our blocks refer to no table.
    table_given_up: bool,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    /// Streams that wait for room in `out` or in the connection's window.
    waiting: Vec<u32>,
    /// Requests that nobody has looked at yet.
    asked: VecDeque<Asked>,
    /// The next stream that we open.
    next: u32,
    /// The last stream that the peer has opened.
    last: u32,
    /// What we may send on all streams together.
    send_window: i64,
    /// How often the peer has raised that.
    grants: u64,
    /// What the peer may send on all streams together, and what of it is to be given back.
    recv_window: i64,
    recv_credit: u32,
    limits: Numbers,
    peer: PeerSettings,
    greeted: Greeting,
    /// The peer's GOAWAY: the last stream that it looks at, and why.
    going: Option<(u32, u32)>,
    leaving: Leaving,
    pings: Pings,
    /// Requests in a row that the peer took back before they were answered, since our last PING.
    taken_back: u32,
    /// What the peer has sent of settings since our last PING.
    settings_seen: usize,
    /// Frames of the peer that said nothing, since our last PING.
    empty_seen: usize,
    /// Shared by all tunnels of the agent.
    held: Arc<Held>,
    ended: Option<StreamError>,
    driver: Option<Waker>,
}

/// A request of the peer.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A CONNECT on this stream, that waits for its answer.
    Connect(u32, Box<ConnectRequest>),
    /// Something else, which has been answered already.
    Malformed(Malformed),
}

/// The numbers of [`Limits`] that matter here.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    stream_window: u32,
    largest_window: u32,
    connection_window: u32,
    header_list: usize,
    max_peer_streams: usize,
}

#[derive(Debug)]
struct PeerSettings {
    initial_window: i64,
    max_frame: u32,
    max_streams: u32,
}

/// What must come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// The client's preface, of which so many bytes have come.
    Preface(usize),
    Settings,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The peer was told to stop opening streams; those under way are still taken, until a PING is answered.
    Soon,
    /// The peer was told which stream was the last.
    Now,
}

#[derive(Debug, Default)]
struct Pings {
    /// Sent by `ping`, not answered.
    waiting: bool,
    answered: bool,
    round_trip: Option<Duration>,
}

const KEEPALIVE: [u8; 8] = *b"culvert\0";
const LAST_CALL: [u8; 8] = *b"lastcall";

impl Session {
    /// How often something was heard from the peer.
    pub(crate) fn heard(&self) -> u64 {
        self.batch
    }

    /// Whether the peer has shown that it reads what we say: it can have said its own SETTINGS before it knew who we are.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    pub(crate) fn new(role: Role, limits: &Limits) -> Self {
        let dialling = role == Role::Dialling;
        let header_list = if dialling { limits.client_header_list } else { limits.server_header_list };
        let mut session = Self {
            role,
            out: Vec::new(),
            turn: 0,
            batch: 0,
            acknowledged: false,
            reader: Reader::new(limits.max_frame),
            decoder: Decoder::default(),
            heard: Heard::default(),
            said: Said::default(),
            block: None,
            table_given_up: false,
            streams: HashMap::default(),
            waiting: Vec::new(),
            asked: VecDeque::new(),
            next: 1,
            last: 0,
            send_window: FIRST_WINDOW,
            grants: 0,
            recv_window: i64::from(limits.connection_window).max(FIRST_WINDOW),
            recv_credit: 0,
            limits: Numbers {
                stream_window: limits.stream_window,
                largest_window: limits.largest_window.max(limits.stream_window),
                connection_window: limits.connection_window,
                header_list: header_list as usize,
                max_peer_streams: limits.max_peer_streams as usize,
            },
            peer: PeerSettings { initial_window: FIRST_WINDOW, max_frame: SMALLEST_MAX_FRAME, max_streams: 100 },
            greeted: if dialling { Greeting::Settings } else { Greeting::Preface(0) },
            going: None,
            leaving: Leaving::No,
            pings: Pings::default(),
            taken_back: 0,
            settings_seen: 0,
            empty_seen: 0,
            held: Arc::clone(&limits.held),
            ended: None,
            driver: None,
        };
        session.greet(limits, header_list);
        session
    }

    fn greet(&mut self, limits: &Limits, header_list: u32) {
        let mut settings = vec![
            (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
            (setting::MAX_FRAME_SIZE, limits.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, header_list),
        ];
        if self.role == Role::Dialling {
            self.out.extend_from_slice(frame::PREFACE);
            settings.push((setting::ENABLE_PUSH, 0));
        } else {
            settings.push((setting::MAX_CONCURRENT_STREAMS, limits.max_peer_streams));
        }
        frame::put_settings(&mut self.out, &settings);
        if let Some(more) = u32::try_from(self.recv_window - FIRST_WINDOW).ok().filter(|more| *more > 0) {
            frame::put_window_update(&mut self.out, 0, more);
        }
    }

    /// The next request of the peer.
    pub(crate) fn take_asked(&mut self) -> Option<Asked> {
        self.asked.pop_front()
    }

    /// How many streams the peer allows at once, or why it allows none any more.
    pub(crate) fn limit(&self) -> Result<usize, StreamError> {
        match (self.ended, self.going) {
            (Some(why), _) => Err(why),
            (None, Some((_, code))) => Err(StreamError::GoAway(code)),
            (None, None) if self.leaving != Leaving::No || self.next > u32::MAX >> 1 => Err(StreamError::GoAway(0)),
            (None, None) => Ok(self.peer.max_streams as usize),
        }
    }

    /// How many streams the peer allowed when it last said so.
    pub(crate) fn max_streams(&self) -> u32 {
        self.peer.max_streams
    }

    /// What to believe about that until the peer has said it.
    pub(crate) fn presume_max_streams(&mut self, most: u32) {
        self.peer.max_streams = most;
    }

    /// When the peer lets us send next to nothing, on all streams together: how often it has let us send more so far.
    pub(crate) fn exhausted(&self) -> Option<u64> {
        (self.send_window < i64::from(SMALLEST_MAX_FRAME)).then_some(self.grants)
    }

    /// Sends a PING, whose answer [`Session::take_pong`] tells. One is under way at most.
    pub(crate) fn ping(&mut self) {
        // What is much in one interval is nothing over days.
        (self.taken_back, self.settings_seen, self.empty_seen) = (0, 0, 0);
        if !std::mem::replace(&mut self.pings.waiting, true) {
            frame::put(&mut self.out, kind::PING, 0, 0, &KEEPALIVE);
            self.wake_driver();
        }
    }

    /// Whether the PING has been answered since this was last asked.
    pub(crate) fn take_pong(&mut self) -> bool {
        std::mem::take(&mut self.pings.answered)
    }

    /// What a PING took.
    pub(crate) fn set_round_trip(&mut self, took: Duration) {
        self.pings.round_trip = Some(self.pings.round_trip.map_or(took, |old| old.min(took)));
    }

    /// Tells the peer to open no more streams; [`Session::is_over`] with the last one.
    pub(crate) fn wind_down(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        if self.role == Role::Dialling {
            self.leaving = Leaving::Now;
            frame::put_goaway(&mut self.out, 0, super::code::NO_ERROR);
        } else {
            // Streams that cross this on the way are still served: the second GOAWAY follows when a PING has come back.
            self.leaving = Leaving::Soon;
            frame::put_goaway(&mut self.out, u32::MAX >> 1, super::code::NO_ERROR);
            frame::put(&mut self.out, kind::PING, 0, 0, &LAST_CALL);
        }
        self.wake_driver();
    }

    /// Whether we have said that we leave, and the last stream is done.
    pub(crate) fn is_over(&self) -> bool {
        self.leaving == Leaving::Now && self.is_empty()
    }

    /// Whether no stream is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.asked.is_empty()
    }

    /// The connection is broken: all streams end with this error.
    pub(crate) fn fail(&mut self, why: StreamError) {
        if self.ended.is_none() {
            self.ended = Some(match (why, self.going) {
                // The peer had said why before it closed.
                (StreamError::Lost(_), Some((_, code))) if code != 0 => StreamError::GoAway(code),
                (why, _) => why,
            });
        }
        for stream in self.streams.values_mut() {
            stream.wake();
        }
    }

    /// Breaks the connection off: the peer has broken its rules.
    pub(crate) fn accuse(&mut self, code: u32) {
        frame::put_goaway(&mut self.out, self.last, code);
    }

    /// Whoever drives the connection is to be woken from now on.
    pub(crate) fn drive_by(&mut self, waker: &Waker) {
        if !self.driver.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.driver = Some(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Whether something is to be sent.
    pub(crate) fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes at most `most` bytes of what is to be sent, and lets streams go on that waited for room.
    pub(crate) fn drain<R>(&mut self, most: usize, take: impl FnOnce(&[u8]) -> R) -> R {
        self.turn += 1;
        let taken = self.out.len().min(most);
        let result = take(&self.out[..taken]);
        self.out.drain(..taken);
        self.admit();
        result
    }

    /// Streams that wait for room look again, the one that was served longest ago first.
    fn admit(&mut self) {
        if self.waiting.is_empty() || self.send_window <= 0 {
            return;
        }
        let streams = &self.streams;
        self.waiting.sort_by_key(|id| streams.get(id).map_or(0, |stream| stream.served));
        for stream in self.waiting.iter().filter_map(|id| streams.get(id)) {
            stream.wake();
        }
    }

    /// The stream no longer waits for room.
    fn leave_queue(&mut self, id: u32) {
        self.waiting.retain(|waiting| *waiting != id);
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn tidy(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.streams.is_empty() {
            self.streams = HashMap::default();
        }
    }

    /// Ready with the answer to a request of ours.
    pub(crate) fn poll_answer(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<(u16, Arc<Baggage>), StreamError>> {
        let ended = self.ended;
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err(StreamError::Reset(0))) };
        if let Some(answer) = stream.answer.take() {
            return Poll::Ready(Ok(answer));
        }
        match stream.reset.or(ended) {
            Some(why) => Poll::Ready(Err(why)),
            None => {
                stream.watch(cx);
                Poll::Pending
            }
        }
    }

    /// Ready when the peer has reset the stream or the connection is broken.
    pub(crate) fn poll_gone(&mut self, id: u32, cx: &Context<'_>) -> Poll<StreamError> {
        let ended = self.ended;
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(StreamError::Reset(0)) };
        stream.watch(cx);
        stream.reset.or(ended).map_or(Poll::Pending, Poll::Ready)
    }
}

/// Stream numbers are odd and grow; multiplying spreads them well enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte) ^ (self.0 as u32).rotate_left(8));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
