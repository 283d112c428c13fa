//! Ways into the engine for fuzzing (`tests/fuzz/targets/http2.rs`); not part of the API, and not compiled without the
//! feature `fuzzing`.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    connect::{Authority, ConnectRequest},
    http2::{
        frame::{Head, PREFACE, put_settings},
        headers::Heading,
        hpack::{self, Decoder},
        remembered::Heard,
        session::{Asked, Given, Near, Role, Session},
    },
    limits::{Held, Limits},
};

/// A peer that says `bytes`, to a session of either role. The first byte chooses: the role, whether the peer greets as
/// it should, whether frames are cut to fit, and how its bytes are divided. What happens must not depend on the division;
/// and whatever happens, memory and windows stay within their limits.
pub fn session(bytes: &[u8]) {
    let [choice, step, rest @ ..] = bytes else { return };
    let role = if choice & 1 == 0 { Role::Serving } else { Role::Dialling };
    let mut said = Vec::new();
    if choice & 2 == 0 {
        if role == Role::Serving {
            said.extend_from_slice(PREFACE);
        }
        put_settings(&mut said, &[]);
    }
    if choice & 4 == 0 {
        well_cut(rest, &mut said)
    } else {
        said.extend_from_slice(rest)
    }
    let whole = Talk::new(role).hear(&said, usize::MAX);
    let parts = Talk::new(role).hear(&said, usize::from(*step).max(1));
    assert_eq!(whole, parts, "it matters how the bytes were divided");
    Talk::new(role).converse(&said, usize::from(*step).max(1));
}

/// Makes frames whose length is right: of each seven bytes of `from` a head, then so many bytes as the first one says.
fn well_cut(mut from: &[u8], said: &mut Vec<u8>) {
    while let Some(([len, kind, flags, stream @ ..], rest)) = from.split_first_chunk::<7>() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        let stream = u32::from_be_bytes(*stream) & 0x8000_000f;
        said.extend_from_slice(&Head { len: payload.len() as u32, kind: *kind, flags: *flags, stream }.bytes());
        said.extend_from_slice(payload);
        from = rest;
    }
}

/// A block as a peer may send it: what is read stays within the limit, and what we write is read the same.
pub fn header_block(bytes: &[u8]) {
    let (mut decoder, mut fields) = (Decoder::default(), Vec::new());
    let mut size = 0;
    let read = decoder.read(bytes, |name, value| {
        size += name.len() + value.len();
        if size < 1 << 20 {
            fields.push((name.to_vec(), value.to_vec()));
        }
    });
    if read.is_ok() && size < 1 << 20 {
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| hpack::put_new(&mut block, name, value));
        let mut again = Vec::new();
        let done = Decoder::default().read(&block, |name, value| again.push((name.to_vec(), value.to_vec())));
        assert!(done.is_ok() && again == fields, "what is written is read the same");
    }
    for limit in [100, 1 << 16] {
        if let Ok(heading) = Heading::read(&mut Decoder::default(), bytes, limit) {
            let _ = heading.request(&mut Heard::default());
        }
        if let Ok(heading) = Heading::read(&mut Decoder::default(), bytes, limit) {
            let _ = heading.answer(&mut Heard::default());
        }
    }
}

/// An application that takes a little at a time.
#[derive(Clone, Default)]
struct App {
    got: Rc<RefCell<Vec<u8>>>,
    room: usize,
}

impl Near for App {
    fn give(&self, bytes: &[u8], _more: bool) -> Given {
        let taken = bytes.len().min(self.room);
        self.got.borrow_mut().extend_from_slice(&bytes[..taken]);
        if self.room == 13 { Given::Broken } else { Given::Took(taken) }
    }
}

struct Talk {
    session: Session,
    held: std::sync::Arc<Held>,
    streams: Vec<u32>,
}

impl Talk {
    fn new(role: Role) -> Self {
        let limits = Limits { stream_window: 1000, largest_window: 4000, max_peer_streams: 4, ..Limits::default() };
        let mut session = Session::new(role, &limits);
        let mut streams = Vec::new();
        if role == Role::Dialling
            && let Ok(authority) = Authority::parse("10.0.0.1:80")
        {
            let request = ConnectRequest::to(authority);
            streams.extend((0..3).filter_map(|_| session.open(&request).ok()));
        }
        Self { session, held: limits.held, streams }
    }

    /// Only listens; gives how it ended, what is answered, and what is kept.
    fn hear(mut self, said: &[u8], step: usize) -> (Result<(), u32>, Vec<u8>, usize) {
        let heard = said.chunks(step.min(said.len().max(1))).try_for_each(|part| self.session.absorb(part, false));
        let mut answers = Vec::new();
        while self.session.has_out() {
            self.session.drain(1000, |out| answers.extend_from_slice(out));
        }
        // What was said before the end may be cut at another place.
        if heard.is_err() { (heard, Vec::new(), 0) } else { (heard, answers, self.held.bytes()) }
    }

    /// Listens, answers, sends and lets go, as tasks of both sides would.
    fn converse(&mut self, said: &[u8], step: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        for (n, part) in said.chunks(step).enumerate() {
            if self.session.absorb(part, n.is_multiple_of(3)).is_err() {
                self.session.accuse(1);
                break;
            }
            self.act(n, &mut cx);
        }
        for id in std::mem::take(&mut self.streams) {
            self.session.release(id);
        }
        while let Some(asked) = self.session.take_asked() {
            if let Asked::Connect(id, _) = asked {
                self.session.refuse(id, 503);
            }
        }
        assert_eq!(self.held.bytes(), 0, "what was held is let go of");
        assert!(self.session.is_empty());
    }

    fn act(&mut self, n: usize, cx: &mut Context<'_>) {
        if let Some(Asked::Connect(id, _)) = self.session.take_asked() {
            match n % 4 {
                0 => self.session.refuse(id, 401),
                _ => {
                    let _ = self.session.accept(id, &Arc::default());
                    self.session.attach(id, Box::new(App { room: n % 17, ..App::default() }));
                    self.streams.push(id);
                }
            }
        }
        assert!(self.streams.len() <= 8, "more streams than there may be");
        let Some(id) = self.streams.get(n % self.streams.len().max(1)).copied() else { return };
        let _ = self.session.poll_answer(id, cx);
        if let Poll::Ready(Ok(room)) = self.session.poll_room(id, cx) {
            assert!(room > 0);
            let _ = self.session.append(id, room, |out| {
                bytes::BufMut::put_bytes(out, 7, room.min(n % 50));
                Ok(room.min(n % 50))
            });
        }
        let queued = self.session.queued(id).0.len();
        self.session.took(id, queued.min(n));
        match n % 11 {
            3 => self.session.finish(id),
            5 => self.session.reset(id, 8),
            6 => self.session.forgo(id),
            7 => self.session.ping(),
            8 if n > 60 => self.session.wind_down(),
            _ => {}
        }
        if n % 11 == 5 {
            self.streams.retain(|other| *other != id);
            self.session.release(id);
        }
        if n.is_multiple_of(2) {
            self.session.drain(500, |_| ());
        }
        self.session.tidy();
    }
}
