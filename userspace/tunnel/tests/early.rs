//! What an application says at once goes with its request, and is said again only where it is certain that nobody got it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use culvert_tunnel::{
    AppSocket, Authority, ConnectRequest, Early, End, Limits, Meter, OpenError, Side, Totals, TunnelStream, revocation,
    splice,
};
use support::{CLIENT, Ca, HOUR, Identity, SERVER, World, pair, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const REFUSED_STREAM: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// 200 at once.
    Answer,
    /// 200 when bytes have come: never, unless they are said early.
    AnswerBytes,
    /// 200 at once, and leave to send more on the whole connection when the script goes on to this.
    AnswerMore,
    /// 204, when bytes have come.
    AnswerOther,
    /// 503.
    Refuse,
    /// GOAWAY, which says that the request was not looked at.
    Leave,
    /// The same, for this reason.
    LeaveFor(u8),
    /// RST_STREAM with this code, when bytes have come.
    Reset(u8),
    /// Nothing.
    Silence,
    /// The connection breaks, at once or when bytes have come.
    Break,
    BreakAtBytes,
    /// Somebody on the way puts a record of his own between ours when bytes have come: the server's TLS ends with an alert.
    Spoil,
}

/// What the server has heard: bytes by the number of their request, and how streams ended.
#[derive(Default)]
struct Heard {
    requests: Cell<usize>,
    connections: Cell<usize>,
    bytes: RefCell<Vec<(usize, Vec<u8>)>>,
    finished: Cell<usize>,
    reset: Cell<usize>,
    /// More than one stream may say something, all on one connection.
    several: Cell<bool>,
    /// Of the last reset.
    code: Cell<u8>,
}

impl Heard {
    fn bytes(&self) -> Vec<(usize, Vec<u8>)> {
        self.bytes.borrow().clone()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HTTP/2 by hand; requests are counted over all connections.
async fn serve(mut tls: TlsStream<TcpStream>, heard: Rc<Heard>, script: &'static [Then]) {
    tls.read_exact(&mut [0; 24]).await.unwrap();
    tls.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (mut head, mut last, mut waiting) = ([0; 9], (0, 0), Then::Answer);
    // `:status: 200` is entry 8 of HPACK's static table.
    let ok = |stream| frame(HEADERS, 4, stream, &[0x88]);
    while tls.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        tls.read_exact(&mut payload).await.unwrap();
        let out = match head[3] {
            SETTINGS if head[4] == 0 => frame(SETTINGS, 1, 0, &[]),
            HEADERS => {
                let number = heard.requests.get();
                heard.requests.set(number + 1);
                waiting = script[number];
                last = (stream, number);
                match waiting {
                    Then::Answer => ok(stream),
                    Then::AnswerMore => [ok(stream), frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])].concat(),
                    Then::Refuse => frame(HEADERS, 5, stream, b"\x08\x03503"),
                    Then::Leave => frame(GOAWAY, 0, 0, &[0; 8]),
                    Then::LeaveFor(reason) => frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, reason]),
                    Then::Break => return,
                    _ => continue,
                }
            }
            DATA if !payload.is_empty() => {
                assert!(stream == last.0 || heard.several.get(), "one at a time");
                let number = if stream == last.0 { last.1 } else { (stream as usize - 1) / 2 };
                heard.bytes.borrow_mut().push((number, payload));
                heard.finished.set(heard.finished.get() + usize::from(head[4] & END_STREAM));
                match std::mem::replace(&mut waiting, Then::Answer) {
                    Then::AnswerBytes => ok(stream),
                    // `:status: 204` is entry 9.
                    Then::AnswerOther => frame(HEADERS, 5, stream, &[0x89]),
                    Then::Reset(code) => frame(RST_STREAM, 0, stream, &[0, 0, 0, code]),
                    Then::BreakAtBytes => return,
                    Then::Spoil => return spoil(tls).await,
                    _ => continue,
                }
            }
            DATA => {
                heard.finished.set(heard.finished.get() + usize::from(head[4] & END_STREAM));
                continue;
            }
            RST_STREAM => {
                heard.reset.set(heard.reset.get() + 1);
                heard.code.set(payload[3]);
                continue;
            }
            _ => continue,
        };
        tls.write_all(&out).await.unwrap();
        tls.flush().await.unwrap();
    }
}

/// What a server does that is given a record which the client did not seal.
async fn spoil(mut tls: TlsStream<TcpStream>) {
    let (tcp, connection) = tls.get_mut();
    let foreign = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
    connection.read_tls(&mut foreign.as_slice()).unwrap();
    connection.process_new_packets().unwrap_err();
    let mut alert = Vec::new();
    connection.write_tls(&mut alert).unwrap();
    tcp.write_all(&alert).await.unwrap();
}

