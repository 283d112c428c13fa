//! Peers that have a valid certificate and behave badly: they are answered, and everybody else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_tunnel::{End, OpenError, Side};
use h2::Reason;
use http::{Method, Request, Response, StatusCode};
use support::{Pattern, SERVER, World, application, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

async fn raw_tls(world: &World, alpn: &[&[u8]]) -> std::io::Result<client::TlsStream<TcpStream>> {
    let mut config = rustls::ClientConfig::clone(&world.route().tls);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let tcp = TcpStream::connect(world.node.address).await?;
    TlsConnector::from(Arc::new(config)).connect(culvert_mtls::server_name(), tcp).await
}

async fn raw_client(world: &World) -> h2::client::SendRequest<Bytes> {
    let tls = raw_tls(world, &[b"h2"]).await.unwrap();
    let (requests, connection) = h2::client::handshake(tls).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    requests
}

async fn still_serves(world: &World) {
    let (address, mut connections) = application().await;
    let mut carried = world.carry(address).await;
    let mut server = connections.recv().await.unwrap();
    carried.app.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[test]
fn alpn_is_optional_and_http_1_only_is_refused() {
    worker(async {
        let world = World::new().await;
        let tls = raw_tls(&world, &[]).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(tls).await.unwrap();
        spawn_local(connection);
        let request = Request::builder().method(Method::CONNECT).uri("127.0.0.1:1").body(()).unwrap();
        let (answer, _) = requests.send_request(request, false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);

        assert!(raw_tls(&world, &[b"http/1.1"]).await.is_err());
        until("the refusal is reported", || world.node.ends.borrow().len() == 1).await;
        assert_eq!(world.node.ends.borrow()[0].as_ref().unwrap_err().reason(), "no_common_protocol");
    });
}

#[test]
fn a_client_that_is_refused_and_still_writes_can_read_why() {
    worker(async {
        let world = World::new().await;
        let foreign = support::Ca::new();
        let stranger = support::Identity::new(&foreign, &world.trust, support::CLIENT, support::HOUR);
        let tcp = TcpStream::connect(world.node.address).await.unwrap();
        let config = stranger.route(SERVER, world.node.address).tls;
        let mut tls = TlsConnector::from(config).connect(culvert_mtls::server_name(), tcp).await.unwrap();
        // In TLS 1.3 the client is done before it is judged. What it writes must not turn the answer into a RST.
        for _ in 0..3 {
            tls.write_all(&[0; 500]).await.unwrap();
            tls.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let error = tls.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(culvert_mtls::failure_reason(&error), "refused_by_peer");
    });
}

#[test]
fn requests_that_make_no_sense_are_answered_with_400() {
    worker(async {
        let world = World::new().await;
        let mut requests = raw_client(&world).await;
        let table = [
            (Method::GET, "http://10.0.0.1:80/", "not_connect"),
            (Method::POST, "https://10.0.0.1:80/x", "not_connect"),
            (Method::CONNECT, "10.0.0.1", "authority_without_port"),
            (Method::CONNECT, "10.0.0.1:0", "authority_bad_port"),
            (Method::CONNECT, "10.0.0:80", "authority_bad_host"),
            (Method::CONNECT, "[::ffff:10.0.0.1]:80", "authority_bad_host"),
            (Method::CONNECT, "user@10.0.0.1:80", "authority_bad_host"),
        ];
        for (method, uri, reason) in table {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let (answer, _) = requests.send_request(request, false).unwrap();
            assert_eq!(answer.await.unwrap().status(), StatusCode::BAD_REQUEST, "{uri}");
            assert_eq!(world.node.inbound.malformed.borrow().last(), Some(&reason), "{uri}");
        }
        assert!(world.node.inbound.requests.borrow().is_empty(), "the agent was not bothered");
        still_serves(&world).await;
    });
}

#[test]
fn headers_that_are_too_large_cost_their_stream_only() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let mut requests = raw_client(&world).await;
        let connect = |filler: usize| {
            let request = Request::builder().method(Method::CONNECT).uri(address.to_string());
            (0..filler / 1000).fold(request, |r, n| r.header(format!("x-{n}"), "v".repeat(1000))).body(()).unwrap()
        };
        let (answer, _) = requests.send_request(connect(70_000), false).unwrap();
        let refused = answer.await.map(|a| a.status());
        assert!(!matches!(refused, Ok(StatusCode::OK)), "{refused:?}");
        let (answer, _stream) = requests.send_request(connect(30_000), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK, "30 kB fit, and the tunnel lives");
    });
}

