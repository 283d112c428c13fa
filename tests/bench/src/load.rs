//! The load: what runs inside the client's pod. Each run is one process that prints one line of JSON.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::meter::{Meter, Usage, Watch};
use crate::serve::{HTTP_PORT, SINK_PORT, STALL_PORT};

mod bulk;
mod cold;
mod connects;
mod idle;
mod pace;
mod requests;
mod stall;

/// What to do, for how long, and whose processor time to take down meanwhile.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The server, or several that take turns in `requests` and `cold`.
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<IpAddr>,
    /// Seconds that count.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// NAME=PID[,PID...]: processes whose processor time and memory belong to the result.
    #[arg(long)]
    watch: Vec<Watch>,
    #[command(subcommand)]
    kind: Kind,
}

/// The workloads.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Kind {
    /// Streams of bytes.
    Bulk {
        #[arg(long)]
        streams: usize,
    },
    /// Requests on kept connections, each after the answer to the one before, or at a fixed rate.
    Requests {
        #[arg(long)]
        connections: usize,
        /// Bytes of the answer.
        #[arg(long, default_value_t = 1024)]
        size: usize,
        /// Requests per second over all connections, whatever the answers do; without it, as fast as it goes.
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Connections with one request each, so many at a time.
    Connects {
        #[arg(long)]
        at_a_time: usize,
    },
    /// One connection to each server, so many at a time: nobody has called there before.
    Cold {
        #[arg(long)]
        at_a_time: usize,
    },
    /// Connections that do nothing after their first request.
    Idle {
        #[arg(long)]
        connections: usize,
        /// Seconds after their end at which memory is looked at again.
        #[arg(long, default_value_t = 0.0)]
        linger: f64,
    },
    /// Streams to a reader that never reads.
    Stall {
        #[arg(long)]
        streams: usize,
    },
}

/// The window of time that counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warmup: Duration,
    pub(crate) length: Duration,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Length of the window, s.
    pub(crate) seconds: f64,
    /// Payload in the window, one way, bytes.
    #[serde(default)]
    pub(crate) bytes: u64,
    /// Requests answered, or connections served, in the window.
    #[serde(default)]
    pub(crate) operations: u64,
    /// Operations that failed.
    #[serde(default)]
    pub(crate) failures: u64,
    /// The first failure, in words.
    #[serde(default)]
    pub(crate) first_failure: Option<String>,
    /// How long operations took, where that was measured.
    #[serde(default)]
    pub(crate) latency: Option<Latency>,
    /// Processor time and memory.
    #[serde(default)]
    pub(crate) usage: Usage,
}

impl Outcome {
    /// How much was done in a second, of whatever it was.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let done = if self.operations > 0 { self.operations } else { self.bytes } as f64;
        done / self.seconds
    }
}

/// Quantiles, µs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// From nanoseconds.
    fn of(histogram: &Histogram<u64>) -> Latency {
        #[expect(clippy::cast_precision_loss, reason = "at most a minute")]
        let micros = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency { p50: micros(0.5), p90: micros(0.9), p99: micros(0.99), p999: micros(0.999), max: micros(1.0) }
    }
}

/// How much longer than planned a load may take. What somebody holds back for ever has to end.
const GRACE: Duration = Duration::from_secs(60);

/// Up to a minute, three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// A duration as the histograms count it.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs it and prints the outcome.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let window = Window {
        warmup: Duration::from_secs_f64(arguments.warmup),
        length: Duration::from_secs_f64(arguments.seconds),
    };
    let lingers = match arguments.kind {
        Kind::Idle { linger, .. } => linger,
        _ => 0.0,
    };
    let limit = window.warmup + window.length + Duration::from_secs_f64(lingers) + GRACE;
    // Its signal ends the process.
    nix::unistd::alarm::set(u32::try_from(limit.as_secs())?);
    let meter = Meter::new(arguments.watch.clone());
    let first = *arguments.to.first().context("no server")?;
    let at = |port| SocketAddr::new(first, port);
    let everywhere = || arguments.to.iter().map(|to| SocketAddr::new(*to, HTTP_PORT)).collect::<Vec<_>>();
    let outcome = match arguments.kind {
        Kind::Bulk { streams } => bulk::run(at(SINK_PORT), streams, window, meter),
        Kind::Requests { connections, size, rate } => {
            requests::run(&everywhere(), requests::Plan { connections, size, rate }, window, meter)
        }
        Kind::Connects { at_a_time } => connects::run(at(HTTP_PORT), at_a_time, window, meter),
        Kind::Cold { at_a_time } => cold::run(&everywhere(), at_a_time, meter),
        Kind::Idle { connections, linger } => {
            let plan = idle::Plan { connections, linger: Duration::from_secs_f64(linger) };
            idle::run(at(HTTP_PORT), plan, window, meter)
        }
        Kind::Stall { streams } => stall::run(at(STALL_PORT), streams, window, meter),
    }?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
