//! Streams of bytes, one blocking thread each. What was sent is compared with what the server says it got.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Outcome, Window};
use crate::meter::Meter;

/// What one write offers.
const BUFFER: usize = 128 << 10;

pub(crate) fn run(server: SocketAddr, streams: usize, window: Window, mut meter: Meter) -> Result<Outcome> {
    let sent = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..streams {
        let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
        let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
        threads.push(std::thread::spawn(move || pour(stream, &sent, &stop)));
    }
    std::thread::sleep(window.warmup);
    meter.begin()?;
    let (since, before) = (Instant::now(), sent.load(Ordering::Relaxed));
    std::thread::sleep(window.length);
    let bytes = sent.load(Ordering::Relaxed) - before;
    let seconds = since.elapsed().as_secs_f64();
    let usage = meter.end()?;
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a stream's thread panicked"))??;
    }
    Ok(Outcome { seconds, bytes, usage, ..Outcome::default() })
}

fn pour(mut stream: TcpStream, sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let buffer = vec![b'x'; BUFFER];
    let mut mine = 0;
    while !stop.load(Ordering::Relaxed) {
        let length = stream.write(&buffer).context("the stream broke")? as u64;
        mine += length;
        sent.fetch_add(length, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("the server's count did not come")?;
    let got = u64::from_be_bytes(count);
    ensure!(got == mine, "{mine} bytes were sent and {got} came");
    Ok(())
}
