//! What is done while instructions are counted: one thing after the other, so that the agents' turns are always the same.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::message::{Request, answer, request_text};
use crate::rig::contender::Found;
use crate::serve::{HTTP_PORT, SINK_PORT};

/// How long an answer may take under callgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// A connection with one request.
    Connection,
    /// A request of 1 KB on a kept connection.
    Request,
    /// A megabyte of one stream.
    Megabyte,
}

impl Job {
    pub(crate) const ALL: [Job; 3] = [Job::Connection, Job::Request, Job::Megabyte];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Job::Connection => "connection",
            Job::Request => "request",
            Job::Megabyte => "megabyte",
        }
    }

    /// How often it is done while it counts.
    pub(crate) fn times(self) -> u64 {
        match self {
            Job::Connection => 60,
            Job::Request => 150,
            Job::Megabyte => 4,
        }
    }

    /// How often before: buffers have grown then, and what is made on first use is there.
    pub(crate) fn warm_up(self) -> u64 {
        self.times() / 2
    }

    /// Does it so many times; gives that number.
    pub(crate) fn run(self, found: &Found, times: u64) -> Result<u64> {
        let server = found.pair.server.ip4();
        found.pair.client.netns().enter(|| match self {
            Job::Connection => (0..times).try_for_each(|_| connection((server, HTTP_PORT).into())),
            Job::Request => requests((server, HTTP_PORT).into(), times),
            Job::Megabyte => bulk((server, SINK_PORT).into(), times),
        })?;
        Ok(times)
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connection(to: SocketAddr) -> Result<()> {
    let mut stream = connect(to)?;
    stream.write_all(&request_text(Request { size: 64, close: true }))?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).context("an answer did not come whole")?;
    ensure!(got == answer(64), "an answer is not the one that was asked for");
    Ok(())
}

fn requests(to: SocketAddr, times: u64) -> Result<()> {
    let mut stream = connect(to)?;
    let (request, expected) = (request_text(Request { size: 1024, close: false }), answer(1024));
    let mut got = vec![0; expected.len()];
    for _ in 0..times {
        stream.write_all(&request)?;
        stream.read_exact(&mut got).context("an answer did not come whole")?;
        ensure!(got == expected, "an answer is not the one that was asked for");
    }
    Ok(())
}

fn bulk(to: SocketAddr, megabytes: u64) -> Result<()> {
    let mut stream = connect(to)?;
    let buffer = vec![b'x'; 1_000_000];
    for _ in 0..megabytes {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("the server's count did not come")?;
    ensure!(u64::from_be_bytes(count) == megabytes * 1_000_000, "the server has not got all of it");
    Ok(())
}
