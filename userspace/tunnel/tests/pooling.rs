//! Who shares a tunnel, who dials, who waits, and when a tunnel goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{cell::Cell, io, rc::Rc, time::Duration};

use culvert_tunnel::{
    Authority, Blame, ConnectRequest, DialWatch, Limits, OpenError, Peer, Pool, Proofs, Refusal, Route,
};
use futures::future::join_all;
use support::{Ca, Identity, Node, SERVER, World, application, id, pair, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[test]
fn a_hundred_streams_share_a_tunnel_and_the_next_opens_a_second_one() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let streams = join_all((0..100).map(|_| world.open(address))).await;
        let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
        assert_eq!((world.dials.get(), world.pool.count().streams), (1, 100));
        streams.push(world.open(address).await.unwrap());
        assert_eq!((world.dials.get(), world.pool.count().tunnels), (2, 2));
        // Room on the first tunnel is used again before anything else.
        streams.drain(..50);
        streams.push(world.open(address).await.unwrap());
        assert_eq!((world.dials.get(), world.pool.count().streams), (2, 52));
    });
}

#[test]
fn two_hundred_and_fifty_at_once_on_a_cold_pool_need_three_dials_one_after_another() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let streams = join_all((0..250).map(|_| world.open(address))).await;
        assert!(streams.iter().all(Result::is_ok));
        assert_eq!((world.dials.get(), world.pool.count().tunnels, world.pool.count().streams), (3, 3, 250));
    });
}

#[test]
fn a_peer_that_allows_fewer_streams_is_obeyed() {
    worker(async {
        let serving = Limits { max_peer_streams: 5, ..Limits::default() };
        let world = World::with(Limits::default(), serving).await;
        let (address, _connections) = application().await;
        let _first = world.open(address).await.unwrap();
        let streams = join_all((0..11).map(|_| world.open(address))).await;
        assert!(streams.iter().all(Result::is_ok));
        let count = world.pool.count();
        assert_eq!(count.streams, 12);
        assert!(count.tunnels >= 3, "{count:?}");
    });
}

#[test]
fn one_dial_is_in_flight_per_key_and_its_failure_is_everybodys() {
    worker(async {
        let world = World::new().await;
        let route = world.route();
        let dials = Rc::new(Cell::new(0));
        let open = || {
            let dials = Rc::clone(&dials);
            let dial = move || {
                dials.set(dials.get() + 1);
                async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err::<TcpStream, _>(io::ErrorKind::ConnectionRefused.into())
                }
            };
            let (pool, route) = (world.pool.clone(), route.clone());
            async move { pool.open(&route, &ConnectRequest::to(Authority::from(route.key.address)), dial).await }
        };
        let results = join_all((0..50).map(|_| open())).await;
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error, OpenError::ConnectFailed(io::ErrorKind::ConnectionRefused));
            assert_eq!((error.reason(), error.blame()), ("connect_failed", Blame::Peer));
        }
        assert_eq!(dials.get(), 1);
        assert_eq!(world.pool.count(), Default::default(), "nothing is left of a failed key");
    });
}

#[test]
fn a_dial_goes_on_when_its_caller_is_gone() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let route = world.route();
        let mut dial = world.dial(route.key.address);
        let slow = move || {
            let dialled = dial();
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                dialled.await
            }
        };
        let request = ConnectRequest::to(Authority::from(address));
        let impatient = world.pool.open(&route, &request, slow);
        assert!(tokio::time::timeout(Duration::from_millis(20), impatient).await.is_err());
        let patient = world.pool.open(&route, &request, || async { Err(io::ErrorKind::Other.into()) });
        let _stream = patient.await.unwrap();
        assert_eq!((world.dials.get(), world.pool.count().streams), (1, 1));
    });
}

#[test]
fn a_dial_that_takes_too_long_fails_as_connect_timeout_and_a_handshake_as_its_own() {
    worker(async {
        let limits = Limits { connect_timeout: Duration::from_millis(200), ..Limits::default() };
        let world = World::with(limits, Limits::default()).await;
        let route = world.route();
        let request = ConnectRequest::to(Authority::from(route.key.address));
        let error = world.pool.open(&route, &request, std::future::pending).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("connect_timeout", Blame::Network));
        let (near, _silent) = pair().await;
        let mut near = Some(near);
        let silent = || std::future::ready(near.take().ok_or(io::ErrorKind::Other.into()));
        let error = world.pool.open(&route, &request, silent).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("handshake_timeout", Blame::Network));
    });
}

