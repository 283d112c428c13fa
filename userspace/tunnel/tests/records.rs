//! TLS as a peer may use it after the handshake: new keys under traffic, tiny records, messages over several records, an
//! end in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::{aead, hmac};
use bytes::Bytes;
use culvert_tunnel::End;
use support::{Pattern, SERVER, World, application, until, worker};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Takes new keys after every so many writes, and writes so many bytes at most as one record.
struct Restless<T> {
    tls: T,
    refresh: fn(&mut T),
    every: usize,
    most: usize,
    writes: usize,
}

fn restless<T>(tls: T, refresh: fn(&mut T), every: usize, most: usize) -> Restless<T> {
    Restless { tls, refresh, every, most, writes: 0 }
}

fn of_client(tls: &mut client::TlsStream<TcpStream>) {
    tls.get_mut().1.refresh_traffic_keys().unwrap();
}

fn of_server(tls: &mut server::TlsStream<TcpStream>) {
    tls.get_mut().1.refresh_traffic_keys().unwrap();
}

impl<T: AsyncRead + Unpin> AsyncRead for Restless<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Restless<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes += 1;
        if self.writes.is_multiple_of(self.every) {
            (self.refresh)(&mut self.tls);
        }
        let most = bytes.len().min(self.most);
        Pin::new(&mut self.tls).poll_write(cx, &bytes[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

async fn raw_tls(world: &World, change: impl FnOnce(&mut rustls::ClientConfig)) -> client::TlsStream<TcpStream> {
    let mut config = rustls::ClientConfig::clone(&world.route().tls);
    change(&mut config);
    let tcp = TcpStream::connect(world.node.address).await.unwrap();
    // What is written for itself arrives for itself.
    tcp.set_nodelay(true).unwrap();
    TlsConnector::from(Arc::new(config)).connect(culvert_mtls::server_name(), tcp).await.unwrap()
}

async fn echo_application() -> std::net::SocketAddr {
    let (address, mut connections) = application().await;
    spawn_local(async move {
        while let Some(mut tcp) = connections.recv().await {
            spawn_local(async move {
                let (mut from, mut to) = tcp.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

/// Sends `bytes` as a client of the h2 crate, and gives what comes back.
async fn echoed<T>(io: T, to: std::net::SocketAddr, bytes: Vec<u8>) -> Vec<u8>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut requests, connection) = h2::client::handshake(io).await.unwrap();
    spawn_local(connection);
    let request = http::Request::builder().method(http::Method::CONNECT).uri(to.to_string()).body(()).unwrap();
    let (answer, mut stream) = requests.send_request(request, false).unwrap();
    let mut body = answer.await.unwrap().into_body();
    stream.send_data(Bytes::from(bytes), true).unwrap();
    let mut heard = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        heard.extend_from_slice(&data);
    }
    heard
}

#[test]
fn a_client_may_take_new_keys_under_traffic_and_write_tiny_records() {
    worker(async {
        let world = World::new().await;
        let to = echo_application().await;
        for (every, most, len) in [(3, usize::MAX, 5_000_000), (50, 1, 6000), (7, 100, 200_000)] {
            let tls = raw_tls(&world, |_| ()).await;
            let bytes = Pattern::bytes(len as u64, len);
            let heard = echoed(restless(tls, of_client, every, most), to, bytes.clone()).await;
            assert!(heard == bytes, "{} of {len} bytes", heard.len());
        }
    });
}

#[test]
fn a_server_may_take_new_keys_under_traffic() {
    worker(async {
        let world = World::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = world.serving.tls.server_config().unwrap();
        spawn_local(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = TlsAcceptor::from(config).accept(tcp).await.unwrap();
            let mut connection = h2::server::handshake(restless(tls, of_server, 3, 5000)).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                spawn_local(async move {
                    let mut to = respond.send_response(http::Response::new(()), false).unwrap();
                    let mut from = request.into_body();
                    while let Some(Ok(data)) = from.data().await {
                        from.flow_control().release_capacity(data.len()).unwrap();
                        to.send_data(data, false).unwrap();
                    }
                    to.send_data(Bytes::new(), true).unwrap();
                });
            }
        });
        let stream = world.open_on(&world.client.route(SERVER, address), address).await.unwrap();
        let carried = support::carry(stream).await;
        let (mut reader, mut writer) = carried.app.into_split();
        let bytes = Pattern::bytes(4, 5_000_000);
        let said = bytes.clone();
        let saying = spawn_local(async move {
            writer.write_all(&said).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.unwrap();
        saying.await.unwrap();
        assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
        assert_eq!(carried.totals.await.unwrap().end, End::Closed);
    });
}

#[test]
fn a_peer_that_closes_tls_with_a_stream_open_has_broken_it_off() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut tls = raw_tls(&world, |_| ()).await;
        tls.write_all(&hello(&address.to_string())).await.unwrap();
        let mut app = connections.recv().await.unwrap();
        tls.shutdown().await.unwrap();
        let error = app.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "not a clean end");
        until("it is recorded", || world.node.inbound.totals.borrow().len() == 1).await;
        assert_eq!(world.node.inbound.totals.borrow()[0].end.reason(), "tunnel_lost");
    });
}

/// What a client says first: its greeting and a request.
fn hello(to: &str) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let block = [b"\x02\x07CONNECT\x01", &[to.len() as u8][..], to.as_bytes()].concat();
    bytes.extend_from_slice(&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    bytes
}

/// Remembers the client's traffic secret.
#[derive(Debug, Default)]
struct Secret(Mutex<Vec<u8>>);

impl rustls::KeyLog for Secret {
    fn log(&self, label: &str, _random: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0" {
            *self.0.lock().unwrap() = secret.to_vec();
        }
    }
}

