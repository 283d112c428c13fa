//! What holds while agents die and return.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use culvert_e2e::fixture;
use culvert_e2e::http;
use culvert_e2e::mesh::{Mesh, wait_until};
use culvert_lab::anyhow::{Result, ensure};
use culvert_lab::{Netns, in_sandbox};

const SECRET: &str = "a-secret-that-only-mutual-tls-may-carry";

/// What a pod outside the mesh says, which crosses in the clear whether or not anybody listens.
const SHOUTED: &str = "said-by-a-stranger-in-the-clear";

/// Keeps calling, a new connection each time, until told to stop.
struct Caller {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Caller {
    fn start(netns: &Netns, to: SocketAddr) -> Result<Caller> {
        let (stop, answered, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let caller = Caller {
            stop: Arc::clone(&stop),
            answered: Arc::clone(&answered),
            failed: Arc::clone(&failed),
            thread: None,
        };
        let thread = netns.enter_detached(move || {
            while !stop.load(Ordering::Relaxed) {
                let seen = http::get(to, SECRET, Duration::from_millis(700));
                if seen.answer.is_some() { &answered } else { &failed }.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })?;
        Ok(Caller { thread: Some(thread), ..caller })
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }
}

#[test]
fn killed_agents_leak_nothing_let_nothing_in_and_serve_again_within_two_seconds() {
    in_sandbox!(|| {
        let mut mesh = Mesh::without_culvert(&fixture::manifests(&[("client", "node1"), ("server", "node2")])?)?;
        let to = SocketAddr::new(mesh.pod("server.app")?.pod.ip4().into(), 8080);

        // The same capture on the same call shows the text while nobody is enrolled.
        let capture = mesh.lab.capture_link()?;
        ensure!(mesh.call(mesh.pod("client.app")?, to, SECRET)?.answer.is_some(), "no call without culvert");
        ensure!(capture.stop()?.contains(SECRET.as_bytes()), "the capture sees nothing");

        // From before the first agent starts to after the last restart, all in one capture.
        let capture = mesh.lab.capture_link()?;
        mesh.start_culvert()?;
        let caller = Caller::start(mesh.pod("client.app")?.pod.netns(), to)?;
        wait_until("the first calls are answered", Duration::from_secs(8), || Ok(caller.answered() > 20))?;

        for node in mesh.lab.nodes().to_vec() {
            kill_and_return(&mut mesh, &node, &caller, to)?;
        }
        let answered = caller.answered();
        caller.finish()?;
        let seen = capture.stop()?;
        ensure!(seen.payload_bytes() > 10_000, "the capture saw only {} bytes", seen.payload_bytes());
        let leaked = seen.count(SECRET.as_bytes());
        ensure!(leaked == 0, "readable {leaked} times in {} bytes, {answered} calls", seen.payload_bytes());
        Ok(())
    })
}

fn kill_and_return(mesh: &mut Mesh, node: &culvert_lab::Node, caller: &Caller, to: SocketAddr) -> Result<()> {
    if let Some(agent) = mesh.agents.get_mut(node.name()) {
        agent.process.kill9()?;
    }
    // A call under way at the moment of death may still be counted once.
    std::thread::sleep(Duration::from_millis(800));
    let (answered, failed) = (caller.answered(), caller.failed());
    // While it is dead: nobody gets through, and who has no identity does not get in.
    let stranger = mesh.call(mesh.pod("stranger.outside")?, to, SHOUTED);
    let stranger_got = stranger?.answer;
    std::thread::sleep(Duration::from_millis(1_500));
    ensure!(caller.answered() == answered, "calls were answered while the agent of {} was dead", node.name());
    ensure!(caller.failed() > failed, "the caller did not even try");
    ensure!(stranger_got.is_none(), "a stranger got an answer while the agent of {} was dead", node.name());

    let began = Instant::now();
    mesh.start_agent(node)?;
    wait_until("calls are answered again", Duration::from_secs(10), || Ok(caller.answered() > answered))?;
    let took = began.elapsed();
    println!("{}: calls answered again {took:?} after the agent's start", node.name());
    ensure!(
        took < Duration::from_secs(2),
        "calls were answered only {took:?} after the agent of {} returned",
        node.name()
    );
    Ok(())
}

#[test]
fn a_stranger_never_gets_in_and_its_refusal_is_recorded() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&[("client", "node1"), ("server", "node2")])?)?;
        let to = SocketAddr::new(mesh.pod("server.app")?.pod.ip4().into(), 8080);
        let mut log = mesh.follow("node2")?;
        let seen = mesh.call(mesh.pod("stranger.outside")?, to, SHOUTED)?;
        ensure!(seen.answer.is_none(), "{seen:?}");
        let record = log.demand(Duration::from_secs(3), "the refusal", |access| access.direction() == "inbound")?;
        ensure!(record.outcome() == "denied", "{}", record.text());
        ensure!(record.field("reason") == Some("peer_unauthenticated"), "{}", record.text());
        Ok(())
    })
}
