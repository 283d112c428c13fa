//! How connections end: resets, revocations, and a tunnel that breaks under them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{io::ErrorKind, sync::Arc, time::Duration};

use culvert_tunnel::{Blame, End, Limits, Side, StreamError, revocation, splice};
use socket2::SockRef;
use support::{Carried, HOUR, Pattern, World, application, pair, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A world with one open connection that has carried a byte each way.
async fn connected(world: &World) -> (Carried, TcpStream) {
    let (address, mut connections) = application().await;
    let mut carried = world.carry(address).await;
    let mut server = connections.recv().await.unwrap();
    carried.app.write_all(b"a").await.unwrap();
    server.write_all(b"b").await.unwrap();
    assert_eq!((server.read_u8().await.unwrap(), carried.app.read_u8().await.unwrap()), (b'a', b'b'));
    (carried, server)
}

async fn is_reset(tcp: &mut TcpStream) -> bool {
    matches!(tcp.read(&mut [0; 16]).await, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_reset_by_the_client_application_resets_the_server_application() {
    worker(async {
        let world = World::new().await;
        let (carried, mut server) = connected(&world).await;
        carried.app.set_zero_linger().unwrap();
        drop(carried.app);
        assert!(is_reset(&mut server).await);
        assert_eq!(carried.totals.await.unwrap().end, End::Reset(Side::Near));
        until("totals", || world.node.inbound.totals.borrow().len() == 1).await;
        assert_eq!(world.node.inbound.totals.borrow()[0].end, End::Reset(Side::Far));
    });
}

#[test]
fn a_reset_by_the_server_application_resets_the_client_application() {
    worker(async {
        let world = World::new().await;
        let (mut carried, server) = connected(&world).await;
        server.set_zero_linger().unwrap();
        drop(server);
        assert!(is_reset(&mut carried.app).await);
        assert_eq!(carried.totals.await.unwrap().end, End::Reset(Side::Far));
        until("totals", || world.node.inbound.totals.borrow().len() == 1).await;
        assert_eq!(world.node.inbound.totals.borrow()[0].end, End::Reset(Side::Near));
        assert_eq!(world.pool.count().tunnels, 1, "the tunnel survives");
    });
}

#[test]
fn a_reset_arrives_even_when_the_other_application_does_not_read() {
    worker(async {
        let world = World::new().await;
        let (mut carried, server) = connected(&world).await;
        // The server application reads nothing: the client's bytes fill every buffer on the way.
        let flood = tokio::time::timeout(Duration::from_millis(700), async {
            loop {
                carried.app.write_all(&[7; 65_536]).await.unwrap();
            }
        });
        assert!(flood.await.is_err(), "the flood should be held back");
        carried.app.set_zero_linger().unwrap();
        drop(carried.app);
        assert_eq!(carried.totals.await.unwrap().end, End::Reset(Side::Near));
        until("totals", || world.node.inbound.totals.borrow().len() == 1).await;
        assert_eq!(world.node.inbound.totals.borrow()[0].end, End::Reset(Side::Far));
        drop(server);
    });
}

#[test]
fn a_reset_of_a_half_closed_connection_is_noticed() {
    worker(async {
        let world = World::new().await;
        let (mut carried, mut server) = connected(&world).await;
        carried.app.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 4]).await.unwrap(), 0, "FIN has arrived");
        carried.app.set_zero_linger().unwrap();
        drop(carried.app);
        assert_eq!(carried.totals.await.unwrap().end, End::Reset(Side::Near));
        // After a FIN reading says "end" for ever; the error shows at the socket.
        until("the server application is reset", || matches!(server.take_error(), Ok(Some(_)))).await;
    });
}

#[test]
fn a_revoked_connection_ends_with_its_reason_and_both_applications_see_a_reset() {
    worker(async {
        let world = World::new().await;
        let (mut carried, mut server) = connected(&world).await;
        assert!(carried.revoker.revoke("policy_change"));
        assert!(!carried.revoker.revoke("too_late"), "the first reason stays");
        let totals = carried.totals.await.unwrap();
        assert_eq!((totals.sent, totals.received, totals.end), (1, 1, End::Revoked("policy_change")));
        assert!(is_reset(&mut carried.app).await);
        assert!(is_reset(&mut server).await);
    });
}

