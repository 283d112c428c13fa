//! The life of a tunnel: it is driven, kept alive, and ended when its time has come.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::AsyncReadExt as _,
    task::spawn_local,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{error::StreamError, http2::session::Asked, limits::Limits, link::Link, tunnel::Tunnel};

/// How long the streams of an ended tunnel have to tell the peer.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Two looks at the clock are at least this far apart.
const FINEST: Duration = Duration::from_millis(5);

/// Drives one tunnel. Whoever has this has the connection; dropping it closes the connection.
pub(crate) struct Life {
    tunnel: Rc<Tunnel>,
    link: Link,
    limits: Limits,
    timer: Pin<Box<Sleep>>,
    next_ping: Instant,
    pinged: Option<Instant>,
    /// How long an unused tunnel is kept.
    idle: Duration,
    wound_down: bool,
    ended_at: Option<Instant>,
}

impl Life {
    pub(crate) fn new(tunnel: Rc<Tunnel>, link: Link, limits: Limits, idle: Duration) -> Self {
        let now = Instant::now();
        // The first one tells how long the way is.
        tunnel.session.borrow_mut().ping();
        Self {
            tunnel,
            link,
            timer: Box::pin(sleep_until(now)),
            next_ping: now + limits.ping_interval,
            pinged: Some(now),
            limits,
            idle,
            wound_down: false,
            ended_at: None,
        }
    }

    /// To be called at the end, when all is said: keeps the socket until the peer has closed as well. One that is closed
    /// while its last bytes are on their way is reset by whatever the peer still sends, and the bytes are lost.
    pub(crate) fn linger(self) {
        let mut tcp = self.link.into_socket();
        spawn_local(timeout(LAST_WORDS, async move {
            let mut scratch = [0; 2048];
            while tcp.read(&mut scratch).await.is_ok_and(|bytes| bytes > 0) {}
        }));
    }

    /// The next request of the peer; `None` when the tunnel is over and all is said.
    pub(crate) async fn next(&mut self) -> Option<Result<Asked, StreamError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        self.tunnel.drive_by(cx.waker());
        self.obey();
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Err(why) = self.tick(now) {
                return Poll::Ready(Some(Err(why)));
            }
            let next = self.next_tick(now);
            self.timer.as_mut().reset(next);
            self.obey();
        }
        let driven = self.link.poll_drive(cx);
        self.tunnel.look_at_window();
        self.look_for_pong();
        driven
    }

    fn look_for_pong(&mut self) {
        let mut session = self.tunnel.session.borrow_mut();
        if session.take_pong()
            && let Some(sent) = self.pinged.take()
        {
            session.set_round_trip(sent.elapsed());
        }
    }

    /// Does what pool, server or streams have asked for.
    fn obey(&mut self) {
        if self.tunnel.is_retired() && !self.wound_down {
            self.wound_down = true;
            self.tunnel.session.borrow_mut().wind_down();
        }
        if self.tunnel.ended().is_some() && self.ended_at.is_none() {
            let now = Instant::now();
            self.ended_at = Some(now);
            self.timer.as_mut().reset(now);
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), StreamError> {
        if let (Some(why), Some(at)) = (self.tunnel.ended(), self.ended_at)
            && now >= at + LAST_WORDS
        {
            return Err(why);
        }
        if SystemTime::now() >= self.tunnel.until() {
            self.tunnel.end(StreamError::Ended("svid_expired"));
        }
        if let Some(age) = self.limits.max_connection_age {
            self.tunnel.end_streams(StreamError::Ended("max_connection_age"), |since| now >= since + age);
            if now >= self.tunnel.opened + age {
                self.tunnel.retire();
            }
        }
        if self.tunnel.idle_since().is_some_and(|since| now >= since + self.idle) {
            self.tunnel.retire();
        }
        // The peer may have said GOAWAY since anybody asked.
        if self.tunnel.session.borrow().limit().is_err() {
            self.tunnel.retire();
        }
        self.link.tidy();
        self.keep_alive(now)
    }

    fn keep_alive(&mut self, now: Instant) -> Result<(), StreamError> {
        match self.pinged {
            Some(at) if now >= at + self.limits.ping_timeout => {
                self.tunnel.end(StreamError::KeepaliveTimeout);
                Err(StreamError::KeepaliveTimeout)
            }
            None if now >= self.next_ping => {
                self.tunnel.session.borrow_mut().ping();
                self.pinged = Some(now);
                self.next_ping = now + self.limits.ping_interval;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// When to look again: at the next thing that is due, and at the latest after one ping interval, because the
    /// wall clock may jump and idleness begins without notice.
    fn next_tick(&self, now: Instant) -> Instant {
        let mut next = now + self.limits.ping_interval;
        let mut sooner = |at: Instant| next = next.min(at.max(now + FINEST));
        if self.ended_at.is_none() {
            sooner(now + self.tunnel.until().duration_since(SystemTime::now()).unwrap_or_default());
        }
        match self.pinged {
            Some(at) => sooner(at + self.limits.ping_timeout),
            None => sooner(self.next_ping),
        }
        if let (Some(age), Some(oldest)) = (self.limits.max_connection_age, self.tunnel.oldest()) {
            sooner(oldest + age);
        }
        if let (false, Some(since)) = (self.wound_down, self.tunnel.idle_since()) {
            sooner(since + self.idle);
        }
        if let Some(at) = self.ended_at {
            sooner(at + LAST_WORDS);
        }
        next
    }
}
