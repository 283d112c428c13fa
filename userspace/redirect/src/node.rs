//! The state behind [`crate::Redirect`].

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_abi::{MAX_DNS, NodeConfig, words};

use crate::deviation::Family;
use crate::enrol::Subject;
use crate::error::OpenError;
use crate::hook::{self, Mechanism};
use crate::interface::{HostVeth, PodInterface};
use crate::log::LogThread;
use crate::machine;
use crate::namespace::Namespace;
use crate::pins::Pins;
use crate::pod::PinnedPod;
use crate::programs::{self, Loaded, SharedMaps};
use crate::settings::{Config, HostHooks, PodSettings};
use crate::{sys, verify};

/// What sockets need of the node.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) maps: SharedMaps,
    /// The node's own netns.
    pub(crate) home: Namespace,
}

/// One enrolled pod, as this process set it up.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    pub(crate) uid: String,
    pub(crate) netns: Arc<Namespace>,
    pub(crate) interface: PodInterface,
    pub(crate) host: HostVeth,
    pub(crate) slot: u32,
    pub(crate) settings: PodSettings,
    /// Families in use, with the address that captured connections have as source.
    pub(crate) families: Vec<(Family, IpAddr)>,
    /// Cookies of the listeners by slot.
    pub(crate) cookies: [Option<u64>; 4],
    pub(crate) steer_tag: [u8; 8],
    pub(crate) probe_tag: [u8; 8],
}

impl Enrolled {
    /// The pod as enrolment sees it.
    pub(crate) fn subject(&self) -> Subject {
        Subject {
            uid: self.uid.clone(),
            netns: self.netns.clone(),
            interface: self.interface.clone(),
            host: self.host.clone(),
            slot: self.slot,
            settings: self.settings.clone(),
        }
    }
}

/// The kernel side of one node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) pins: Pins,
    pub(crate) shared: Arc<Shared>,
    pub(crate) guard: Loaded,
    pub(crate) watch: Loaded,
    pub(crate) mechanism: Mechanism,
    pub(crate) log: bool,
    /// See [`Config::proc`].
    pub(crate) proc: PathBuf,
    pub(crate) events_taken: AtomicBool,
    pods: Mutex<BTreeMap<String, Enrolled>>,
    node_config: Mutex<NodeConfig>,
    enrolment: Mutex<()>,
    _log_thread: Option<LogThread>,
}

/// What is behind a poisoned lock is still whole: no lock is held across a panic with a half-made change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(crate) fn open(config: &Config) -> Result<Self, OpenError> {
        machine::require(&config.bpffs)?;
        let system = |action: &str| {
            let action = action.to_owned();
            move |source| OpenError::System { action, source }
        };
        let home = Namespace::current().map_err(system("open the node's netns"))?;
        let pins = Pins::open(&config.bpffs, &config.node)?;
        let programs = programs::load_node(&pins, config.ebpf_log)?;
        let mechanism = match config.hooks {
            HostHooks::Auto => Mechanism::detect(),
            HostHooks::Clsact => Mechanism::Clsact,
        };
        let log_thread = match programs.log_source {
            Some(ebpf) => Some(LogThread::start(ebpf).map_err(system("read the log ring"))?),
            None => None,
        };
        let node = Self {
            pins,
            shared: Arc::new(Shared { maps: programs.maps, home }),
            guard: programs.guard,
            watch: programs.watch,
            mechanism,
            log: config.ebpf_log,
            proc: config.proc.clone(),
            events_taken: AtomicBool::new(false),
            pods: Mutex::default(),
            node_config: Mutex::default(),
            enrolment: Mutex::default(),
            _log_thread: log_thread,
        };
        node.set_dns(&config.dns).map_err(system("tell the programs the DNS servers"))?;
        node.set_kubelet(config.kubelet_cgroup.as_deref()).map_err(system("tell the programs kubelet's cgroup"))?;
        Ok(node)
    }

    /// The pods that this process enrolled.
    pub(crate) fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Enrolled>> {
        lock(&self.pods)
    }

    /// Enrolment, repair and withdrawal happen one after the other.
    pub(crate) fn enrolment(&self) -> MutexGuard<'_, ()> {
        lock(&self.enrolment)
    }

    pub(crate) fn enrolled(&self, uid: &str) -> Option<Enrolled> {
        self.pods().get(uid).cloned()
    }

    /// Runs `work` in the node's netns, whichever the thread is in.
    pub(crate) fn at_home<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let here = Namespace::current()?;
        if here.inode() == self.shared.home.inode() { work() } else { self.shared.home.enter(&here, work) }
    }

    pub(crate) fn pinned(&self) -> io::Result<Vec<PinnedPod>> {
        let mut pods = Vec::new();
        for uid in self.pins.pods()? {
            let pins = self.pins.pod(&uid);
            let netns_inode = match sys::pinned(&pins.steer)? {
                Some(link) => sys::link_info(link.as_fd())?.target.into(),
                None => 0,
            };
            let host_ifindex = match hook::pinned_target(&pins.guard)? {
                Some(ifindex) => ifindex,
                None => self.at_home(|| verify::recalled_host(&pins))?.unwrap_or(0),
            };
            pods.push(PinnedPod { uid, netns_inode, host_ifindex });
        }
        Ok(pods)
    }

    pub(crate) fn set_dns(&self, servers: &[IpAddr]) -> io::Result<()> {
        if servers.len() > MAX_DNS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("at most {MAX_DNS} DNS servers")));
        }
        let mut config = lock(&self.node_config);
        config.dns = Default::default();
        config.dns_count = 0;
        for (place, ip) in config.dns.iter_mut().zip(servers) {
            *place = words(*ip);
        }
        config.dns_count = u32::try_from(servers.len()).map_err(io::Error::other)?;
        self.shared.maps.node_config.set(&0u32, &*config)
    }

    /// The id of a cgroup of the cgroup2 tree is the inode of its folder.
    pub(crate) fn set_kubelet(&self, folder: Option<&Path>) -> io::Result<()> {
        let id = match folder {
            Some(folder) => std::fs::metadata(folder)?.ino(),
            None => 0,
        };
        let mut config = lock(&self.node_config);
        config.kubelet_cgroup = id;
        self.shared.maps.node_config.set(&0u32, &*config)
    }
}