async fn server(world: &World, script: &'static [Then]) -> (SocketAddr, Rc<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = world.serving.tls.server_config().unwrap();
    let heard = Rc::new(Heard::default());
    let all = Rc::clone(&heard);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            all.connections.set(all.connections.get() + 1);
            let tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            spawn_local(serve(tls, Rc::clone(&all), script));
        }
    });
    (address, heard)
}

async fn world() -> World {
    let limits = Limits { answer_timeout: Duration::from_secs(2), ..Limits::default() };
    World::with(limits, Limits::default()).await
}

async fn open(world: &World, to: SocketAddr, near: &TcpStream, early: &mut Early) -> Result<TunnelStream, OpenError> {
    let route = world.client.route(SERVER, to);
    let request = ConnectRequest::to(Authority::from(to));
    world.pool.open_saying(Some(near), early, &route, &request, world.dial(to)).await
}

async fn carry(near: TcpStream, early: Early, stream: TunnelStream, meter: Arc<Meter>) -> Totals {
    let (_revoker, revocation) = revocation();
    splice(AppSocket::from(near).after(early, &meter), stream, meter, revocation).await
}

/// An application that has said this, and has come that far.
async fn said(words: &[u8]) -> (TcpStream, TcpStream) {
    let (mut app, near) = pair().await;
    app.write_all(words).await.unwrap();
    near.readable().await.unwrap();
    (app, near)
}

#[test]
fn the_first_words_go_with_the_request_and_the_others_follow() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::AnswerBytes]).await;
        let (mut app, near) = said(b"first ").await;
        let mut early = Early::default();
        let stream = open(&world, to, &near, &mut early).await.unwrap();
        assert_eq!((early.bytes(), early.is_out()), (&b"first "[..], false));
        let meter = Arc::new(Meter::default());
        let counted = Arc::clone(&meter);
        spawn_local(async move { carry(near, early, stream, counted).await });
        app.write_all(b"second").await.unwrap();
        app.shutdown().await.unwrap();
        until("the end is heard", || heard.finished.get() == 1).await;
        let all: Vec<u8> = heard.bytes().into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!((all.as_slice(), meter.sent()), (&b"first second"[..], 12));
    });
}

#[test]
fn more_than_fits_goes_on_after_the_answer() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::AnswerBytes]).await;
        let words: Vec<u8> = (0..60_000_u32).map(|at| at as u8).collect();
        let (mut app, near) = said(&words).await;
        let mut early = Early::default();
        let stream = open(&world, to, &near, &mut early).await.unwrap();
        assert!((1..=4096).contains(&early.bytes().len()), "{}", early.bytes().len());
        spawn_local(async move { carry(near, early, stream, Arc::default()).await });
        app.shutdown().await.unwrap();
        until("the end is heard", || heard.finished.get() == 1).await;
        let all: Vec<u8> = heard.bytes().into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert!(all == words);
    });
}

#[test]
fn who_did_not_take_the_stream_leaves_the_words_for_the_next() {
    worker(async {
        for first in [Then::Leave, Then::LeaveFor(ENHANCE_YOUR_CALM), Then::Reset(REFUSED_STREAM)] {
            let script = &*Box::leak(Box::new([first, Then::AnswerBytes]));
            let world = world().await;
            let (to, heard) = server(&world, script).await;
            let (_app, near) = said(b"hello").await;
            let mut early = Early::default();
            let _stream = open(&world, to, &near, &mut early).await.unwrap();
            let at_last: Vec<_> = heard.bytes().into_iter().filter(|(number, _)| *number == 1).collect();
            assert_eq!(at_last, [(1, b"hello".to_vec())], "{script:?}");
        }
    });
}

/// In TLS 1.3 we have said them before we learn of it.
#[test]
fn who_does_not_trust_us_has_not_looked_at_the_words() {
    worker(async {
        let world = world().await;
        let stranger = Identity::new(&Ca::new(), &world.trust, CLIENT, HOUR);
        let route = stranger.route(SERVER, world.node.address);
        let (_app, near) = said(b"hello").await;
        let mut early = Early::default();
        let request = ConnectRequest::to(Authority::from(world.node.address));
        let dial = world.dial(world.node.address);
        let error = world.pool.open_saying(Some(&near), &mut early, &route, &request, dial).await.unwrap_err();
        assert_eq!((error.reason(), early.bytes(), early.is_out()), ("refused_by_peer", &b"hello"[..], false));
    });
}

