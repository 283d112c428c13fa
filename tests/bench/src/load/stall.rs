//! Streams to a reader that never reads: how much is taken before it stops.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Outcome, Window};
use crate::meter::Meter;

pub(crate) fn run(server: SocketAddr, streams: usize, window: Window, mut meter: Meter) -> Result<Outcome> {
    let buffer = vec![b'x'; 64 << 10];
    let mut taken = 0;
    let mut held = Vec::new();
    for _ in 0..streams {
        let mut stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        loop {
            match stream.write(&buffer) {
                Ok(length) => taken += length as u64,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error).context("a stalled stream broke"),
            }
        }
        held.push(stream);
    }
    std::thread::sleep(window.warmup);
    meter.begin()?;
    std::thread::sleep(window.length);
    let usage = meter.end()?;
    Ok(Outcome { seconds: usage.seconds, bytes: taken, operations: streams as u64, usage, ..Outcome::default() })
}
