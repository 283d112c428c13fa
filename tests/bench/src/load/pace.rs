//! When requests are due at a fixed rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A schedule with exponential gaps: no phase in which generator and proxy could fall into step.
#[derive(Debug)]
pub(crate) struct Schedule {
    mean: Duration,
    next: Instant,
    random: StdRng,
    /// Due, and no connection was free.
    pub(crate) waiting: VecDeque<Instant>,
}

impl Schedule {
    /// `rate` per second from `start` on.
    pub(crate) fn new(rate: f64, start: Instant) -> Schedule {
        let random = StdRng::seed_from_u64(0x6375_6c76_6572_7431);
        Schedule { mean: Duration::from_secs_f64(1.0 / rate), next: start, random, waiting: VecDeque::new() }
    }

    /// The next due moment, if it has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        if self.next > now {
            return None;
        }
        let due = self.next;
        let uniform: f64 = self.random.random_range(f64::EPSILON..1.0);
        self.next += self.mean.mul_f64(-uniform.ln());
        Some(due)
    }

    /// How long until then.
    pub(crate) fn until_next(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_whatever_the_gaps_are() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000.0, start);
        let end = start + Duration::from_secs(20);
        let count = std::iter::from_fn(|| schedule.due(end)).count();
        assert!((19_400..20_600).contains(&count), "{count}");
    }
}
