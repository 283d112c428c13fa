//! A reader that does not read stalls itself and nobody else, and costs no more than its window.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{sync::Arc, time::Duration};

use culvert_tunnel::{End, Held, Limits, Meter};
use support::{Carried, Pattern, World, application, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
    time::{Instant, timeout},
};

const WINDOW: u64 = 256 << 10;
/// What may wait on the sending side, for its turn in the tunnel.
const SLACK: u64 = 128 << 10;

/// Writes until nothing moves any more.
async fn flood(app: &mut TcpStream, meter: &Meter) {
    let mut before = u64::MAX;
    while before != meter.sent() {
        before = meter.sent();
        let _ = timeout(Duration::from_millis(300), async {
            loop {
                app.write_all(&[1; 65_536]).await.unwrap();
            }
        })
        .await;
    }
}

/// Eight connections whose server applications read nothing; together they hold twice the tunnel's own window.
async fn stalled(world: &World) -> Vec<(Carried, TcpStream)> {
    let (address, mut connections) = application().await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut carried = world.carry(address).await;
        let server = connections.recv().await.unwrap();
        flood(&mut carried.app, &carried.meter).await;
        all.push((carried, server));
    }
    all
}

async fn echo_works(world: &World, bytes: usize) {
    let (address, mut connections) = application().await;
    let carried = world.carry(address).await;
    let mut server = connections.recv().await.unwrap();
    let (mut reader, mut writer) = carried.app.into_split();
    let sent = Pattern::bytes(5, bytes);
    let expected = sent.clone();
    let echo = spawn_local(async move {
        let (mut reader, mut writer) = server.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    let write = spawn_local(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    timeout(Duration::from_secs(20), reader.read_to_end(&mut got)).await.expect("the neighbour is stalled").unwrap();
    assert!(got == expected);
    echo.await.unwrap();
    write.await.unwrap();
}

#[test]
fn eight_stalled_readers_leave_their_tunnel_to_others() {
    worker(async {
        let world = World::new().await;
        let stalled = stalled(&world).await;
        let began = Instant::now();
        echo_works(&world, 1000).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        echo_works(&world, 6 << 20).await;
        assert_eq!(world.dials.get(), 1, "it is the same tunnel");
        assert_eq!(stalled.len(), 8);
    });
}

#[test]
fn a_stalled_reader_costs_no_more_than_its_window() {
    worker(async {
        let world = World::new().await;
        let stalled = stalled(&world).await;
        for (n, (carried, _server)) in stalled.iter().enumerate() {
            let delivered = world.node.inbound.meters.borrow()[n].received();
            let held = carried.meter.sent() - delivered;
            assert!(held >= WINDOW / 2, "the window was used: {held}");
            assert!(held <= WINDOW + SLACK, "held {held}");
        }
    });
}

#[test]
fn stalled_readers_get_everything_when_they_read_again() {
    worker(async {
        let world = World::new().await;
        for (mut carried, mut server) in stalled(&world).await {
            let sent = carried.meter.sent();
            carried.app.shutdown().await.unwrap();
            let mut scratch = vec![0; 1 << 20];
            let mut got = 0;
            loop {
                match server.read(&mut scratch).await.unwrap() {
                    0 => break,
                    n => got += n as u64,
                }
            }
            assert!(got >= sent, "{got} of {sent}");
            assert_eq!(got, carried.meter.sent());
        }
        // The tunnel's window is back to what it was: bulk still flows.
        echo_works(&world, 6 << 20).await;
    });
}

#[test]
fn the_dialling_side_is_as_patient_with_its_own_applications() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut all = Vec::new();
        for n in 0..8 {
            let carried = world.carry(address).await;
            let mut server = connections.recv().await.unwrap();
            let meter: Arc<Meter> = world.node.inbound.meters.borrow()[n].clone();
            flood(&mut server, &meter).await;
            all.push((carried, server));
        }
        echo_works(&world, 6 << 20).await;
        for (n, (carried, _)) in all.iter().enumerate() {
            let held = world.node.inbound.meters.borrow()[n].sent() - carried.meter.received();
            assert!(held <= WINDOW + SLACK, "held {held}");
        }
        assert_eq!(world.dials.get(), 1);
    });
}

