//! Connections that do nothing after their first request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Outcome, Window};
use crate::message::{self, Request};
use crate::meter::Meter;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    /// How long after their end memory is looked at again.
    pub(crate) linger: Duration,
}

pub(crate) fn run(server: SocketAddr, plan: Plan, window: Window, mut meter: Meter) -> Result<Outcome> {
    let Plan { connections, linger } = plan;
    let request = message::request_text(Request { size: 64, close: false });
    let mut answer = message::answer(64);
    let mut held = Vec::new();
    for number in 0..connections {
        let mut stream = TcpStream::connect(server).with_context(|| format!("connection {number}"))?;
        stream.write_all(&request)?;
        stream.read_exact(&mut answer).with_context(|| format!("connection {number}"))?;
        held.push(stream);
    }
    std::thread::sleep(window.warmup);
    meter.begin()?;
    std::thread::sleep(window.length);
    let mut usage = meter.end()?;
    let operations = held.len() as u64;
    drop(held);
    if !linger.is_zero() {
        std::thread::sleep(linger);
        usage.resident_after = meter.resident();
    }
    Ok(Outcome { seconds: usage.seconds, operations, usage, ..Outcome::default() })
}
