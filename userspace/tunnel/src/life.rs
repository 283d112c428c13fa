//! The life of a tunnel: it is driven, kept alive, and ended when its time has come.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    error::StreamError,
    limits::Limits,
    tunnel::Tunnel,
    wire::{Asked, Conversation},
};

/// How long the streams of an ended tunnel have to tell the peer.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Two looks at the clock are at least this far apart.
const FINEST: Duration = Duration::from_millis(5);

/// Drives one tunnel. Whoever has this has the connection; dropping it closes the connection.
pub(crate) struct Life {
    tunnel: Rc<Tunnel>,
    conversation: Box<dyn Conversation>,
    limits: Limits,
    timer: Pin<Box<Sleep>>,
    next_ping: Instant,
    pinged: Option<Instant>,
    /// How long an unused tunnel is kept.
    idle: Duration,
    wound_down: bool,
    squeezed: bool,
    ended_at: Option<Instant>,
}

impl Life {
    pub(crate) fn new(tunnel: Rc<Tunnel>, conversation: Box<dyn Conversation>, limits: Limits, idle: Duration) -> Self {
        let now = Instant::now();
        Self {
            tunnel,
            conversation,
            timer: Box::pin(sleep_until(now)),
            next_ping: now + limits.ping_interval,
            pinged: None,
            limits,
            idle,
            wound_down: false,
            squeezed: false,
            ended_at: None,
        }
    }

    /// The next request of the peer; `None` when the tunnel is over and all is said.
    pub(crate) async fn next(&mut self) -> Option<Result<Asked, StreamError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        self.tunnel.drive_by(cx.waker());
        if self.pinged.is_some() && self.conversation.poll_pong(cx).is_ready() {
            self.pinged = None;
        }
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
        self.conversation.poll_drive(cx)
    }

    /// Does what pool, server or streams have asked for.
    fn obey(&mut self) {
        if self.tunnel.is_retired() && !self.wound_down {
            self.wound_down = true;
            self.conversation.wind_down();
        }
        if self.tunnel.ended().is_some() && self.ended_at.is_none() {
            let now = Instant::now();
            self.ended_at = Some(now);
            self.timer.as_mut().reset(now);
        }
        if let Some(held) = self.tunnel.window_correction() {
            self.conversation.set_window(self.limits.connection_window as usize + held);
            self.squeeze(held);
        }
    }

    /// Makes the windows of the streams small while the tunnel holds too much for slow readers.
    fn squeeze(&mut self, held: usize) {
        let window = match self.squeezed {
            false if held >= self.limits.squeeze => self.limits.small_window,
            true if held <= self.limits.squeeze / 2 => self.limits.stream_window,
            _ => return,
        };
        // Refused while an earlier word is not acknowledged; then the next correction brings us here again.
        if self.conversation.set_stream_window(window) {
            self.squeezed = !self.squeezed;
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
        if let Some(Err(_)) = self.tunnel.with_opener(|opener| opener.limit()) {
            self.tunnel.retire();
        }
        self.keep_alive(now)
    }

    fn keep_alive(&mut self, now: Instant) -> Result<(), StreamError> {
        match self.pinged {
            Some(at) if now >= at + self.limits.ping_timeout => {
                self.tunnel.end(StreamError::KeepaliveTimeout);
                Err(StreamError::KeepaliveTimeout)
            }
            None if now >= self.next_ping => {
                self.conversation.ping();
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
