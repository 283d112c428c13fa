//! Bringing one pod under culvert.
//!
//! The guard comes first and lets no TCP out; rules, listeners and steering follow; only after a
//! read-back and a self-test connection does the guard let the agent's sockets through.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_abi::{
    MAX_POD_ADDRESSES, MAX_PODS, MAX_PROBE_PORTS, PodConfig, PodCounters, SteerConfig, ip, pod_flags, words,
};

use crate::deviation::{Deviation, Family};
use crate::diag::Diag;
use crate::error::{EnrolError, OpenError};
use crate::hook::{Mechanism, Way};
use crate::interface::{self, HostVeth, PodInterface};
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::node::{Enrolled, Node};
use crate::pins::{self, PodPins};
use crate::pod::{Listeners, PodRedirect};
use crate::programs::{self, PodPrograms};
use crate::routing::{self, Gap};
use crate::settings::{OpenFlows, PodSettings};
use crate::socket::Netns;
use crate::{kept, listener, selftest, sys, verify};

/// Connections from before enrolment that may be kept.
const MAX_KEPT: usize = 256;
/// How long duplicate address detection may take.
const DAD_PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> EnrolError {
    let action = action.into();
    move |source| EnrolError::System { action, source }
}

impl From<OpenError> for EnrolError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Load { program, detail } => Self::Load { program, detail },
            OpenError::System { action, source } => Self::System { action, source },
            other => Self::System { action: "use the pins of the pod".to_owned(), source: io::Error::other(other) },
        }
    }
}

/// What is known of a pod before anything is touched.
pub(crate) struct Subject {
    pub(crate) uid: String,
    pub(crate) netns: Arc<Namespace>,
    pub(crate) interface: PodInterface,
    pub(crate) host: HostVeth,
    pub(crate) slot: u32,
    pub(crate) settings: PodSettings,
}

impl Subject {
    pub(crate) fn families(&self) -> Vec<(Family, IpAddr)> {
        let v4 = routing::source(&self.interface.addresses, Family::V4).map(|ip| (Family::V4, ip));
        let v6 = routing::source(&self.interface.addresses, Family::V6).filter(|_| self.interface.loopback_v6);
        v4.into_iter().chain(v6.map(|ip| (Family::V6, ip))).collect()
    }

    pub(crate) fn pod_config(&self, flags: u32) -> PodConfig {
        let deny = if self.settings.deny_non_tcp { pod_flags::DENY_NON_TCP } else { 0 };
        let mut config =
            PodConfig { flags: flags | deny, slot: self.slot, mac: self.interface.mac, ..PodConfig::default() };
        for (place, ip) in config.addresses.iter_mut().zip(&self.interface.addresses) {
            *place = words(*ip);
            config.address_count += 1;
        }
        for (place, port) in config.probe_ports.iter_mut().zip(&self.settings.probe_ports) {
            *place = *port;
            config.probe_port_count += 1;
        }
        config
    }

    pub(crate) fn steer_config(&self) -> SteerConfig {
        let mut config = SteerConfig { pod: self.host.ifindex, slot: self.slot, ..SteerConfig::default() };
        for (place, ip) in config.addresses.iter_mut().zip(&self.interface.addresses) {
            *place = words(*ip);
            config.address_count += 1;
        }
        config
    }
}

/// Refuses settings that do not fit into the programs' tables.
pub(crate) fn check_settings(settings: &PodSettings) -> Result<(), EnrolError> {
    if settings.probe_ports.len() > MAX_PROBE_PORTS {
        let text = format!("{} probe ports, at most {MAX_PROBE_PORTS}", settings.probe_ports.len());
        return Err(EnrolError::Settings(text));
    }
    match settings.open_flows {
        OpenFlows::Keep { at_most, .. } if at_most > MAX_KEPT => {
            Err(EnrolError::Settings(format!("{at_most} kept connections, at most {MAX_KEPT}")))
        }
        _ => Ok(()),
    }
}

