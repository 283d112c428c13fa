//! Two sessions that talk to each other, and peers that break the rules.

use std::{cell::RefCell, io, rc::Rc};

use super::*;
use crate::{
    connect::Authority,
    http2::{
        code,
        frame::{LARGEST_WINDOW, PREFACE, put, put_goaway, put_reset, put_settings, put_window_update},
        headers, hpack,
    },
};

/// An application that takes so many bytes at once.
#[derive(Clone, Default)]
struct App {
    got: Rc<RefCell<Vec<u8>>>,
    room: Rc<RefCell<usize>>,
}

impl Near for App {
    fn give(&self, bytes: &[u8], _more: bool) -> Given {
        let taken = bytes.len().min(*self.room.borrow());
        *self.room.borrow_mut() -= taken;
        self.got.borrow_mut().extend_from_slice(&bytes[..taken]);
        Given::Took(taken)
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request() -> ConnectRequest {
    ConnectRequest::to(Authority::parse("10.0.0.1:80").unwrap())
}

/// Passes what both have to say, until neither has anything more.
fn talk(a: &mut Session, b: &mut Session) {
    while a.has_out() || b.has_out() {
        let said = a.drain(usize::MAX, <[u8]>::to_vec);
        b.absorb(&said, false).unwrap();
        let said = b.drain(usize::MAX, <[u8]>::to_vec);
        a.absorb(&said, false).unwrap();
    }
}

fn pair() -> (Session, Session) {
    pair_within(Limits::default())
}

fn pair_within(limits: Limits) -> (Session, Session) {
    let (mut client, mut server) = (Session::new(Role::Dialling, &limits), Session::new(Role::Serving, &limits));
    talk(&mut client, &mut server);
    (client, server)
}

/// A pair with one stream that was answered, and the application behind the server.
fn connected(room: usize) -> (Session, Session, u32, App) {
    let (mut client, mut server) = pair();
    let (id, app) = connect(&mut client, &mut server, room);
    (client, server, id, app)
}

fn connect(client: &mut Session, server: &mut Session, room: usize) -> (u32, App) {
    let id = client.open(&request()).unwrap();
    talk(client, server);
    let Some(Asked::Connect(asked, _)) = server.take_asked() else { panic!("no request") };
    assert_eq!(asked, id);
    server.accept(id, &Arc::default()).unwrap();
    let app = App::default();
    *app.room.borrow_mut() = room;
    server.attach(id, Box::new(app.clone()));
    talk(client, server);
    assert!(matches!(client.poll_answer(id, &context()), Poll::Ready(Ok((200, _)))));
    (id, app)
}

fn send(session: &mut Session, id: u32, bytes: &[u8]) -> usize {
    let Poll::Ready(Ok(room)) = session.poll_room(id, &context()) else { return 0 };
    let most = room.min(bytes.len());
    session
        .append(id, most, |out| Ok(std::io::copy(&mut &bytes[..most], &mut bytes::BufMut::writer(out))? as usize))
        .unwrap()
}

/// A serving session that has been greeted, as a peer that writes frames by hand sees it.
fn greeted() -> Session {
    let mut server = Session::new(Role::Serving, &Limits::default());
    let mut hello = PREFACE.to_vec();
    put_settings(&mut hello, &[]);
    server.absorb(&hello, false).unwrap();
    server
}

fn connect_frame(id: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, kind::HEADERS, frame::flag::END_HEADERS, id, &headers::write_request(&request(), &[]));
    bytes
}

#[test]
fn what_the_application_does_not_take_waits_and_holds_the_window() {
    let (mut client, mut server, id, app) = connected(100_000);
    let mut sent = 0;
    loop {
        let some = send(&mut client, id, &[7; 50_000]);
        talk(&mut client, &mut server);
        if some == 0 {
            break;
        }
        sent += some;
    }
    assert_eq!(sent, (256 << 10) + 100_000, "the window and what was taken");
    assert_eq!((app.got.borrow().len(), server.held.bytes()), (100_000, 256 << 10));
    server.took(id, 256 << 10);
    assert_eq!(server.held.bytes(), 0);
    talk(&mut client, &mut server);
    assert!(send(&mut client, id, &[7; 10]) > 0, "there is room again");
}

#[test]
fn what_comes_does_not_overtake_what_waits() {
    let (mut client, mut server, id, app) = connected(0);
    assert_eq!(send(&mut client, id, b"first"), 5);
    talk(&mut client, &mut server);
    *app.room.borrow_mut() = 1 << 20;
    assert_eq!(send(&mut client, id, &[b'x'; 4096]), 4096);
    talk(&mut client, &mut server);
    let got = app.got.borrow();
    assert!(got.is_empty() || got.starts_with(b"first"), "it got {} bytes out of order", got.len());
}

#[test]
fn where_too_much_is_held_who_holds_little_is_left_alone() {
    let held = Arc::new(Held::up_to(100 << 10));
    let (mut client, mut server) = pair_within(Limits { held: Arc::clone(&held), ..Limits::default() });
    let [large, little] = [(); 2].map(|()| connect(&mut client, &mut server, 0).0);
    let mut give = |id, bytes| {
        let mut sent = 0;
        while sent < bytes {
            sent += send(&mut client, id, &vec![1; bytes - sent]);
            talk(&mut client, &mut server);
        }
        server.streams[&id].reset
    };
    assert_eq!((give(large, 70 << 10), give(little, 24 << 10)), (None, None));
    // Beyond the budget from here on.
    assert_eq!(give(little, 16 << 10), None);
    assert_eq!(give(large, 1), Some(StreamError::Ended("memory_pressure")));
    assert_eq!(held.bytes(), 40 << 10, "what was given up is not held any more");
    assert_eq!(give(little, 1), None);
    drop(server);
    assert_eq!(held.bytes(), 0, "what goes with its connection is not held any more");
}

#[test]
fn the_end_travels_with_the_last_bytes_or_alone() {
    let (mut client, mut server, id, _app) = connected(usize::MAX);
    send(&mut client, id, b"last");
    client.finish(id);
    let said = client.drain(usize::MAX, <[u8]>::to_vec);
    assert_eq!(said.len(), 9 + 4, "one frame");
    server.absorb(&said, false).unwrap();
    assert!(server.is_recv_done(id));
    send(&mut server, id, b"late");
    server.drain(usize::MAX, |_| ());
    server.finish(id);
    assert_eq!(server.drain(usize::MAX, <[u8]>::to_vec).len(), 9, "the bytes are gone: an empty frame");
}

#[test]
fn a_drained_part_does_not_move_the_end_of_another_frame() {
    let (mut client, mut server, id, app) = connected(usize::MAX);
    let other = client.open(&request()).unwrap();
    let mut said = Vec::new();
    send(&mut client, id, &[1; 5000]);
    client.drain(100, |part| said.extend_from_slice(part));
    send(&mut client, id, &[2; 5000]);
    client.drain(3000, |part| said.extend_from_slice(part));
    client.finish(id);
    client.drain(usize::MAX, |part| said.extend_from_slice(part));
    server.absorb(&said, false).unwrap();
    assert!(server.is_recv_done(id) && !server.is_recv_done(other));
    assert_eq!(app.got.borrow().len(), 10_000);
}

#[test]
fn everybody_has_a_turn_when_there_is_little_room() {
    let (mut client, mut server, first, _app) = connected(usize::MAX);
    let ids: Vec<u32> = [first].into_iter().chain((0..5).map(|_| client.open(&request()).unwrap())).collect();
    talk(&mut client, &mut server);
    let mut sent = vec![0; ids.len()];
    for _ in 0..30 {
        // The order of the tasks is the worst one: always the same.
        for (n, id) in ids.iter().enumerate() {
            sent[n] += send(&mut client, *id, &[0; 100_000]);
        }
        client.drain(usize::MAX, |_| ());
        client.send_window = LARGEST_WINDOW;
        client.streams.values_mut().for_each(|stream| stream.send_window = LARGEST_WINDOW);
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(*least * 4 > *most, "{sent:?}");
}

#[test]
fn frames_against_the_rules_end_the_connection_with_the_code_of_the_rfc() {
    let frame = |kind, flags, stream, payload: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, flags, stream, payload);
        bytes
    };
    let table: Vec<(&str, Vec<u8>, u32)> = vec![
        ("DATA on stream 0", frame(kind::DATA, 0, 0, b"x"), code::PROTOCOL_ERROR),
        ("DATA on a stream that never was", frame(kind::DATA, 0, 9, b"x"), code::PROTOCOL_ERROR),
        ("HEADERS on stream 0", frame(kind::HEADERS, 4, 0, &[0x88]), code::PROTOCOL_ERROR),
        ("HEADERS on an even stream", frame(kind::HEADERS, 4, 2, &[0x82]), code::PROTOCOL_ERROR),
        ("HEADERS that are cut", frame(kind::HEADERS, 4 | 8, 1, &[]), code::FRAME_SIZE_ERROR),
        ("HEADERS with too much padding", frame(kind::HEADERS, 4 | 8, 1, &[9, 0]), code::PROTOCOL_ERROR),
        ("a block that cannot be read", frame(kind::HEADERS, 4, 1, &[0x80]), code::COMPRESSION_ERROR),
        ("CONTINUATION of nothing", frame(kind::CONTINUATION, 4, 1, &[]), code::PROTOCOL_ERROR),
        (
            "a block that is interrupted",
            [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "a block that goes on elsewhere",
            [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::CONTINUATION, 4, 3, &[])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "a block without end",
            [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::CONTINUATION, 0, 1, &[0; 60_000]).repeat(2)].concat(),
            code::ENHANCE_YOUR_CALM,
        ),
        (
            "CONTINUATION with nothing in it",
            [frame(kind::HEADERS, 0, 1, &[0x82]), frame(kind::CONTINUATION, 0, 1, &[])].concat(),
            code::ENHANCE_YOUR_CALM,
        ),
        ("RST_STREAM of three bytes", frame(kind::RST_STREAM, 0, 1, &[0; 3]), code::FRAME_SIZE_ERROR),
        ("RST_STREAM on stream 0", frame(kind::RST_STREAM, 0, 0, &[0; 4]), code::PROTOCOL_ERROR),
        ("RST_STREAM of a stream that never was", frame(kind::RST_STREAM, 0, 1, &[0; 4]), code::PROTOCOL_ERROR),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), code::PROTOCOL_ERROR),
        ("SETTINGS of five bytes", frame(kind::SETTINGS, 0, 0, &[0; 5]), code::FRAME_SIZE_ERROR),
        ("an acknowledgement with settings", frame(kind::SETTINGS, 1, 0, &[0; 6]), code::FRAME_SIZE_ERROR),
        ("a window of 2^31", frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), code::FLOW_CONTROL_ERROR),
        ("a frame size below the least", frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]), code::PROTOCOL_ERROR),
        ("push that is neither on nor off", frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), code::PROTOCOL_ERROR),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, 4, 1, &[0; 4]), code::PROTOCOL_ERROR),
        ("PING of seven bytes", frame(kind::PING, 0, 0, &[0; 7]), code::FRAME_SIZE_ERROR),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), code::PROTOCOL_ERROR),
        ("GOAWAY of seven bytes", frame(kind::GOAWAY, 0, 0, &[0; 7]), code::FRAME_SIZE_ERROR),
        ("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of nothing", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), code::PROTOCOL_ERROR),
        ("WINDOW_UPDATE of two bytes", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 2]), code::FRAME_SIZE_ERROR),
        ("a window beyond 2^31", frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), code::FLOW_CONTROL_ERROR),
        ("PRIORITY of four bytes", frame(kind::PRIORITY, 0, 1, &[0; 4]), code::FRAME_SIZE_ERROR),
    ];
    for (what, bytes, wanted) in table {
        assert_eq!(greeted().absorb(&bytes, false), Err(wanted), "{what}");
    }
    let mut early = Session::new(Role::Serving, &Limits::default());
    let said = [PREFACE.to_vec(), connect_frame(1)].concat();
    assert_eq!(early.absorb(&said, false), Err(code::PROTOCOL_ERROR), "SETTINGS come first");
    let mut other = Session::new(Role::Serving, &Limits::default());
    assert_eq!(other.absorb(b"GET / HTTP/1.1\r\n", false), Err(code::PROTOCOL_ERROR));
}

