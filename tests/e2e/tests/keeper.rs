//! Listeners outlive their agent: what began while no agent ran is served by the next one.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, Programs, control_address, wait_until};
use culvert_e2e::streams::{Server, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, bail, ensure};
use culvert_lab::{Netns, Node, Process, in_sandbox};
use nix::sys::signal::Signal;

const PORT: u16 = 9000;
const PODS: [(&str, &str); 2] = [("client", "node1"), ("server", "node2")];

/// What the node's agent measures.
fn metrics(node: &Node) -> Result<String> {
    node.netns().enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:15020")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// One attempt of a steady stream of new connections.
#[derive(Debug, Clone)]
struct Attempt {
    begun: Instant,
    connected: Option<Duration>,
    answered: Option<Duration>,
    error: Option<String>,
}

/// New connections at a steady pace, each on a thread of its own.
struct Stream {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    worker: std::thread::JoinHandle<()>,
}

impl Stream {
    fn start(netns: &Netns, to: SocketAddr, pause: Duration) -> Stream {
        let (attempts, stop) = (Arc::<Mutex<Vec<Attempt>>>::default(), Arc::<AtomicBool>::default());
        let (all, stopped, netns) = (attempts.clone(), stop.clone(), netns.clone());
        let worker = std::thread::spawn(move || {
            let mut running = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let (netns, all) = (netns.clone(), all.clone());
                running.push(std::thread::spawn(move || {
                    let attempt = attempt(&netns, to);
                    all.lock().unwrap().push(attempt);
                }));
                std::thread::sleep(pause);
            }
            running.into_iter().for_each(|one| one.join().unwrap());
        });
        Stream { attempts, stop, worker }
    }

    /// All attempts, once the last one has ended.
    fn finish(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().unwrap();
        std::mem::take(&mut *self.attempts.lock().unwrap())
    }
}

fn attempt(netns: &Netns, to: SocketAddr) -> Attempt {
    let begun = Instant::now();
    let mut attempt = Attempt { begun, connected: None, answered: None, error: None };
    let mut talk = || -> Result<()> {
        let mut stream = netns.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(15))?))?;
        attempt.connected = Some(begun.elapsed());
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        ping(&mut stream, b"hello")?;
        attempt.answered = Some(begun.elapsed());
        Ok(())
    };
    attempt.error = talk().err().map(|error| format!("{error:#}"));
    attempt
}

fn keeper(node: &Node) -> Result<(Process, String)> {
    let socket = format!("/run/culvert-keeper-{}/keep.sock", node.name());
    let program = Programs::find()?.path("culvert-keeper");
    let name = format!("keeper-{}", node.name());
    let mut process = Process::start(node.netns(), &name, program, &["--socket", &socket])?;
    process.wait_for_log("ready", Duration::from_secs(5))?;
    Ok((process, socket))
}

#[test]
fn t19_while_an_agent_is_dead_new_connections_wait_and_none_is_refused() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let nodes = mesh.lab.nodes().to_vec();
        let keepers = nodes.iter().map(keeper).collect::<Result<Vec<_>>>()?;
        for (node, (_, socket)) in nodes.iter().zip(&keepers) {
            mesh.agents.get_mut(node.name()).unwrap().process.kill9()?;
            mesh.start_agent_with(node, &["--keeper", socket])?;
        }
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        ping(&mut connect(&client, to)?, b"it works")?;
        for (node, (_, socket)) in nodes.iter().zip(&keepers) {
            for graceful in [false, true] {
                let stream = Stream::start(&client, to, Duration::from_millis(25));
                std::thread::sleep(Duration::from_millis(300));
                let agent = &mut mesh.agents.get_mut(node.name()).unwrap().process;
                if graceful {
                    agent.terminate(Duration::from_secs(15))?;
                } else {
                    agent.kill9()?;
                }
                let dead = Instant::now();
                std::thread::sleep(Duration::from_millis(1_500));
                mesh.start_agent_with(node, &["--keeper", socket])?;
                let alive = Instant::now();
                std::thread::sleep(Duration::from_millis(500));
                let attempts = stream.finish();
                judge(node.name(), graceful, &attempts, dead, alive)?;
            }
        }
        Ok(())
    })
}

