//! Compares what a pod should have with what the kernel has.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use culvert_abi::{PodConfig, pod_flags, slot};

use crate::deviation::Deviation;
use crate::diag::Diag;
use crate::enrol::{FWMARK_ACCEPT, TW_REUSE};
use crate::hook::{Attached, Mechanism, Way};
use crate::interface::{self, PodInterface};
use crate::netlink::Netlink;
use crate::node::{Enrolled, Node};
use crate::pins::PodPins;
use crate::routing::{self, Gap};
use crate::sys::{self, Map};

fn mendable(name: &'static str, detail: impl Into<String>) -> Deviation {
    Deviation { name, detail: detail.into(), repairable: true }
}

fn lasting(name: &'static str, detail: impl Into<String>) -> Deviation {
    Deviation { name, detail: detail.into(), repairable: false }
}

/// The guard of a pod whose enrolment is under way.
pub(crate) fn is_closed_guard(deviation: &Deviation) -> bool {
    deviation.name == "guard_closed"
}

/// What is reported but does not keep a pod from being enrolled: it stays closed or is mended otherwise.
pub(crate) fn is_tolerable(deviation: &Deviation) -> bool {
    matches!(deviation.name, "second_interface" | "native_xdp" | "rule_dissects" | "addresses_changed" | "mac_changed")
}

/// Everything that differs.
pub(crate) fn look(node: &Node, pins: &PodPins, pod: &Enrolled) -> io::Result<Vec<Deviation>> {
    let mut found = Vec::new();
    host_side(node, pins, pod, &mut found)?;
    policy(node, pod, &mut found)?;
    steering(pins, pod, &mut found)?;
    listeners(node, pins, pod, &mut found)?;
    let inside = pod.netns.enter(&node.shared.home, || inside(pins, pod))?;
    found.extend(inside);
    Ok(found)
}

fn host_side(node: &Node, pins: &PodPins, pod: &Enrolled, found: &mut Vec<Deviation>) -> io::Result<()> {
    let ifindex = pod.host.ifindex;
    node.at_home(|| {
        if !interface::indexes()?.contains(&ifindex) {
            found.push(mendable("host_veth_gone", format!("{} is gone", pod.host.name)));
            return Ok(());
        }
        let guard = node.mechanism.look(&pins.guard, node.guard.tag, ifindex, Way::Ingress)?;
        found.extend(attachment(guard, ["guard_missing", "guard_not_first", "guard_program"]));
        let watch = node.mechanism.look(&pins.watch, node.watch.tag, ifindex, Way::Egress)?;
        found.extend(attachment(watch, ["watch_missing", "watch_not_first", "watch_program"]));
        match interface::read_host(&pod.interface, &pod.netns)? {
            Ok(host) if host.native_xdp => found.push(lasting(
                "native_xdp",
                format!("a native XDP program on {} hides senders from the guard: it drops the agent's TCP", host.name),
            )),
            Ok(_) => {}
            Err(text) => found.push(mendable("host_veth_gone", text)),
        }
        Ok(())
    })
}