#[test]
fn a_revocation_wins_over_everything_else_that_happens_at_the_same_time() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let (mut app, near) = pair().await;
        let (revoker, revocation) = revocation();
        let stream = world.open(address).await.unwrap();
        // Not spawned: polled by this test alone, so that it sees both ends in one poll.
        let mut carried = Box::pin(splice(near, stream, Arc::default(), revocation));
        app.write_all(b"a").await.unwrap();
        let mut server = connections.recv().await.unwrap();
        let ended = tokio::select! {
            totals = &mut carried => Some(totals),
            byte = server.read_u8() => {
                assert_eq!(byte.unwrap(), b'a');
                None
            }
        };
        assert_eq!(ended, None);
        app.set_zero_linger().unwrap();
        drop(app);
        // The worker learns of the reset while nobody polls the connection.
        tokio::time::sleep(Duration::from_millis(50)).await;
        revoker.revoke("policy_change");
        assert_eq!(carried.await.end, End::Revoked("policy_change"));
    });
}

#[test]
fn the_serving_side_can_revoke_one_connection_and_its_neighbour_loses_nothing() {
    worker(async {
        let world = World::new().await;
        let (mut first, mut first_server) = connected(&world).await;
        let (mut second, mut second_server) = connected(&world).await;
        world.node.inbound.revokers.borrow()[0].revoke("policy_change");
        assert!(is_reset(&mut first.app).await);
        assert!(is_reset(&mut first_server).await);
        assert_eq!(first.totals.await.unwrap().end, End::Reset(Side::Far));
        second.app.write_all(b"still here").await.unwrap();
        let mut got = [0; 10];
        second_server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"still here");
        assert_eq!(world.dials.get(), 1);
    });
}

#[test]
fn the_meter_counts_while_the_connection_runs() {
    worker(async {
        let world = World::new().await;
        let (mut carried, mut server) = connected(&world).await;
        carried.app.write_all(&[1; 999]).await.unwrap();
        server.read_exact(&mut [0; 999]).await.unwrap();
        assert_eq!((carried.meter.sent(), carried.meter.received()), (1000, 1));
        assert!(!carried.totals.is_finished());
        let served = world.node.inbound.meters.borrow()[0].clone();
        assert_eq!((served.sent(), served.received()), (1, 1000));
    });
}

#[test]
fn a_silent_peer_is_found_out_by_ping_and_its_connections_fail() {
    worker(async {
        let limits = Limits {
            ping_interval: Duration::from_millis(100),
            ping_timeout: Duration::from_millis(300),
            ..Limits::default()
        };
        let world = World::with(limits, Limits::default()).await;
        let (address, _connections) = application().await;
        // A relay that stops relaying without closing: what a dead node looks like.
        let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let route = world.client.route(support::SERVER, relay.local_addr().unwrap());
        let behind = world.node.address;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::task::spawn_local(async move {
            let (mut near, _) = relay.accept().await.unwrap();
            let mut far = TcpStream::connect(behind).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = stopped => {}
            }
            std::future::pending::<()>().await;
            drop((near, far));
        });
        let carried = support::carry(world.open_on(&route, address).await.unwrap()).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!carried.totals.is_finished(), "PINGs are answered while the peer lives");
        stop.send(()).unwrap();
        let totals = carried.totals.await.unwrap();
        assert_eq!(totals.end, End::Failed(StreamError::KeepaliveTimeout));
        assert_eq!((totals.end.reason(), StreamError::KeepaliveTimeout.blame()), ("keepalive_timeout", Blame::Network));
        until("the dead tunnel is gone", || world.pool.count().tunnels == 0).await;
    });
}

#[test]
fn the_serving_side_finds_out_a_silent_peer_too() {
    worker(async {
        let limits = Limits {
            ping_interval: Duration::from_millis(100),
            ping_timeout: Duration::from_millis(300),
            ..Limits::default()
        };
        let world = World::with(Limits::default(), limits).await;
        let tls = tokio_rustls::TlsConnector::from(world.route().tls);
        let tcp = TcpStream::connect(world.node.address).await.unwrap();
        let _silent = tls.connect(culvert_mtls::server_name(), tcp).await.unwrap();
        until("the tunnel is over", || world.node.ends.borrow().len() == 1).await;
        assert_eq!(world.node.ends.borrow()[0].as_ref().unwrap_err().reason(), "keepalive_timeout");
    });
}

#[test]
fn a_broken_tunnel_fails_its_connections() {
    worker(async {
        let world = World::new().await;
        let (mut carried, mut server) = connected(&world).await;
        world.node.server.end(|_, _| true, "test");
        assert!(is_reset(&mut server).await);
        assert!(is_reset(&mut carried.app).await);
        assert_eq!(carried.totals.await.unwrap().end, End::Reset(Side::Far));
        until("both tunnels are gone", || world.pool.count().tunnels == 0 && world.node.server.count().0 == 0).await;
    });
}