fn judge(node: &str, graceful: bool, attempts: &[Attempt], dead: Instant, alive: Instant) -> Result<()> {
    let during: Vec<&Attempt> = attempts.iter().filter(|one| one.begun > dead && one.begun < alive).collect();
    ensure!(during.len() > 20, "only {} attempts while the agent of {node} was dead", during.len());
    let refused: Vec<&&Attempt> = during.iter().filter(|one| one.error.is_some()).collect();
    ensure!(refused.is_empty(), "{node}: {} of {} failed: {:?}", refused.len(), during.len(), refused.first());
    // Taken by the kernel on behalf of a listener that somebody holds, not after SYN retries.
    let slowest = during.iter().filter_map(|one| one.connected).max().unwrap_or_default();
    ensure!(slowest < Duration::from_millis(700), "{node}: a connection was taken only after {slowest:?}");
    let broken = attempts.iter().filter(|one| one.error.is_some()).count();
    let answered = during.iter().filter_map(|one| one.answered).max().unwrap_or_default();
    println!(
        "{node}, graceful {graceful}: {} began while it was dead, taken within {slowest:?}, answered within {answered:?}; \
         {broken} that were under way broke",
        during.len()
    );
    Ok(())
}

/// As kubelet does it: the agent is told to end, and the next one is started while it still runs.
fn update(mesh: &mut Mesh, node: &Node, keeper: &str) -> Result<Process> {
    let mut old = mesh.agents.remove(node.name()).context("no agent")?.process;
    old.signal(Signal::SIGTERM)?;
    mesh.start_agent_with(node, &["--keeper", keeper])?;
    old.wait(Duration::from_secs(15))?;
    let next = &mut mesh.agents.get_mut(node.name()).unwrap().process;
    next.wait_for_log("the agent runs", Duration::from_secs(15))?;
    Ok(old)
}

#[test]
fn an_agent_that_is_replaced_breaks_no_connection_that_ends_within_its_patience() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let nodes = mesh.lab.nodes().to_vec();
        let keepers = nodes.iter().map(keeper).collect::<Result<Vec<_>>>()?;
        for (node, (_, socket)) in nodes.iter().zip(&keepers) {
            update(&mut mesh, node, socket)?;
        }
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        ping(&mut connect(&client, to)?, b"it works")?;
        for round in 0..3 {
            for (node, (_, socket)) in nodes.iter().zip(&keepers) {
                wait_until("the pod's listeners are kept", Duration::from_secs(12), || kept(node, 1))?;
                let stream = Stream::start(&client, to, Duration::from_millis(5));
                std::thread::sleep(Duration::from_millis(300));
                let old = update(&mut mesh, node, socket)?;
                std::thread::sleep(Duration::from_millis(700));
                let attempts = stream.finish();
                let broken: Vec<&Attempt> = attempts.iter().filter(|one| one.error.is_some()).collect();
                let slowest = attempts.iter().filter_map(|one| one.answered).max().unwrap_or_default();
                println!("{}, round {round}: {} connections, slowest {slowest:?}", node.name(), attempts.len());
                let agents = mesh.agents.values().map(|agent| &agent.process).chain([&old]);
                let said: Vec<String> = agents.map(failures).collect();
                ensure!(broken.is_empty(), "{} of {}: {broken:?}\n{}", broken.len(), attempts.len(), said.join("\n"));
            }
        }
        Ok(())
    })
}