#[test]
fn headers_that_cannot_be_read_are_ignored() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let mut requests = raw_client(&world).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(address.to_string())
            .header("forwarded", &b"for=\xff\xfe"[..])
            .header("baggage", &b"\x80,,==;"[..])
            .header("baggage", "service.name=cart")
            .header("traceparent", "junk")
            .body(())
            .unwrap();
        let (answer, _stream) = requests.send_request(request, false).unwrap();
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        let seen = world.node.inbound.requests.borrow()[0].clone();
        assert_eq!((seen.forwarded.client, seen.traceparent), (None, None));
        assert_eq!(seen.baggage.service.as_deref(), Some("cart"));
    });
}

#[test]
fn garbage_before_and_after_the_handshake_ends_its_connection_with_a_reason() {
    worker(async {
        let world = World::new().await;
        let mut tcp = TcpStream::connect(world.node.address).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut tls = raw_tls(&world, &[b"h2"]).await.unwrap();
        tls.write_all(&[0xff; 4096]).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(5), tls.read_to_end(&mut answer)).await.expect("closed");
        until("both have ended", || world.node.ends.borrow().len() == 2).await;
        let mut reasons: Vec<_> = world.node.ends.borrow().iter().map(|e| e.as_ref().unwrap_err().reason()).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["not_tls", "protocol_error"]);
        still_serves(&world).await;
    });
}

/// Connections to this port that somebody still holds (proc_net_tcp(5): an inode, and another state than LISTEN).
fn held(port: u16) -> usize {
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&local) && row[3] != "0A" && row[9] != "0").count()
}

#[test]
fn clients_that_are_refused_hold_only_so_many_sockets() {
    const MOST: usize = 128;
    worker(async {
        let world = World::new().await;
        let mut clients = Vec::new();
        for _ in 0..2 * MOST {
            let mut tcp = TcpStream::connect(world.node.address).await.unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            clients.push(tcp);
        }
        until("all are refused", || world.node.ends.borrow().len() == 2 * MOST).await;
        let held = held(world.node.address.port());
        assert!(held <= MOST, "{held} of {} are still held", clients.len());
        still_serves(&world).await;
    });
}

/// Frames with random types, flags, streams and contents, sometimes cut or bit-flipped.
fn random_frames(seed: u64) -> Vec<u8> {
    let random = Pattern::bytes(seed, 4096);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut at = 0;
    while at + 16 < random.len() {
        let r = &random[at..];
        let len = (r[0] as usize % 64).min(r.len() - 16);
        let kind = r[1] % 11;
        let stream = if r[2].is_multiple_of(3) { 0 } else { r[3] % 8 };
        bytes.extend([0, 0, len as u8, kind, r[4] & 0x2d, 0, 0, 0, stream]);
        bytes.extend(&r[16..16 + len]);
        at += 16 + len;
    }
    bytes
}

#[test]
fn random_frames_never_harm_the_server() {
    worker(async {
        let world = World::new().await;
        for seed in 1..=60 {
            let mut tls = raw_tls(&world, &[b"h2"]).await.unwrap();
            let _ = tls.write_all(&random_frames(seed)).await;
            let mut answer = Vec::new();
            let _ = timeout(Duration::from_millis(300), tls.read_to_end(&mut answer)).await;
        }
        until("all connections have ended properly, none in a panic", || world.node.ends.borrow().len() == 60).await;
        still_serves(&world).await;
    });
}

