//! The application inside the server's pod: one process, three ports.
//!
//! | port | what it does |
//! |---|---|
//! | [`HTTP_PORT`] | answers `GET /N` with N bytes and keeps the connection; `GET /N/close` closes after the answer |
//! | [`SINK_PORT`] | reads and forgets; at the end of input answers with the count, 8 bytes big-endian |
//! | [`STALL_PORT`] | accepts and never reads |

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};

mod http;
mod sink;

/// Small HTTP/1.1 answers.
pub(crate) const HTTP_PORT: u16 = 8080;
/// Reads everything.
pub(crate) const SINK_PORT: u16 = 8081;
/// Reads nothing.
pub(crate) const STALL_PORT: u16 = 8082;

/// All of them.
pub(crate) const PORTS: [u16; 3] = [HTTP_PORT, SINK_PORT, STALL_PORT];

/// Serves until it is killed. Says `serving` when all ports listen.
pub(crate) fn run() -> Result<()> {
    let [http, sink, stall] = PORTS.map(listen);
    let (http, sink, stall) = (http?, sink?, stall?);
    std::thread::Builder::new().name("sink".to_owned()).spawn(move || sink::accept(&sink))?;
    std::thread::Builder::new().name("stall".to_owned()).spawn(move || sink::hold(&stall))?;
    println!("serving");
    http::serve(&http)
}

fn listen(port: u16) -> Result<TcpListener> {
    crate::sockets::listen((Ipv4Addr::UNSPECIFIED, port).into()).with_context(|| format!("cannot listen on {port}"))
}
