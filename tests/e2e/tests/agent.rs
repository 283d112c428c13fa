//! What the agent does with pods and connections, on the real programs.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_e2e::access::Access;
use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, Programs, wait_until};
use culvert_e2e::streams::{Server, connect, connect_saying, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, in_sandbox};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 9000;
const PODS: [(&str, &str); 3] = [("client", "node1"), ("server", "node2"), ("spare", "node2")];

/// A service of `app` at this address, port 80 to 9000, for pods with the label `app` of this value.
fn service(mesh: &Mesh, name: &str, address: &str, selector: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: app}}\n\
         spec: {{clusterIP: {address}, selector: {{{selector}}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
    );
    let beside = mesh.manifests.join(format!(".{name}.new"));
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, mesh.manifests.join(format!("service-{name}.yaml")))?;
    wait_until("the agent knows the service", Duration::from_secs(5), || {
        let why = why(mesh, "node1", "app/client", address, 80)?;
        Ok(why["reason"] != "unknown_destination" && why["reason"] != "no_endpoint")
    })?;
    Ok(())
}

fn why(mesh: &Mesh, node: &str, source: &str, destination: &str, port: u16) -> Result<Value> {
    let port = port.to_string();
    Ok(serde_json::from_str(&mesh.operator(node, &["why", source, destination, &port, "--json"])?)?)
}

fn status(mesh: &Mesh, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&mesh.operator(node, &["status", "--json"])?)?)
}

/// What a client without patience sees that says `hello`, or nothing: the reply, or how it ended.
fn talk(netns: &Netns, to: SocketAddr, hello: &[u8]) -> Result<(std::io::Result<Vec<u8>>, Duration)> {
    netns.enter(|| {
        let begun = Instant::now();
        let talk = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(8))?;
            stream.set_read_timeout(Some(Duration::from_secs(8)))?;
            stream.write_all(hello)?;
            let mut back = vec![0; 5];
            stream.read_exact(&mut back)?;
            Ok(back)
        };
        Ok((talk(), begun.elapsed()))
    })
}

/// A refusal must reach the client as a reset: not as silence, and not as an end that looks complete.
fn expect_reset(netns: &Netns, to: SocketAddr, within: Duration) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    // Bytes that nobody has read make a reset of any close; without them only the agent can.
    for hello in [&b"hello"[..], b""] {
        let (seen, took) = talk(netns, to, hello)?;
        let reset = seen.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(reset, "{to}: {seen:?} after {took:?}");
        ensure!(took < within, "{to}: reset only after {took:?}");
        longest = longest.max(took);
    }
    Ok(longest)
}

#[test]
fn what_cannot_be_reached_is_reset_with_its_reason() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let server = mesh.pod("server.app")?.pod.ip4();
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let mut log = mesh.follow("node1")?;
        let mut far = mesh.follow("node2")?;
        let mut demand = |reason: &str| {
            log.demand(Duration::from_secs(2), reason, |access| access.field("reason") == Some(reason)).map(|_| ())
        };
        let quick = Duration::from_secs(1);

        // The application refuses; the agent of the other node says 503.
        expect_reset(&client, SocketAddr::from((server, 1)), quick)?;
        demand("peer_unavailable")?;
        // The mesh's own ports are nobody's application.
        expect_reset(&client, SocketAddr::from((server, 15008)), quick)?;
        demand("peer_unavailable")?;
        far.demand(quick, "the refusal", |access| access.field("reason") == Some("forbidden_port"))?;
        // Inside the cluster, and nobody is known there: held, then reset, and nothing crosses in the clear.
        let capture = mesh.lab.capture_link()?;
        let nobody = SocketAddr::from((Ipv4Addr::new(10, 244, 2, 77), PORT));
        let took = expect_reset(&client, nobody, Duration::from_secs(7))?;
        ensure!(took > Duration::from_secs(4), "it was not held: {took:?}");
        demand("unknown_destination")?;
        ensure!(!capture.stop()?.contains(b"hello"), "it went to an unknown address in the clear");
        // The agent's own listeners, found by their ports, are no way round.
        for port in own_listeners(&client)? {
            expect_reset(&client, SocketAddr::from(([127, 0, 0, 1], port)), quick)?;
            demand("own_listener")?;
        }
        // And the same client still gets through where it may.
        let mut stream = connect(&client, SocketAddr::from((server, PORT)))?;
        ping(&mut stream, b"still here")?;
        Ok(())
    })
}

