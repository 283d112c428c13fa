//! Mending what differs, letting pods go, and clearing up after those that are gone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use culvert_abi::{FlowKey, PodConfig};

use crate::deviation::{Deviation, Family, Repair};
use crate::enrol::{self, Subject, system};
use crate::error::{EnrolError, VerifyError, WithdrawError};
use crate::hook::{Mechanism, Way};
use crate::interface;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::node::{Enrolled, Node};
use crate::pod::{Listeners, PinnedPod};
use crate::settings::{OpenFlows, PodSettings};
use crate::{kept, listener, programs, routing, verify};

fn looking(action: &str) -> impl FnOnce(io::Error) -> VerifyError {
    let action = action.to_owned();
    move |source| VerifyError::System { action, source }
}

fn withdrawing(action: &str) -> impl FnOnce(io::Error) -> WithdrawError {
    let action = action.to_owned();
    move |source| WithdrawError::System { action, source }
}

impl Node {
    fn known(&self, uid: &str) -> Result<Enrolled, VerifyError> {
        self.enrolled(uid).ok_or_else(|| VerifyError::NotEnrolled(uid.to_owned()))
    }

    pub(crate) fn verify(&self, uid: &str) -> Result<Vec<Deviation>, VerifyError> {
        let pod = self.known(uid)?;
        verify::look(self, &self.pins.pod(uid), &pod).map_err(looking("read back"))
    }

    pub(crate) fn pre_enrolment(&self, uid: &str) -> Result<usize, VerifyError> {
        let pod = self.known(uid)?;
        kept::count(self, &pod.subject()).map_err(looking("count kept connections"))
    }

    pub(crate) fn update(&self, uid: &str, settings: PodSettings) -> Result<(), VerifyError> {
        enrol::check_settings(&settings).map_err(VerifyError::Repair)?;
        let _one_at_a_time = self.enrolment();
        let mut pods = self.pods();
        let pod = pods.get_mut(uid).ok_or_else(|| VerifyError::NotEnrolled(uid.to_owned()))?;
        pod.settings = settings;
        let subject = pod.subject();
        drop(pods);
        self.open_guard(&subject).map_err(VerifyError::Repair)?;
        if subject.settings.open_flows == OpenFlows::Cut {
            kept::end(self, &subject).map_err(looking("end kept connections"))?;
        }
        Ok(())
    }

    /// Does everything again that can be done again; what is right stays untouched by that.
    pub(crate) fn repair(&self, uid: &str) -> Result<Repair, VerifyError> {
        let _one_at_a_time = self.enrolment();
        let pod = self.known(uid)?;
        let found = verify::look(self, &self.pins.pod(uid), &pod).map_err(looking("read back"))?;
        if !found.iter().any(|deviation| deviation.repairable) {
            return Ok(Repair { remaining: found, listeners: None });
        }
        let without_listener = found.iter().any(|deviation| deviation.name.starts_with("listener_"));
        let (pod, listeners) = self.mend(pod, without_listener).map_err(VerifyError::Repair)?;
        let remaining = verify::look(self, &self.pins.pod(uid), &pod).map_err(looking("read back"))?;
        self.pods().insert(uid.to_owned(), pod);
        Ok(Repair { remaining, listeners })
    }

    fn mend(&self, pod: Enrolled, new_listeners: bool) -> Result<(Enrolled, Option<Listeners>), EnrolError> {
        let subject = self.find_again(&pod)?;
        let pins = self.pins.make_pod(&subject.uid)?;
        self.open_guard(&subject)?;
        self.attach_host_side(&subject, &pins)?;
        let loaded = programs::load_pod(&self.pins, &pins, subject.steer_config(), self.log)?;
        subject.netns.enter(&self.shared.home, || Ok(self.route(&subject))).map_err(system("enter the netns"))??;
        let mut cookies = pod.cookies;
        let mut listeners = None;
        if new_listeners {
            let fresh = self.open_listeners(&subject)?;
            cookies = listener::install(&self.shared.maps.agent_tag, &loaded.listeners, &fresh)
                .map_err(system("install the listeners"))?;
            listeners = Some(fresh);
        }
        self.attach_in_pod(&subject, &pins, &loaded)?;
        let mended = Enrolled {
            interface: subject.interface,
            host: subject.host,
            slot: subject.slot,
            cookies,
            steer_tag: loaded.steer.tag,
            probe_tag: loaded.probe.tag,
            ..pod
        };
        Ok((mended, listeners))
    }

