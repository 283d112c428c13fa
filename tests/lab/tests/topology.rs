//! The lab itself: does it join what it should, and does it leave nothing behind?

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use culvert_lab::anyhow::{Result, ensure};
use culvert_lab::{Lab, Netns, Pod, PodOptions, PodStyle, Process, in_sandbox, sandbox};

/// Sends `text` from `client` to `server` over the server's `address` and returns the peer address the server saw.
fn talk(client: &Pod, server: &Netns, address: IpAddr, text: &[u8]) -> Result<IpAddr> {
    let listener = server.enter(|| Ok(TcpListener::bind(SocketAddr::new(address, 0))?))?;
    let target = listener.local_addr()?;
    let mut stream = client.netns().enter(|| Ok(TcpStream::connect_timeout(&target, Duration::from_secs(2))?))?;
    stream.write_all(text)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let (mut accepted, peer) = listener.accept()?;
    let mut received = Vec::new();
    accepted.read_to_end(&mut received)?;
    ensure!(received == text, "received {received:?}");
    Ok(peer.ip())
}

#[test]
fn pods_reach_each_other_in_both_families_and_styles_and_the_link_shows_it() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let bridged = PodOptions { style: PodStyle::Bridge, ..PodOptions::default() };
        let near = [lab.node(1).pod("a", &PodOptions::default())?, lab.node(1).pod("b", &bridged)?];
        let far = [lab.node(2).pod("c", &PodOptions::default())?, lab.node(2).pod("d", &bridged)?];
        for client in &near {
            for server in near.iter().chain(&far).filter(|pod| pod.name() != client.name()) {
                for (own, other) in client.ips().into_iter().zip(server.ips()) {
                    let capture = lab.capture_link()?;
                    let seen_as = talk(client, server.netns(), other, b"a text to look for")?;
                    ensure!(seen_as == own, "{other} saw {seen_as} instead of {own}");
                    let seen = capture.stop()?;
                    let crossed = server.node().name() != client.node().name();
                    let expected = if crossed { 2 } else { 0 };
                    let count = seen.count(b"a text to look for");
                    ensure!(count == expected, "{} to {}: seen {count} times", client.name(), server.name());
                }
            }
        }
        Ok(())
    })
}

#[test]
fn the_control_planes_address_is_reached_from_nodes_and_pods_and_a_node_reaches_its_pods() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(2).pod("a", &PodOptions::default())?;
        for address in [IpAddr::V4(culvert_lab::topology::FABRIC_IP4), IpAddr::V6(culvert_lab::topology::FABRIC_IP6)] {
            talk(&pod, &Netns::own(), address, b"x")?;
        }
        for address in pod.ips() {
            let listener = pod.netns().enter(|| Ok(TcpListener::bind(SocketAddr::new(address, 80))?))?;
            lab.node(2)
                .netns()
                .enter(|| Ok(TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2))?))?;
        }
        Ok(())
    })
}

#[test]
fn a_pod_without_ipv6_has_none_and_a_deleted_pod_is_gone() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("a", &PodOptions { ipv6: false, ..PodOptions::default() })?;
        ensure!(pod.netns().ip("-6 addr")?.trim().is_empty());
        ensure!(pod.host_ifindex()? > 1 && pod.mac()?.len() == 17);
        pod.delete()?;
        ensure!(lab.node(1).netns().ip("-brief link")?.lines().count() == 2, "veth still there");
        ensure!(!pod.netns().path().exists());
        Ok(())
    })
}

#[test]
fn a_process_runs_in_its_namespace_and_is_killed_by_its_own_id() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("a", &PodOptions::default())?;
        let mut process = Process::start(pod.netns(), "addresses", "sh", &["-c", "ip -4 -brief addr; exec sleep 60"])?;
        process.wait_for_log("10.244.1.2/32", Duration::from_secs(5))?;
        ensure!(std::fs::read_to_string(format!("/proc/{}/comm", process.pid()))?.trim() == "sleep");
        ensure!(process.open_files()? >= 3 && process.resident_kib()? > 0);
        process.kill9()?;
        Ok(())
    })
}

#[test]
fn a_sysctl_of_a_namespace_is_not_the_machines() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        ensure!(lab.node(1).netns().read_sysctl("net.ipv4.ip_forward")? == "1");
        ensure!(Netns::own().read_sysctl("net.ipv4.ip_forward")? == "0");
        ensure!(lab.node(1).netns().sysctl("kernel.hostname", "x").is_err());
        Ok(())
    })
}

/// Fails when told to, for the test below.
#[test]
fn a_body_that_fails_when_told_to() {
    in_sandbox!(|| {
        ensure!(std::env::var_os("CULVERT_LAB_FAIL").is_none(), "told to fail");
        Ok(())
    })
}

#[test]
fn a_failing_body_fails_the_test_outside_with_its_own_words() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_body_that_fails_when_told_to", "--nocapture"])
        .env("CULVERT_LAB_FAIL", "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let (why, view) = (text.find("told to fail"), text.find("operator's view"));
    assert!(why.is_some() && why < view, "{text}");
}

#[test]
#[should_panic(expected = "was not run")]
fn a_body_that_did_not_run_is_no_success() {
    sandbox::run("topology::no_test_has_this_name::here", None, || Ok(()));
}