/// Ports on the pod's loopback that none of its own processes has opened.
fn own_listeners(netns: &Netns) -> Result<BTreeSet<u16>> {
    let text = netns.run("ss", &["-Hltn", "src", "127.0.0.1"])?;
    let ports = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok());
    let ports: BTreeSet<u16> = ports.collect();
    ensure!(ports.len() >= 2, "the agent should have two listeners here:\n{text}");
    Ok(ports)
}

#[test]
fn a_service_answers_through_its_good_endpoints_and_a_pod_reaches_itself_through_it() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&PODS)?;
        let pods = std::fs::read_to_string(manifests.join("pods.yaml"))?;
        std::fs::write(manifests.join("pods.yaml"), pods.replace("labels: {app: ", "labels: {tier: all, app: "))?;
        let mesh = Mesh::start(&manifests)?;
        service(&mesh, "both", "10.96.0.10", "tier: all")?;
        service(&mesh, "own", "10.96.0.11", "app: client")?;
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let own = Server::start(&client, PORT, echo)?;
        // `both` selects every pod of the namespace: the client itself, the server, and `spare` without a listener.
        for number in 0..30 {
            let mut stream = connect(&client, SocketAddr::from(([10, 96, 0, 10], 80)))?;
            ping(&mut stream, b"hello").with_context(|| format!("call {number}"))?;
        }
        let mut log = mesh.follow("node1")?;
        let mut stream = connect(&client, SocketAddr::from(([10, 96, 0, 11], 80)))?;
        ping(&mut stream, b"to myself")?;
        drop(stream);
        log.demand(Duration::from_secs(2), "the hairpin", |access| access.field("transport") == Some("hairpin"))?;
        drop(own);
        Ok(())
    })
}

#[test]
fn words_that_came_with_the_connection_arrive_once_whichever_endpoint_takes_them() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&[PODS[0], PODS[1], PODS[2], ("other", "node2")])?;
        let mut pods = std::fs::read_to_string(manifests.join("pods.yaml"))?;
        // Each service has one endpoint that answers, and one that refuses what it was told already.
        for (pod, service) in [("server", "far"), ("spare", "far"), ("client", "near"), ("other", "near")] {
            pods = pods.replace(&format!("labels: {{app: {pod}}}"), &format!("labels: {{of: {service}, app: {pod}}}"));
        }
        std::fs::write(manifests.join("pods.yaml"), pods)?;
        let mut mesh = Mesh::start(&manifests)?;
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let _own = Server::start(&client, PORT, echo)?;
        for (name, address, transport) in [("far", "10.96.0.12", "hbone"), ("near", "10.96.0.13", "hairpin")] {
            service(&mesh, name, address, &format!("of: {name}"))?;
            let (mut log, mut refusals) = (mesh.follow("node1")?, mesh.follow("node2")?);
            // Who refuses is the first choice of every other call, until it has refused one.
            for number in 0..20 {
                let words = format!("hello {number}");
                let to = SocketAddr::new(address.parse()?, 80);
                let agent = &mut mesh.agents.get_mut("node1").context("no agent")?.process;
                connect_saying(&client, to, words.as_bytes(), agent)
                    .and_then(|mut stream| ping(&mut stream, b", again"))
                    .with_context(|| format!("{name}, call {number}"))?;
                let ended = log.demand(Duration::from_secs(2), "an end", |access| access.field("outcome").is_some())?;
                ensure!(ended.field("transport") == Some(transport), "{ended:?}");
                let sent = words.len() + ", again".len();
                ensure!(ended.number("bytes_sent") == Some(sent as u64), "{name}, call {number}: {ended:?}");
            }
            let refused = |access: &Access| access.field("reason") == Some("refused_by_pod");
            refusals.demand(Duration::from_secs(2), "a refusal", refused)?;
        }
        Ok(())
    })
}

