//! First connections: each connection of an application has a TLS connection of its own, with the whole handshake. For short
//! exchanges: nothing holds back an application that sends faster than the other one reads.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::intake::{self, BELL, Intake, LISTENERS, Port};

const BUFFER: usize = 16 << 10;

/// Which end of the pair this is.
#[derive(Clone)]
pub(crate) enum Role {
    /// Where the server's end listens.
    Client { to: SocketAddr, config: Arc<ClientConfig> },
    /// Who may come.
    Server { peer: String, config: Arc<ServerConfig> },
}

pub(crate) fn client(workers: usize, to: SocketAddr, config: Arc<ClientConfig>, ports: &[Port]) -> Result<()> {
    let intakes = intake::share(workers, IpAddr::V4(Ipv4Addr::LOCALHOST), ports)?;
    println!("tunnels");
    run(intakes, &Role::Client { to, config })
}

pub(crate) fn server(workers: usize, listen: SocketAddr, config: Arc<ServerConfig>, peer: &str) -> Result<()> {
    let door = [Port { listen: listen.port(), port: 0 }];
    run(intake::share(workers, listen.ip(), &door)?, &Role::Server { peer: peer.to_owned(), config })
}

fn run(intakes: Vec<Intake>, role: &Role) -> Result<()> {
    let one = |intake| {
        let role = role.clone();
        std::thread::spawn(move || Worker::new(intake, role)?.run())
    };
    let threads: Vec<_> = intakes.into_iter().map(one).collect();
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

struct Worker {
    role: Role,
    intake: Intake,
    epoll: Epoll,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
}

struct End {
    socket: TcpStream,
    readable: bool,
    ended: bool,
}

/// An application's connection and its TLS connection.
struct Pair {
    wire: End,
    tls: Connection,
    /// The server's end learns from the first two bytes which port it is for.
    app: Option<End>,
    to_app: Vec<u8>,
    /// The application was told that nothing more comes.
    told: bool,
    proven: bool,
}

impl Worker {
    fn new(intake: Intake, role: Role) -> Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        intake.register(&epoll)?;
        Ok(Worker { role, intake, epoll, pairs: Vec::new(), free: Vec::new() })
    }

    fn run(mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 512];
        let (mut new, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    BELL => self.intake.given(&mut new),
                    token if token >= LISTENERS => self.intake.accept(token, &mut new),
                    token => self.advance(usize::try_from(token)?, event.events(), &mut buffer),
                }
            }
            for (stream, port) in new.drain(..) {
                self.begin(stream, port)?;
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, port: u16) -> Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (wire, mut tls, app): (_, Connection, _) = match &self.role {
            Role::Client { to, config } => {
                let tls = ClientConnection::new(Arc::clone(config), "server".try_into()?)?;
                (crate::start_connecting(*to)?, tls.into(), Some(stream))
            }
            Role::Server { config, .. } => (stream, ServerConnection::new(Arc::clone(config))?.into(), None),
        };
        if app.is_some() {
            // Kept by rustls until the handshake is over.
            tls.writer().write_all(&port.to_be_bytes())?;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        let wire = self.watch(wire, place, 1)?;
        let app = app.map(|app| self.watch(app, place, 0)).transpose()?;
        self.pairs[place] = Some(Pair { wire, tls, app, to_app: Vec::new(), told: false, proven: false });
        Ok(())
    }

    fn watch(&self, socket: TcpStream, place: usize, side: usize) -> Result<End> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, (place * 2 + side) as u64))?;
        Ok(End { socket, readable: false, ended: false })
    }

    /// One of a pair's sockets has news.
    fn advance(&mut self, token: usize, what: EpollFlags, buffer: &mut [u8]) {
        let place = token / 2;
        let Some(mut pair) = self.pairs.get_mut(place).and_then(Option::take) else { return };
        let readable = !what.difference(EpollFlags::EPOLLOUT).is_empty();
        match (token % 2, &mut pair.app) {
            (0, Some(app)) => app.readable |= readable,
            _ => pair.wire.readable |= readable,
        }
        match self.carry(&mut pair, place, buffer) {
            Ok(false) => self.pairs[place] = Some(pair),
            Ok(true) => self.free.push(place),
            Err(error) => {
                eprintln!("a connection ended: {error:#}");
                self.free.push(place);
            }
        }
    }

    /// Whether it is over.
    fn carry(&self, pair: &mut Pair, place: usize, buffer: &mut [u8]) -> Result<bool> {
        pair.take_from_wire(buffer)?;
        if let (None, Role::Server { peer, .. }) = (&pair.app, &self.role)
            && let Some(port) = pair.asked_for(peer)?
        {
            let app = crate::start_connecting(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
            pair.app = Some(self.watch(app, place, 0)?);
        }
        pair.give_to_app()?;
        pair.take_from_app(buffer)?;
        pair.give_to_wire()?;
        Ok(pair.wire.ended && pair.app.as_ref().is_none_or(|app| app.ended) && !pair.tls.wants_write())
    }
}

impl Pair {
    fn take_from_wire(&mut self, buffer: &mut [u8]) -> Result<()> {
        while self.wire.readable && !self.wire.ended {
            match self.tls.read_tls(&mut &self.wire.socket) {
                Ok(0) => self.wire.ended = true,
                Ok(_) => {
                    let state = self.tls.process_new_packets()?;
                    let mut waiting = state.plaintext_bytes_to_read();
                    while waiting > 0 {
                        let length = self.tls.reader().read(buffer)?;
                        self.to_app.extend_from_slice(&buffer[..length]);
                        waiting -= length;
                    }
                    self.wire.ended = state.peer_has_closed();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    self.wire.readable = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The server's end: the port, once the peer has proven who it is.
    fn asked_for(&mut self, peer: &str) -> Result<Option<u16>> {
        if !self.proven && !self.tls.is_handshaking() {
            let certificate = self.tls.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
            let stands = certificate.windows(peer.len()).any(|bytes| bytes == peer.as_bytes());
            ensure!(stands, "another identity");
            self.proven = true;
        }
        if !self.proven || self.to_app.len() < 2 {
            return Ok(None);
        }
        let port = u16::from_be_bytes([self.to_app[0], self.to_app[1]]);
        self.to_app.drain(..2);
        Ok(Some(port))
    }

    fn give_to_app(&mut self) -> Result<()> {
        let Some(app) = &self.app else { return Ok(()) };
        if !self.to_app.is_empty() {
            match (&app.socket).write(&self.to_app) {
                Ok(length) => drop(self.to_app.drain(..length)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Once: each time wakes the one who waits for this very socket.
        if self.wire.ended && self.to_app.is_empty() && !self.told {
            let _ = app.socket.shutdown(Shutdown::Write);
            self.told = true;
        }
        Ok(())
    }

    fn take_from_app(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Some(app) = &mut self.app else { return Ok(()) };
        while app.readable && !app.ended {
            match app.socket.read(buffer) {
                Ok(0) => {
                    app.ended = true;
                    self.tls.send_close_notify();
                }
                Ok(length) => self.tls.writer().write_all(&buffer[..length])?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    app.readable = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn give_to_wire(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &self.wire.socket) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