#[test]
fn what_both_ends_have_said_is_delivered_when_the_tunnel_closes_behind_it() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        // So little fits into the application's socket that most waits in front of it.
        let (app, near) = pair().await;
        SockRef::from(&app).set_recv_buffer_size(8192).unwrap();
        SockRef::from(&near).set_send_buffer_size(8192).unwrap();
        let mut carried = support::carry_from((app, near), world.open(address).await.unwrap());
        let mut server = connections.recv().await.unwrap();
        let answer = Pattern::bytes(6, 200_000);
        carried.app.write_all(b"?").await.unwrap();
        carried.app.shutdown().await.unwrap();
        assert_eq!(server.read_to_end(&mut Vec::new()).await.unwrap(), 1);
        server.write_all(&answer).await.unwrap();
        drop(server);
        world.node.server.retire(|_, _| true);
        until("the tunnel is gone", || world.pool.count().tunnels == 0 && world.node.server.count() == (0, 0)).await;
        let mut heard = Vec::new();
        carried.app.read_to_end(&mut heard).await.unwrap();
        assert!(heard == answer, "{} of {} bytes", heard.len(), answer.len());
        assert_eq!(carried.totals.await.unwrap().end, End::Closed);
    });
}

#[test]
fn an_svid_that_ends_ends_its_connections_as_svid_expired() {
    worker(async {
        let world = World::living(Limits::default(), Limits::default(), Duration::from_secs(3)).await;
        let (mut carried, mut server) = connected(&world).await;
        let totals = carried.totals.await.unwrap();
        assert_eq!(totals.end, End::Revoked("svid_expired"));
        assert!(is_reset(&mut carried.app).await);
        assert!(is_reset(&mut server).await);
        until("the tunnels are gone", || world.pool.count().tunnels == 0 && world.node.server.count().0 == 0).await;
    });
}

#[test]
fn one_connection_lives_through_five_rotations_when_the_peers_prove_themselves_again() {
    worker(async {
        const LIFE: Duration = Duration::from_secs(4);
        let world = World::living(Limits::default(), Limits::default(), LIFE).await;
        let (mut carried, mut server) = connected(&world).await;
        for round in 0..5 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            world.client.rotate(&world.ca, LIFE);
            world.serving.rotate(&world.ca, LIFE);
            *world.node.local.borrow_mut() = world.serving.local();
            let route = world.route();
            let unproven = world.pool.unproven(&route.key.source, route.generation);
            assert_eq!(unproven, std::slice::from_ref(&route.key), "round {round}");
            world.pool.prove(&route, world.dial(route.key.address)).await.unwrap();
            assert!(world.pool.unproven(&route.key.source, route.generation).is_empty());
            carried.app.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        assert!(!carried.totals.is_finished());
        // And without a proof it ends.
        assert_eq!(carried.totals.await.unwrap().end, End::Revoked("svid_expired"));
    });
}

#[test]
fn a_peer_that_alone_has_a_new_svid_proves_itself_before_its_old_one_ends() {
    worker(async {
        let world = World::new().await;
        world.serving.rotate(&world.ca, Duration::from_secs(3));
        *world.node.local.borrow_mut() = world.serving.local();
        let (mut carried, mut server) = connected(&world).await;
        let soon = std::time::SystemTime::now() + Duration::from_secs(10);
        let route = world.route();
        assert!(world.pool.unproven(&route.key.source, route.generation).is_empty(), "our own SVID is in order");
        assert_eq!(world.pool.expiring(soon), std::slice::from_ref(&route.key));
        world.serving.rotate(&world.ca, HOUR);
        *world.node.local.borrow_mut() = world.serving.local();
        let until = world.pool.prove(&route, world.dial(route.key.address)).await.unwrap();
        assert!(until > soon);
        assert!(world.pool.expiring(soon).is_empty());
        assert_eq!((world.pool.count().tunnels, world.pool.count().retired), (2, 1), "the older proof takes no more");
        tokio::time::sleep(Duration::from_secs(4)).await;
        carried.app.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    });
}

#[test]
fn the_maximal_connection_age_cuts_a_connection_and_is_off_by_default() {
    worker(async {
        assert_eq!(Limits::default().max_connection_age, None);
        let limits = Limits { max_connection_age: Some(Duration::from_millis(500)), ..Limits::default() };
        let world = World::living(limits, Limits::default(), HOUR).await;
        let (carried, _server) = connected(&world).await;
        let began = std::time::Instant::now();
        assert_eq!(carried.totals.await.unwrap().end, End::Revoked("max_connection_age"));
        assert!(began.elapsed() >= Duration::from_millis(300));
        until("the tunnel is gone", || world.pool.count().tunnels == 0).await;
    });
}