#[test]
fn a_watch_is_told_of_each_dial_and_its_end() {
    #[derive(Default)]
    struct Seen(std::cell::RefCell<Vec<Result<String, &'static str>>>);
    impl DialWatch for Seen {
        fn dialled(&self, _route: &Route, result: Result<&Peer, &OpenError>, _took: Duration) {
            let result = result.map(|peer| peer.identity.to_string()).map_err(OpenError::reason);
            self.0.borrow_mut().push(result);
        }
    }
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let seen = Rc::new(Seen::default());
        let pool = Pool::with_watch(Limits::default(), Proofs::new(), seen.clone());
        let route = world.route();
        let request = ConnectRequest::to(Authority::from(address));
        let streams = join_all((0..3).map(|_| pool.open(&route, &request, world.dial(route.key.address)))).await;
        assert!(streams.iter().all(Result::is_ok));
        let mut elsewhere = route.clone();
        elsewhere.key.peer = "uid-2".into();
        let refused = || async { Err::<TcpStream, _>(io::ErrorKind::ConnectionRefused.into()) };
        assert!(pool.open(&elsewhere, &request, refused).await.is_err());
        assert_eq!(*seen.0.borrow(), [Ok(SERVER.to_owned()), Err("connect_failed")]);
    });
}

#[test]
fn tunnels_are_not_shared_between_keys() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let _first = world.open(address).await.unwrap();
        let mut routes = vec![world.route(); 2];
        routes[0].key.peer = "uid-2".into();
        routes[1].key.from = "127.0.0.2".parse().unwrap();
        let mut streams = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            streams.push(world.open_on(route, address).await.unwrap());
            assert_eq!(world.dials.get(), n + 2);
        }
        let other = Identity::new(&world.ca, &world.trust, "spiffe://cluster.local/ns/shop/sa/other", support::HOUR);
        streams.push(world.open_on(&other.route(SERVER, world.node.address), address).await.unwrap());
        assert_eq!(world.dials.get(), 4);
    });
}

#[test]
fn a_newer_svid_or_bundle_retires_a_tunnel_and_its_streams_go_on() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut old = world.carry(address).await;
        let mut old_server = connections.recv().await.unwrap();
        world.client.rotate(&world.ca, support::HOUR);
        let _new = world.open(address).await.unwrap();
        assert_eq!((world.dials.get(), world.pool.count().retired), (2, 1));
        old.app.write_all(b"on").await.unwrap();
        old_server.read_exact(&mut [0; 2]).await.unwrap();
        let mut route = world.route();
        route.generation.bundle += 1;
        let _newer = world.open_on(&route, address).await.unwrap();
        assert_eq!((world.dials.get(), world.pool.count().retired), (3, 2));
        drop((old.app, old_server));
        until("the retired tunnel closes with its last stream", || world.pool.count().tunnels == 2).await;
    });
}

/// What a dial proves is what held when it began.
#[test]
fn a_caller_with_newer_credentials_is_not_seated_in_a_tunnel_that_was_begun_with_older_ones() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let older = world.route();
        let mut newer = older.clone();
        newer.generation.bundle += 1;
        let mut dial = world.dial(older.key.address);
        let slow = move || {
            let dialled = dial();
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                dialled.await
            }
        };
        let request = ConnectRequest::to(Authority::from(address));
        let first = world.pool.open(&older, &request, slow);
        let second = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            world.open_on(&newer, address).await.unwrap()
        };
        let (first, second) = futures::future::join(first, second).await;
        let _first = first.unwrap();
        assert_eq!((second.peer().generation, world.dials.get()), (newer.generation, 2));
    });
}

#[test]
fn a_caller_with_older_credentials_does_not_retire_newer_tunnels() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let before = world.route();
        world.client.rotate(&world.ca, support::HOUR);
        let _new = world.open(address).await.unwrap();
        let _late = world.open_on(&before, address).await.unwrap();
        assert_eq!((world.dials.get(), world.pool.count().retired), (1, 0));
    });
}