#[test]
fn words_that_were_refused_are_said_to_another_endpoint() {
    worker(async {
        let world = world().await;
        let (one, _) = server(&world, &[Then::Refuse]).await;
        let (other, heard) = server(&world, &[Then::AnswerBytes]).await;
        let (_app, near) = said(b"hello").await;
        let mut early = Early::default();
        assert_eq!(open(&world, one, &near, &mut early).await.unwrap_err(), OpenError::Refused(503));
        assert_eq!((early.bytes(), early.is_out()), (&b"hello"[..], false));
        let _stream = open(&world, other, &near, &mut early).await.unwrap();
        assert_eq!(heard.bytes(), [(0, b"hello".to_vec())]);
    });
}

/// A request may be an order: it is not given twice.
#[test]
fn words_that_may_have_arrived_are_not_said_again() {
    worker(async {
        for (then, wanted) in [
            (&[Then::Answer, Then::BreakAtBytes, Then::AnswerBytes], "tunnel_lost"),
            (&[Then::Answer, Then::Reset(2), Then::AnswerBytes], "reset"),
            (&[Then::Answer, Then::Spoil, Then::AnswerBytes], "tunnel_lost"),
        ] {
            let world = world().await;
            let (to, heard) = server(&world, then).await;
            let (_first_app, first) = pair().await;
            let first = open(&world, to, &first, &mut Early::default()).await.unwrap();
            let (_app, near) = said(b"order").await;
            let mut early = Early::default();
            let error = open(&world, to, &near, &mut early).await.unwrap_err();
            assert_eq!((error.reason(), early.is_out()), (wanted, true), "{error:?}");
            assert_eq!((heard.bytes(), heard.connections.get()), (vec![(1, b"order".to_vec())], 1), "{wanted}");
            drop(first);
        }
    });
}

#[test]
fn a_lost_request_without_words_is_sent_again() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::Answer, Then::Break, Then::Answer]).await;
        let (_first_app, first) = pair().await;
        let _first = open(&world, to, &first, &mut Early::default()).await.unwrap();
        let (_app, near) = pair().await;
        let mut early = Early::default();
        let _stream = open(&world, to, &near, &mut early).await.unwrap();
        assert_eq!((heard.connections.get(), heard.requests.get()), (2, 3));
    });
}

/// Its agent may be gone without a word: then the request goes to the next one, with the words.
#[test]
fn a_peer_that_was_not_heard_for_a_while_is_asked_only() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::Answer, Then::Break, Then::AnswerBytes]).await;
        let (_first_app, first) = pair().await;
        let _first = open(&world, to, &first, &mut Early::default()).await.unwrap();
        sleep(Duration::from_millis(1100)).await;
        let (_app, near) = said(b"order").await;
        let mut early = Early::default();
        let _stream = open(&world, to, &near, &mut early).await.unwrap();
        assert_eq!((heard.bytes(), heard.connections.get()), (vec![(2, b"order".to_vec())], 2));
    });
}

/// It is our own request that was sent a moment ago, and not the peer's word that was heard.
#[test]
fn a_peer_that_does_not_answer_is_asked_only() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::Answer, Then::Silence, Then::Break, Then::AnswerBytes]).await;
        let (_first_app, first) = pair().await;
        let _first = open(&world, to, &first, &mut Early::default()).await.unwrap();
        sleep(Duration::from_millis(1100)).await;
        let (_second_app, second) = pair().await;
        let mut nothing = Early::default();
        let unanswered = timeout(Duration::from_millis(50), open(&world, to, &second, &mut nothing)).await;
        assert!(unanswered.is_err());
        let (_app, near) = said(b"order").await;
        let _stream = open(&world, to, &near, &mut Early::default()).await.unwrap();
        assert_eq!((heard.bytes(), heard.connections.get()), (vec![(3, b"order".to_vec())], 2));
    });
}

#[test]
fn a_reset_that_was_met_early_is_a_reset() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::Answer]).await;
        let (app, near) = pair().await;
        socket2::SockRef::from(&app).set_linger(Some(Duration::ZERO)).unwrap();
        drop(app);
        sleep(Duration::from_millis(20)).await;
        let mut early = Early::default();
        let stream = open(&world, to, &near, &mut early).await.unwrap();
        assert!(early.is_broken());
        assert_eq!(carry(near, early, stream, Arc::default()).await.end, End::Reset(Side::Near));
        until("the reset is heard", || heard.reset.get() == 1).await;
        assert_eq!(heard.finished.get(), 0);
    });
}

