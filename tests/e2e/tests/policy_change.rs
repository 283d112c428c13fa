//! Live connections are judged again when a policy changes.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use culvert_e2e::access::Access;
use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, RunningPod, wait_until};
use culvert_e2e::streams::{Server, allow_many_files, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, in_sandbox};

const PORT: u16 = 9000;
const KEPT: usize = 497;
const ENDED: usize = 3;

fn open(netns: &Netns, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|number| {
            let mut stream = connect(netns, to).with_context(|| format!("connection {number}"))?;
            ping(&mut stream, &number.to_le_bytes())?;
            Ok(stream)
        })
        .collect()
}

#[test]
fn of_five_hundred_connections_the_three_that_are_denied_end_within_a_second_and_no_other_loses_a_byte() {
    in_sandbox!(|| {
        allow_many_files()?;
        let pods = [("kept", "node1"), ("denied", "node1"), ("server", "node2")];
        let mesh = Mesh::start(&fixture::manifests(&pods)?)?;
        let server = mesh.pod("server.app")?;
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        let to = SocketAddr::new(server.pod.ip4().into(), PORT);
        let mut kept = open(mesh.pod("kept.app")?.pod.netns(), to, KEPT)?;
        let denied = open(mesh.pod("denied.app")?.pod.netns(), to, ENDED)?;
        let mut log = mesh.follow("node2")?;

        // The others talk all the while.
        let stop = Arc::new(AtomicBool::new(false));
        let talking = Arc::clone(&stop);
        let talk = std::thread::spawn(move || -> Result<(usize, Vec<TcpStream>)> {
            let mut rounds = 0;
            while !talking.load(Ordering::Relaxed) {
                for (number, stream) in kept.iter_mut().enumerate() {
                    let text = format!("round {rounds} of connection {number}");
                    ping(stream, text.as_bytes()).with_context(|| text.clone())?;
                }
                rounds += 1;
            }
            Ok((rounds, kept))
        });

        let changed = Instant::now();
        fixture::deny(&mesh.manifests, "denied")?;
        for mut stream in denied {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            // A reset, not a clean end that a client could take for a complete answer.
            let end = stream.read(&mut [0; 16]);
            ensure!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        }
        let took = changed.elapsed();
        println!("{ENDED} connections ended {took:?} after the file changed");
        ensure!(took < Duration::from_secs(1), "they ended only after {took:?}");

        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let (rounds, kept) = talk.join().unwrap()?;
        ensure!(rounds >= 2 && kept.len() == KEPT, "{rounds} rounds");
        let ended = log.news()?;
        let revoked = ended.iter().filter(|access| is_revoked(access)).count();
        ensure!(revoked == ENDED && ended.len() == ENDED, "{revoked} of {} records are policy_change", ended.len());
        Ok(())
    })
}

/// A Service of the pods with the label `app: server`, and a policy for it that asks for what nobody sees here.
fn deny_at_service(mesh: &Mesh, service: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: app}}\n\
         spec: {{clusterIP: 10.96.0.9, selector: {{app: server}}, ports: [{{port: {PORT}}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: no-get, namespace: app}}\n\
         spec:\n  targetRefs: [{{kind: Service, group: \"\", name: web}}]\n  action: DENY\n  \
         rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]\n"
    );
    let beside = mesh.manifests.join(".targets.yaml.new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, mesh.manifests.join("targets.yaml"))?)
}

#[test]
fn a_policy_for_a_service_holds_at_the_pods_behind_it_and_at_no_other() {
    in_sandbox!(|| {
        let pods = [("client", "node1"), ("server", "node2"), ("beside", "node2")];
        let mesh = Mesh::start(&fixture::manifests(&pods)?)?;
        let client = mesh.pod("client.app")?.pod.netns();
        let (server, beside) = (mesh.pod("server.app")?, mesh.pod("beside.app")?);
        let _servers = [Server::start(server.pod.netns(), PORT, echo)?, Server::start(beside.pod.netns(), PORT, echo)?];
        let at = |pod: &RunningPod| SocketAddr::new(pod.pod.ip4().into(), PORT);
        let mut open: Vec<TcpStream> =
            open(client, at(server), 1)?.into_iter().chain(open(client, at(beside), 1)?).collect();
        deny_at_service(&mesh, "web")?;
        let end = open[0].read(&mut [0; 16]);
        ensure!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        ensure!(connect(client, at(server)).and_then(|mut stream| ping(&mut stream, b"new")).is_err(), "it is refused");
        ping(&mut open[1], b"the other pod's")?;
        ping(&mut connect(client, at(beside))?, b"the other pod's")?;
        // The pod is behind no service of that name any more.
        deny_at_service(&mesh, "other")?;
        let again = || Ok(connect(client, at(server)).and_then(|mut stream| ping(&mut stream, b"again")).is_ok());
        wait_until("the policy concerns nobody", Duration::from_secs(5), again)?;
        Ok(())
    })
}

fn is_revoked(access: &Access) -> bool {
    access.outcome() == "revoked" && access.field("reason") == Some("policy_change")
}