impl Node {
    /// See [`crate::Redirect::enrol`].
    pub(crate) fn enrol(
        &self,
        uid: &str,
        fd: OwnedFd,
        settings: PodSettings,
        kept: Option<Listeners>,
    ) -> Result<PodRedirect, EnrolError> {
        if !pins::is_name(uid) {
            return Err(EnrolError::Uid(uid.to_owned()));
        }
        check_settings(&settings)?;
        let _one_at_a_time = self.enrolment();
        let subject = self.examine(uid, fd, settings)?;
        let pod_pins = self.pins.make_pod(uid)?;
        let fresh = self.close(&subject, &pod_pins)?;
        let (listeners, programs) = self.prepare(&subject, &pod_pins, fresh, kept)?;
        let enrolled = self.attach(&subject, &pod_pins, &listeners, &programs)?;
        self.read_back(&pod_pins, &enrolled)?;
        let early = selftest::run(self, &subject, &listeners).map_err(EnrolError::SelfTest)?;
        self.open_guard(&subject)?;
        let netns = Netns::new(self.shared.clone(), &enrolled);
        let redirect = handed_out(&subject, listeners, early, netns);
        self.pods().insert(uid.to_owned(), enrolled);
        Ok(redirect)
    }

    /// Looks at netns and interface, and refuses what must not be enrolled.
    fn examine(&self, uid: &str, fd: OwnedFd, settings: PodSettings) -> Result<Subject, EnrolError> {
        let netns = Namespace::from_fd(fd).map_err(system("look at the netns"))?.ok_or(EnrolError::NotNetns)?;
        if netns.inode() == self.shared.home.inode() {
            return Err(EnrolError::HostNetwork);
        }
        self.check_unique(uid, netns.inode())?;
        let mut interface = self.read_interface(&netns)?;
        let host = self
            .at_home(|| interface::read_host(&interface, &netns))
            .map_err(system("read the node's interfaces"))?
            .map_err(EnrolError::Interface)?;
        if !self.recall_addresses(uid, &netns, host.ifindex, &mut interface)? {
            interface.keep_known(&settings.addresses);
        }
        let slot = self.slot(host.ifindex)?;
        Ok(Subject { uid: uid.to_owned(), netns: Arc::new(netns), interface, host, slot, settings })
    }

    /// See [`crate::Redirect::addresses`].
    pub(crate) fn addresses(&self, fd: &OwnedFd) -> Result<Vec<IpAddr>, EnrolError> {
        let fd = fd.try_clone().map_err(system("look at the netns"))?;
        let netns = Namespace::from_fd(fd).map_err(system("look at the netns"))?.ok_or(EnrolError::NotNetns)?;
        if netns.inode() == self.shared.home.inode() {
            return Err(EnrolError::HostNetwork);
        }
        let interface = self.read_interface(&netns)?;
        self.at_home(|| interface::read_host(&interface, &netns))
            .map_err(system("read the node's interfaces"))?
            .map_err(EnrolError::Interface)?;
        Ok(interface.addresses.into_iter().filter(|ip| !interface::is_link_local(*ip)).collect())
    }

    /// Of a pod that an earlier agent enrolled, the guard still knows the addresses of that time. What
    /// the pod has now may be what it has given itself since: it is not believed. False if there was no such agent.
    fn recall_addresses(
        &self,
        uid: &str,
        netns: &Namespace,
        ifindex: u32,
        interface: &mut PodInterface,
    ) -> Result<bool, EnrolError> {
        let policy = &self.shared.maps.pod_policy;
        let known: Option<PodConfig> = policy.get(&ifindex).map_err(system("read the map pod_policy"))?;
        let steer = sys::pinned(&self.pins.pod(uid).steer).map_err(system("open the pin of steering"))?;
        let (Some(known), Some(steer)) = (known, steer) else { return Ok(false) };
        let target = sys::link_info(steer.as_fd()).map_err(system("look at steering"))?.target;
        let stands = known.flags & pod_flags::ENFORCE != 0 && u64::from(target) == netns.inode();
        if stands {
            let count = usize::from(known.address_count);
            interface.addresses = known.addresses.iter().take(count).map(|words| ip(*words)).collect();
            interface.mac = known.mac;
        }
        Ok(stands)
    }

    fn check_unique(&self, uid: &str, inode: u64) -> Result<(), EnrolError> {
        for pod in self.pinned().map_err(system("read the pins"))? {
            if pod.uid == uid && pod.netns_inode != inode && pod.netns_inode != 0 {
                return Err(EnrolError::UidTaken { uid: pod.uid, inode: pod.netns_inode });
            }
            if pod.uid != uid && pod.netns_inode == inode {
                return Err(EnrolError::NetnsTaken { inode, uid: pod.uid });
            }
        }
        Ok(())
    }

