//! The two clocks that renewal is told by.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

/// Wall and monotonic time. The wall clock may jump; the monotonic one may stand still during suspend.
pub trait Clock: Send + Sync + 'static {
    /// What certificates are measured by.
    fn wall(&self) -> SystemTime;
    /// Since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// Its monotonic time begins now.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A [`Clock`] as rustls wants it, so that verifiers and renewal agree on what time it is.
pub struct WallOf<C>(pub C);

impl<C: Clock> TimeProvider for WallOf<C> {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.wall().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl<C> fmt::Debug for WallOf<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallOf")
    }
}
