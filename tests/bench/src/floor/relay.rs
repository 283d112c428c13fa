//! Bytes from one socket to another, both ways.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use anyhow::{Result, anyhow};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::intake::{self, BELL, Intake, LISTENERS, Port};

const BUFFER: usize = 128 << 10;

/// One end of a pair.
struct End {
    socket: TcpStream,
    readable: bool,
    hung_up: bool,
    /// Read from here, not taken by the other end yet.
    pending: Vec<u8>,
    ended: bool,
}

struct Pair {
    ends: [End; 2],
}

pub(crate) fn run(workers: usize, bind: IpAddr, to: IpAddr, ports: &[Port]) -> Result<()> {
    let intakes = intake::share(workers, bind, ports)?;
    let threads: Vec<_> =
        intakes.into_iter().map(|intake| std::thread::spawn(move || Worker::new(intake, to)?.run())).collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

struct Worker {
    intake: Intake,
    to: IpAddr,
    epoll: Epoll,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(intake: Intake, to: IpAddr) -> Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        intake.register(&epoll)?;
        Ok(Worker { intake, to, epoll, pairs: Vec::new(), free: Vec::new(), buffer: vec![0; BUFFER] })
    }

    fn run(mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 512];
        let mut ready: Vec<usize> = Vec::new();
        let mut new = Vec::new();
        loop {
            let patience = if ready.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
            let count = match self.epoll.wait(&mut events, patience) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    BELL => self.intake.given(&mut new),
                    token if token >= LISTENERS => self.intake.accept(token, &mut new),
                    token => self.mark(usize::try_from(token)?, event.events(), &mut ready),
                }
            }
            for (stream, port) in new.drain(..) {
                self.begin(stream, port)?;
            }
            ready.sort_unstable();
            ready.dedup();
            ready.retain(|place| self.advance(*place));
        }
    }

    fn begin(&mut self, stream: TcpStream, port: u16) -> Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let other = crate::start_connecting(SocketAddr::new(self.to, port))?;
        let place = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        for (side, socket) in [&stream, &other].into_iter().enumerate() {
            self.epoll.add(socket, EpollEvent::new(flags, (place * 2 + side) as u64))?;
        }
        let end = |socket| End { socket, readable: false, hung_up: false, pending: Vec::new(), ended: false };
        self.pairs[place] = Some(Pair { ends: [end(stream), end(other)] });
        Ok(())
    }

    fn mark(&mut self, token: usize, what: EpollFlags, ready: &mut Vec<usize>) {
        let Some(pair) = self.pairs.get_mut(token / 2).and_then(Option::as_mut) else { return };
        let end = &mut pair.ends[token % 2];
        if what.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            end.hung_up = true;
        }
        end.readable |= what.contains(EpollFlags::EPOLLIN) || end.hung_up;
        ready.push(token / 2);
    }

    /// Whether it has more to do without a new event.
    fn advance(&mut self, place: usize) -> bool {
        let Some(pair) = self.pairs[place].as_mut() else { return false };
        let mut more = false;
        for side in [0, 1] {
            match pair.carry(side, &mut self.buffer) {
                Ok(again) => more |= again,
                Err(_) => {
                    self.pairs[place] = None;
                    self.free.push(place);
                    return false;
                }
            }
        }
        if pair.ends.iter().all(|end| end.ended) {
            self.pairs[place] = None;
            self.free.push(place);
            return false;
        }
        more
    }
}

impl Pair {
    /// From one side to the other, a few reads' worth.
    fn carry(&mut self, side: usize, buffer: &mut [u8]) -> Result<bool> {
        let [first, second] = &mut self.ends;
        let (from, to) = if side == 0 { (first, second) } else { (second, first) };
        for _ in 0..4 {
            if !from.pending.is_empty() {
                let taken = write(&to.socket, &from.pending)?;
                from.pending.drain(..taken);
                if !from.pending.is_empty() {
                    return Ok(false);
                }
            }
            if !from.readable || from.ended {
                return Ok(false);
            }
            match from.socket.read(buffer) {
                Ok(0) => {
                    from.ended = true;
                    to.socket.shutdown(Shutdown::Write)?;
                    return Ok(false);
                }
                Ok(length) => {
                    from.readable = length == buffer.len() || from.hung_up;
                    let taken = write(&to.socket, &buffer[..length])?;
                    from.pending.extend_from_slice(&buffer[taken..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => from.readable = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(from.readable && from.pending.is_empty())
    }
}

/// What the socket takes now.
fn write(mut socket: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match socket.write(bytes) {
        Ok(length) => Ok(length),
        // Not connected yet is not writable yet.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