#[test]
fn goaway_of_the_peer_moves_new_streams_to_a_new_tunnel_and_leaves_open_ones_alone() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut old = world.carry(address).await;
        let mut old_server = connections.recv().await.unwrap();
        world.node.server.retire(|_, peer| peer.identity == id(support::CLIENT));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _new = world.open(address).await.unwrap();
        assert_eq!((world.dials.get(), world.pool.count().streams), (2, 2));
        old.app.write_all(b"on").await.unwrap();
        old_server.read_exact(&mut [0; 2]).await.unwrap();
        drop((old.app, old_server));
        until("the old tunnel is gone", || world.pool.count().tunnels == 1).await;
    });
}

#[test]
fn a_race_with_goaway_is_won_by_trying_again() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let _first = world.open(address).await.unwrap();
        for _ in 0..20 {
            // GOAWAY and CONNECT cross on the wire.
            world.node.server.retire(|_, _| true);
            world.open(address).await.unwrap();
        }
    });
}

#[test]
fn a_tunnel_that_broke_while_idle_is_replaced_unnoticed() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = world.client.route(SERVER, listener.local_addr().unwrap());
        let behind = world.node.address;
        let relays = Rc::new(Cell::new(0));
        let count = Rc::clone(&relays);
        tokio::task::spawn_local(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                let first = count.get() == 1;
                tokio::task::spawn_local(async move {
                    let mut far = TcpStream::connect(behind).await.unwrap();
                    if first {
                        let relay = tokio::io::copy_bidirectional(&mut near, &mut far);
                        let _ = tokio::time::timeout(Duration::from_millis(200), relay).await;
                        // The next bytes of the client meet a reset.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        near.set_zero_linger().unwrap();
                    } else {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        drop(world.open_on(&route, address).await.unwrap());
        tokio::time::sleep(Duration::from_millis(250)).await;
        let stream = world.open_on(&route, address).await;
        assert!(stream.is_ok(), "{stream:?}");
        assert_eq!(relays.get(), 2);
    });
}

#[test]
fn an_idle_tunnel_is_released_and_a_used_one_is_not() {
    worker(async {
        let limits = Limits {
            idle_timeout: Duration::from_millis(200),
            ping_interval: Duration::from_millis(50),
            ..Limits::default()
        };
        let world = World::with(limits, Limits::default()).await;
        let (address, _connections) = application().await;
        let stream = world.open(address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        let count = world.pool.count();
        assert_eq!((count.tunnels, count.retired), (1, 0));
        drop(stream);
        until("the tunnel is gone at both ends", || {
            world.pool.count().tunnels == 0 && world.node.server.count() == (0, 0)
        })
        .await;
    });
}

#[test]
fn a_served_tunnel_that_the_peer_does_not_use_ends() {
    worker(async {
        let serving = Limits {
            served_idle_timeout: Duration::from_millis(200),
            ping_interval: Duration::from_millis(50),
            ..Limits::default()
        };
        let world = World::with(Limits::default(), serving).await;
        let (address, _connections) = application().await;
        let stream = world.open(address).await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(world.node.server.count().0, 1, "a used one is kept");
        drop(stream);
        until("the tunnel is gone", || world.node.server.count() == (0, 0)).await;
    });
}

#[test]
fn refusals_of_the_peers_agent_arrive_with_their_status() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let table = [
            (Refusal::BadRequest, 400, "peer_refused_request"),
            (Refusal::Denied, 401, "peer_denied"),
            (Refusal::Unavailable, 503, "peer_unavailable"),
        ];
        for (refusal, status, reason) in table {
            world.node.inbound.refuse.set(Some(refusal));
            let error = world.open(address).await.unwrap_err();
            assert_eq!(error, OpenError::Refused(status));
            assert_eq!((error.reason(), error.blame()), (reason, Blame::Peer));
        }
        world.node.inbound.refuse.set(None);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(world.open(nobody).await.unwrap_err(), OpenError::Refused(503));
        assert!(world.open(address).await.is_ok());
        assert_eq!((world.dials.get(), world.pool.count().streams), (1, 0), "refusals cost no tunnel and no place");
    });
}