/// What an application says may be an order. An agent that has it and does not answer may have passed it on.
#[test]
fn words_that_may_have_arrived_go_to_no_other_endpoint() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&PODS)?;
        let mut pods = std::fs::read_to_string(manifests.join("pods.yaml"))?;
        for pod in ["server", "client"] {
            pods = pods.replace(&format!("labels: {{app: {pod}}}"), &format!("labels: {{of: both, app: {pod}}}"));
        }
        std::fs::write(manifests.join("pods.yaml"), pods)?;
        // One worker: each has tunnels of its own.
        let mut mesh = Mesh::without_culvert(&manifests)?;
        mesh.start_culvert_with(&[], &["--workers", "1"])?;
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let said = Arc::new(Mutex::new(Vec::<String>::new()));
        let heard = Arc::clone(&said);
        let _own = Server::start(&client, PORT, move |mut stream| {
            let mut words = [0; 64];
            let length = stream.read(&mut words)?;
            heard.lock().unwrap().push(String::from_utf8_lossy(&words[..length]).into_owned());
            stream.write_all(&words[..length])
        })?;
        service(&mesh, "both", "10.96.0.14", "of: both")?;
        let to = SocketAddr::from(([10, 96, 0, 14], 80));
        let mut log = mesh.follow("node1")?;
        // The peer was heard a moment ago, so that the words go with the request.
        let mut node1 = mesh.agents.remove("node1").context("no agent")?.process;
        for _ in 0..8 {
            drop(connect_saying(&client, to, b"hello", &mut node1)?);
        }
        let mut node2 = mesh.agents.remove("node2").context("no agent")?.process;
        node2.signal(Signal::SIGSTOP)?;
        let mut orders = (0..30).map(|number| format!("order {number}"));
        let lost = orders.find(|order| connect_saying(&client, to, order.as_bytes(), &mut node1).is_err());
        let lost = lost.context("every call went to itself")?;
        let far = |access: &Access| access.field("transport") == Some("hbone") && access.outcome() == "failed";
        let record = log.demand(Duration::from_secs(2), "the loss", far)?;
        let reason = record.field("reason");
        ensure!(matches!(reason, Some("answer_timeout" | "keepalive_timeout")), "{record:?}");
        ensure!(!said.lock().unwrap().contains(&lost), "{lost} was said to the other endpoint as well");
        node2.signal(Signal::SIGCONT)
    })
}

#[test]
fn enrolment_believes_the_record_and_nothing_else() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let programs = Programs::find()?;
        let agent = programs.path("culvert-agent").display().to_string();
        let socket = mesh.agents["node1"].run_dir.join("enrol.sock").display().to_string();
        let ask = |words: &[&str]| -> Result<Value> {
            let mut command = mesh.lab.node(1).netns().command(&agent);
            let output = command.args(words).args(["--socket", &socket]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            serde_json::from_str(&text).with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        };
        let (client, server, stranger) =
            (mesh.pod("client.app")?, mesh.pod("server.app")?, mesh.pod("stranger.outside")?);
        let netns = |netns: &Netns| netns.path().display().to_string();
        let own = netns(client.pod.netns());
        let again = ask(&["enrol", "--uid", &client.spec.uid, "--netns", &own])?;
        ensure!(again["ok"] == true && again["identity"] == "spiffe://cluster.local/ns/app/sa/client", "{again}");
        let node = netns(mesh.lab.node(1).netns());
        let outside = netns(stranger.pod.netns());
        for (uid, netns, reason) in [
            ("00000000-0000-0000-0000-000000000000", &outside, "no_record"),
            (server.spec.uid.as_str(), &own, "other_node"),
            (stranger.spec.uid.as_str(), &outside, "namespace_not_enrolled"),
            (client.spec.uid.as_str(), &node, "host_network"),
            (client.spec.uid.as_str(), &outside, "uid_taken"),
        ] {
            let answer = ask(&["enrol", "--uid", uid, "--netns", netns])?;
            ensure!(answer["ok"] == false && answer["reason"] == reason, "expected {reason}: {answer}");
        }
        // Whoever is not root is refused even where the files would let him in.
        let run_dir = &mesh.agents["node1"].run_dir;
        std::fs::set_permissions(run_dir, std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "--", &agent, "withdraw", "--socket", &socket];
        let mut command = mesh.lab.node(1).netns().command("setpriv");
        let output = command.args(words).args(["--uid", &client.spec.uid]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!output.status.success() && text.contains("\"not_root\""), "{text}{output:?}");
        std::fs::set_permissions(run_dir, std::fs::Permissions::from_mode(0o700))?;

        let pods = status(&mesh, "node1")?["pods"].clone();
        ensure!(pods.as_array().is_some_and(|pods| pods.len() == 1 && pods[0]["captured"] == true), "{pods}");
        // Withdrawn, the pod's traffic is its own again and its key is gone; twice is as good as once.
        for _ in 0..2 {
            let gone = ask(&["withdraw", "--uid", &client.spec.uid])?;
            ensure!(gone["ok"] == true, "{gone}");
        }
        let after = status(&mesh, "node1")?;
        ensure!(after["pods"] == Value::Array(vec![]) && after["identities"] == Value::Array(vec![]), "{after}");
        let _server = Server::start(stranger.pod.netns(), PORT, echo)?;
        let mut stream = connect(client.pod.netns(), SocketAddr::from((stranger.pod.ip4(), PORT)))?;
        ping(&mut stream, b"free")
    })
}