    /// The pod's interface as it is now, with the addresses of its enrolment: later ones are not
    /// believed. A veth that was made anew brings its own MAC address and ifindex.
    fn find_again(&self, pod: &Enrolled) -> Result<Subject, EnrolError> {
        let mut interface = pod
            .netns
            .enter(&self.shared.home, interface::read_pod)
            .map_err(system("read the pod's interfaces"))?
            .map_err(EnrolError::Interface)?;
        let host = self
            .at_home(|| interface::read_host(&interface, &pod.netns))
            .map_err(system("read the node's interfaces"))?
            .map_err(EnrolError::Interface)?;
        interface.addresses.clone_from(&pod.interface.addresses);
        if host.ifindex == pod.host.ifindex {
            interface.mac = pod.interface.mac;
        } else {
            self.forget_host(pod.host.ifindex).map_err(system("clear the map pod_policy"))?;
        }
        Ok(Subject { interface, host, ..pod.subject() })
    }

    /// Removes what the maps hold for a host veth.
    fn forget_host(&self, ifindex: u32) -> io::Result<()> {
        let maps = &self.shared.maps;
        maps.pod_policy.remove(&ifindex)?;
        for flows in [&maps.app_legs, &maps.probe_flows, &maps.wire_flows, &maps.pre_enrolment] {
            for key in flows.keys::<FlowKey>()?.iter().filter(|key| key.pod == ifindex) {
                flows.remove(key)?;
            }
        }
        Ok(())
    }

    pub(crate) fn release(&self, uid: &str) -> io::Result<()> {
        let _one_at_a_time = self.enrolment();
        let Some(pod) = self.pods().remove(uid) else { return Ok(()) };
        kept::expire(self, &pod.netns, pod.host.ifindex, true)
    }

    pub(crate) fn withdraw(&self, uid: &str) -> Result<(), WithdrawError> {
        let _one_at_a_time = self.enrolment();
        let pinned = self.pinned().map_err(withdrawing("read the pins"))?;
        let Some(pinned) = pinned.into_iter().find(|pod| pod.uid == uid) else {
            return Err(WithdrawError::NotEnrolled(uid.to_owned()));
        };
        let enrolled = self.pods().remove(uid);
        let netns = match &enrolled {
            Some(pod) => Some(pod.netns.clone()),
            None => self.find_netns(&pinned).map_err(withdrawing("look for the netns"))?.map(Arc::new),
        };
        let ifindex = enrolled.map_or(pinned.host_ifindex, |pod| pod.host.ifindex);
        if let Some(netns) = netns {
            self.leave(&netns, ifindex).map_err(withdrawing("clear the pod's netns"))?;
        }
        if self.mechanism == Mechanism::Clsact && pinned.host_ifindex != 0 {
            self.at_home(|| {
                self.mechanism.detach(ifindex, Way::Egress)?;
                self.mechanism.detach(ifindex, Way::Ingress)
            })
            .map_err(withdrawing("detach from the host veth"))?;
        }
        self.pins.pod(uid).remove().map_err(withdrawing("remove the pins"))?;
        self.forget_host(ifindex).map_err(withdrawing("clear the maps"))
    }

    /// Takes rules, routes and sysctls of ours out of a netns.
    fn leave(&self, netns: &Namespace, ifindex: u32) -> io::Result<()> {
        kept::expire(self, netns, ifindex, true)?;
        netns.enter(&self.shared.home, || {
            let netlink = Netlink::open()?;
            for family in [Family::V4, Family::V6] {
                routing::clear(&netlink, family)?;
            }
            // The kernel's defaults.
            self.sysctl(enrol::FWMARK_ACCEPT, "0")?;
            self.sysctl(enrol::TW_REUSE, "2")?;
            if Mechanism::detect() == Mechanism::Clsact
                && let Ok(interface) = interface::read_pod()?
            {
                Mechanism::Clsact.detach(interface.ifindex, Way::Ingress)?;
            }
            Ok(())
        })
    }

