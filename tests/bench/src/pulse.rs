//! How far apart the machine's cores are right now.
//!
//! A virtual machine's cores are threads of the host, which moves them: at one moment they share a cache, at the next they
//! do not, and everything that passes data between cores runs at half the speed. Nothing in the guest says which it is, so
//! it is measured: the time that one cache line takes to the other core and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Where the cores are, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distance {
    /// They share a cache (about 20 to 100 ns there and back), or there is one core only.
    Near,
    /// They do not (200 to 500 ns).
    Far,
}

impl Distance {
    /// In a table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Distance::Near => "cores near",
            Distance::Far => "cores far apart",
        }
    }
}

/// Between the two.
const BORDER: f64 = 150.0;

/// Looks now.
pub(crate) fn distance() -> Result<Distance> {
    let far = round_trip()?.is_some_and(|nanos| nanos > BORDER);
    Ok(if far { Distance::Far } else { Distance::Near })
}

/// There and back, so often.
const TURNS: u32 = 20_000;

/// Nanoseconds there and back between the first two cores that we may use; `None` on a machine of one core.
pub(crate) fn round_trip() -> Result<Option<f64>> {
    let mine = sched_getaffinity(Pid::from_raw(0))?;
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| mine.is_set(*core).unwrap_or(false)).take(2).collect();
    let [first, second] = cores.as_slice() else { return Ok(None) };
    let (first, second) = (*first, *second);
    let ball = Arc::new(AtomicU32::new(0));
    let other = Arc::clone(&ball);
    let thread = std::thread::spawn(move || {
        pin(second)?;
        (0..TURNS).for_each(|turn| play(&other, 2 * turn + 1));
        anyhow::Ok(())
    });
    let measured = std::thread::spawn(move || {
        pin(first)?;
        let since = Instant::now();
        (0..TURNS).for_each(|turn| play(&ball, 2 * turn));
        anyhow::Ok(since.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS))
    });
    thread.join().map_err(|_| anyhow!("the second core's thread panicked"))??;
    Ok(Some(measured.join().map_err(|_| anyhow!("the first core's thread panicked"))??))
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Waits until the count is `mine` and passes the next.
fn play(ball: &AtomicU32, mine: u32) {
    while ball.load(Ordering::Acquire) != mine {
        std::hint::spin_loop();
    }
    ball.store(mine + 1, Ordering::Release);
}
