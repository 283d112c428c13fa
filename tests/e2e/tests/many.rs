//! Many connections, one after another and at once: nothing is left over.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Agent, Mesh, wait_until};
use culvert_e2e::streams::{Server, allow_many_files, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, in_sandbox};

const ECHO: u16 = 9000;
const SERVER_FIRST: u16 = 9001;
const CALLERS: usize = 8;

/// Open files and resident memory of each agent. A pooled tunnel is one open file and stays for minutes by design, so
/// tunnels are taken off; what is left over beyond them is a leak.
fn footprint(mesh: &Mesh) -> Result<Vec<(u64, u64)>> {
    let one = |(node, agent): (&String, &Agent)| {
        let status: serde_json::Value = serde_json::from_str(&mesh.operator(node, &["status", "--json"])?)?;
        let count = |key: &str| status["tunnels"][key].as_u64().with_context(|| format!("no {key} in {status}"));
        let tunnels = count("dialled")? + count("served")?;
        let streams = count("dialled_streams")? + count("served_streams")?;
        println!("{node}: {tunnels} tunnels, {streams} streams");
        Ok(((agent.process.open_files()? as u64).saturating_sub(tunnels), agent.process.resident_kib()?))
    };
    mesh.agents.iter().map(one).collect()
}

/// What the server says before it closes first.
const GOODBYE: &[u8] = b"goodbye";

fn say_goodbye(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(GOODBYE)
}

/// Opens and closes one connection; the client is done first on one port, the server on the other.
fn once(netns: &Netns, server: std::net::IpAddr, number: usize) -> Result<()> {
    if number.is_multiple_of(2) {
        let mut stream = connect(netns, SocketAddr::new(server, ECHO))?;
        ping(&mut stream, b"hello")
    } else {
        let mut stream = connect(netns, SocketAddr::new(server, SERVER_FIRST))?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        ensure!(text == GOODBYE, "got {text:?}");
        Ok(())
    }
}

fn open_and_close(netns: &Netns, server: std::net::IpAddr, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            netns.enter(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok(());
                    }
                    once(netns, server, number).with_context(|| format!("connection {number}"))?;
                }
            })
        };
        let threads: Vec<_> = (0..CALLERS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Waits until every agent is back at its open files and near its memory.
fn settles(mesh: &Mesh, idle: &[(u64, u64)]) -> Result<()> {
    let fits = |now: &[(u64, u64)]| {
        now.iter().zip(idle).all(|((files, memory), (idle_files, idle_memory))| {
            *files <= idle_files + 8 && *memory * 10 <= *idle_memory * 13
        })
    };
    let mut now = Vec::new();
    let settled = wait_until("the agents settle", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(250));
        now = footprint(mesh)?;
        Ok(fits(&now))
    });
    println!("open files beside tunnels, and KiB, per agent: idle {idle:?}, now {now:?}");
    settled.map(drop)
}

fn many(run: impl FnOnce(&Mesh, &Netns, std::net::IpAddr) -> Result<()>) -> Result<()> {
    allow_many_files()?;
    let mesh = Mesh::start(&fixture::manifests(&[("client", "node1"), ("server", "node2")])?)?;
    let (client, server) = (mesh.pod("client.app")?, mesh.pod("server.app")?);
    let address = server.pod.ip4().into();
    let _echo = Server::start(server.pod.netns(), ECHO, echo)?;
    let _first = Server::start(server.pod.netns(), SERVER_FIRST, say_goodbye)?;
    // Idle is after the first use: tunnels stand and allocators have their arenas.
    open_and_close(client.pod.netns(), address, 200)?;
    std::thread::sleep(Duration::from_secs(1));
    let idle = footprint(&mesh)?;
    run(&mesh, client.pod.netns(), address)?;
    settles(&mesh, &idle)
}

#[test]
fn ten_thousand_connections_opened_and_closed_leave_nothing_over() {
    in_sandbox!(Duration::from_secs(400), || many(|_, client, server| {
        let began = Instant::now();
        open_and_close(client, server, 10_000)?;
        println!("10000 connections in {:?}", began.elapsed());
        Ok(())
    }))
}

#[test]
fn two_thousand_connections_held_at_once_all_answer_and_leave_nothing_over() {
    in_sandbox!(Duration::from_secs(300), || many(|mesh, client, server| {
        let mut held = Vec::new();
        for number in 0..2_000_usize {
            let mut stream =
                connect(client, SocketAddr::new(server, ECHO)).with_context(|| format!("number {number}"))?;
            ping(&mut stream, &number.to_le_bytes())?;
            held.push(stream);
        }
        println!("2000 held: {:?}", footprint(mesh)?);
        for (number, stream) in held.iter_mut().enumerate() {
            ping(stream, format!("again {number}").as_bytes())?;
        }
        Ok(())
    }))
}

#[test]
fn a_minute_at_full_rate_to_one_port_has_no_failure() {
    in_sandbox!(Duration::from_secs(400), || many(|_, client, server| {
        let (began, mut count) = (Instant::now(), 0_usize);
        while began.elapsed() < Duration::from_secs(60) {
            open_and_close(client, server, 500)?;
            count += 500;
        }
        println!("{count} connections in {:?}", began.elapsed());
        Ok(())
    }))
}