    fn read_interface(&self, netns: &Namespace) -> Result<PodInterface, EnrolError> {
        let deadline = Instant::now() + DAD_PATIENCE;
        loop {
            let interface = netns
                .enter(&self.shared.home, interface::read_pod)
                .map_err(system("read the pod's interfaces"))?
                .map_err(EnrolError::Interface)?;
            if interface.tentative && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            return usable(interface);
        }
    }

    /// The row of counters of a pod: the one it has, else a free one.
    fn slot(&self, ifindex: u32) -> Result<u32, EnrolError> {
        let policy = &self.shared.maps.pod_policy;
        let read = || -> io::Result<Vec<(u32, PodConfig)>> {
            let keys = policy.keys::<u32>()?;
            keys.into_iter().filter_map(|key| policy.get(&key).map(|v| v.map(|v| (key, v))).transpose()).collect()
        };
        let known = read().map_err(system("read the map pod_policy"))?;
        if let Some((_, config)) = known.iter().find(|(key, _)| *key == ifindex) {
            return Ok(config.slot);
        }
        let free = (0..MAX_PODS).find(|slot| known.iter().all(|(_, config)| config.slot != *slot));
        let slot = free.ok_or(EnrolError::TooManyPods)?;
        let counters = &self.shared.maps.pod_counters;
        counters.set_per_cpu(&slot, PodCounters::default()).map_err(system("clear the counters"))?;
        Ok(slot)
    }

    /// Attaches guard and watch. Returns whether the pod is new: one that an earlier agent enrolled
    /// completely, and that has not changed since, keeps its open guard.
    fn close(&self, subject: &Subject, pod_pins: &PodPins) -> Result<bool, EnrolError> {
        let policy = &self.shared.maps.pod_policy;
        let ifindex = subject.host.ifindex;
        let known: Option<PodConfig> = policy.get(&ifindex).map_err(system("read the map pod_policy"))?;
        let same = known.is_some_and(|known| {
            let now = subject.pod_config(pod_flags::ENFORCE);
            known.flags & pod_flags::ENFORCE != 0 && known.mac == now.mac && known.addresses == now.addresses
        });
        let captured = sys::pinned(&pod_pins.steer).map_err(system("open the pin of steering"))?.is_some();
        let fresh = !(same && captured);
        if fresh {
            policy.set(&ifindex, &subject.pod_config(0)).map_err(system("write the map pod_policy"))?;
        }
        self.attach_host_side(subject, pod_pins)?;
        Ok(fresh)
    }

    pub(crate) fn attach_host_side(&self, subject: &Subject, pod_pins: &PodPins) -> Result<(), EnrolError> {
        let ifindex = subject.host.ifindex;
        let (guard_moved, watch_moved) = self.come_to_front(pod_pins, ifindex)?;
        self.at_home(|| {
            if !guard_moved {
                self.mechanism.ensure(&pod_pins.guard, &self.guard, ifindex, Way::Ingress)?;
            }
            if !watch_moved {
                self.mechanism.ensure(&pod_pins.watch, &self.watch, ifindex, Way::Egress)?;
            }
            Ok(())
        })
        .map_err(system(format!("attach to {}", subject.host.name)))?;
        verify::remember_host(pod_pins, ifindex).map_err(system("note the host veth"))
    }

    /// Where another program has come in front of ours since. Returns whether guard and watch moved.
    fn come_to_front(&self, pod_pins: &PodPins, ifindex: u32) -> Result<(bool, bool), EnrolError> {
        let behind = |pin, way| {
            self.at_home(|| self.mechanism.is_behind(pin, ifindex, way)).map_err(system("look at the host veth"))
        };
        let guard_behind = behind(&pod_pins.guard, Way::Ingress)?;
        let watch_behind = behind(&pod_pins.watch, Way::Egress)?;
        if !guard_behind && !watch_behind {
            return Ok((false, false));
        }
        let (guard, watch) = programs::load_copies(&self.pins, self.log)?;
        self.at_home(|| {
            if guard_behind {
                self.mechanism.move_to_front(&pod_pins.guard, &guard, ifindex, Way::Ingress)?;
            }
            if watch_behind {
                self.mechanism.move_to_front(&pod_pins.watch, &watch, ifindex, Way::Egress)?;
            }
            Ok(())
        })
        .map_err(system("move to the front of the chain"))?;
        Ok((guard_behind, watch_behind))
    }

