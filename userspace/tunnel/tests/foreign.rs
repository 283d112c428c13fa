//! Peers that speak HTTP/2 as RFC 9113 allows it and as nobody else does: tiny windows that change under way, padding,
//! header blocks in splinters, pauses, half-closes and resets at random. Every byte arrives, nothing hangs, and we keep
//! to their limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{cell::Cell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_tunnel::End;
use support::{Pattern, SERVER, World, application, carry, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// Largest payload that we allow our peer, which is what HTTP/2 begins with.
const MAX_FRAME: usize = 16_384;
/// Windows that settings may bring.
const WINDOWS: [u32; 6] = [0, 1, 10, 300, 65_535, 1 << 20];

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Less than `most`, which is not zero.
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % most
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// One connection of ours: what it says and what it hears.
struct Stream {
    to_send: Vec<u8>,
    sent: usize,
    /// Ours are done.
    finished: bool,
    send_window: i64,
    recv_window: i64,
    heard: Vec<u8>,
    answered: bool,
    ended: bool,
    reset: bool,
}

/// A client that writes frames by hand, and holds its peer to the rules.
struct Client {
    tls: TlsStream<TcpStream>,
    read: Vec<u8>,
    out: Vec<u8>,
    random: Random,
    /// What we may send, and what the peer may.
    send_window: i64,
    recv_window: i64,
    /// The peer's setting, ours, and ours that are not acknowledged.
    peer_initial: i64,
    initial: i64,
    unacknowledged: Vec<i64>,
    streams: BTreeMap<u32, Stream>,
}

impl Client {
    async fn connect(world: &World, seed: u64) -> Self {
        let mut config = rustls::ClientConfig::clone(&world.route().tls);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(world.node.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(culvert_mtls::server_name(), tcp).await.unwrap();
        let mut client = Self {
            tls,
            read: Vec::new(),
            out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            random: Random::new(seed),
            send_window: 65_535,
            recv_window: 65_535,
            peer_initial: 65_535,
            initial: 65_535,
            unacknowledged: Vec::new(),
            streams: BTreeMap::new(),
        };
        client.change_window();
        client
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    fn change_window(&mut self) {
        let window = WINDOWS[self.random.below(WINDOWS.len())];
        self.unacknowledged.push(i64::from(window));
        let [a, b, c, d] = window.to_be_bytes();
        self.frame(4, 0, 0, &[0, 4, a, b, c, d]);
    }

    /// Asks for a connection, in a header block of many frames.
    fn open(&mut self, id: u32, to: &str, to_send: Vec<u8>) {
        let mut block = b"\x02\x07CONNECT\x01".to_vec();
        block.push(to.len() as u8);
        block.extend_from_slice(to.as_bytes());
        block.extend_from_slice(b"\x00\x07baggage\x12service.name=cart,");
        let mut rest = &block[..];
        let mut kind = 1;
        while !rest.is_empty() {
            let (part, after) = rest.split_at((1 + self.random.below(7)).min(rest.len()));
            let last = if after.is_empty() { 4 } else { 0 };
            if kind == 1 && self.random.one_in(2) {
                let padded = [&[3], part, &[0; 3]].concat();
                self.frame(kind, last | 8, id, &padded);
            } else {
                self.frame(kind, last, id, part);
            }
            (rest, kind) = (after, 9);
        }
        let stream = Stream {
            to_send,
            sent: 0,
            finished: false,
            send_window: self.peer_initial,
            recv_window: self.initial,
            heard: Vec::new(),
            answered: false,
            ended: false,
            reset: false,
        };
        self.streams.insert(id, stream);
    }

    /// Some stream says something, as its windows allow.
    fn say(&mut self) {
        let open: Vec<u32> = self.streams.iter().filter(|(_, s)| !s.finished && !s.reset).map(|(id, _)| *id).collect();
        let Some(id) = open.get(self.random.below(open.len().max(1))).copied() else { return };
        if self.random.one_in(400) {
            self.streams.get_mut(&id).unwrap().reset = true;
            return self.frame(3, 0, id, &8_u32.to_be_bytes());
        }
        let pad = if self.random.one_in(3) { Some(self.random.below(256)) } else { None };
        let overhead = pad.map_or(0, |pad| pad + 1);
        let most = [0, 1, 50, 5000, MAX_FRAME - 300][self.random.below(5)];
        let end_early = self.random.one_in(2);
        let stream = self.streams.get_mut(&id).unwrap();
        let room = (stream.send_window.min(self.send_window) - overhead as i64).max(0) as usize;
        if room == 0 && overhead > 0 {
            return;
        }
        let part = stream.to_send[stream.sent..].iter().copied().take(most.min(room)).collect::<Vec<_>>();
        stream.sent += part.len();
        let end = stream.sent == stream.to_send.len() && (end_early || part.is_empty());
        stream.finished = end;
        let flow = (part.len() + overhead) as i64;
        stream.send_window -= flow;
        self.send_window -= flow;
        let flags = u8::from(end);
        match pad {
            Some(pad) => {
                let padded = [&[pad as u8], &part[..], &vec![0; pad]].concat();
                self.frame(0, flags | 8, id, &padded);
            }
            None => self.frame(0, flags, id, &part),
        }
    }

    /// Gives windows back in random parts.
    fn grant(&mut self) {
        if self.recv_window < 20_000 {
            let more = 1 + self.random.below(60_000) as u32;
            self.recv_window += i64::from(more);
            self.frame(8, 0, 0, &more.to_be_bytes());
        }
        let ids: Vec<u32> = self.streams.iter().filter(|(_, s)| !s.ended && !s.reset).map(|(id, _)| *id).collect();
        for id in ids {
            if self.streams[&id].recv_window < 100 && self.random.one_in(3) {
                let more = 1 + self.random.below(9000) as u32;
                self.streams.get_mut(&id).unwrap().recv_window += i64::from(more);
                self.frame(8, 0, id, &more.to_be_bytes());
            }
        }
    }

    /// Writes what is to be said and reads for a moment.
    async fn turn(&mut self) {
        let out = std::mem::take(&mut self.out);
        for part in out.chunks(1 + self.random.below(3000)) {
            self.tls.write_all(part).await.unwrap();
        }
        self.tls.flush().await.unwrap();
        let patience = Duration::from_micros(self.random.below(1500) as u64);
        if let Ok(read) = timeout(patience, self.tls.read_buf(&mut self.read)).await {
            assert_ne!(read.unwrap(), 0, "we were cut off");
        }
        while let Some(head) = self.read.first_chunk::<9>().copied() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if self.read.len() < 9 + len {
                break;
            }
            let payload: Vec<u8> = self.read.drain(..9 + len).skip(9).collect();
            self.heard(head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), &payload);
        }
    }

    fn heard(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        assert!(payload.len() <= MAX_FRAME, "a frame of {}", payload.len());
        let number = || u32::from_be_bytes(payload[..4].try_into().unwrap());
        match kind {
            0 => self.heard_data(flags, id, payload),
            1 => {
                let stream = self.streams.get_mut(&id).unwrap();
                // 200, in the first block behind the end of the table.
                assert!(matches!(payload, [0x88, ..] | [0x20, 0x88, ..]), "{payload:?}");
                stream.answered = true;
            }
            3 => assert!(self.streams[&id].reset, "stream {id} was reset: {}", number()),
            4 if flags == 1 => {
                let window = self.unacknowledged.remove(0);
                let change = window - std::mem::replace(&mut self.initial, window);
                self.streams.values_mut().for_each(|stream| stream.recv_window += change);
            }
            4 => self.heard_settings(payload),
            6 if flags == 0 => self.frame(6, 1, 0, payload),
            7 => panic!("GOAWAY: {payload:?}"),
            8 if id == 0 => self.send_window += i64::from(number()),
            8 => self.streams.get_mut(&id).unwrap().send_window += i64::from(number()),
            _ => {}
        }
    }

    fn heard_data(&mut self, flags: u8, id: u32, payload: &[u8]) {
        let stream = self.streams.get_mut(&id).unwrap();
        assert!(stream.answered && !stream.ended, "DATA out of place");
        self.recv_window -= payload.len() as i64;
        stream.recv_window -= payload.len() as i64;
        let within = stream.recv_window >= 0 && self.recv_window >= 0;
        assert!(within || payload.is_empty(), "{} beyond a window of stream {id}", stream.recv_window);
        stream.heard.extend_from_slice(payload);
        stream.ended = flags & 1 != 0;
    }

    fn heard_settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks(6) {
            if setting[1] == 4 {
                let window = i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                let change = window - std::mem::replace(&mut self.peer_initial, window);
                self.streams.values_mut().for_each(|stream| stream.send_window += change);
            }
        }
        self.frame(4, 1, 0, &[]);
    }

    fn is_done(&self) -> bool {
        self.streams.values().all(|s| s.reset || (s.finished && s.ended))
    }
}

