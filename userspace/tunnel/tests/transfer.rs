//! Bytes arrive as they were sent, whatever their number and whoever stops first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use culvert_tunnel::{End, Meter, Side, passthrough, revocation};
use support::{Pattern, World, application, pair, until, worker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};

/// Writes `len` bytes in pieces of varying size, then FIN; reads and checks what the other side sends at the same
/// time. `patience` delays the FIN.
async fn talk(tcp: TcpStream, seed: u64, len: usize, expect_seed: u64, expect: usize, patience: Duration) {
    let (mut reader, mut writer) = tcp.into_split();
    let write = spawn_local(async move {
        let (mut pattern, mut left, mut piece) = (Pattern::new(seed), len, 1);
        while left > 0 {
            // Multiples of eight keep the pattern the same on both sides; the last piece is what is left.
            let size = left.min(piece);
            let mut bytes = vec![0; size];
            pattern.fill(&mut bytes);
            writer.write_all(&bytes).await.unwrap();
            left -= size;
            piece = (piece * 3).clamp(8, 200_000) / 8 * 8;
        }
        tokio::time::sleep(patience).await;
        writer.shutdown().await.unwrap();
        writer
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), expect);
    assert!(got == pieces(expect_seed, expect), "bytes differ");
    write.await.unwrap();
}

/// What [`talk`] writes.
fn pieces(seed: u64, len: usize) -> Vec<u8> {
    let (mut pattern, mut left, mut piece, mut all) = (Pattern::new(seed), len, 1, Vec::with_capacity(len));
    while left > 0 {
        let size = left.min(piece);
        let mut bytes = vec![0; size];
        pattern.fill(&mut bytes);
        all.extend_from_slice(&bytes);
        left -= size;
        piece = (piece * 3).clamp(8, 200_000) / 8 * 8;
    }
    all
}

#[test]
fn bytes_are_exact_in_both_directions_with_half_close_by_either_side() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let sizes = [0, 1, 2, 8191, 16_384, 16_385, 300_000, 5_000_000];
        for (round, up) in sizes.into_iter().enumerate() {
            for down in [0, 1, 65_537, 3_000_000] {
                let (early, late) = (Duration::ZERO, Duration::from_millis(20 * (round as u64 % 2)));
                let carried = world.carry(address).await;
                let server = connections.recv().await.unwrap();
                let seed = round as u64 * 100 + down as u64;
                let served = spawn_local(talk(server, seed + 1, down, seed, up, late));
                talk(carried.app, seed, up, seed + 1, down, early).await;
                served.await.unwrap();
                let totals = carried.totals.await.unwrap();
                assert_eq!((totals.sent, totals.received), (up as u64, down as u64));
                assert_eq!(totals.end, End::Closed);
            }
        }
        let node = &world.node.inbound;
        until("the serving side has its totals", || node.totals.borrow().len() == sizes.len() * 4).await;
        assert!(node.totals.borrow().iter().all(|t| t.end == End::Closed), "{:?}", node.totals.borrow());
        assert_eq!(world.dials.get(), 1, "all of it went over one tunnel");
    });
}

#[test]
fn sixty_four_mebibytes_arrive_intact_while_others_talk() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        const BULK: usize = 64 << 20;
        let bulk = world.carry(address).await;
        let bulk_server = connections.recv().await.unwrap();
        let bulk_client = spawn_local(talk(bulk.app, 7, BULK, 8, 10, Duration::ZERO));
        let bulk_served = spawn_local(talk(bulk_server, 8, 10, 7, BULK, Duration::ZERO));
        for seed in 100..120 {
            let small = world.carry(address).await;
            let server = connections.recv().await.unwrap();
            let served = spawn_local(talk(server, seed + 1000, 900, seed, 1000, Duration::ZERO));
            talk(small.app, seed, 1000, seed + 1000, 900, Duration::ZERO).await;
            served.await.unwrap();
        }
        bulk_client.await.unwrap();
        bulk_served.await.unwrap();
        assert_eq!(bulk.meter.sent(), BULK as u64);
        assert_eq!(bulk.totals.await.unwrap().end, End::Closed);
    });
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    worker(async {
        let world = World::new().await;
        let (address, mut connections) = application().await;
        let mut carried = world.carry(address).await;
        let mut server = connections.recv().await.unwrap();
        carried.app.write_all(b"question").await.unwrap();
        carried.app.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            server.write_all(b"answer ").await.unwrap();
        }
        assert!(!carried.totals.is_finished());
        drop(server);
        let mut answer = String::new();
        carried.app.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer ".repeat(5));
        assert_eq!(carried.totals.await.unwrap().end, End::Closed);
    });
}

#[test]
fn passthrough_carries_bytes_half_close_and_resets_without_a_tunnel() {
    worker(async {
        let (app, near) = pair().await;
        let (far, server) = pair().await;
        let (_revoker, revoked) = revocation();
        let totals = spawn_local(passthrough(near, far, std::sync::Arc::new(Meter::default()), revoked));
        let served = spawn_local(talk(server, 2, 700_000, 1, 900_000, Duration::from_millis(20)));
        talk(app, 1, 900_000, 2, 700_000, Duration::ZERO).await;
        served.await.unwrap();
        let totals = totals.await.unwrap();
        assert_eq!((totals.sent, totals.received, totals.end), (900_000, 700_000, End::Closed));

        let (mut app, near) = pair().await;
        let (far, server) = pair().await;
        let (_revoker, revoked) = revocation();
        let totals = spawn_local(passthrough(near, far, std::sync::Arc::new(Meter::default()), revoked));
        server.set_zero_linger().unwrap();
        drop(server);
        let error = app.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(totals.await.unwrap().end, End::Reset(Side::Far));
    });
}
