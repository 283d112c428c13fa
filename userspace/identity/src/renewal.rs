//! When to renew: at half of the life, spread by a jitter, told by two clocks.
//!
//! The wall clock can jump, the monotonic clock can stand still while the machine sleeps. A renewal is
//! due as soon as either of them says so.

use std::time::{Duration, SystemTime};

/// Part of the half-life by which a renewal is moved at most, either way.
pub const SPREAD: f64 = 0.1;
/// First pause after a failure.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Longest pause between two attempts.
pub const BACKOFF_LONGEST: Duration = Duration::from_secs(150);
/// Part of a pause by which it is moved at most, either way.
pub const BACKOFF_SPREAD: f64 = 0.2;

/// The moment to renew what is valid from `not_before` to `not_after`: half of the life, moved by
/// `jitter` (in -1..=1; anything else is brought into that range) times 10 % of the half.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    not_before + renew_after(not_before, not_after, jitter)
}

/// The same as a distance from `not_before`.
pub fn renew_after(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> Duration {
    let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
    spread(life / 2, SPREAD, jitter)
}

/// The pause before attempt `failures + 1`: 0.5 s, doubled with each failure up to 150 s, moved by
/// `jitter` (in -1..=1) times 20 %, and never longer than 150 s.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let pause = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_LONGEST);
    spread(pause, BACKOFF_SPREAD, jitter).min(BACKOFF_LONGEST)
}

/// When one certificate is to be renewed, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// On the wall clock.
    pub wall: SystemTime,
    /// On the monotonic clock.
    pub monotonic: Duration,
    /// Last moment of the certificate, on the wall clock.
    pub expires: SystemTime,
    /// Not before this moment of the monotonic clock, unless the certificate has expired: keeps a CA
    /// whose clock is behind ours from being asked again and again.
    pub floor: Duration,
}

impl Renewal {
    /// Plans the renewal of a certificate received at `wall` and `monotonic` (the two clocks read
    /// together).
    pub fn plan(
        not_before: SystemTime,
        not_after: SystemTime,
        wall: SystemTime,
        monotonic: Duration,
        jitter: f64,
    ) -> Self {
        let after = renew_after(not_before, not_after, jitter);
        let at = not_before + after;
        // A wall clock that is behind the CA's must not stretch the wait beyond the half-life itself.
        let wait = at.duration_since(wall).unwrap_or(Duration::ZERO).min(after);
        let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
        let gap = (life / 10).min(Duration::from_secs(30));
        Self { wall: at, monotonic: monotonic + wait, expires: not_after, floor: monotonic + gap }
    }

    /// Is it time, by whichever clock gets there first?
    pub fn due(&self, wall: SystemTime, monotonic: Duration) -> bool {
        self.expired(wall) || (monotonic >= self.floor && (wall >= self.wall || monotonic >= self.monotonic))
    }

    /// Has the certificate ended?
    pub fn expired(&self, wall: SystemTime) -> bool {
        wall > self.expires
    }

    /// How long one may sleep if no clock jumps.
    pub fn wait(&self, wall: SystemTime, monotonic: Duration) -> Duration {
        let by_wall = self.wall.duration_since(wall).unwrap_or(Duration::ZERO);
        let by_monotonic = self.monotonic.saturating_sub(monotonic);
        by_wall.min(by_monotonic).max(self.floor.saturating_sub(monotonic))
    }
}

fn spread(base: Duration, part: f64, jitter: f64) -> Duration {
    let jitter = if jitter.is_finite() { jitter.clamp(-1.0, 1.0) } else { 0.0 };
    base.mul_f64(1.0 + part * jitter)
}

#[cfg(test)]
mod tests;
