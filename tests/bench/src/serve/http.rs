//! An HTTP/1.1 responder on one thread: level-triggered epoll, one read and one write per request.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::{Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::message;

/// The listener's token; connections have their place in the table.
const LISTENER: u64 = u64::MAX;

/// The most that one request may have.
const REQUEST: usize = 4096;

struct Connection {
    stream: TcpStream,
    /// An incomplete request; empty nearly always.
    partial: Vec<u8>,
    /// What could not be written yet.
    unsent: Vec<u8>,
    close_when_sent: bool,
}

#[derive(Default)]
struct Table {
    places: Vec<Option<Connection>>,
    free: Vec<usize>,
    answers: HashMap<usize, Vec<u8>>,
}

/// Serves for ever.
pub(crate) fn serve(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut table = Table::default();
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = vec![0_u8; REQUEST];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                table.accept(listener, &epoll)?;
            } else {
                table.serve_one(usize::try_from(event.data())?, &epoll, &mut buffer);
            }
        }
    }
}

impl Table {
    fn accept(&mut self, listener: &TcpListener, epoll: &Epoll) -> Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() - 1
            });
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            self.places[place] =
                Some(Connection { stream, partial: Vec::new(), unsent: Vec::new(), close_when_sent: false });
        }
    }

    fn serve_one(&mut self, place: usize, epoll: &Epoll, buffer: &mut [u8]) {
        let Some(connection) = self.places.get_mut(place).and_then(Option::as_mut) else { return };
        if !connection.advance(place, epoll, buffer, &mut self.answers).unwrap_or(false) {
            // Closing takes it out of the epoll set as well.
            self.places[place] = None;
            self.free.push(place);
        }
    }
}

impl Connection {
    /// Whether it stays open.
    fn advance(
        &mut self,
        place: usize,
        epoll: &Epoll,
        buffer: &mut [u8],
        answers: &mut HashMap<usize, Vec<u8>>,
    ) -> Result<bool> {
        if !self.unsent.is_empty() {
            return self.send_rest(place, epoll);
        }
        let length = match self.stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let mut input = &buffer[..length];
        let joined;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(input);
            joined = std::mem::take(&mut self.partial);
            input = &joined;
        }
        while let Some((request, rest)) = message::request(input) {
            input = rest;
            let answer = answers.entry(request.size).or_insert_with(|| message::answer(request.size));
            self.close_when_sent |= request.close;
            self.send(answer)?;
        }
        ensure!(input.len() < REQUEST, "a request that does not end");
        self.partial = input.to_vec();
        self.after_sending(place, epoll)
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.unsent.is_empty() && !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    fn send_rest(&mut self, place: usize, epoll: &Epoll) -> Result<bool> {
        let rest = std::mem::take(&mut self.unsent);
        self.send(&rest)?;
        if self.unsent.is_empty() {
            epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
        }
        Ok(!(self.close_when_sent && self.unsent.is_empty()))
    }

    fn after_sending(&mut self, place: usize, epoll: &Epoll) -> Result<bool> {
        if self.unsent.is_empty() {
            return Ok(!self.close_when_sent);
        }
        epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLOUT, place as u64))?;
        Ok(true)
    }
}