/// Seals records by hand (RFC 8446 section 5.2).
struct Sealer {
    secret: Vec<u8>,
    sequence: u64,
}

impl Sealer {
    /// HKDF-Expand-Label with an empty context, for at most 32 bytes (section 7.1).
    fn expand(&self, label: &str, len: usize) -> Vec<u8> {
        let label = format!("tls13 {label}");
        let info = [&[0, len as u8, label.len() as u8], label.as_bytes(), &[0, 1]].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        hmac::sign(&key, &info).as_ref()[..len].to_vec()
    }

    fn next_keys(&mut self) {
        (self.secret, self.sequence) = (self.expand("traffic upd", 32), 0);
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &self.expand("key", 16)).unwrap();
        let mut nonce: [u8; 12] = self.expand("iv", 12).try_into().unwrap();
        nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()).for_each(|(a, b)| *a ^= b);
        self.sequence += 1;
        let mut inner = [content, &[kind]].concat();
        let len = (inner.len() + 16) as u16;
        let head = [&[23, 3, 3][..], &len.to_be_bytes()].concat();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        aead::LessSafeKey::new(key).seal_in_place_append_tag(nonce, aead::Aad::from(&head), &mut inner).unwrap();
        [head, inner].concat()
    }
}

/// What a server does with records that were sealed by hand, each written for itself, so long after the handshake.
async fn by_hand(pause: Duration, make: impl FnOnce(&mut Sealer, &str) -> Vec<Vec<u8>>) -> (usize, Vec<&'static str>) {
    let world = World::new().await;
    let (address, _connections) = application().await;
    let secret = Arc::new(Secret::default());
    let log = Arc::clone(&secret);
    let (mut tcp, _) = raw_tls(&world, |config| config.key_log = log).await.into_inner();
    let mut sealer = Sealer { secret: secret.0.lock().unwrap().clone(), sequence: 0 };
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    for record in make(&mut sealer, &address.to_string()) {
        if tcp.write_all(&record).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let node = &world.node;
    until("something came of it", || !node.ends.borrow().is_empty() || !node.inbound.requests.borrow().is_empty())
        .await;
    let ends = node.ends.borrow().iter().map(|end| end.as_ref().unwrap_err().reason()).collect();
    (node.inbound.requests.borrow().len(), ends)
}

#[test]
fn messages_over_several_records_are_put_together_and_those_without_end_are_not() {
    const HANDSHAKE: u8 = 22;
    const PAYLOAD: u8 = 23;
    const LATER: Duration = Duration::from_millis(20);
    worker(async {
        // KeyUpdate (24) of one byte: not requested.
        let split = |sealer: &mut Sealer, to: &str| {
            let mut records: Vec<_> = [24, 0, 0, 1, 0].iter().map(|byte| sealer.seal(HANDSHAKE, &[*byte])).collect();
            sealer.next_keys();
            records.extend(hello(to).iter().map(|byte| sealer.seal(PAYLOAD, &[*byte])));
            records
        };
        let interrupted = by_hand(LATER, |sealer, to| {
            vec![sealer.seal(HANDSHAKE, &[24, 0, 0]), sealer.seal(PAYLOAD, &hello(to)), sealer.seal(HANDSHAKE, &[1, 0])]
        });
        // A message of almost 16 MiB, in records of 1000 bytes.
        let endless = by_hand(LATER, |sealer, _| {
            let begin = sealer.seal(HANDSHAKE, &[4, 0xff, 0xff, 0xff]);
            [begin].into_iter().chain((0..200).map(|_| sealer.seal(HANDSHAKE, &[0; 1000]))).collect()
        });
        let empty = by_hand(LATER, |sealer, to| {
            let mut records: Vec<_> = (0..30).map(|_| sealer.seal(PAYLOAD, &[])).collect();
            records.push(sealer.seal(PAYLOAD, &hello(to)));
            records
        });
        let lost = || vec!["tunnel_lost"];
        // The server has not had its turn since the handshake's end: three of five come with it.
        let beside = |sealer: &mut Sealer, to: &str| {
            let mut records = split(sealer, to);
            let first: Vec<u8> = records.drain(..3).flatten().collect();
            records.insert(0, first);
            records
        };
        assert_eq!(by_hand(Duration::ZERO, beside).await, (1, vec![]));
        assert_eq!(by_hand(LATER, split).await, (1, vec![]));
        assert_eq!(interrupted.await, (0, lost()), "no other record may come between");
        assert_eq!(endless.await, (0, lost()), "nobody gathers that");
        assert_eq!(empty.await, (1, vec![]));
    });
}