#[test]
fn an_agent_that_stops_resets_what_is_open_and_leaves_the_pods_closed() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let outside = mesh.pod("stranger.outside")?;
        let _outside = Server::start(outside.pod.netns(), PORT, echo)?;
        let free = SocketAddr::from((outside.pod.ip4(), PORT));
        let mut stream = connect(&client, to)?;
        ping(&mut stream, b"hello")?;
        let mut log = mesh.follow("node1")?;
        let agent = mesh.agents.get_mut("node1").unwrap();
        agent.process.terminate(Duration::from_secs(15))?;
        let end = stream.read(&mut [0; 8]);
        ensure!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        log.demand(Duration::from_secs(1), "the drained connection", |a| a.field("reason") == Some("draining"))?;
        for to in [to, free] {
            let (seen, _) = talk(&client, to, b"hello")?;
            ensure!(seen.is_err(), "{to}: something left a pod whose agent is gone: {seen:?}");
        }
        let node = mesh.lab.node(1).clone();
        mesh.start_agent(&node)?;
        let mut stream = connect(&client, to)?;
        ping(&mut stream, b"back")
    })
}

#[test]
fn the_process_keeps_few_capabilities_and_cannot_be_dumped() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let pid = mesh.agents["node1"].process.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // NET_ADMIN 12, NET_RAW 13, SYS_PTRACE 19, SYS_ADMIN 21, PERFMON 38, BPF 39: docs/threat-model.md.
        let kept = [12, 13, 19, 21, 38, 39].iter().fold(0_u64, |set, bit| set | 1 << bit);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let held = u64::from_str_radix(field(set).context("no capabilities")?, 16)?;
            ensure!(held & !kept == 0, "{set} {held:#x} is more than {kept:#x}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            ensure!(field(set) == Some("0000000000000000"), "{set} {:?}", field(set));
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).context("no limits")?;
        ensure!(cores.split_whitespace().filter(|word| *word == "0").count() == 2, "{cores}");
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = std::fs::read_to_string(thread?.path().join("status"))?;
            let line = status.lines().find(|line| line.starts_with("CapEff:")).context("no capabilities")?;
            let held = u64::from_str_radix(line.trim_start_matches("CapEff:").trim(), 16)?;
            ensure!(held & !kept == 0, "a thread has {held:#x}");
        }
        Ok(())
    })
}

#[test]
fn more_connections_than_places_wait_their_turn() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        // The agent of the clients again, with three places.
        mesh.agents.get_mut("node1").unwrap().process.kill9()?;
        let node = mesh.lab.node(1).clone();
        mesh.start_agent_with(&node, &["--max-connections", "3"])?;
        let mut streams: Vec<TcpStream> = (0..5).map(|_| connect(&client, to)).collect::<Result<_>>()?;
        for stream in &mut streams[..3] {
            ping(stream, b"hello")?;
        }
        streams[4].set_read_timeout(Some(Duration::from_millis(700)))?;
        ensure!(ping(&mut streams[4], b"hello").is_err(), "a fourth connection was carried");
        streams.drain(..3);
        streams[0].set_read_timeout(Some(Duration::from_secs(5)))?;
        ping(&mut streams[0], b"my turn")
    })
}

