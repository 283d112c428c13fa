//! One root follows another while traffic goes on.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, wait_until};
use culvert_e2e::streams::{Server, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::in_sandbox;

const PORT: u16 = 9000;

/// The certificates of `root.pem`, each as its text without line ends.
fn roots() -> Result<Vec<String>> {
    let text: String = std::fs::read_to_string("/run/lab/control/root.pem")?.split_whitespace().collect();
    let certificates = text.split_inclusive("-----ENDCERTIFICATE-----");
    Ok(certificates.map(str::to_owned).collect())
}

#[test]
fn a_root_follows_another_and_no_connection_notices() {
    in_sandbox!(Duration::from_secs(240), || {
        let pods = [("client", "node1"), ("server", "node2")];
        let mut mesh = Mesh::without_culvert(&fixture::manifests(&pods)?)?;
        mesh.start_culvert_with(&["--leaf-life", "10"], &["--svid-life", "10s"])?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let mut held = connect(&client, to)?;
        ping(&mut held, b"before")?;

        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted, netns) = (Arc::clone(&stop), Arc::clone(&calls), client.clone());
        let caller = std::thread::spawn(move || -> Result<()> {
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                ping(&mut connect(&netns, to)?, &number.to_le_bytes()).with_context(|| format!("call {number}"))?;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });

        let before = roots()?;
        ensure!(before.len() == 1, "{} roots to begin with", before.len());
        mesh.control_tool(&["rotate-root", "--hold", "15", "--retire", "25"])?;
        ensure!(mesh.control_tool(&["rotate-root"]).is_err(), "two rotations at a time");
        let patience = Duration::from_secs(60);
        let (mut held_up, mut steps) = (held, Vec::new());
        for (what, count, first) in
            [("announced", 2, &before[0]), ("in use", 2, &String::new()), ("done", 1, &String::new())]
        {
            let took = wait_until(what, patience, || {
                ping(&mut held_up, b"still there").with_context(|| format!("held until {what}"))?;
                std::thread::sleep(Duration::from_millis(50));
                let now = roots()?;
                Ok(now.len() == count && (now[0] == before[0]) == (first == &before[0]))
            })?;
            steps.push((what, took));
        }
        let shown = mesh.control_status()?["roots"].clone();
        ensure!(shown == 1, "{shown} roots are known to the control plane");
        // Two lives of an SVID without the old root: everything of it would have been refused by now.
        for _ in 0..100 {
            ping(&mut held_up, b"still there").context("held after the old root has gone")?;
            std::thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
        caller.join().unwrap()?;
        println!("{} calls; {steps:?}", calls.load(Ordering::Relaxed));
        Ok(())
    })
}
