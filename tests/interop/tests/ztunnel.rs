//! Istio's ztunnel at the other end of the tunnel, in both roles, with certificates of the same mesh.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use culvert_e2e::mesh::wait_until;
use culvert_e2e::streams::{
    Server, allow_many_files, connect, connect_saying, echo, expect_end, expect_pattern, ping, send_pattern,
};
use culvert_interop::mixed::Mixed;
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, in_sandbox};

const PORT: u16 = 9000;
const LONG: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(10);

/// Who dials whom: culvert's node ztunnel's, and the other way.
const WAYS: [(&str, &str); 2] = [("client", "server2"), ("caller", "server1")];

/// That a call from `from` to `to` comes to nothing: no byte comes back.
fn expect_refusal(from: &Netns, to: SocketAddr) -> Result<()> {
    let answered = connect(from, to).and_then(|mut stream| ping(&mut stream, b"let me in"));
    ensure!(answered.is_err(), "{to} has answered");
    Ok(())
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn both_prove_who_they_are_and_refuse_who_may_not() {
    in_sandbox!(LONG, || {
        let mixed = Mixed::start(&[])?;
        let _servers =
            [Server::start(mixed.netns("server1")?, PORT, echo)?, Server::start(mixed.netns("server2")?, PORT, echo)?];
        let mut records = mixed.mesh.follow("node1")?;
        let wire = mixed.mesh.lab.capture_link()?;
        for (from, to) in WAYS {
            ping(&mut connect(mixed.netns(from)?, mixed.at(to, PORT)?)?, b"a marker that nobody may read")
                .with_context(|| format!("{from} calls {to}"))?;
            let record = records.demand(PATIENCE, "the call's record", |record| record.outcome() == "closed")?;
            let identity = |name: &str| format!("spiffe://cluster.local/ns/app/sa/{name}");
            ensure!(record.field("src.identity") == Some(&identity(from)), "{}", record.text());
            ensure!(record.field("dst.identity") == Some(&identity(to)), "{}", record.text());
            ensure!(record.field("transport") == Some("hbone"), "{}", record.text());
        }
        // ztunnel refuses the one, culvert the other.
        for (from, to, outcome, reason) in
            [("other", "server2", "failed", "peer_denied"), ("thief", "server1", "denied", "policy_denied")]
        {
            expect_refusal(mixed.netns(from)?, mixed.at(to, PORT)?)?;
            let record = records.demand(PATIENCE, "the refusal's record", |record| record.outcome() == outcome)?;
            ensure!(record.field("reason") == Some(reason), "{}", record.text());
        }
        // Beside the mesh: nobody of it, in the clear.
        let stranger = mixed.mesh.pod("stranger.outside")?.pod.netns();
        expect_refusal(stranger, mixed.at("server1", PORT)?)?;
        let seen = wire.stop()?;
        ensure!(!seen.contains(b"a marker that nobody may read"), "the marker was on the wire");
        Ok(())
    })
}

/// What one exchange sends up and down, and who ends first.
fn exchange(mixed: &Mixed, (from, to): (&str, &str), up: u64, down: u64, server_first: bool) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(9100);
    let port = u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed))?;
    let (tell, told) = std::sync::mpsc::channel();
    let _server = Server::start(mixed.netns(to)?, port, move |mut stream| {
        let mut sending = stream.try_clone()?;
        let mut outcome = Ok(());
        let mut send = || send_pattern(&mut sending, 2, down).and_then(|()| sending.shutdown(Shutdown::Write));
        if server_first {
            send()?;
        }
        outcome = outcome.and_then(|()| expect_pattern(&mut stream, 1, up)).and_then(|()| expect_end(&mut stream));
        if !server_first {
            send()?;
        }
        let _ = tell.send(outcome);
        Ok(())
    })?;
    let mut stream = connect(mixed.netns(from)?, mixed.at(to, port)?)?;
    let mut sending = stream.try_clone()?;
    let upload = std::thread::spawn(move || {
        send_pattern(&mut sending, 1, up)
            .and_then(|()| if server_first { Ok(()) } else { sending.shutdown(Shutdown::Write) })
    });
    expect_pattern(&mut stream, 2, down)?;
    expect_end(&mut stream)?;
    upload.join().unwrap()?;
    if server_first {
        stream.shutdown(Shutdown::Write)?;
    }
    told.recv_timeout(Duration::from_secs(30))?
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn bytes_arrive_as_sent_whoever_is_done_first() {
    in_sandbox!(LONG, || {
        let mixed = Mixed::start(&[])?;
        for way in WAYS {
            for size in [0, 1, 16_384, 1 << 20, 20_000_003] {
                for server_first in [false, true] {
                    exchange(&mixed, way, size, size, server_first)
                        .with_context(|| format!("{way:?}: {size} bytes, server first: {server_first}"))?;
                }
            }
            exchange(&mixed, way, 256 << 20, 0, false).with_context(|| format!("{way:?}: 256 MiB up"))?;
            exchange(&mixed, way, 0, 256 << 20, true).with_context(|| format!("{way:?}: 256 MiB down"))?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn what_is_said_at_once_arrives_once() {
    in_sandbox!(LONG, || {
        let mut mixed = Mixed::start(&[])?;
        let _server = Server::start(mixed.netns("server2")?, PORT, echo)?;
        let (from, to) = (mixed.netns("client")?.clone(), mixed.at("server2", PORT)?);
        // The first is for the tunnel: words go with a request to a peer that was heard just now.
        ping(&mut connect(&from, to)?, b"hello")?;
        let agent = &mut mixed.mesh.agents.get_mut("node1").context("no agent")?.process;
        for length in [1, 100, 4000] {
            let words: Vec<u8> = (0..length).map(|number| u8::try_from(number % 251).unwrap()).collect();
            let mut stream = connect_saying(&from, to, &words, agent)?;
            ping(&mut stream, b"and more")?;
            stream.shutdown(Shutdown::Write)?;
            expect_end(&mut stream)?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn many_connections_stand_at_once_and_many_follow_each_other() {
    in_sandbox!(LONG, || {
        allow_many_files()?;
        let mixed = Mixed::start(&[])?;
        let _servers =
            [Server::start(mixed.netns("server1")?, PORT, echo)?, Server::start(mixed.netns("server2")?, PORT, echo)?];
        for (from, to) in WAYS {
            let (netns, address) = (mixed.netns(from)?.clone(), mixed.at(to, PORT)?);
            let all_stand = Arc::new(Barrier::new(250));
            let callers: Vec<_> = (0..250u32)
                .map(|number| {
                    let (netns, all_stand) = (netns.clone(), Arc::clone(&all_stand));
                    std::thread::spawn(move || -> Result<()> {
                        let opened = connect(&netns, address).and_then(|mut stream| {
                            ping(&mut stream, &number.to_le_bytes())?;
                            Ok(stream)
                        });
                        all_stand.wait();
                        ping(&mut opened?, &number.to_be_bytes())
                    })
                })
                .collect();
            for caller in callers {
                caller.join().unwrap().with_context(|| format!("{from} calls {to}, 250 at once"))?;
            }
            for number in 0..1000u32 {
                ping(&mut connect(&netns, address)?, &number.to_le_bytes())
                    .with_context(|| format!("{from} calls {to}, call {number}"))?;
            }
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn readers_that_stop_do_not_stop_the_others() {
    in_sandbox!(LONG, || {
        let mixed = Mixed::start(&[])?;
        let _servers =
            [Server::start(mixed.netns("server1")?, PORT, echo)?, Server::start(mixed.netns("server2")?, PORT, echo)?];
        // More than these stop ztunnel's connection for good (docs/hbone.md).
        for ((from, to), stopped) in WAYS.into_iter().zip([30, 3]) {
            let (netns, address) = (mixed.netns(from)?, mixed.at(to, PORT)?);
            let _never_answers = Server::start(mixed.netns(to)?, PORT + 1, |_stream| {
                std::thread::sleep(LONG);
                Ok(())
            })?;
            let mut held = Vec::new();
            for _ in 0..stopped {
                let mut stream = connect(netns, mixed.at(to, PORT + 1)?)?;
                stream.set_write_timeout(Some(Duration::from_millis(300)))?;
                // Until nothing more is taken.
                while stream.write(&[7; 65536]).is_ok() {}
                held.push(stream);
            }
            let slowest = (0..300u32).try_fold(Duration::ZERO, |slowest, number| {
                let began = Instant::now();
                ping(&mut connect(netns, address)?, &number.to_le_bytes())
                    .with_context(|| format!("{from} calls {to} beside {stopped}, call {number}"))?;
                Ok::<_, culvert_lab::anyhow::Error>(slowest.max(began.elapsed()))
            })?;
            println!("{from} to {to}, beside {stopped} stopped readers: slowest of 300 calls {slowest:?}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn a_ztunnel_that_ends_is_said_and_its_successor_is_found() {
    in_sandbox!(LONG, || {
        let mut mixed = Mixed::start(&[])?;
        let _servers =
            [Server::start(mixed.netns("server1")?, PORT, echo)?, Server::start(mixed.netns("server2")?, PORT, echo)?];
        let held = |mixed: &Mixed| -> Result<Vec<TcpStream>> {
            WAYS.into_iter()
                .map(|(from, to)| {
                    let mut stream = connect(mixed.netns(from)?, mixed.at(to, PORT)?)?;
                    ping(&mut stream, b"standing")?;
                    Ok(stream)
                })
                .collect()
        };
        for killed in [true, false] {
            let mut open = held(&mixed)?;
            if killed {
                mixed.ztunnel.process.kill9()?;
            } else {
                mixed.ztunnel.process.terminate(Duration::from_secs(40))?;
            }
            for stream in &mut open {
                ensure!(ping(stream, b"still there?").is_err(), "a connection has outlived its ztunnel");
            }
            expect_refusal(mixed.netns("client")?, mixed.at("server2", PORT)?)?;
            mixed.restart_ztunnel()?;
            wait_until("both ways work again", Duration::from_secs(30), || Ok(held(&mixed).is_ok()))?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn certificates_that_change_every_few_seconds_are_not_noticed() {
    in_sandbox!(LONG, || {
        let mixed = Mixed::start(&["--svid-life", "10s"])?;
        let _servers =
            [Server::start(mixed.netns("server1")?, PORT, echo)?, Server::start(mixed.netns("server2")?, PORT, echo)?];
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = WAYS
            .into_iter()
            .map(|(from, to)| {
                let (netns, address, over) = (mixed.netns(from)?.clone(), mixed.at(to, PORT)?, Arc::clone(&over));
                Ok(std::thread::spawn(move || -> Result<u32> {
                    let mut stands = connect(&netns, address)?;
                    let mut calls = 0;
                    while !over.load(Ordering::Relaxed) {
                        ping(&mut connect(&netns, address)?, b"new")
                            .with_context(|| format!("call {calls} to {to}"))?;
                        ping(&mut stands, b"old").with_context(|| format!("the one that stands, to {to}"))?;
                        calls += 1;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Ok(calls)
                }))
            })
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(25));
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            let calls = caller.join().unwrap()?;
            ensure!(calls > 100, "only {calls} calls");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs a ztunnel: --ztunnel"]
fn a_closed_port_is_a_reset_and_no_answer() {
    in_sandbox!(LONG, || {
        let mixed = Mixed::start(&[])?;
        for (from, to) in WAYS {
            let mut stream = connect(mixed.netns(from)?, mixed.at(to, 9999)?)?;
            let read = stream.read(&mut [0; 1]);
            ensure!(!matches!(read, Ok(1..)), "somebody answers on a closed port");
            println!("{from} calls a closed port of {to}: {read:?}");
        }
        Ok(())
    })
}