#[test]
fn many_small_messages_to_a_stalled_reader_do_not_cost_the_tunnel() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut neighbour = world.carry(address).await;
        let mut neighbour_server = connections.recv().await.unwrap();
        let mut carried = world.carry(address).await;
        let mut server = connections.recv().await.unwrap();
        let delivered = world.node.inbound.meters.borrow()[1].clone();
        // First enough that the application's socket is full and something waits in the agent.
        let mut sent = 0_u64;
        while sent < delivered.received() + (64 << 10) {
            carried.app.write_all(&[9; 65_536]).await.unwrap();
            sent += 65_536;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Then 10,000 messages, each in a frame of its own.
        for _ in 0..10_000 {
            carried.app.write_all(&[9; 10]).await.unwrap();
            sent += 10;
            let target = sent;
            while carried.meter.sent() < target {
                tokio::task::yield_now().await;
            }
        }
        neighbour.app.write_all(b"alive").await.unwrap();
        neighbour_server.read_exact(&mut [0; 5]).await.unwrap();
        carried.app.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len() as u64, sent);
        assert!(got.iter().all(|b| *b == 9));
    });
}

#[test]
fn streams_that_hold_more_than_their_share_end_when_the_agent_holds_too_much() {
    worker(async {
        let held = Arc::new(Held::up_to(512 << 10));
        let serving = Limits { held: Arc::clone(&held), ..Limits::default() };
        let world = World::with(Limits::default(), serving).await;
        let (address, mut connections) = application().await;
        let mut neighbour = world.carry(address).await;
        let mut neighbour_server = connections.recv().await.unwrap();
        let mut stalled = Vec::new();
        for _ in 0..6 {
            let mut carried = world.carry(address).await;
            let server = connections.recv().await.unwrap();
            let flood = async { while carried.app.write_all(&[1; 65_536]).await.is_ok() {} };
            let _ = timeout(Duration::from_millis(500), flood).await;
            stalled.push((carried, server));
        }
        let ended = || world.node.inbound.totals.borrow().iter().map(|totals| totals.end.clone()).collect::<Vec<_>>();
        until("some were ended", || !ended().is_empty()).await;
        assert!(ended().iter().all(|end| *end == End::Revoked("memory_pressure")), "{:?}", ended());
        assert!(ended().len() < 6, "what fits is left alone: {:?}", ended());
        assert!(held.bytes() <= 768 << 10, "{}", held.bytes());
        neighbour.app.write_all(b"x").await.unwrap();
        assert_eq!(neighbour_server.read_u8().await.unwrap(), b'x');
        drop(stalled);
        until("nothing is held any more", || held.bytes() == 0).await;
    });
}

#[test]
fn a_stream_whose_reader_keeps_up_gets_a_larger_window_and_one_that_stalls_from_the_start_does_not() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut carried = world.carry(address).await;
        let mut server = connections.recv().await.unwrap();
        let reader = spawn_local(async move {
            let mut scratch = vec![0; 1 << 20];
            let mut got = 0;
            while got < 24 << 20 {
                got += server.read(&mut scratch).await.unwrap();
            }
            server
        });
        carried.app.write_all(&vec![3; 24 << 20]).await.unwrap();
        let _server = reader.await.unwrap();
        flood(&mut carried.app, &carried.meter).await;
        let held = carried.meter.sent() - world.node.inbound.meters.borrow()[0].received();
        assert!(held > WINDOW + SLACK, "held {held}");
        assert!(held <= (4 << 20) + SLACK, "held {held}");
    });
}

#[test]
fn an_idle_splice_uses_no_time() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut all = Vec::new();
        for _ in 0..50 {
            let carried = world.carry(address).await;
            all.push((carried, connections.recv().await.unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let polls = || tokio::runtime::Handle::current().metrics().worker_park_count(0);
        let before = polls();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(polls() - before < 20, "{} turns of an idle loop", polls() - before);
        until("nothing ended", || all.iter().all(|(carried, _)| !carried.totals.is_finished())).await;
    });
}