/// An application that gives back what it gets, at times slowly.
async fn echo_application(seed: u64) -> std::net::SocketAddr {
    let (address, mut connections) = application().await;
    spawn_local(async move {
        let mut random = Random::new(seed);
        while let Some(mut tcp) = connections.recv().await {
            let slow = random.one_in(3);
            spawn_local(async move {
                let mut buffer = vec![0; 4000];
                while let Ok(read @ 1..) = tcp.read(&mut buffer).await {
                    if slow {
                        sleep(Duration::from_millis(1)).await;
                    }
                    if tcp.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
                let _ = tcp.shutdown().await;
            });
        }
    });
    address
}

#[test]
fn whatever_the_rules_allow_arrives_byte_by_byte() {
    worker(async {
        let world = World::new().await;
        for seed in 1..=24 {
            let to = echo_application(seed).await.to_string();
            let mut client = Client::connect(&world, seed).await;
            for n in 0..12 {
                let len = [0, 1, 10, 3000, 40_000, 200_000][client.random.below(6)];
                client.open(1 + 2 * n, &to, Pattern::bytes(seed * 100 + u64::from(n), len));
            }
            let began = Instant::now();
            while !client.is_done() {
                for _ in 0..client.random.below(20) {
                    client.say();
                }
                client.grant();
                if client.random.one_in(40) {
                    client.change_window();
                }
                client.turn().await;
                let stuck = || client.streams.iter().find(|(_, s)| !(s.reset || s.finished && s.ended));
                let late = began.elapsed() > Duration::from_secs(20);
                assert!(!late, "seed {seed} hangs: {:?}", stuck().map(|(id, s)| (id, s.sent, s.heard.len(), s.ended)));
            }
            for (id, stream) in client.streams.iter().filter(|(_, stream)| !stream.reset) {
                assert!(stream.heard == stream.to_send, "seed {seed}: stream {id} differs");
            }
        }
        until("all streams are over", || world.node.server.count().1 == 0).await;
    });
}

/// A server of the h2 crate that gives back what it gets, with limits of its own.
async fn echo_server(world: &World, streams: u32, window: u32) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = world.serving.tls.server_config().unwrap();
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams).initial_window_size(window);
                let mut connection = builder.handshake::<_, Bytes>(tls).await.unwrap();
                let mut windows = [65_535, window, 1 << 20].into_iter().cycle();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let _ = connection.set_initial_window_size(windows.next().unwrap());
                    spawn_local(async move {
                        let mut to = respond.send_response(http::Response::new(()), false).unwrap();
                        let mut from = request.into_body();
                        while let Some(Ok(data)) = from.data().await {
                            let _ = from.flow_control().release_capacity(data.len());
                            let _ = to.send_data(data, false);
                        }
                        let _ = to.send_data(Bytes::new(), true);
                    });
                }
            });
        }
    });
    address
}