#[test]
fn a_connection_that_is_still_dialling_when_its_agent_is_replaced_gets_its_tunnel() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let (near, far) = (mesh.lab.node(1).clone(), mesh.lab.node(2).clone());
        let (_keeper, socket) = keeper(&near)?;
        update(&mut mesh, &near, &socket)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let far = |mesh: &mut Mesh, signal| mesh.agents.get_mut(far.name()).unwrap().process.signal(signal);
        // Nobody answers the handshake, for a while.
        far(&mut mesh, Signal::SIGSTOP)?;
        let call = std::thread::spawn(move || attempt(&client, to));
        let dials = || Ok(mesh.operator(near.name(), &["status", "--json"])?.contains(r#""connections":1"#));
        wait_until("the agent dials", Duration::from_secs(5), dials)?;
        let mut old = mesh.agents.remove(near.name()).context("no agent")?.process;
        old.signal(Signal::SIGTERM)?;
        mesh.start_agent_with(&near, &["--keeper", &socket])?;
        old.wait_for_log("nothing more is accepted", Duration::from_secs(5))?;
        std::thread::sleep(Duration::from_millis(100));
        far(&mut mesh, Signal::SIGCONT)?;
        let attempt = call.join().unwrap();
        ensure!(attempt.error.is_none(), "{attempt:?}\n{}", failures(&old));
        old.wait(Duration::from_secs(15))?;
        ensure!(old.log().contains(r#""outcome":"closed""#), "it was another agent that carried it");
        Ok(())
    })
}

#[test]
fn a_connection_that_comes_before_the_next_agents_svid_waits_for_it() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let node = mesh.lab.node(2).clone();
        let (_keeper, socket) = keeper(&node)?;
        update(&mut mesh, &node, &socket)?;
        wait_until("the pod's listeners are kept", Duration::from_secs(12), || kept(&node, 1))?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        // The pod is captured some 20 ms after the agent has heard of it, and its certificate cannot come as fast.
        let far = format!("https://{}", far_away(control_address())?);
        for _ in 0..5 {
            let mut old = mesh.agents.remove(node.name()).context("no agent")?.process;
            old.terminate(Duration::from_secs(15))?;
            let stream = Stream::start(&client, to, Duration::from_millis(50));
            mesh.launch_agent_with(&node, &["--keeper", &socket, "--control", &far])?;
            let next = &mut mesh.agents.get_mut(node.name()).unwrap().process;
            next.wait_for_log("SVID published", Duration::from_secs(30))?;
            std::thread::sleep(Duration::from_millis(500));
            let attempts = stream.finish();
            let said = next.log();
            let broken: Vec<&Attempt> = attempts.iter().filter(|one| one.error.is_some()).collect();
            let failures = failures(next);
            ensure!(broken.is_empty(), "{} of {} broke: {broken:?}\n{failures}", broken.len(), attempts.len());
            let (captured, published) = (said.find("pod captured"), said.find("SVID published"));
            if captured.is_some_and(|at| Some(at) < published) {
                return Ok(());
            }
            println!("on this machine the certificate came before the pod was captured; once more");
        }
        bail!("the certificate was always there before the pod was captured")
    })
}

/// An address at which `to` answers, each time 300 ms later.
fn far_away(to: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((to.ip(), 0))?;
    let here = listener.local_addr()?;
    let relay = move |near: TcpStream| -> std::io::Result<()> {
        let far = TcpStream::connect(to)?;
        let (mut requests, mut to_far) = (near.try_clone()?, far.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut requests, &mut to_far));
        let (mut answers, mut to_near, mut part) = (far, near, vec![0; 1 << 16]);
        loop {
            let read = answers.read(&mut part)?;
            std::thread::sleep(Duration::from_millis(300));
            to_near.write_all(&part[..read])?;
            if read == 0 {
                return to_near.shutdown(std::net::Shutdown::Both);
            }
        }
    };
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            std::thread::spawn(move || relay(near));
        }
    });
    Ok(here)
}

/// What an agent says of its life and of connections that did not end well.
fn failures(agent: &Process) -> String {
    let (log, ok) = (agent.log(), r#""outcome":"ok""#);
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(ok)).collect();
    format!("{}:\n{}", agent.name(), lines.join("\n"))
}

/// Whether the keeper of this node holds the listeners of so many pods.
fn kept(node: &Node, wanted: u64) -> Result<bool> {
    let metrics = metrics(node)?;
    let line = metrics.lines().find(|line| line.starts_with("culvert_pods_kept ")).context("no such metric")?;
    Ok(line.ends_with(&format!(" {wanted}")))
}

#[test]
fn a_keeper_that_was_restarted_is_told_again_and_forgets_pods_that_are_gone() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let node = mesh.lab.node(1).clone();
        let (mut first, socket) = keeper(&node)?;
        mesh.agents.get_mut("node1").unwrap().process.kill9()?;
        mesh.start_agent_with(&node, &["--keeper", &socket])?;
        wait_until("the pod's listeners are kept", Duration::from_secs(12), || kept(&node, 1))?;
        first.kill9()?;
        wait_until("the keeper's end is noticed", Duration::from_secs(12), || kept(&node, 0))?;
        let (_second, _) = keeper(&node)?;
        wait_until("the next keeper has them", Duration::from_secs(20), || kept(&node, 1))?;
        let agent = Programs::find()?.path("culvert-agent").display().to_string();
        let enrol = mesh.agents["node1"].run_dir.join("enrol.sock").display().to_string();
        let uid = mesh.pod("client.app")?.spec.uid.clone();
        node.netns().run(&agent, &["withdraw", "--socket", &enrol, "--uid", &uid])?;
        wait_until("nothing is kept of a pod that is gone", Duration::from_secs(12), || kept(&node, 0))?;
        Ok(())
    })
}
