//! TCP connections that were open before the pod was enrolled.
//!
//! Once rule 100 is there, their segments are delivered to `lo` and they die slowly. So they are
//! either ended at once, or each gets a routing rule in front of rule 100 and an entry that the
//! guard lets through until a deadline.

use std::collections::HashSet;
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
use crate::sys::Map;

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
///
/// Of a pod that was `captured` before, what is open has gone through an agent, and must not go on
/// without one: none is kept.
pub(crate) fn settle(node: &Node, subject: &Subject, captured: bool) -> io::Result<()> {
    let (at_most, at_longest) = match subject.settings.open_flows {
        OpenFlows::Keep { at_most, at_longest } if !captured => (at_most, at_longest),
        OpenFlows::Keep { .. } | OpenFlows::Cut => (0, Duration::ZERO),
    };
    if at_most == 0 {
        expire(node, &subject.netns, subject.host.ifindex, true)?;
    }
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

/// How many of the kept connections are still open.
pub(crate) fn count(node: &Node, subject: &Subject) -> io::Result<usize> {
    let pod = subject.host.ifindex;
    let keys = node.shared.maps.pre_enrolment.keys::<FlowKey>()?;
    let kept: HashSet<FlowKey> = keys.into_iter().filter(|key| key.pod == pod).collect();
    if kept.is_empty() {
        return Ok(0);
    }
    let open = open_connections(node, subject)?;
    Ok(open.iter().filter(|socket| kept.contains(&flow(subject, socket.local, socket.remote))).count())
}

/// Whether rule 100 is there: an agent has captured this pod before.
pub(crate) fn is_captured(node: &Node, netns: &Namespace) -> io::Result<bool> {
    netns.enter(&node.shared.home, || {
        let netlink = Netlink::open()?;
        Ok(routing::captures(&netlink, Family::V4)? || routing::captures(&netlink, Family::V6)?)
    })
}

/// Ends the kept connections of a pod: it has become strict.
pub(crate) fn end(node: &Node, subject: &Subject) -> io::Result<()> {
    let pod = subject.host.ifindex;
    let keys = node.shared.maps.pre_enrolment.keys::<FlowKey>()?;
    let kept: HashSet<FlowKey> = keys.into_iter().filter(|key| key.pod == pod).collect();
    if kept.is_empty() {
        return Ok(());
    }
    // Rules and entries go last, so that the RST finds its way out.
    destroy(node, subject, |socket| kept.contains(&flow(subject, socket.local, socket.remote)))?;
    expire(node, &subject.netns, pod, true)
}

fn destroy(node: &Node, subject: &Subject, is_meant: impl Fn(&TcpSocket) -> bool) -> io::Result<()> {
    subject.netns.enter(&node.shared.home, || {
        let diag = Diag::open()?;
        diag.connections()?.iter().filter(|socket| is_meant(socket)).try_for_each(|socket| diag.destroy(socket))
    })
}

/// Ends what an earlier agent had open towards the app, and forgets its tuples: nobody else would, and
/// until then they keep clients from the wire out.
pub(crate) fn clear_legs(node: &Node, subject: &Subject) -> io::Result<()> {
    let pod = subject.host.ifindex;
    let maps = &node.shared.maps;
    let of_pod = |map: &Map| -> io::Result<HashSet<FlowKey>> {
        Ok(map.keys::<FlowKey>()?.into_iter().filter(|key| key.pod == pod).collect())
    };
    let legs = of_pod(&maps.app_legs)?;
    if !legs.is_empty() {
        destroy(node, subject, |socket| {
            let (app, agent) = (flow(subject, socket.local, socket.remote), flow(subject, socket.remote, socket.local));
            legs.contains(&app) || legs.contains(&agent)
        })?;
        legs.iter().try_for_each(|key| maps.app_legs.remove(key))?;
    }
    Ok(())
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