/// Nothing was read or written on such a connection, so that only the agent can make a reset of its end.
#[test]
fn who_gets_no_place_in_time_is_reset() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        mesh.agents.get_mut("node1").unwrap().process.kill9()?;
        let node = mesh.lab.node(1).clone();
        mesh.start_agent_with(&node, &["--max-connections", "2"])?;
        let mut log = mesh.follow("node1")?;
        let mut held = [connect(&client, to)?, connect(&client, to)?];
        for stream in &mut held {
            ping(stream, b"hello")?;
        }
        let mut late = connect(&client, to)?;
        let begun = Instant::now();
        let end = late.read(&mut [0; 8]);
        ensure!(end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        ensure!(begun.elapsed() > Duration::from_secs(8), "it did not wait for a place: {:?}", begun.elapsed());
        log.demand(Duration::from_secs(2), "the refusal", |access| access.field("reason") == Some("no_slot"))?;
        Ok(())
    })
}

#[test]
fn a_connection_outlives_five_rotations_and_ends_when_its_svid_cannot_be_renewed() {
    in_sandbox!(Duration::from_secs(240), || {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        for number in [1, 2] {
            let node = mesh.lab.node(number).clone();
            mesh.agents.get_mut(node.name()).unwrap().process.kill9()?;
            mesh.start_agent_with(&node, &["--svid-life", "10s"])?;
        }
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let mut stream = connect(&client, to)?;
        let mut serials = BTreeSet::new();
        let begun = Instant::now();
        while serials.len() < 6 {
            ensure!(begun.elapsed() < Duration::from_secs(120), "only {serials:?}");
            ping(&mut stream, b"still there").with_context(|| format!("after {} rotations", serials.len()))?;
            let identities = status(&mesh, "node1")?["identities"].clone();
            serials.extend(identities[0]["serial"].as_str().map(str::to_owned));
            std::thread::sleep(Duration::from_millis(200));
        }
        // Without a control plane nothing is renewed: no new connection, and no open one, outlives the SVID.
        let mut log = mesh.follow("node1")?;
        mesh.control.take().unwrap().kill9()?;
        let ended = wait_until("the connection ends with its SVID", Duration::from_secs(40), || {
            std::thread::sleep(Duration::from_millis(100));
            Ok(ping(&mut stream, b"still there").is_err())
        })?;
        println!("{} rotations in {:?}; without renewal it ended after {ended:?}", serials.len() - 1, begun.elapsed());
        log.demand(Duration::from_secs(2), "the end", |access| access.field("reason") == Some("svid_expired"))?;
        // A certificate counts to the end of its last second (RFC 5280 section 4.1.2.5), open connections to its beginning.
        let none = || Ok(expect_reset(&client, to, Duration::from_secs(9)).is_ok());
        wait_until("no new connection either", Duration::from_secs(2), none).map(|_| ())
    })
}

#[test]
fn a_killed_agent_leaves_no_clean_end() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let (client, server) = (mesh.pod("client.app")?, mesh.pod("server.app")?);
        let outside = mesh.pod("stranger.outside")?;
        let (to, free) = (SocketAddr::from((server.pod.ip4(), PORT)), SocketAddr::from((outside.pod.ip4(), PORT)));
        let (told, tell) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let handle = |ends: Arc<Mutex<Vec<String>>>| {
            move |mut stream: TcpStream| {
                stream.write_all(b"hello")?;
                let end = stream.read(&mut [0; 8]).map_err(|error| error.kind());
                ends.lock().unwrap().push(format!("{end:?}"));
                Ok(())
            }
        };
        let _server = Server::start(server.pod.netns(), PORT, handle(told.clone()))?;
        let _outside = Server::start(outside.pod.netns(), PORT, handle(tell.clone()))?;
        let mut streams = [connect(client.pod.netns(), to)?, connect(client.pod.netns(), free)?];
        for stream in &mut streams {
            stream.read_exact(&mut [0; 5])?;
        }
        for node in ["node1", "node2"] {
            mesh.agents.get_mut(node).unwrap().process.kill9()?;
        }
        for stream in &mut streams {
            let end = stream.read(&mut [0; 8]);
            ensure!(end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        }
        for ends in [&told, &tell] {
            wait_until("the server learns of it", Duration::from_secs(5), || Ok(!ends.lock().unwrap().is_empty()))?;
            let ends = ends.lock().unwrap();
            ensure!(ends[..] == ["Err(ConnectionReset)"], "the server saw {ends:?}");
        }
        Ok(())
    })
}
