//! A tunnel: one TLS connection, all streams of a thread in it.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};

use crate::intake::{self, BELL, Intake, LISTENERS, Port};
use crate::tls::{Side, Tls};

/// Stream number (4), kind (1), length or port (3).
const HEADER: usize = 8;
const OPEN: u8 = 1;
const DATA: u8 = 2;
const FIN: u8 = 3;

/// What is taken from one stream in a turn of the loop, and from all.
const FROM_ONE: usize = 128 << 10;
const FROM_ALL: usize = 256 << 10;

/// While more than this waits to be sent, or for one application to read, nothing more is taken.
const QUEUE: usize = 256 << 10;

/// The tunnel's token; streams have their number.
const TUNNEL: u64 = 1 << 42;

/// Edge-triggered, everything.
fn interest() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

pub(crate) fn client(workers: usize, to: SocketAddr, config: &Arc<ClientConfig>, ports: &[Port]) -> Result<()> {
    let intakes = intake::share(workers, IpAddr::V4(Ipv4Addr::LOCALHOST), ports)?;
    let mut threads = Vec::new();
    for intake in intakes {
        let config = Arc::clone(config);
        threads.push(std::thread::spawn(move || {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            let side = UnbufferedClientConnection::new(config, ServerName::try_from("server")?)?;
            let tls = Tls::establish(side, &stream)?;
            Worker::new(stream, tls, Some(intake))?.run()
        }));
    }
    println!("tunnels");
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

pub(crate) fn server(listen: SocketAddr, config: &Arc<ServerConfig>, peer: &str) -> Result<()> {
    let listener = crate::listen(listen)?;
    for stream in listener.incoming() {
        let (stream, config, peer) = (stream?, Arc::clone(config), peer.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, config, &peer) {
                eprintln!("a tunnel ended: {error:#}");
            }
        });
    }
    Ok(())
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, peer: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let tls = Tls::establish(UnbufferedServerConnection::new(config)?, &stream)?;
    let certificate = tls.peer().context("no certificate")?;
    // Bare, but not open: the identity stands in the certificate, once.
    let stands = certificate.windows(peer.len()).any(|bytes| bytes == peer.as_bytes());
    ensure!(stands, "another identity");
    Worker::new(stream, tls, None)?.run()
}

struct Stream {
    socket: TcpStream,
    readable: bool,
    hung_up: bool,
    /// For the application, not taken yet.
    pending: Vec<u8>,
    /// Our end has nothing more to say; theirs neither.
    read_ended: bool,
    fin_came: bool,
}

struct Worker<S> {
    tunnel: TcpStream,
    tls: Tls<S>,
    intake: Option<Intake>,
    epoll: Epoll,
    streams: HashMap<u32, Stream>,
    next: u32,
    ready: Vec<u32>,
    tunnel_readable: bool,
    staging: Vec<u8>,
    staged: usize,
    parser: Parser,
    /// Streams whose application has not taken what it was given.
    full: usize,
}

/// Where in a frame the input stands.
#[derive(Default)]
struct Parser {
    header: Vec<u8>,
    stream: u32,
    rest: usize,
}

