//! The first connection to each of many servers, with one request: the handshake is in it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use super::{Latency, Outcome, histogram, nanos};
use crate::message::{self, Request};
use crate::meter::Meter;

/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(servers: &[SocketAddr], at_a_time: usize, mut meter: Meter) -> Result<Outcome> {
    let (next, latencies) = (AtomicUsize::new(0), Mutex::new(histogram()?));
    meter.begin()?;
    let since = Instant::now();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(|| caller(servers, &next, &latencies))).collect();
        callers.into_iter().try_for_each(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?)
    })?;
    let seconds = since.elapsed().as_secs_f64();
    let usage = meter.end()?;
    let latencies = latencies.into_inner().map_err(|_| anyhow!("a caller panicked"))?;
    let operations = latencies.len();
    Ok(Outcome { seconds, operations, latency: Some(Latency::of(&latencies)), usage, ..Outcome::default() })
}

fn caller(servers: &[SocketAddr], next: &AtomicUsize, latencies: &Mutex<Histogram<u64>>) -> Result<()> {
    while let Some(server) = servers.get(next.fetch_add(1, Ordering::Relaxed)) {
        let began = Instant::now();
        call(*server).with_context(|| format!("the first connection to {server}"))?;
        let mut latencies = latencies.lock().map_err(|_| anyhow!("another caller panicked"))?;
        latencies.saturating_record(nanos(began.elapsed()));
    }
    Ok(())
}

fn call(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&message::request_text(Request { size: 64, close: true }))?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    ensure!(got == message::answer(64), "the answer is not the one that was asked for");
    Ok(())
}