#[test]
fn a_peer_that_sends_more_than_its_window_is_cut_off() {
    let mut server = greeted();
    server.absorb(&connect_frame(1), false).unwrap();
    let mut data = Vec::new();
    put(&mut data, kind::DATA, 0, 1, &vec![0; 256 << 10]);
    server.absorb(&data, false).unwrap();
    data.clear();
    put(&mut data, kind::DATA, 0, 1, b"x");
    assert_eq!(server.absorb(&data, false), Err(code::FLOW_CONTROL_ERROR));
}

#[test]
fn requests_taken_back_over_and_over_are_an_attack() {
    let mut server = greeted();
    let mut outcome = Ok(());
    let mut rounds = 0;
    while outcome.is_ok() && rounds < 10_000 {
        let id = 1 + 2 * rounds;
        let mut bytes = connect_frame(id);
        put_reset(&mut bytes, id, code::CANCEL);
        outcome = server.absorb(&bytes, false);
        assert!(server.streams.len() <= 1 && server.asked.len() <= 1);
        rounds += 1;
    }
    assert_eq!((outcome, rounds), (Err(code::ENHANCE_YOUR_CALM), 801));
}

fn one_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, kind, flags, stream, payload);
    bytes
}

#[test]
fn frames_that_say_nothing_are_counted_between_two_of_our_pings() {
    let padded = one_frame(kind::DATA, frame::flag::PADDED, 1, &[3, 0, 0, 0]);
    for (what, one) in [
        ("DATA without a byte", one_frame(kind::DATA, 0, 1, &[])),
        ("DATA of padding", padded),
        ("PRIORITY", one_frame(2, 0, 1, &[0, 0, 0, 3, 16])),
        ("a kind that nobody knows", one_frame(0xfe, 0, 0, &[1])),
        ("GOAWAY again", one_frame(kind::GOAWAY, 0, 0, &[0; 8])),
    ] {
        let mut server = greeted();
        server.absorb(&connect_frame(1), false).unwrap();
        for round in 0..20 {
            assert_eq!(server.absorb(&one.repeat(900), false), Ok(()), "{what}, interval {round}");
            server.ping();
        }
        assert_eq!(server.absorb(&one.repeat(1100), false), Err(code::ENHANCE_YOUR_CALM), "{what}");
    }
    // An end says something.
    let mut server = greeted();
    for id in (1..3000).step_by(2) {
        server
            .absorb(&[connect_frame(id), one_frame(kind::DATA, frame::flag::END_STREAM, id, &[])].concat(), false)
            .unwrap();
    }
}