#[test]
fn streams_opened_and_reset_in_a_burst_do_not_harm_the_server() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let mut requests = raw_client(&world).await;
        for _ in 0..3000 {
            let request = Request::builder().method(Method::CONNECT).uri(address.to_string()).body(()).unwrap();
            match requests.send_request(request, false) {
                Ok((_, mut stream)) => stream.send_reset(Reason::CANCEL),
                Err(_) => break,
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        until("nothing is left open", || world.node.server.count().1 == 0).await;
        still_serves(&world).await;
    });
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_others_live() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        // A client that believes it may open as many as it likes sends them before it has read the settings.
        let tls = raw_tls(&world, &[b"h2"]).await.unwrap();
        let (mut requests, connection) =
            h2::client::Builder::new().initial_max_send_streams(1000).handshake::<_, Bytes>(tls).await.unwrap();
        let mut open = Vec::new();
        for _ in 0..300 {
            let request = Request::builder().method(Method::CONNECT).uri(address.to_string()).body(()).unwrap();
            open.push(requests.send_request(request, false).unwrap());
        }
        spawn_local(connection);
        let mut refused = 0;
        let mut streams = Vec::new();
        for (answer, stream) in open {
            match answer.await {
                Ok(answer) => streams.push((answer, stream)),
                Err(error) => {
                    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
                    refused += 1;
                }
            }
        }
        assert_eq!((streams.len(), refused), (200, 100));
    });
}

#[test]
fn a_reset_application_is_told_to_the_peer_as_connect_error() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut requests = raw_client(&world).await;
        let request = Request::builder().method(Method::CONNECT).uri(address.to_string()).body(()).unwrap();
        let (answer, _stream) = requests.send_request(request, false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let app = connections.recv().await.unwrap();
        app.set_zero_linger().unwrap();
        drop(app);
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
    });
}

#[test]
fn the_end_of_a_stream_travels_with_its_last_bytes() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut requests = raw_client(&world).await;
        let request = Request::builder().method(Method::CONNECT).uri(address.to_string()).body(()).unwrap();
        let (answer, _stream) = requests.send_request(request, false).unwrap();
        let mut app = connections.recv().await.unwrap();
        // Bytes and FIN are in the socket before the agent has had a chance to look.
        app.write_all(b"the end").await.unwrap();
        app.shutdown().await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "the end");
        assert!(body.is_end_stream());
    });
}

/// A server that a test scripts: real TLS as the expected peer, then whatever the script does with the connection.
async fn scripted<S, F>(world: &World, script: S) -> std::net::SocketAddr
where
    S: Fn(server::TlsStream<TcpStream>) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = world.serving.tls.server_config().unwrap();
    let script = Rc::new(script);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (config, script) = (Arc::clone(&config), Rc::clone(&script));
            spawn_local(async move {
                if let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await {
                    script(tls).await;
                }
            });
        }
    });
    address
}

/// A server whose answer to each CONNECT a test gives.
async fn answering<A, F>(world: &World, answer: A) -> std::net::SocketAddr
where
    A: Fn(h2::RecvStream, h2::server::SendResponse<Bytes>) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let answer = Rc::new(answer);
    scripted(world, move |tls| {
        let answer = Rc::clone(&answer);
        async move {
            let mut connection = h2::server::handshake(tls).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let answer = Rc::clone(&answer);
                spawn_local(async move { answer(request.into_body(), respond).await });
            }
        }
    })
    .await
}

#[test]
fn a_server_that_resets_or_answers_oddly_is_reported_for_what_it_did() {
    worker(async {
        let world = World::new().await;
        let table: [(u32, u16, OpenError); 5] = [
            (7, 0, OpenError::Reset(7)),
            (8, 0, OpenError::Reset(8)),
            (2, 0, OpenError::Reset(2)),
            (0, 404, OpenError::Refused(404)),
            (0, 204, OpenError::Refused(204)),
        ];
        for (code, status, want) in table {
            let asked = Rc::new(std::cell::Cell::new(0));
            let count = Rc::clone(&asked);
            let address = answering(&world, move |_body, mut respond| {
                count.set(count.get() + 1);
                async move {
                    match status {
                        0 => respond.send_reset(code.into()),
                        status => {
                            respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
                        }
                    }
                }
            })
            .await;
            let route = world.client.route(SERVER, address);
            assert_eq!(world.open_on(&route, address).await.unwrap_err(), want);
            // Only what certainly was not processed is asked for again.
            assert_eq!(asked.get(), if code == 7 { 3 } else { 1 });
        }
    });
}

