//! Requests on kept connections, on one thread.
//!
//! Without a rate each connection sends the next request when the answer to the last has come. With a rate a request is
//! due when the schedule says so, and its latency counts from then, also when it had to wait for a connection: what a
//! stall delays is not left out (no coordinated omission).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::pace::Schedule;
use super::{Latency, Outcome, Window, histogram, nanos};
use crate::message::{self, Request};
use crate::meter::Meter;

/// How long nothing may happen at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// The timer's token; connections have their place in the table.
const TIMER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) rate: Option<f64>,
}

struct Connection {
    stream: TcpStream,
    /// When the outstanding request was sent, or was due.
    since: Option<Instant>,
    got: usize,
}

struct Run {
    connections: Vec<Connection>,
    idle: Vec<usize>,
    request: Vec<u8>,
    answer: Vec<u8>,
    schedule: Option<Schedule>,
    histogram: Histogram<u64>,
    counts: bool,
}

pub(crate) fn run(servers: &[SocketAddr], plan: Plan, window: Window, mut meter: Meter) -> Result<Outcome> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    let mut run = Run::connect(servers, plan, &epoll)?;
    run.begin(plan)?;
    let opens = Instant::now() + window.warmup;
    let closes = opens + window.length;
    let mut events = vec![EpollEvent::empty(); 512];
    let mut buffer = vec![0_u8; 64 << 10];
    let mut last = Instant::now();
    let mut since = opens;
    loop {
        let now = Instant::now();
        if now >= closes {
            break;
        }
        if now >= opens && !run.counts {
            meter.begin()?;
            (run.counts, since) = (true, Instant::now());
        }
        run.send_due(now, &timer)?;
        let count = epoll.wait(&mut events, EpollTimeout::from(50_u8))?;
        if count > 0 {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            bail!("nothing has come for {PATIENCE:?}");
        }
        for event in &events[..count] {
            if event.data() == TIMER {
                // Level-triggered: it is read so that it falls silent; the schedule says what is due.
                let _ = timer.wait();
            } else {
                run.read(usize::try_from(event.data())?, &mut buffer)?;
            }
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    let usage = meter.end()?;
    let operations = run.histogram.len();
    let bytes = operations * plan.size as u64;
    Ok(Outcome { seconds, bytes, operations, latency: Some(Latency::of(&run.histogram)), usage, ..Outcome::default() })
}

impl Run {
    fn connect(servers: &[SocketAddr], plan: Plan, epoll: &Epoll) -> Result<Run> {
        let mut connections = Vec::new();
        for (place, server) in servers.iter().cycle().take(plan.connections).enumerate() {
            let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            connections.push(Connection { stream, since: None, got: 0 });
        }
        Ok(Run {
            connections,
            idle: (0..plan.connections).collect(),
            request: message::request_text(Request { size: plan.size, close: false }),
            answer: message::answer(plan.size),
            schedule: None,
            histogram: histogram()?,
            counts: false,
        })
    }

    fn begin(&mut self, plan: Plan) -> Result<()> {
        let now = Instant::now();
        if let Some(rate) = plan.rate {
            self.schedule = Some(Schedule::new(rate, now));
            return Ok(());
        }
        for place in std::mem::take(&mut self.idle) {
            self.send(place, now)?;
        }
        Ok(())
    }

    /// At a fixed rate: sends what is due, and sets the timer to what comes next.
    fn send_due(&mut self, now: Instant, timer: &TimerFd) -> Result<()> {
        let Some(mut schedule) = self.schedule.take() else { return Ok(()) };
        while let Some(due) = schedule.due(now) {
            match self.idle.pop() {
                Some(place) => self.send(place, due)?,
                None => schedule.waiting.push_back(due),
            }
        }
        let gap = schedule.until_next(Instant::now()).max(Duration::from_nanos(1));
        timer.set(Expiration::OneShot(gap.into()), TimerSetTimeFlags::empty())?;
        self.schedule = Some(schedule);
        Ok(())
    }

    fn send(&mut self, place: usize, since: Instant) -> Result<()> {
        let connection = &mut self.connections[place];
        let length = (&connection.stream).write(&self.request).context("a request could not be sent")?;
        ensure!(length == self.request.len(), "a request was taken in part, which this load does not handle");
        (connection.since, connection.got) = (Some(since), 0);
        Ok(())
    }

    fn read(&mut self, place: usize, buffer: &mut [u8]) -> Result<()> {
        let connection = &mut self.connections[place];
        let length = match connection.stream.read(buffer) {
            Ok(0) => bail!("the server ended a connection"),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error).context("a connection broke"),
        };
        let since = connection.since.context("an answer came that nobody asked for")?;
        let expected = self.answer.get(connection.got..connection.got + length);
        ensure!(expected == Some(&buffer[..length]), "the answer is not the one that was asked for");
        connection.got += length;
        if connection.got < self.answer.len() {
            return Ok(());
        }
        let now = Instant::now();
        if self.counts {
            self.histogram.saturating_record(nanos(now - since));
        }
        self.next(place, now)
    }

    fn next(&mut self, place: usize, now: Instant) -> Result<()> {
        let Some(schedule) = &mut self.schedule else { return self.send(place, now) };
        match schedule.waiting.pop_front() {
            Some(due) => self.send(place, due),
            None => {
                self.connections[place].since = None;
                self.idle.push(place);
                Ok(())
            }
        }
    }
}
