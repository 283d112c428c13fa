//! Connections with one request each. The server closes, so that no place of the client's port range stays taken.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Latency, Outcome, Window, histogram, nanos};
use crate::message::{self, Request};
use crate::meter::Meter;
use crate::sockets;

/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of each answer.
const SIZE: usize = 64;

struct Slot {
    stream: TcpStream,
    began: Instant,
    asked: bool,
    got: usize,
}

struct Run {
    server: SocketAddr,
    epoll: Epoll,
    slots: Vec<Slot>,
    request: Vec<u8>,
    answer: Vec<u8>,
    histogram: Histogram<u64>,
    counts: bool,
    failures: u64,
    first_failure: Option<String>,
}

pub(crate) fn run(server: SocketAddr, at_a_time: usize, window: Window, mut meter: Meter) -> Result<Outcome> {
    let mut run = Run::begin(server, at_a_time)?;
    let opens = Instant::now() + window.warmup;
    let closes = opens + window.length;
    let mut since = opens;
    let mut events = vec![EpollEvent::empty(); 512];
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        if now >= closes {
            break;
        }
        if now >= opens && !run.counts {
            meter.begin()?;
            (run.counts, since) = (true, Instant::now());
        }
        let count = run.epoll.wait(&mut events, EpollTimeout::from(50_u8))?;
        if count > 0 {
            last = now;
        } else if last.elapsed() > PATIENCE {
            bail!("nothing has come for {PATIENCE:?}");
        }
        for event in &events[..count] {
            run.advance(usize::try_from(event.data())?)?;
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    let usage = meter.end()?;
    Ok(Outcome {
        seconds,
        operations: run.histogram.len(),
        failures: run.failures,
        first_failure: run.first_failure,
        latency: Some(Latency::of(&run.histogram)),
        usage,
        ..Outcome::default()
    })
}

impl Run {
    fn begin(server: SocketAddr, at_a_time: usize) -> Result<Run> {
        let mut run = Run {
            server,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            slots: Vec::new(),
            request: message::request_text(Request { size: SIZE, close: true }),
            answer: message::answer(SIZE),
            histogram: histogram()?,
            counts: false,
            failures: 0,
            first_failure: None,
        };
        for place in 0..at_a_time {
            let slot = run.open(place)?;
            run.slots.push(slot);
        }
        Ok(run)
    }

    fn open(&self, place: usize) -> Result<Slot> {
        let began = Instant::now();
        let stream = sockets::start_connecting(self.server)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, place as u64))?;
        Ok(Slot { stream, began, asked: false, got: 0 })
    }

    fn advance(&mut self, place: usize) -> Result<()> {
        match self.step(place) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                if self.counts {
                    self.histogram.saturating_record(nanos(self.slots[place].began.elapsed()));
                }
            }
            Err(error) => {
                self.failures += 1;
                self.first_failure.get_or_insert_with(|| format!("{error:#}"));
                ensure!(self.failures < 1000, "too many connections fail; the first: {error:#}");
            }
        }
        self.slots[place] = self.open(place)?;
        Ok(())
    }

    /// Whether the connection has ended as it should.
    fn step(&mut self, place: usize) -> Result<bool> {
        let slot = &mut self.slots[place];
        if !slot.asked {
            let length = slot.stream.write(&self.request).context("not connected")?;
            ensure!(length == self.request.len(), "a request was taken in part");
            slot.asked = true;
            self.epoll.modify(&slot.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        match slot.stream.read(&mut buffer) {
            Ok(0) => {
                ensure!(slot.got == self.answer.len(), "the end came after {} bytes", slot.got);
                Ok(true)
            }
            Ok(length) => {
                let expected = self.answer.get(slot.got..slot.got + length);
                ensure!(expected == Some(&buffer[..length]), "the answer is not the one that was asked for");
                slot.got += length;
                Ok(false)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error).context("a connection broke"),
        }
    }
}