#[test]
fn a_server_that_talks_garbage_or_nothing_gives_an_error_and_no_tunnel() {
    worker(async {
        let limits = culvert_tunnel::Limits { answer_timeout: Duration::from_millis(300), ..Default::default() };
        let world = World::with(limits, Default::default()).await;
        let garbage = scripted(&world, |mut tls| async move {
            let _ = tls.write_all(&[0xff; 10_000]).await;
            let _ = tls.read(&mut [0; 10_000]).await;
        })
        .await;
        let error = world.open_on(&world.client.route(SERVER, garbage), garbage).await.unwrap_err();
        assert!(matches!(error.reason(), "protocol_error" | "goaway"), "{error:?}");
        let silent = scripted(&world, |tls| async move {
            std::future::pending::<()>().await;
            drop(tls);
        })
        .await;
        let error = world.open_on(&world.client.route(SERVER, silent), silent).await.unwrap_err();
        assert_eq!(error.reason(), "answer_timeout");
        let closing = scripted(&world, |tls| async move { drop(tls) }).await;
        let error = world.open_on(&world.client.route(SERVER, closing), closing).await.unwrap_err();
        assert!(matches!(error.reason(), "tunnel_lost" | "goaway"), "{error:?}");
        for seed in 1..=30 {
            let random = scripted(&world, move |mut tls| async move {
                let _ = tls.write_all(&random_frames(seed)[24..]).await;
                let _ = timeout(Duration::from_millis(50), tls.read_to_end(&mut Vec::new())).await;
            })
            .await;
            assert!(world.open_on(&world.client.route(SERVER, random), random).await.is_err());
        }
    });
}

/// What a peer does after 200, and how that has to end for us and for our application.
struct Closing {
    data: &'static [u8],
    end_stream: bool,
    reset: Option<Reason>,
    end: End,
    clean: bool,
}

#[test]
fn rst_stream_counts_as_the_end_only_when_it_says_so() {
    let closing = |data, end_stream, reset, end, clean| Closing { data, end_stream, reset, end, clean };
    let table = [
        closing(b"all", true, Some(Reason::NO_ERROR), End::Closed, true),
        closing(b"all", true, Some(Reason::CANCEL), End::Closed, true),
        closing(b"all", false, Some(Reason::NO_ERROR), End::Closed, true),
        closing(b"", false, Some(Reason::CANCEL), End::Reset(Side::Far), false),
        closing(b"", false, Some(Reason::CONNECT_ERROR), End::Reset(Side::Far), false),
        closing(b"", true, Some(Reason::CONNECT_ERROR), End::Reset(Side::Far), false),
        closing(b"", false, Some(Reason::INTERNAL_ERROR), End::Reset(Side::Far), false),
    ];
    for (n, Closing { data, end_stream, reset, end, clean }) in table.into_iter().enumerate() {
        worker(async move {
            let world = World::new().await;
            let address = answering(&world, move |body, mut respond| async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                if !data.is_empty() || end_stream {
                    stream.send_data(Bytes::from_static(data), end_stream).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                if let Some(reason) = reset {
                    stream.send_reset(reason);
                }
                std::future::pending::<()>().await;
                drop(body);
            })
            .await;
            let stream = world.open_on(&world.client.route(SERVER, address), address).await.unwrap();
            let mut carried = support::carry(stream).await;
            let mut got = Vec::new();
            let read = carried.app.read_to_end(&mut got).await;
            assert_eq!(carried.totals.await.unwrap().end, end, "row {n}");
            if clean {
                assert_eq!((read.is_ok(), &got[..]), (true, data), "row {n}");
            } else if !end_stream {
                assert!(read.is_err(), "row {n}");
            }
        });
    }
}