#[test]
fn servers_with_small_windows_and_few_streams_are_served_as_they_wish() {
    worker(async {
        for (streams, window, len) in [(100, 1, 300), (100, 10, 3000), (1, 65_535, 500_000), (2, 1000, 100_000)] {
            let world = World::new().await;
            let address = echo_server(&world, streams, window).await;
            let route = world.client.route(SERVER, address);
            // The first one learns what the server allows.
            let first = world.open_on(&route, address).await.unwrap();
            let all = (0..6).map(|n| {
                let (world, route) = (&world, &route);
                async move {
                    let stream = world.open_on(route, address).await.unwrap();
                    let carried = support::carry(stream).await;
                    let (mut reader, mut writer) = carried.app.into_split();
                    let bytes = Pattern::bytes(n, len);
                    let said = bytes.clone();
                    spawn_local(async move {
                        writer.write_all(&said).await.unwrap();
                        writer.shutdown().await.unwrap();
                        writer
                    });
                    let mut heard = Vec::new();
                    reader.read_to_end(&mut heard).await.unwrap();
                    assert!(heard == bytes, "{} of {len} bytes with {streams} streams, window {window}", heard.len());
                    assert_eq!(carried.totals.await.unwrap().end, End::Closed);
                }
            });
            timeout(Duration::from_secs(20), futures::future::join_all(all)).await.expect("no hang");
            drop(first);
        }
    });
}

