//! One cluster's name, folder and addresses.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::paths;

/// Where the API server listens inside.
pub(crate) const API_PORT: u16 = 6443;

/// What Services' addresses are taken from.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";

/// What pods' addresses are taken from.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";

/// The same of IPv6. Machines can always carry it; Services and pods have it in a cluster of both families.
pub(crate) const SERVICE_RANGE_6: &str = "fd00:10:96::/112";
/// As above, of pods.
pub(crate) const POD_RANGE_6: &str = "fd00:10:244::/48";

/// A machine of the cluster: a root file system, a network, a process tree and a cgroup of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    number: u8,
}

/// etcd, API server, controller manager, scheduler.
pub(crate) const CONTROL: Machine = Machine { name: "control", number: 0 };

/// kubelet, containerd, kube-proxy.
pub(crate) const NODES: [Machine; 2] = [Machine { name: "node1", number: 1 }, Machine { name: "node2", number: 2 }];

impl Machine {
    pub(crate) fn by_name(name: &str) -> Result<Machine> {
        let all = NODES.into_iter().chain([CONTROL]);
        let found = all.into_iter().find(|machine| machine.name == name);
        found.with_context(|| format!("no machine is called {name}: there are control, node1 and node2"))
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 + self.number)
    }

    /// Its IPv6 address.
    pub(crate) fn address_6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0x10 + u16::from(self.number))
    }

    /// The range of this node's pods.
    pub(crate) fn pods(self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// The IPv6 range of this node's pods.
    pub(crate) fn pods_6(self) -> String {
        format!("fd00:10:244:{}::/64", self.number)
    }

    /// Its port on the bridge.
    pub(crate) fn port(self) -> String {
        format!("n-{}", self.name)
    }
}

/// A cluster by name: everything that is written down about it lies in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: String,
    folder: PathBuf,
}

impl Place {
    pub(crate) fn new(name: &str) -> Result<Place> {
        let good = !name.is_empty() && name.len() <= 20;
        ensure!(
            good && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "a cluster's name is at most 20 letters a-z, digits and dashes"
        );
        Ok(Place { name: name.to_owned(), folder: paths::target().join("cluster").join(name) })
    }

    /// The place whose folder it is, for the processes inside.
    pub(crate) fn at(folder: &Path) -> Result<Place> {
        let name = folder.file_name().context("a cluster's folder has a name")?.to_string_lossy().into_owned();
        Ok(Place { name, folder: folder.to_owned() })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// For the administrator, from this machine.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(crate) fn secrets(&self) -> PathBuf {
        self.folder.join("secrets")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// The program that the processes inside run: a copy, since a build may replace this one.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("xtask")
    }

    /// What a machine runs.
    pub(crate) fn plan(&self, machine: &str) -> PathBuf {
        self.folder.join(format!("{machine}.json"))
    }

    /// Where a supervisor is asked.
    pub(crate) fn socket(&self, machine: &str) -> PathBuf {
        self.folder.join(format!("{machine}.sock"))
    }

    /// The cgroup of all its processes, in every hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("culvert-cluster-{}", self.name)
    }

    /// Makes the empty folder, readable by nobody else.
    pub(crate) fn make(&self) -> Result<()> {
        super::cache::remove(&self.folder)?;
        std::fs::create_dir_all(self.folder.parent().context("a parent")?)?;
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700);
        for folder in [self.folder.clone(), self.secrets(), self.logs(), self.images()] {
            private.create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let socket = self.socket("control");
        if socket.as_os_str().len() > 100 {
            bail!("{} is too long for a socket: keep the repository in a folder with a shorter path", socket.display());
        }
        Ok(())
    }

    /// The file that the keeper holds locked as long as the cluster is up, with its process id in it. It lies beside the
    /// folder, since the folder comes and goes.
    pub(crate) fn lock_file(&self) -> Result<File> {
        let path = self.folder.with_extension("lock");
        std::fs::create_dir_all(self.folder.parent().context("a parent")?)?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    /// Whether a keeper holds the lock.
    pub(crate) fn is_running(&self) -> Result<bool> {
        Ok(self.lock_file()?.try_lock().is_err())
    }
}