#[test]
fn bytes_that_end_a_line_are_malformed_wherever_they_stand() {
    for (name, value, good) in [
        (&b"x"[..], &b"a b\t\xff"[..], true),
        (b"x", b"a\r\nb", false),
        (b"baggage", b"k8s.namespace.name=a\n", false),
        (b"x", b"\0", false),
        (b"x y", b"a", false),
        (b"x\n", b"a", false),
        (b"x:y", b"a", false),
        (b"\xe4", b"a", false),
    ] {
        let mut block = headers::write_request(&request(), &[]);
        hpack::put_new(&mut block, name, value);
        let mut server = greeted();
        server.absorb(&one_frame(kind::HEADERS, frame::flag::END_HEADERS, 1, &block), false).unwrap();
        assert_eq!(server.asked.len(), usize::from(good), "{name:?} {value:?}");
    }
}

#[test]
fn a_peer_that_provokes_answers_and_reads_none_is_cut_off() {
    let mut server = greeted();
    let mut pings = Vec::new();
    for _ in 0..1000 {
        put(&mut pings, kind::PING, 0, 0, &[1; 8]);
    }
    let outcome = (0..200).map(|_| server.absorb(&pings, false)).find(Result::is_err);
    assert_eq!(outcome, Some(Err(code::ENHANCE_YOUR_CALM)));
    assert!(server.out.len() < OUT_HARD_LIMIT + 20_000);
}

