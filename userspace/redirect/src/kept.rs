//! TCP connections that were open before the pod was enrolled.
//!
//! Once rule 100 is there, their segments are delivered to `lo` and they die slowly. So they are
//! either ended at once, or each gets a routing rule in front of rule 100 and an entry that the
//! guard lets through until a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_abi::{FlowKey, ip, words};

use crate::deviation::Family;
use crate::diag::{Diag, TcpSocket};
use crate::enrol::Subject;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::node::Node;
use crate::routing::{self, Rule};
use crate::settings::OpenFlows;

/// Connections of the pod with others. Those that the app is only opening are not among them: their
/// SYN is repeated, and then captured.
fn open_connections(node: &Node, subject: &Subject) -> io::Result<Vec<TcpSocket>> {
    let own = |ip: IpAddr| ip.is_loopback() || subject.interface.addresses.contains(&ip);
    let all = subject.netns.enter(&node.shared.home, || Diag::open()?.connections())?;
    Ok(all.into_iter().filter(|socket| !own(socket.remote.ip()) && !socket.local.ip().is_loopback()).collect())
}

fn flow(subject: &Subject, local: SocketAddr, remote: SocketAddr) -> FlowKey {
    FlowKey {
        local_ip: words(local.ip()),
        remote_ip: words(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        pod: subject.host.ifindex,
    }
}

fn family(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// With the guard closed and before rule 100 is there: gives the connections that may go on their
/// rules and entries, and ends the others. The guard lets the RST out, so that both ends know.
pub(crate) fn settle(node: &Node, subject: &Subject) -> io::Result<()> {
    let (at_most, at_longest) = match subject.settings.open_flows {
        OpenFlows::Cut => (0, Duration::ZERO),
        OpenFlows::Keep { at_most, at_longest } => (at_most, at_longest),
    };
    let deadline = now_ns()?.saturating_add(u64::try_from(at_longest.as_nanos()).unwrap_or(u64::MAX));
    let sockets = open_connections(node, subject)?;
    let (kept, cut) = sockets.split_at(at_most.min(sockets.len()));
    subject.netns.enter(&node.shared.home, || {
        let diag = Diag::open()?;
        cut.iter().try_for_each(|socket| diag.destroy(socket))?;
        let netlink = Netlink::open()?;
        kept.iter().try_for_each(|socket| {
            routing::add(&netlink, family(socket.local), &Rule::kept(socket.local, socket.remote))
        })
    })?;
    kept.iter().try_for_each(|socket| {
        node.shared.maps.pre_enrolment.set(&flow(subject, socket.local, socket.remote), &deadline)
    })
}

/// Removes rules and entries whose time is up, or all of them.
pub(crate) fn expire(node: &Node, netns: &Namespace, pod: u32, all: bool) -> io::Result<()> {
    let now = now_ns()?;
    let entries = &node.shared.maps.pre_enrolment;
    for key in entries.keys::<FlowKey>()?.into_iter().filter(|key| key.pod == pod) {
        let deadline: Option<u64> = entries.get(&key)?;
        if !all && deadline.is_some_and(|deadline| deadline > now) {
            continue;
        }
        let local = SocketAddr::new(ip(key.local_ip), key.local_port);
        let remote = SocketAddr::new(ip(key.remote_ip), key.remote_port);
        netns.enter(&node.shared.home, || {
            routing::remove(&Netlink::open()?, family(local), &Rule::kept(local, remote))
        })?;
        entries.remove(&key)?;
    }
    Ok(())
}

/// The clock of `bpf_ktime_get_ns`.
pub(crate) fn now_ns() -> io::Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let nanos = i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec());
    u64::try_from(nanos).map_err(io::Error::other)
}