#[test]
fn an_offer_that_the_agent_forgets_is_refused_as_unavailable() {
    worker(async {
        let world = World::new().await;
        world.node.inbound.forget.set(true);
        assert_eq!(world.open(world.node.address).await.unwrap_err(), OpenError::Refused(503));
    });
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_and_told_so() {
    worker(async {
        let limits = Limits { answer_timeout: Duration::from_millis(200), ..Limits::default() };
        let world = World::with(limits, Limits::default()).await;
        world.node.inbound.silent.set(true);
        let error = world.open(world.node.address).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("answer_timeout", Blame::Peer));
        until("the offer is withdrawn", || world.node.inbound.gone.get() == 1).await;
        assert_eq!(world.node.server.count(), (1, 0));
    });
}

#[test]
fn peers_that_are_not_who_they_should_be_are_refused_with_the_verifiers_reason() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let mut route = world.route();
        route = world.client.route("spiffe://cluster.local/ns/shop/sa/bank", route.key.address);
        let error = world.open_on(&route, address).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("unexpected_identity", Blame::Peer));

        // A verifier that lets anybody of the domain pass does not help a route that names somebody else.
        let mut route = world.route();
        route.key.destination = id("spiffe://cluster.local/ns/shop/sa/bank");
        let error = world.open_on(&route, address).await.unwrap_err();
        assert_eq!(error.reason(), "unexpected_identity");

        // A server of another authority.
        let foreign = Ca::new();
        let stranger = Identity::new(&foreign, &foreign.trust(), SERVER, support::HOUR);
        let node = Node::start(&stranger, Limits::default()).await;
        let error = world.open_on(&world.client.route(SERVER, node.address), address).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("unknown_authority", Blame::Peer));
        assert_eq!(world.pool.count().tunnels, 0);
    });
}

#[test]
fn a_server_that_does_not_trust_us_is_reported_as_such() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        // A client of a foreign authority that trusts the server's.
        let foreign = Ca::new();
        let stranger = Identity::new(&foreign, &world.trust, support::CLIENT, support::HOUR);
        let error = world.open_on(&stranger.route(SERVER, world.node.address), address).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("refused_by_peer", Blame::Us));
        until("the server says why", || world.node.ends.borrow().len() == 1).await;
        assert_eq!(world.node.ends.borrow()[0].as_ref().unwrap_err().reason(), "unknown_authority");
    });
}

#[test]
fn a_draining_pool_opens_nothing_and_closes_when_the_last_stream_is_done() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let stream = world.open(address).await.unwrap();
        world.pool.drain();
        assert_eq!(world.open(address).await.unwrap_err(), OpenError::Draining);
        assert_eq!(world.pool.count().streams, 1);
        drop(stream);
        until("all is closed", || world.pool.count().tunnels == 0).await;
    });
}

#[test]
fn a_draining_server_lets_streams_finish() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut carried = world.carry(address).await;
        let mut server = connections.recv().await.unwrap();
        let drained = tokio::task::spawn_local({
            let server = world.node.server.clone();
            async move { server.drain().await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        carried.app.write_all(b"on").await.unwrap();
        server.read_exact(&mut [0; 2]).await.unwrap();
        assert!(!drained.is_finished());
        drop((carried.app, server));
        drained.await.unwrap();
    });
}

#[test]
fn what_was_said_in_the_request_and_in_the_answer_arrives() {
    worker(async {
        let world = World::new().await;
        let (address, _connections) = application().await;
        let request = ConnectRequest {
            authority: Authority::from(address),
            forwarded: culvert_tunnel::Forwarded {
                client: Some("[fd00::1]:4711".parse().unwrap()),
                host: Some("stock.shop.svc.cluster.local".into()),
            },
            baggage: std::sync::Arc::new(culvert_tunnel::Baggage {
                cluster: Some("c1".into()),
                namespace: Some("shop".into()),
                ..Default::default()
            }),
            traceparent: Some(culvert_tunnel::Traceparent::random()),
            network: Some("east".into()),
        };
        let route = world.route();
        let stream = world.pool.open(&route, &request, world.dial(route.key.address)).await.unwrap();
        assert_eq!(world.node.inbound.requests.borrow()[..], [request]);
        assert_eq!(stream.answer().unwrap().service.as_deref(), Some("stock"));
        assert_eq!(stream.peer().identity, id(SERVER));
        let peers = world.node.inbound.peers.borrow();
        assert_eq!((&peers[0].identity, peers[0].local), (&id(support::CLIENT), world.node.address));
        assert_eq!(peers[0].key_exchange, Some(rustls::NamedGroup::X25519MLKEM768));
        assert_eq!(peers[0].suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
    });
}