#[test]
fn goaway_fails_the_streams_that_the_peer_will_not_look_at() {
    let (mut client, _server, id, _app) = connected(0);
    let late = client.open(&request()).unwrap();
    let mut bytes = Vec::new();
    put_goaway(&mut bytes, id, code::NO_ERROR);
    client.absorb(&bytes, false).unwrap();
    assert!(matches!(client.poll_answer(late, &context()), Poll::Ready(Err(StreamError::GoAway(0)))));
    assert!(client.poll_gone(id, &context()).is_pending(), "the one that was answered goes on");
    assert_eq!(client.limit(), Err(StreamError::GoAway(0)));
}

#[test]
fn a_server_that_leaves_takes_what_crossed_its_word_and_nothing_later() {
    let (mut client, mut server) = pair();
    server.wind_down();
    let first = client.open(&request()).unwrap();
    talk(&mut client, &mut server);
    assert!(matches!(server.take_asked(), Some(Asked::Connect(id, _)) if id == first), "it crossed");
    assert!(!server.is_over(), "a stream is open");
    server.absorb(&connect_frame(first + 2), false).unwrap();
    assert!(server.take_asked().is_none());
    server.refuse(first, 503);
    assert!(server.is_over());
}

#[test]
fn windows_of_open_streams_follow_the_settings_and_blocked_ones_wait() {
    let mut client = Session::new(Role::Dialling, &Limits::default());
    let mut hello = Vec::new();
    put_settings(&mut hello, &[(setting::INITIAL_WINDOW_SIZE, 10)]);
    client.absorb(&hello, false).unwrap();
    let id = client.open(&request()).unwrap();
    assert_eq!(send(&mut client, id, b"0123456789abc"), 10);
    assert!(client.poll_room(id, &context()).is_pending());
    let mut more = Vec::new();
    put_settings(&mut more, &[(setting::INITIAL_WINDOW_SIZE, 5)]);
    put_window_update(&mut more, id, 7);
    client.absorb(&more, false).unwrap();
    assert!(matches!(client.poll_room(id, &context()), Poll::Ready(Ok(2))), "10 - 10 - 5 + 7");
}

