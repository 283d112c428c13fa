//! New connections: the first thread takes them and gives every thread its turn.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Tokens of the listeners and of the bell; streams have smaller ones.
pub(crate) const LISTENERS: u64 = 1 << 40;
pub(crate) const BELL: u64 = 1 << 41;

/// Where to listen, and what the connection is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    pub(crate) listen: u16,
    pub(crate) port: u16,
}

/// Reads LISTEN=PORT.
pub(crate) fn ports(words: &[String]) -> Result<Vec<Port>> {
    let one = |word: &String| {
        let (listen, port) = word.split_once('=').context("write LISTEN=PORT")?;
        Ok(Port { listen: listen.parse()?, port: port.parse()? })
    };
    words.iter().map(one).collect()
}

/// One thread's end.
pub(crate) struct Intake {
    listeners: Vec<(TcpListener, u16)>,
    /// Everybody's door, in turn; the first thread's only.
    doors: Vec<Door>,
    next: usize,
    inbox: Receiver<(TcpStream, u16)>,
    bell: Arc<EventFd>,
}

#[derive(Clone)]
struct Door {
    outbox: Sender<(TcpStream, u16)>,
    bell: Arc<EventFd>,
}

/// An end for each thread.
pub(crate) fn share(workers: usize, bind: IpAddr, ports: &[Port]) -> Result<Vec<Intake>> {
    let mut doors = Vec::new();
    let mut intakes = Vec::new();
    for _ in 0..workers {
        let (outbox, inbox) = channel();
        let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK)?);
        doors.push(Door { outbox, bell: Arc::clone(&bell) });
        intakes.push(Intake { listeners: Vec::new(), doors: Vec::new(), next: 0, inbox, bell });
    }
    if let Some(first) = intakes.first_mut() {
        for Port { listen, port } in ports {
            let listener = crate::listen(SocketAddr::new(bind, *listen))?;
            listener.set_nonblocking(true)?;
            first.listeners.push((listener, *port));
        }
        first.doors = doors;
    }
    Ok(intakes)
}

impl Intake {
    pub(crate) fn register(&self, epoll: &Epoll) -> Result<()> {
        epoll.add(self.bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, BELL))?;
        for (place, (listener, _)) in self.listeners.iter().enumerate() {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENERS + place as u64))?;
        }
        Ok(())
    }

    /// Takes what waits at a listener and gives it round; what is for this thread goes to `mine`.
    pub(crate) fn accept(&mut self, token: u64, mine: &mut Vec<(TcpStream, u16)>) {
        let place = usize::try_from(token - LISTENERS).unwrap_or_default();
        let Some((listener, port)) = self.listeners.get(place) else { return };
        while let Ok((stream, _)) = listener.accept() {
            let turn = self.next % self.doors.len();
            self.next += 1;
            if turn == 0 {
                mine.push((stream, *port));
            } else if self.doors[turn].outbox.send((stream, *port)).is_ok() {
                let _ = self.doors[turn].bell.write(1);
            }
        }
    }

    /// What others have given.
    pub(crate) fn given(&self, mine: &mut Vec<(TcpStream, u16)>) {
        let _ = self.bell.read();
        mine.extend(self.inbox.try_iter());
    }
}