    /// Everything inside the netns: kept connections, rules, routes, sysctls, listeners.
    fn prepare(
        &self,
        subject: &Subject,
        pod_pins: &PodPins,
        fresh: bool,
        kept: Option<Listeners>,
    ) -> Result<(Listeners, PodPrograms), EnrolError> {
        let programs = programs::load_pod(&self.pins, pod_pins, subject.steer_config(), self.log)?;
        if fresh {
            let captured = self.was_captured(subject, pod_pins).map_err(system("look for an earlier capture"))?;
            kept::settle(self, subject, captured).map_err(system("settle connections from before enrolment"))?;
        }
        if self.enrolled(&subject.uid).is_none() {
            kept::clear_legs(self, subject).map_err(system("end what an earlier agent had open"))?;
        }
        subject.netns.enter(&self.shared.home, || Ok(self.route(subject))).map_err(system("enter the netns"))??;
        let listeners = match kept {
            Some(kept) if self.are_steered_to(subject, &programs, &kept)? => kept,
            _ => self.open_listeners(subject)?,
        };
        Ok((listeners, programs))
    }

    pub(crate) fn open_listeners(&self, subject: &Subject) -> Result<Listeners, EnrolError> {
        let v6 = subject.interface.loopback_v6;
        let opened = subject.netns.enter(&self.shared.home, || listener::open(v6));
        opened.map_err(system("open the listeners in the pod"))
    }

    /// Whether these are the very sockets that the pod's connections are steered to, alive and in its netns. Their backlog
    /// then holds what has come while no agent was there.
    fn are_steered_to(&self, subject: &Subject, programs: &PodPrograms, kept: &Listeners) -> Result<bool, EnrolError> {
        let look = || {
            let listening = subject.netns.enter(&self.shared.home, || Diag::open()?.listening())?;
            listener::are_current(&programs.listeners, kept, subject.interface.loopback_v6, &listening)
        };
        look().map_err(system("look at the kept listeners"))
    }

    /// Whether an agent has captured this pod before, whatever is left of that.
    fn was_captured(&self, subject: &Subject, pod_pins: &PodPins) -> io::Result<bool> {
        Ok(sys::pinned(&pod_pins.steer)?.is_some()
            || self.pins.is_known_to_other_versions(&subject.uid)?
            || kept::is_captured(self, &subject.netns)?)
    }

    fn attach(
        &self,
        subject: &Subject,
        pod_pins: &PodPins,
        listeners: &Listeners,
        programs: &PodPrograms,
    ) -> Result<Enrolled, EnrolError> {
        let cookies = listener::install(&self.shared.maps.agent_tag, &programs.listeners, listeners)
            .map_err(system("install the listeners"))?;
        self.attach_in_pod(subject, pod_pins, programs)?;
        Ok(Enrolled {
            uid: subject.uid.clone(),
            netns: subject.netns.clone(),
            interface: subject.interface.clone(),
            host: subject.host.clone(),
            slot: subject.slot,
            settings: subject.settings.clone(),
            families: subject.families(),
            cookies,
            steer_tag: programs.steer.tag,
            probe_tag: programs.probe.tag,
        })
    }

    pub(crate) fn attach_in_pod(
        &self,
        subject: &Subject,
        pod_pins: &PodPins,
        programs: &PodPrograms,
    ) -> Result<(), EnrolError> {
        attach_steer(pod_pins, programs, &subject.netns).map_err(system("attach pod_steer"))?;
        subject
            .netns
            .enter(&self.shared.home, || {
                // Also where the host side has to use clsact: nothing else of the pod's is in the way here.
                let mechanism = Mechanism::detect();
                mechanism.ensure(&pod_pins.probe, &programs.probe, subject.interface.ifindex, Way::Ingress)
            })
            .map_err(system("attach probe_mark"))
    }