impl<S: Side> Worker<S> {
    fn new(tunnel: TcpStream, tls: Tls<S>, intake: Option<Intake>) -> Result<Worker<S>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        tunnel.set_nonblocking(true)?;
        epoll.add(&tunnel, EpollEvent::new(interest(), TUNNEL))?;
        if let Some(intake) = &intake {
            intake.register(&epoll)?;
        }
        Ok(Worker {
            tunnel,
            tls,
            intake,
            epoll,
            streams: HashMap::new(),
            next: 0,
            ready: Vec::new(),
            tunnel_readable: true,
            staging: vec![0; FROM_ALL + FROM_ONE + 4096],
            staged: 0,
            parser: Parser::default(),
            full: 0,
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); 512];
        let mut new = Vec::new();
        loop {
            let busy =
                (!self.ready.is_empty() && self.tls.unsent() < QUEUE) || (self.tunnel_readable && self.full == 0);
            let patience = if busy { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let count = match self.epoll.wait(&mut events, patience) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                self.mark(*event, &mut new)?;
            }
            for (stream, port) in new.drain(..) {
                self.begin(stream, port)?;
            }
            self.take_from_tunnel()?;
            self.take_from_streams();
            self.send()?;
        }
    }

    fn mark(&mut self, event: EpollEvent, new: &mut Vec<(TcpStream, u16)>) -> Result<()> {
        match (event.data(), &mut self.intake) {
            (TUNNEL, _) => self.tunnel_readable |= event.events().contains(EpollFlags::EPOLLIN),
            (BELL, Some(intake)) => intake.given(new),
            (token, Some(intake)) if token >= LISTENERS => intake.accept(token, new),
            (token, _) => {
                let number = u32::try_from(token)?;
                let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
                let gone = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
                stream.hung_up |= event.events().intersects(gone);
                let was = stream.readable;
                stream.readable |= event.events().contains(EpollFlags::EPOLLIN) || stream.hung_up;
                if stream.readable && !was {
                    self.ready.push(number);
                }
                if !stream.pending.is_empty() {
                    self.deliver(number, &[])?;
                }
            }
        }
        Ok(())
    }

    /// A connection of an application: opens a stream.
    fn begin(&mut self, socket: TcpStream, port: u16) -> Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let number = self.next;
        self.next += 1;
        self.stage(number, OPEN, u32::from(port));
        self.add(number, socket)
    }

    fn add(&mut self, number: u32, socket: TcpStream) -> Result<()> {
        self.epoll.add(&socket, EpollEvent::new(interest(), u64::from(number)))?;
        let stream =
            Stream { socket, readable: false, hung_up: false, pending: Vec::new(), read_ended: false, fin_came: false };
        self.streams.insert(number, stream);
        Ok(())
    }

    /// Writes a frame's header where the next frame begins.
    fn stage(&mut self, number: u32, kind: u8, length: u32) {
        let at = self.staged;
        self.staging[at..at + 4].copy_from_slice(&number.to_be_bytes());
        self.staging[at + 4..at + 8].copy_from_slice(&(u32::from(kind) << 24 | length).to_be_bytes());
        self.staged += HEADER;
    }

    fn take_from_streams(&mut self) {
        if self.tls.unsent() >= QUEUE {
            return;
        }
        let mut ready = std::mem::take(&mut self.ready);
        let mut done = 0;
        while done < ready.len() && self.staged < FROM_ALL {
            let number = ready[done];
            done += 1;
            if self.take_from(number) {
                self.ready.push(number);
            }
        }
        self.ready.extend(ready.drain(done..));
    }

    /// Whether it has more.
    fn take_from(&mut self, number: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&number) else { return false };
        if stream.read_ended {
            return false;
        }
        let begin = self.staged + HEADER;
        match stream.socket.read(&mut self.staging[begin..begin + FROM_ONE]) {
            Ok(0) => self.end_reading(number),
            Ok(length) => {
                stream.readable = length == FROM_ONE || stream.hung_up;
                let (again, hung_up) = (stream.readable, stream.hung_up);
                self.stage(number, DATA, u32::try_from(length).unwrap_or_default());
                self.staged += length;
                // The end travels with the last bytes.
                return if hung_up && self.staged < FROM_ALL { self.take_from(number) } else { again };
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => stream.readable = false,
            Err(_) => self.end_reading(number),
        }
        false
    }

    fn end_reading(&mut self, number: u32) {
        self.stage(number, FIN, 0);
        if let Some(stream) = self.streams.get_mut(&number) {
            (stream.readable, stream.read_ended) = (false, true);
            if stream.fin_came && stream.pending.is_empty() {
                self.streams.remove(&number);
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        if self.staged > 0 {
            self.tls.seal(&self.staging[..self.staged])?;
            self.staged = 0;
        }
        Ok(self.tls.send(&self.tunnel)?)
    }

    fn take_from_tunnel(&mut self) -> Result<()> {
        if !self.tunnel_readable || self.full > 0 {
            return Ok(());
        }
        let mut ranges = self.tls.take_first();
        if ranges.is_empty() {
            match self.tls.read(&self.tunnel) {
                Ok(0) => bail!("the tunnel ended"),
                Ok(_) => self.tunnel_readable = self.tls.filled_up(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.tunnel_readable = false;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            self.tls.open(&mut ranges)?;
        }
        let mut given: Option<u32> = None;
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                if self.parser.rest > 0 {
                    let length = self.parser.rest.min(range.end - at);
                    if given != Some(self.parser.stream) {
                        self.hand_over(given, &mut pieces)?;
                        given = Some(self.parser.stream);
                    }
                    pieces.push(at..at + length);
                    self.parser.rest -= length;
                    at += length;
                } else {
                    let length = (HEADER - self.parser.header.len()).min(range.end - at);
                    self.parser.header.extend_from_slice(&self.tls.plain()[at..at + length]);
                    at += length;
                    if self.parser.header.len() == HEADER {
                        self.hand_over(given.take(), &mut pieces)?;
                        self.frame()?;
                    }
                }
            }
        }
        self.hand_over(given, &mut pieces)
    }

    /// A header is complete.
    fn frame(&mut self) -> Result<()> {
        let word = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let (number, what) = (word(&self.parser.header[..4]), word(&self.parser.header[4..]));
        self.parser.header.clear();
        let length = what & 0x00ff_ffff;
        match u8::try_from(what >> 24)? {
            OPEN => {
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(length)?));
                let socket = crate::start_connecting(to)?;
                self.add(number, socket)
            }
            DATA => {
                (self.parser.stream, self.parser.rest) = (number, length as usize);
                Ok(())
            }
            FIN => self.fin(number),
            other => bail!("a frame of kind {other}"),
        }
    }

    fn fin(&mut self, number: u32) -> Result<()> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        stream.fin_came = true;
        if stream.pending.is_empty() {
            self.finish(number);
        }
        Ok(())
    }

    fn finish(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let _ = stream.socket.shutdown(Shutdown::Write);
        if stream.read_ended {
            self.streams.remove(&number);
        }
    }

    fn hand_over(&mut self, number: Option<u32>, pieces: &mut Vec<Range<usize>>) -> Result<()> {
        if let Some(number) = number
            && !pieces.is_empty()
        {
            self.deliver(number, pieces)?;
            pieces.clear();
        }
        Ok(())
    }

    /// Gives the application what waits for it and what has come.
    fn deliver(&mut self, number: u32, pieces: &[Range<usize>]) -> Result<()> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let plain = self.tls.plain();
        let was_full = stream.pending.len() > QUEUE;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(pieces.len() + 1);
        slices.push(IoSlice::new(&stream.pending));
        slices.extend(pieces.iter().map(|piece| IoSlice::new(&plain[piece.clone()])));
        let mut taken = match (&stream.socket).write_vectored(&slices) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => 0,
            // It is gone: what was for it goes nowhere, and reading will say so.
            Err(_) => usize::MAX,
        };
        let old = stream.pending.len().min(taken);
        stream.pending.drain(..old);
        taken -= old;
        for piece in pieces {
            let skip = piece.len().min(taken);
            stream.pending.extend_from_slice(&plain[piece.start + skip..piece.end]);
            taken -= skip;
        }
        let is_full = stream.pending.len() > QUEUE;
        self.full = self.full + usize::from(is_full) - usize::from(was_full);
        if stream.pending.is_empty() && stream.fin_came {
            self.finish(number);
        }
        Ok(())
    }
}