fn attachment(state: Attached, [missing, behind, other]: [&'static str; 3]) -> Option<Deviation> {
    match state {
        Attached::First => None,
        Attached::Missing => Some(mendable(missing, "the program is not attached")),
        Attached::Behind => Some(mendable(behind, "another program comes before it")),
        Attached::Other => Some(mendable(other, "another version of the program is attached")),
    }
}

fn policy(node: &Node, pod: &Enrolled, found: &mut Vec<Deviation>) -> io::Result<()> {
    let entry: Option<PodConfig> = node.shared.maps.pod_policy.get(&pod.host.ifindex)?;
    let Some(entry) = entry else {
        found.push(mendable("policy_missing", "the guard does not know the pod: nothing is held back"));
        return Ok(());
    };
    if entry.flags & pod_flags::ENFORCE == 0 {
        found.push(mendable("guard_closed", "set-up did not end: all TCP of the pod is dropped"));
    }
    let expected = pod.subject().pod_config(entry.flags & pod_flags::ENFORCE);
    if entry != expected {
        found.push(mendable("policy_changed", "the guard has other data for the pod"));
    }
    Ok(())
}

fn steering(pins: &PodPins, pod: &Enrolled, found: &mut Vec<Deviation>) -> io::Result<()> {
    let Some(link) = sys::pinned(&pins.steer)? else {
        found.push(mendable("steer_missing", "pod_steer is not attached"));
        return Ok(());
    };
    let info = sys::link_info(link.as_fd())?;
    if u64::from(info.target) != pod.netns.inode() {
        found.push(mendable("steer_missing", "pod_steer is attached to another netns"));
    } else if sys::program_info(sys::program_by_id(info.program)?.as_fd())?.tag != pod.steer_tag {
        found.push(mendable("steer_program", "another version of pod_steer is attached"));
    }
    Ok(())
}

const SLOT_NAMES: [&str; slot::COUNT as usize] = ["inbound IPv4", "inbound IPv6", "outbound IPv4", "outbound IPv6"];

/// A socket that was ended from outside stays in its slot: whether it listens is another question.
fn listeners(node: &Node, pins: &PodPins, pod: &Enrolled, found: &mut Vec<Deviation>) -> io::Result<()> {
    let Some(fd) = sys::pinned(&pins.listeners)? else {
        found.push(mendable("listener_missing", "the map of listeners is not pinned"));
        return Ok(());
    };
    let sockmap = Map::new(fd);
    let listening = pod.netns.enter(&node.shared.home, || Diag::open()?.listening())?;
    for ((index, expected), name) in (0u32..).zip(pod.cookies).zip(SLOT_NAMES) {
        let Some(expected) = expected else { continue };
        match sockmap.get::<u32, u64>(&index)? {
            Some(cookie) if cookie == expected && listening.contains(&cookie) => {}
            Some(cookie) if cookie == expected => {
                found.push(mendable("listener_missing", format!("the {name} listener no longer listens")));
            }
            Some(_) => found.push(mendable("listener_foreign", format!("another socket is the {name} listener"))),
            None => found.push(mendable("listener_missing", format!("there is no {name} listener"))),
        }
    }
    Ok(())
}

/// In the pod's netns.
fn inside(pins: &PodPins, pod: &Enrolled) -> io::Result<Vec<Deviation>> {
    let mut found = Vec::new();
    match interface::read_pod()? {
        Ok(now) => interface_changes(&pod.interface, &now, &mut found),
        Err(text) => found.push(lasting("interface_gone", text)),
    }
    probe(pins, pod, &mut found)?;
    let netlink = Netlink::open()?;
    for (family, source) in &pod.families {
        for gap in routing::gaps(&netlink, *family, *source)? {
            found.push(routing_gap(gap));
        }
    }
    for key in [FWMARK_ACCEPT, TW_REUSE] {
        let value = std::fs::read_to_string(Path::new("/proc/sys").join(key))?;
        if value.trim() != "1" {
            found.push(mendable("sysctl_changed", format!("{key} is {}", value.trim())));
        }
    }
    Ok(found)
}

fn routing_gap(gap: Gap) -> Deviation {
    match gap {
        Gap::RuleMissing(rule) => mendable("rule_missing", rule.text()),
        Gap::RuleForeign(rule) => lasting("rule_foreign", rule.text()),
        Gap::RuleDissects(rule) => lasting("rule_dissects", format!("{} lacks `iif lo`", rule.text())),
        Gap::RouteMissing => mendable("route_missing", "the local default route of table 100 is not there"),
        Gap::RouteForeign(text) => lasting("route_foreign", text),
    }
}

/// New addresses are not believed: a pod with NET_ADMIN gives itself any. They are reported only.
fn interface_changes(then: &PodInterface, now: &PodInterface, found: &mut Vec<Deviation>) {
    let added: Vec<String> =
        now.addresses.iter().filter(|ip| !then.addresses.contains(ip)).map(ToString::to_string).collect();
    let lost: Vec<String> =
        then.addresses.iter().filter(|ip| !now.addresses.contains(ip)).map(ToString::to_string).collect();
    if !added.is_empty() || !lost.is_empty() {
        let detail = format!("added [{}], lost [{}] since enrolment", added.join(" "), lost.join(" "));
        found.push(lasting("addresses_changed", detail));
    }
    if now.mac != then.mac && now.ifindex == then.ifindex {
        found.push(lasting("mac_changed", format!("the MAC address of {} is another one", now.name)));
    }
    if !now.others.is_empty() {
        found.push(lasting("second_interface", format!("the pod also has {}", now.others.join(", "))));
    }
}

fn probe(pins: &PodPins, pod: &Enrolled, found: &mut Vec<Deviation>) -> io::Result<()> {
    match Mechanism::detect().look(&pins.probe, pod.probe_tag, pod.interface.ifindex, Way::Ingress)? {
        Attached::First | Attached::Behind => {}
        Attached::Missing => found.push(mendable("probe_mark_missing", "probe_mark is not attached")),
        Attached::Other => found.push(mendable("probe_mark_program", "another version of probe_mark is attached")),
    }
    Ok(())
}

fn host_note(pins: &PodPins) -> PathBuf {
    pins.folder.join("host")
}

/// Notes the ifindex of the host veth: clsact filters have no pin that would tell. A bpffs holds no
/// ordinary files, but symbolic links, whose target is the note.
pub(crate) fn remember_host(pins: &PodPins, ifindex: u32) -> io::Result<()> {
    let note = host_note(pins);
    match std::fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(ifindex.to_string(), note)
}

/// The noted ifindex, if such an interface is still there. Call it in the node's netns.
pub(crate) fn recalled_host(pins: &PodPins) -> io::Result<Option<u32>> {
    let note = match std::fs::read_link(host_note(pins)) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ifindex = note.to_str().and_then(|text| text.parse().ok());
    Ok(ifindex.filter(|ifindex| interface::indexes().is_ok_and(|all| all.contains(ifindex))))
}
