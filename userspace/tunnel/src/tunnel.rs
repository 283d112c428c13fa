//! One tunnel as pool, server and streams see it: who sits in it, and whether it takes more.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{error::StreamError, http2::session::Session, key::Peer, proofs::Proof};

/// A tunnel whose peer lets nothing through for so long takes no new stream: its readers have stopped, and peers that
/// count what these hold against the whole connection (ztunnel) hold up every other stream with them. More than the way
/// there and back, after which a peer with a small window grants more.
const STUCK: Duration = Duration::from_millis(200);
/// A peer that was heard within this time is taken to be there still.
const LIVELY: Duration = Duration::from_secs(1);

/// The shared state of a tunnel. Its driver is [`crate::life::Life`].
pub(crate) struct Tunnel {
    pub(crate) peer: Rc<Peer>,
    pub(crate) opened: Instant,
    pub(crate) session: Rc<RefCell<Session>>,
    proof: Arc<Proof>,
    seats: RefCell<BTreeMap<u64, Rc<Seat>>>,
    next_seat: Cell<u64>,
    retired: Cell<bool>,
    ended: Cell<Option<StreamError>>,
    idle_since: Cell<Option<Instant>>,
    /// When the last request was sent, and how much had been heard from the peer by then.
    asked: Cell<(Instant, u64)>,
    /// Since when the peer has let nothing through, and how often it had granted more until then.
    exhausted: Cell<Option<(u64, Instant)>>,
    driver: RefCell<Option<Waker>>,
}

/// One stream's place in its tunnel.
pub(crate) struct Seat {
    since: Instant,
    ended: Cell<Option<StreamError>>,
    waker: RefCell<Option<Waker>>,
}

/// A place taken; it is free again when this is dropped.
pub(crate) struct Seated {
    pub(crate) tunnel: Rc<Tunnel>,
    seat: Rc<Seat>,
    id: u64,
}

impl Tunnel {
    pub(crate) fn new(peer: Peer, proof: Arc<Proof>, session: Rc<RefCell<Session>>) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            peer: Rc::new(peer),
            opened: now,
            session,
            proof,
            seats: RefCell::default(),
            next_seat: Cell::new(0),
            retired: Cell::new(false),
            ended: Cell::new(None),
            idle_since: Cell::new(Some(now)),
            asked: Cell::new((now, 0)),
            exhausted: Cell::new(None),
            driver: RefCell::new(None),
        })
    }

    /// Takes a place, whatever the number of those taken (the peer has opened the stream).
    pub(crate) fn seat(self: &Rc<Self>) -> Seated {
        let id = self.next_seat.get();
        self.next_seat.set(id + 1);
        let seat = Rc::new(Seat { since: Instant::now(), ended: self.ended.clone(), waker: RefCell::default() });
        self.seats.borrow_mut().insert(id, Rc::clone(&seat));
        self.idle_since.set(None);
        Seated { tunnel: Rc::clone(self), seat, id }
    }

    /// Takes one of at most `most` places, if the tunnel and the peer have one.
    pub(crate) fn try_seat(self: &Rc<Self>, most: usize) -> Option<Seated> {
        if self.is_retired() || self.is_stuck() {
            return None;
        }
        let limit = self.session.borrow().limit();
        match limit {
            Ok(limit) => (self.streams() < limit.min(most)).then(|| self.seat()),
            Err(_) => {
                self.retire();
                None
            }
        }
    }

    /// To be asked once with each request: has the peer been heard within [`LIVELY`]? One that has not may be gone.
    fn is_lively(&self, now: Instant) -> bool {
        let heard = self.session.borrow().heard();
        let (asked, before) = self.asked.replace((now, heard));
        heard != before && now < asked + LIVELY
    }

    fn is_stuck(&self) -> bool {
        self.look_at_window();
        self.exhausted.get().is_some_and(|(_, since)| since.elapsed() >= STUCK)
    }

    /// To be called whenever something was sent or heard.
    pub(crate) fn look_at_window(&self) {
        match self.session.borrow().exhausted() {
            Some(grants) if self.exhausted.get().is_some_and(|(seen, _)| seen == grants) => {}
            now => self.exhausted.set(now.map(|grants| (grants, Instant::now()))),
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.seats.borrow().len()
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    pub(crate) fn until(&self) -> SystemTime {
        self.proof.until()
    }

    /// Since when no stream has been open.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Takes the tunnel out of use: no new stream, and it closes with its last one.
    pub(crate) fn retire(&self) {
        if !self.retired.replace(true) {
            self.wake_driver();
        }
    }

    /// Ends the tunnel and all of its streams.
    pub(crate) fn end(&self, why: StreamError) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
            self.end_streams(why, |_| true);
        }
        self.retire();
        self.wake_driver();
    }

    /// Why the tunnel was ended, if it was.
    pub(crate) fn ended(&self) -> Option<StreamError> {
        self.ended.get()
    }

    /// Ends the streams that fit by the time they were opened.
    pub(crate) fn end_streams(&self, why: StreamError, which: impl Fn(Instant) -> bool) {
        // Waking may run nothing here (tasks run later), but a waker is foreign code: do not hold the table.
        let fitting: Vec<_> = self.seats.borrow().values().filter(|seat| which(seat.since)).cloned().collect();
        for seat in fitting {
            seat.end(why);
        }
    }

    /// When the oldest stream was opened.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.seats.borrow().values().map(|seat| seat.since).min()
    }

    /// The driver's task is to be woken from now on.
    pub(crate) fn drive_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    fn leave(&self, id: u64) {
        let empty = {
            let mut seats = self.seats.borrow_mut();
            seats.remove(&id);
            seats.is_empty()
        };
        if empty {
            self.idle_since.set(Some(Instant::now()));
            if self.is_retired() {
                self.wake_driver();
            }
        }
    }
}

impl Seat {
    fn end(&self, why: StreamError) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Seated {
    /// [`Tunnel::is_lively`], at the time at which the place was taken.
    pub(crate) fn is_lively(&self) -> bool {
        self.tunnel.is_lively(self.seat.since)
    }

    /// Ready when this agent has ended the stream or its tunnel.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<StreamError> {
        if let Some(why) = self.seat.ended.get() {
            return Poll::Ready(why);
        }
        let mut waker = self.seat.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.tunnel.leave(self.id);
    }
}

impl fmt::Debug for Seated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seated({}, {})", self.tunnel.peer.identity, self.id)
    }
}