#[test]
fn an_end_that_was_met_early_is_an_end() {
    worker(async {
        let world = world().await;
        let (to, heard) = server(&world, &[Then::Answer]).await;
        let (mut app, near) = pair().await;
        app.shutdown().await.unwrap();
        sleep(Duration::from_millis(20)).await;
        let mut early = Early::default();
        let stream = open(&world, to, &near, &mut early).await.unwrap();
        assert!(!early.is_broken());
        spawn_local(async move { carry(near, early, stream, Arc::default()).await });
        until("the end is heard", || heard.finished.get() == 1).await;
        assert_eq!((heard.reset.get(), heard.bytes().len()), (0, 0));
    });
}

/// Another connection of the same tunnel has used up what the peer lets it send: the words wait like all others, and the
/// endpoint is not the worse for it.
#[test]
fn words_that_come_back_and_find_no_room_are_said_when_there_is_some() {
    worker(async {
        let world = world().await;
        let (one, _) = server(&world, &[Then::Refuse]).await;
        let (other, heard) = server(&world, &[Then::Answer, Then::Answer, Then::AnswerMore]).await;
        heard.several.set(true);
        let (mut uploading, first) = pair().await;
        let stream = open(&world, other, &first, &mut Early::default()).await.unwrap();
        let upload = spawn_local(async move { carry(first, Early::default(), stream, Arc::default()).await });
        uploading.write_all(&[7; 65_535]).await.unwrap();
        until("the window is used up", || heard.bytes().iter().map(|(_, bytes)| bytes.len()).sum::<usize>() == 65_535)
            .await;

        let (mut app, near) = said(b"hello").await;
        let mut early = Early::default();
        assert_eq!(open(&world, one, &near, &mut early).await.unwrap_err(), OpenError::Refused(503));
        let stream = open(&world, other, &near, &mut early).await.unwrap();
        assert_eq!((heard.reset.get(), heard.connections.get(), early.is_out()), (0, 1, false));
        let meter = Arc::new(Meter::default());
        let counted = Arc::clone(&meter);
        spawn_local(async move { carry(near, early, stream, counted).await });
        app.write_all(b" again").await.unwrap();
        app.shutdown().await.unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(meter.sent(), 0, "there is no room yet");
        // A third request, whose answer brings room for everybody.
        let (_third_app, third) = pair().await;
        let _third = open(&world, other, &third, &mut Early::default()).await.unwrap();
        until("the end is heard", || heard.finished.get() == 1).await;
        let words: Vec<u8> =
            heard.bytes().into_iter().filter(|(number, _)| *number == 1).flat_map(|(_, b)| b).collect();
        assert_eq!((words.as_slice(), meter.sent()), (&b"hello again"[..], 11));
        upload.abort();
    });
}

/// What holds for words from the application holds for those that came back.
#[test]
fn words_that_come_back_are_not_said_to_a_peer_that_was_not_heard_for_a_while() {
    worker(async {
        let world = world().await;
        let (one, _) = server(&world, &[Then::Refuse]).await;
        let (other, heard) = server(&world, &[Then::Answer, Then::Break, Then::AnswerBytes]).await;
        let (_first_app, first) = pair().await;
        let _first = open(&world, other, &first, &mut Early::default()).await.unwrap();
        let (_app, near) = said(b"order").await;
        let mut early = Early::default();
        assert_eq!(open(&world, one, &near, &mut early).await.unwrap_err(), OpenError::Refused(503));
        sleep(Duration::from_millis(1100)).await;
        let _stream = open(&world, other, &near, &mut early).await.unwrap();
        assert_eq!((heard.bytes(), heard.connections.get()), (vec![(2, b"order".to_vec())], 2));
    });
}

/// Every 2xx takes the stream (RFC 9110 section 9.3.6).
#[test]
fn words_that_another_success_answers_are_not_said_again() {
    worker(async {
        let world = world().await;
        let (to, _) = server(&world, &[Then::AnswerOther]).await;
        let (_app, near) = said(b"order").await;
        let mut early = Early::default();
        assert_eq!(open(&world, to, &near, &mut early).await.unwrap_err(), OpenError::Refused(204));
        assert!(early.is_out());
    });
}

/// A peer may take CANCEL for an end, and words that were cut off must not look whole.
#[test]
fn a_request_with_words_is_given_up_as_a_broken_connection() {
    worker(async {
        for (words, code) in [(&b"order"[..], 10), (b"", 8)] {
            let world = world().await;
            let (to, heard) = server(&world, &[Then::Silence]).await;
            let (mut app, near) = pair().await;
            app.write_all(words).await.unwrap();
            sleep(Duration::from_millis(20)).await;
            let mut early = Early::default();
            assert_eq!(open(&world, to, &near, &mut early).await.unwrap_err(), OpenError::AnswerTimeout);
            until("it is given up", || heard.reset.get() == 1).await;
            assert_eq!((heard.code.get(), early.is_out()), (code, !words.is_empty()));
        }
    });
}
