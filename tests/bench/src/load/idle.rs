//! Connections that do nothing after their first request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result};

use super::{Outcome, Window};
use crate::message::{self, Request};
use crate::meter::Meter;

pub(crate) fn run(server: SocketAddr, connections: usize, window: Window, mut meter: Meter) -> Result<Outcome> {
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
    let usage = meter.end()?;
    Ok(Outcome { seconds: usage.seconds, operations: held.len() as u64, usage, ..Outcome::default() })
}