#[test]
fn streams_that_are_over_for_the_peer_do_not_count_against_what_it_may_open() {
    let mut server = Session::new(Role::Serving, &Limits { max_peer_streams: 2, ..Limits::default() });
    let mut hello = PREFACE.to_vec();
    put_settings(&mut hello, &[]);
    for id in [1, 3] {
        hello.extend(connect_frame(id));
    }
    server.absorb(&hello, false).unwrap();
    let open = |server: &mut Session, id: u32| {
        server.absorb(&connect_frame(id), false).unwrap();
        server.streams.contains_key(&id)
    };
    assert!(!open(&mut server, 5), "two are open");
    server.accept(1, &Arc::default()).unwrap();
    server.finish(1);
    let mut end = Vec::new();
    put(&mut end, kind::DATA, frame::flag::END_STREAM, 1, &[]);
    server.absorb(&end, false).unwrap();
    assert!(open(&mut server, 7), "the first has ended, though nobody has let go of it yet");
    assert!(!open(&mut server, 9));
}

#[test]
fn what_would_be_an_attack_within_an_interval_is_none_over_many() {
    let mut server = greeted();
    for round in 0..3000 {
        let id = 1 + 2 * round;
        let mut bytes = connect_frame(id);
        put_reset(&mut bytes, id, code::CANCEL);
        put_settings(&mut bytes, &[(setting::INITIAL_WINDOW_SIZE, round)]);
        server.absorb(&bytes, false).unwrap();
        server.drain(usize::MAX, |_| ());
        if round.is_multiple_of(400) {
            server.ping();
        }
    }
}

#[test]
fn a_flood_of_settings_is_cut_off() {
    let all = [(setting::INITIAL_WINDOW_SIZE, 1); 12];
    let mut frame = Vec::new();
    put_settings(&mut frame, &all);
    let mut server = greeted();
    let outcome = (0..1000).map(|_| server.absorb(&frame, false)).position(|heard| heard.is_err());
    assert!(outcome.is_some_and(|frames| (50..100).contains(&frames)), "{outcome:?}");
}

#[test]
fn empty_frames_do_not_bother_the_application() {
    struct Strict;
    impl Near for Strict {
        fn give(&self, bytes: &[u8], _more: bool) -> Given {
            assert!(!bytes.is_empty(), "a system call for nothing");
            Given::Took(bytes.len())
        }
    }
    let (_client, mut server, id, _app) = connected(0);
    server.attach(id, Box::new(Strict));
    let mut bytes = Vec::new();
    put(&mut bytes, kind::DATA, 0, id, &[]);
    put(&mut bytes, kind::DATA, frame::flag::PADDED, id, &[3, 0, 0, 0]);
    put(&mut bytes, kind::DATA, 0, id, b"x");
    put(&mut bytes, kind::DATA, frame::flag::END_STREAM, id, &[]);
    server.absorb(&bytes, false).unwrap();
    assert!(server.is_recv_done(id));
}

