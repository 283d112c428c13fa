//! Live connections are judged again when a policy changes.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use culvert_e2e::access::Access;
use culvert_e2e::fixture;
use culvert_e2e::mesh::Mesh;
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

fn is_revoked(access: &Access) -> bool {
    access.outcome() == "revoked" && access.field("reason") == Some("policy_change")
}