    fn read_back(&self, pod_pins: &PodPins, enrolled: &Enrolled) -> Result<(), EnrolError> {
        let found = verify::look(self, pod_pins, enrolled).map_err(system("read back"))?;
        let wrong: Vec<&Deviation> = found.iter().filter(|deviation| !verify::is_closed_guard(deviation)).collect();
        if wrong.iter().all(|deviation| verify::is_tolerable(deviation)) {
            return Ok(());
        }
        let text: Vec<String> = wrong.iter().map(|d| format!("{}: {}", d.name, d.detail)).collect();
        Err(EnrolError::ReadBack(text.join("; ")))
    }

    pub(crate) fn open_guard(&self, subject: &Subject) -> Result<(), EnrolError> {
        let config = subject.pod_config(pod_flags::ENFORCE);
        self.shared.maps.pod_policy.set(&subject.host.ifindex, &config).map_err(system("write the map pod_policy"))
    }
}

fn usable(interface: PodInterface) -> Result<PodInterface, EnrolError> {
    let refuse = |text: String| Err(EnrolError::Interface(text));
    if !interface.loopback_up {
        return refuse("lo is down".to_owned());
    }
    if interface.tentative {
        return refuse(format!("an IPv6 address of {} is still tentative", interface.name));
    }
    if interface.addresses.len() > MAX_POD_ADDRESSES {
        let count = interface.addresses.len();
        return refuse(format!("{} has {count} addresses, at most {MAX_POD_ADDRESSES}", interface.name));
    }
    if interface.addresses.iter().all(|ip| interface::is_link_local(*ip)) {
        return refuse(format!("{} has no address", interface.name));
    }
    Ok(interface)
}

impl Node {
    /// In the pod's netns: rules, routes, sysctls.
    pub(crate) fn route(&self, subject: &Subject) -> Result<(), EnrolError> {
        let set = |key: &str| self.sysctl(key, "1").map_err(system(format!("set {key}=1")));
        let netlink = Netlink::open().map_err(system("open netlink in the pod"))?;
        for (family, source) in subject.families() {
            let gaps = routing::gaps(&netlink, family, source).map_err(system("read the pod's rules"))?;
            for gap in &gaps {
                match gap {
                    Gap::RuleForeign(rule) => return Err(EnrolError::RoutingTaken(format!("rule {}", rule.text()))),
                    Gap::RouteForeign(text) => return Err(EnrolError::RoutingTaken(text.clone())),
                    Gap::RuleDissects(_) => set(&accept_local(&subject.interface.name))?,
                    Gap::RuleMissing(_) | Gap::RouteMissing => {}
                }
            }
            routing::fill(&netlink, family, source).map_err(system("write the pod's rules"))?;
        }
        set(FWMARK_ACCEPT)?;
        set(TW_REUSE)
    }

    /// Writes a sysctl of the calling thread's netns, whichever procfs it is written through.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.proc.join("sys").join(key), value)
    }
}

/// Lets a connection take the mark of its SYN (IPv6 as well): the way back for probes.
pub(crate) const FWMARK_ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
/// Lets an ephemeral port be used again one second after it went into TIME_WAIT (default: loopback
/// only): the pod's connections and the agent's wire legs for them share one range.
pub(crate) const TW_REUSE: &str = "net/ipv4/tcp_tw_reuse";

pub(crate) fn accept_local(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/accept_local")
}

fn attach_steer(pod_pins: &PodPins, programs: &PodPrograms, netns: &Namespace) -> io::Result<()> {
    if let Some(link) = sys::pinned(&pod_pins.steer)? {
        if u64::from(sys::link_info(link.as_fd())?.target) == netns.inode() {
            return sys::update_link(link.as_fd(), programs.steer.fd.as_fd());
        }
        std::fs::remove_file(&pod_pins.steer)?;
    }
    let link = sys::attach_netns(programs.steer.fd.as_fd(), netns.as_fd())?;
    sys::pin(link.as_fd(), &pod_pins.steer)
}

fn handed_out(subject: &Subject, listeners: Listeners, early: Vec<TcpStream>, netns: Netns) -> PodRedirect {
    let addresses = subject.interface.addresses.iter().copied().filter(|ip| !interface::is_link_local(*ip)).collect();
    PodRedirect {
        uid: subject.uid.clone(),
        addresses,
        host_ifindex: subject.host.ifindex,
        host_veth: subject.host.name.clone(),
        netns_inode: subject.netns.inode(),
        listeners,
        early,
        netns,
    }
}
