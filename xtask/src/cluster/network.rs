//! The link between the machines, and each machine's network namespace.
//!
//! ```text
//!  control 172.30.0.10        node1 172.30.0.11 -- pods 10.244.1.0/24     node2 172.30.0.12 -- pods 10.244.2.0/24
//!        |                          |                                           |
//!        +--------------- bridge `fabric` 172.30.0.1 in the sandbox ------------+
//! ```
//!
//! With IPv6 beside it: `fd00:172:30::1` for 172.30.0.1 and so on, `fd00:10:244:N::/64` for the pods of node N.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cluster::place::{CONTROL, Machine, NODES};
use crate::shell;

const FABRIC: &str = "fabric";

/// In the sandbox: the bridge.
pub(crate) fn fabric() -> Result<()> {
    batch(&[], "link set lo up\nlink add fabric type bridge forward_delay 0 mcast_snooping 0\nlink set fabric up\n")?;
    batch(&[], "addr add 172.30.0.1/24 dev fabric\naddr add fd00:172:30::1/64 dev fabric nodad\n")?;
    for node in NODES {
        batch(&[], &route_to(node))?;
    }
    Ok(())
}

/// In the sandbox: a fresh network namespace for a machine, joined to the bridge. What an earlier life of the machine
/// left in its old one goes with that.
pub(crate) fn machine(machine: Machine) -> Result<()> {
    let (name, port) = (machine.name, machine.port());
    let _ = shell::output(Command::new("ip").args(["link", "del", &port]));
    let _ = shell::output(Command::new("ip").args(["netns", "del", name]));
    shell::output(Command::new("ip").args(["netns", "add", name]))?;
    batch(
        &[],
        &format!("link add {port} type veth peer name eth0 netns {name}\nlink set {port} master {FABRIC} up\n"),
    )?;
    let mut lines = format!(
        "link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\nroute add default via 172.30.0.1\n\
         addr add {}/64 dev eth0 nodad\nroute add default via fd00:172:30::1\n",
        machine.address(),
        machine.address_6()
    );
    for other in NODES.into_iter().filter(|other| *other != machine) {
        lines.push_str(&route_to(other));
    }
    batch(&["-n", name], &lines)?;
    if machine != CONTROL {
        let setting = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        shell::output(Command::new("nsenter").arg(format!("--net=/run/netns/{name}")).args(["sh", "-c", setting]))?;
    }
    Ok(())
}

/// To the pods of a node, for `ip -batch`.
fn route_to(node: Machine) -> String {
    let (four, six) = (node.pods(), node.pods_6());
    format!("route add {four} via {}\nroute add {six} via {}\n", node.address(), node.address_6())
}

fn batch(arguments: &[&str], lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments).args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start `ip`")?;
    child.stdin.take().context("a pipe")?.write_all(lines.as_bytes())?;
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("`ip` refused: {}\ninput was:\n{lines}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