#[test]
fn a_tunnel_that_readers_behind_the_peer_have_clogged_gets_no_new_stream() {
    worker(async {
        let world = World::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = world.serving.tls.server_config().unwrap();
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
                spawn_local(async move {
                    let mut connection = h2::server::handshake(tls).await.unwrap();
                    let mut kept = Vec::new();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        // Nobody reads: what has come counts against the window of the whole connection.
                        kept.push((request, respond.send_response(http::Response::new(()), false).unwrap()));
                    }
                });
            }
        });
        let route = world.client.route(SERVER, address);
        let mut clogging = support::carry(world.open_on(&route, address).await.unwrap()).await;
        clogging.app.write_all(&[0; 65_535]).await.unwrap();
        until("all of it has left", || clogging.meter.sent() == 65_535).await;
        let _beside = world.open_on(&route, address).await.unwrap();
        assert_eq!(world.dials.get(), 1, "it may be for a moment only");
        sleep(Duration::from_millis(1100)).await;
        let _elsewhere = world.open_on(&route, address).await.unwrap();
        assert_eq!(world.dials.get(), 2);
    });
}

/// A server of the h2 crate that keeps what it gets, and counts that against the connection of everybody.
async fn hoarder(world: &World) -> (std::net::SocketAddr, Rc<Cell<(usize, usize)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = world.serving.tls.server_config().unwrap();
    let seen = Rc::new(Cell::new((0, 0)));
    let counted = Rc::clone(&seen);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counted.update(|(connections, bytes)| (connections + 1, bytes));
            let tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            let counted = Rc::clone(&counted);
            spawn_local(async move {
                let mut connection = h2::server::handshake(tls).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let counted = Rc::clone(&counted);
                    spawn_local(async move {
                        let _to = respond.send_response(http::Response::new(()), false).unwrap();
                        let mut from: h2::RecvStream = request.into_body();
                        while let Some(Ok(data)) = from.data().await {
                            counted.update(|(connections, bytes)| (connections, bytes + data.len()));
                        }
                    });
                }
            });
        }
    });
    (address, seen)
}

#[test]
fn a_tunnel_that_stopped_readers_hold_up_takes_nobody_more() {
    worker(async {
        let world = World::new().await;
        let (address, seen) = hoarder(&world).await;
        let route = world.client.route(SERVER, address);
        let mut stopped = carry(world.open_on(&route, address).await.unwrap()).await;
        stopped.app.write_all(&vec![7; 80_000]).await.unwrap();
        until("the window is used up", || seen.get().1 == 65_535).await;
        // Nobody has asked for a place since.
        sleep(Duration::from_millis(300)).await;
        let mut next = carry(world.open_on(&route, address).await.unwrap()).await;
        next.app.write_all(b"hello").await.unwrap();
        until("the next one gets through", || seen.get() == (2, 65_540)).await;
    });
}