    pub(crate) fn sweep(&self) -> Result<Vec<String>, VerifyError> {
        let mut removed = Vec::new();
        for pod in self.pods().values() {
            kept::expire(self, &pod.netns, pod.host.ifindex, false).map_err(looking("end kept connections"))?;
        }
        for pinned in self.pinned().map_err(looking("read the pins"))? {
            let gone = pinned.host_ifindex == 0 && !self.has_interface(&pinned.uid);
            if gone && self.withdraw(&pinned.uid).is_ok() {
                removed.push(pinned.uid);
            }
        }
        self.sweep_policies().map_err(looking("clear the map pod_policy"))?;
        Ok(removed)
    }

    /// Whether the netns of a pod of ours still has an interface that leads to this node.
    fn has_interface(&self, uid: &str) -> bool {
        let Some(pod) = self.enrolled(uid) else { return false };
        matches!(pod.netns.enter(&self.shared.home, interface::read_pod), Ok(Ok(_)))
    }

    /// Entries of host veths that are gone.
    fn sweep_policies(&self) -> io::Result<()> {
        let _one_at_a_time = self.enrolment();
        let present = self.at_home(interface::indexes)?;
        let policy = &self.shared.maps.pod_policy;
        for ifindex in policy.keys::<u32>()?.into_iter().filter(|ifindex| !present.contains(ifindex)) {
            self.forget_host(ifindex)?;
        }
        Ok(())
    }

    /// The counters of each pod with a policy, by ifindex of the host veth.
    pub(crate) fn slots(&self) -> io::Result<Vec<(u32, u32)>> {
        let policy = &self.shared.maps.pod_policy;
        let mut slots = Vec::new();
        for ifindex in policy.keys::<u32>()? {
            if let Some(config) = policy.get::<u32, PodConfig>(&ifindex)? {
                slots.push((ifindex, config.slot));
            }
        }
        Ok(slots)
    }
}

impl Node {
    /// The netns of a pod that this process did not enrol: the one that is steered, else (an agent died before it steered,
    /// or while it withdrew) the one at the other end of the guarded veth.
    fn find_netns(&self, pinned: &PinnedPod) -> io::Result<Option<Namespace>> {
        let steered = |netns: &Namespace| Ok(netns.inode() == pinned.netns_inode);
        let behind = |netns: &Namespace| {
            let Ok(Ok(interface)) = netns.enter(&self.shared.home, interface::read_pod) else { return Ok(false) };
            Ok(interface.peer == pinned.host_ifindex
                && self.at_home(|| interface::read_host(&interface, netns))?.is_ok())
        };
        match pinned {
            PinnedPod { netns_inode: 0, host_ifindex: 0, .. } => Ok(None),
            PinnedPod { netns_inode: 0, .. } => find_netns(&self.proc, behind),
            _ => find_netns(&self.proc, steered),
        }
    }
}

/// The first netns that is wanted among those of processes and those with a name under `/run/netns`.
fn find_netns(proc: &Path, is_wanted: impl Fn(&Namespace) -> io::Result<bool>) -> io::Result<Option<Namespace>> {
    let mut candidates = Vec::new();
    for entry in std::fs::read_dir(proc)?.flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            candidates.push(entry.path().join("ns/net"));
        }
    }
    if let Ok(named) = std::fs::read_dir("/run/netns") {
        candidates.extend(named.flatten().map(|entry| entry.path()));
    }
    let mut seen = BTreeSet::new();
    for path in candidates {
        // Processes end while we look.
        let Ok(file) = File::open(path) else { continue };
        let fd = file.as_fd().try_clone_to_owned()?;
        let Some(netns) = Namespace::from_fd(fd)?.filter(|netns| seen.insert(netns.inode())) else { continue };
        if is_wanted(&netns)? {
            return Ok(Some(netns));
        }
    }
    Ok(None)
}