#[test]
fn bytes_that_come_one_by_one_do_not_cost_the_application_a_system_call_each() {
    struct Counting(Rc<RefCell<(usize, Vec<u8>)>>);
    impl Near for Counting {
        fn give(&self, bytes: &[u8], _more: bool) -> Given {
            let mut counted = self.0.borrow_mut();
            counted.0 += 1;
            counted.1.extend_from_slice(bytes);
            Given::Took(bytes.len())
        }
    }
    let (_client, mut server, id, _app) = connected(0);
    let counted = Rc::new(RefCell::new((0, Vec::new())));
    server.attach(id, Box::new(Counting(counted.clone())));
    let text: Vec<u8> = (0..5000).map(|n| n as u8).collect();
    for half in text.chunks(2500) {
        let mut bytes = Vec::new();
        for byte in half {
            put(&mut bytes, kind::DATA, 0, id, &[*byte]);
        }
        server.absorb(&bytes, false).unwrap();
        // What waits is written at once, in its order.
        let (first, second) = server.queued(id);
        let waits = [first, second].concat();
        assert!(!waits.is_empty());
        counted.borrow_mut().1.extend_from_slice(&waits);
        server.took(id, waits.len());
    }
    let (gives, got) = &*counted.borrow();
    assert_eq!(*got, text);
    assert!(*gives < 100, "{gives} system calls for two batches");
}

#[test]
fn whoever_does_not_use_its_turn_passes_it_on() {
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (mut client, _server, first, _app) = connected(0);
    let second = client.open(&request()).unwrap();
    client.send_window = LARGEST_WINDOW;
    while send(&mut client, first, &[0; 50_000]) > 0 {}
    client.drain(usize::MAX, |_| ());
    // The second was served later than the first, which waits still.
    send(&mut client, second, b"x");
    client.drain(usize::MAX, |_| ());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(client.poll_room(second, &Context::from_waker(&waker)).is_pending());
    assert!(matches!(client.poll_room(first, &context()), Poll::Ready(Ok(_))));
    let nothing = client.append(first, 1000, |_| Err(io::ErrorKind::WouldBlock.into()));
    assert!(nothing.is_err() && !client.has_out());
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1, "nothing else would have woken it");
}

/// The payload of each HEADERS frame of what was said.
fn blocks(mut said: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while let Some((head, rest)) = said.split_first_chunk::<9>() {
        let (payload, after) = rest.split_at(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize);
        if head[3] == kind::HEADERS {
            blocks.push(payload.to_vec());
        }
        said = after;
    }
    blocks
}

#[test]
fn the_first_header_block_of_either_side_gives_the_table_up_and_no_other_does() {
    let (mut client, mut server) = pair();
    client.open(&request()).unwrap();
    client.open(&request()).unwrap();
    let asked = client.drain(usize::MAX, <[u8]>::to_vec);
    let first: Vec<u8> = blocks(&asked).iter().map(|block| block[0]).collect();
    assert_eq!((first[0], first.len()), (hpack::NO_TABLE, 2));
    assert_ne!(first[1], hpack::NO_TABLE);
    server.absorb(&asked, false).unwrap();
    for _ in 0..2 {
        let Some(Asked::Connect(id, _)) = server.take_asked() else { panic!("a request") };
        server.accept(id, &Arc::default()).unwrap();
    }
    let answered = server.drain(usize::MAX, <[u8]>::to_vec);
    let first: Vec<u8> = blocks(&answered).iter().map(|block| block[0]).collect();
    assert_eq!(first, [hpack::NO_TABLE, 0x88]);
    client.absorb(&answered, false).unwrap();
}

#[test]
fn data_behind_an_answer_that_is_none_is_late_and_costs_no_other_stream() {
    let (mut client, mut server) = pair();
    let id = client.open(&request()).unwrap();
    talk(&mut client, &mut server);
    let mut said = Vec::new();
    // `:method: GET` is no answer.
    put(&mut said, kind::HEADERS, 4, id, &[0x82]);
    put(&mut said, kind::DATA, 0, id, b"late");
    assert_eq!(client.absorb(&said, false), Ok(()));
    assert!(client.open(&request()).is_ok());
}
