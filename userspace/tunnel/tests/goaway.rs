//! A peer that says GOAWAY while a question is under way: it is asked again, over another tunnel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use culvert_tunnel::OpenError;
use support::{SERVER, World, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HTTP/2 by hand: answers as many requests with 200 as it is told, and the next one with a GOAWAY that says that it
/// was not looked at.
async fn serve(mut tls: TlsStream<TcpStream>, settings: &[u8], answers: u32) {
    tls.read_exact(&mut [0; 24]).await.unwrap();
    tls.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
    let (mut answered, mut last) = (0, 0);
    let mut head = [0; 9];
    while tls.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        tls.read_exact(&mut vec![0; length as usize]).await.unwrap();
        match head[3] {
            SETTINGS if head[4] == 0 => tls.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap(),
            HEADERS if answered < answers => {
                (answered, last) = (answered + 1, stream);
                // `:status: 200` is entry 8 of HPACK's static table.
                tls.write_all(&frame(HEADERS, 4, stream, &[0x88])).await.unwrap();
            }
            HEADERS => {
                let last = u32::to_be_bytes(last);
                tls.write_all(&frame(GOAWAY, 0, 0, &[last, [0; 4]].concat())).await.unwrap();
            }
            _ => {}
        }
        tls.flush().await.unwrap();
    }
}

/// A server of which each connection answers so many requests, by its number; and how many connections there were.
async fn server(world: &World, answers: impl Fn(u32) -> u32 + 'static) -> (SocketAddr, Rc<Cell<u32>>) {
    server_with(world, &[], answers).await
}

/// The same with settings of its own.
async fn server_with(
    world: &World,
    settings: &'static [u8],
    answers: impl Fn(u32) -> u32 + 'static,
) -> (SocketAddr, Rc<Cell<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = world.serving.tls.server_config().unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            let tls = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            spawn_local(serve(tls, settings, answers(counted.get())));
        }
    });
    (address, count)
}

#[test]
fn what_crosses_a_goaway_is_asked_again_over_a_new_tunnel() {
    worker(async {
        let world = World::new().await;
        let (address, connections) = server(&world, |_| 1).await;
        let route = world.client.route(SERVER, address);
        let _first = world.open_on(&route, address).await.unwrap();
        let _second = world.open_on(&route, address).await.unwrap();
        assert_eq!((connections.get(), world.pool.count().streams), (2, 2));
    });
}

#[test]
fn a_peer_that_only_ever_says_goaway_is_given_up() {
    worker(async {
        let world = World::new().await;
        let (address, connections) = server(&world, |_| 0).await;
        let route = world.client.route(SERVER, address);
        assert_eq!(world.open_on(&route, address).await.unwrap_err(), OpenError::GoAway);
        assert_eq!(connections.get(), 3);
    });
}

#[test]
fn a_peer_that_leaves_as_soon_as_it_is_dialled_is_dialled_again() {
    worker(async {
        let world = World::new().await;
        let (address, connections) = server(&world, |number| u32::from(number > 1)).await;
        let route = world.client.route(SERVER, address);
        let _stream = world.open_on(&route, address).await.unwrap();
        assert_eq!(connections.get(), 2, "the agent that was leaving, and the one after it");
    });
}

#[test]
fn a_peer_that_takes_no_stream_at_all_holds_nobody_up() {
    worker(async {
        let world = World::new().await;
        // SETTINGS_MAX_CONCURRENT_STREAMS is 0. The first question may cross it.
        let (address, connections) = server_with(&world, &[0, 3, 0, 0, 0, 0], |_| 1).await;
        let route = world.client.route(SERVER, address);
        let _first = world.open_on(&route, address).await.unwrap();
        for dials in [4, 7] {
            let opened = tokio::time::timeout(Duration::from_secs(10), world.open_on(&route, address)).await;
            assert_eq!(opened.expect("an answer").unwrap_err(), OpenError::GoAway);
            assert_eq!(connections.get(), dials);
        }
        assert_eq!(world.pool.count().dials, 0, "nobody waits");
    });
}
