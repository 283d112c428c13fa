//! kubelet's cgroup, by which its probes are told from everybody else's connections.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use crate::enrol::uid_of;

/// Where kubelet's cgroup is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeletCgroup {
    /// This folder of the cgroup2 tree.
    Folder(PathBuf),
    /// That of the process named `kubelet` in the node's network namespace.
    Auto,
}

/// Why kubelet's probes are not told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KubeletError {
    /// No such process, or none that is believed.
    #[error("no process of root's named kubelet runs in the node's own network namespace")]
    NoKubelet,
    /// Several, in different cgroups.
    #[error("several kubelets run here, in different cgroups: name one by --kubelet-cgroup")]
    ManyKubelets,
    /// It has no cgroup of its own in the cgroup2 tree.
    #[error("kubelet is in the root of the cgroup2 tree, like others: give it a cgroup of its own")]
    Root,
    /// There is no such folder.
    #[error("kubelet's cgroup is not below --host-cgroup")]
    NoFolder,
}

impl KubeletError {
    /// Stable word for the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoKubelet => "kubelet_not_found",
            Self::ManyKubelets => "kubelet_ambiguous",
            Self::Root => "kubelet_in_root_cgroup",
            Self::NoFolder => "kubelet_cgroup_not_found",
        }
    }
}

/// Looks for kubelet's cgroup again and again.
#[derive(Debug)]
pub struct Kubelet {
    setting: Option<KubeletCgroup>,
    proc: PathBuf,
    cgroups: PathBuf,
    said: Option<Result<PathBuf, KubeletError>>,
}

impl Kubelet {
    /// With the settings `--kubelet-cgroup`, `--host-proc` and `--host-cgroup`.
    pub fn new(setting: Option<KubeletCgroup>, proc: PathBuf, cgroups: PathBuf) -> Self {
        Self { setting, proc, cgroups, said: None }
    }

    /// The folder as it is now: `Some(None)` if nobody is exempt, `None` if there is nothing to be told.
    pub(crate) fn look(&mut self) -> Option<Option<PathBuf>> {
        let found = match self.setting.as_ref()? {
            KubeletCgroup::Folder(folder) => own(folder),
            KubeletCgroup::Auto => find(&self.proc, &self.cgroups),
        };
        if self.said.as_ref() != Some(&found) {
            match &found {
                Ok(folder) => tracing::info!(folder = %folder.display(), "kubelet's probes are known by its cgroup"),
                Err(error) => {
                    let reason = error.reason();
                    tracing::warn!(reason, %error, "kubelet's probes are judged like other plaintext");
                }
            }
            self.said = Some(found.clone());
        }
        Some(found.ok())
    }
}

/// A cgroup that is not the root, which everybody without a cgroup of his own is in.
fn own(folder: &Path) -> Result<PathBuf, KubeletError> {
    match (folder.is_dir(), folder.join("cgroup.events").exists()) {
        (true, true) => Ok(folder.to_owned()),
        (true, false) => Err(KubeletError::Root),
        (false, _) => Err(KubeletError::NoFolder),
    }
}

/// The cgroup of the node's kubelet. Anybody may call himself so: it is root's, in the node's network namespace and in
/// no pod's cgroup.
fn find(proc: &Path, cgroups: &Path) -> Result<PathBuf, KubeletError> {
    let own_net = fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    let mut found: Vec<String> = Vec::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let is_root = || fs::metadata(&process).is_ok_and(|metadata| metadata.uid() == 0);
        let is_here = || fs::metadata(process.join("ns/net")).is_ok_and(|metadata| metadata.ino() == own_net);
        if comm.trim_end() != "kubelet" || !is_root() || !is_here() {
            continue;
        }
        let Some(text) = cgroup_from_the_nodes_root(proc, &process) else { continue };
        if uid_of(&text).is_none()
            && let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::"))
        {
            found.push(path.to_owned());
        }
    }
    found.sort();
    found.dedup();
    match found.as_slice() {
        [] => Err(KubeletError::NoKubelet),
        [path] => folder(cgroups, path),
        _ => Err(KubeletError::ManyKubelets),
    }
}

/// `/proc/PID/cgroup` as process 1 of the node sees it: in a container, paths are relative to the container's own cgroup.
/// The view belongs to the thread that opens the file, so a thread of its own takes the node's.
fn cgroup_from_the_nodes_root(proc: &Path, process: &Path) -> Option<String> {
    let (root, file) = (proc.join("1/ns/cgroup"), process.join("cgroup"));
    let read = move || {
        // Without it (no such namespace, no permission) the path may lead upwards, and is refused below.
        let _ = fs::File::open(root).map(|root| setns(root, CloneFlags::CLONE_NEWCGROUP));
        fs::read_to_string(file).ok()
    };
    std::thread::spawn(read).join().ok().flatten()
}

/// The folder of a path of `/proc/PID/cgroup`: below the mount, or where v1 is mounted as well, below `unified`.
fn folder(cgroups: &Path, path: &str) -> Result<PathBuf, KubeletError> {
    let path = Path::new(path.trim_start_matches('/'));
    if path.as_os_str().is_empty() {
        return Err(KubeletError::Root);
    }
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(KubeletError::NoFolder);
    }
    let hybrid = cgroups.join("unified");
    own(&if hybrid.is_dir() { hybrid.join(path) } else { cgroups.join(path) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test stops where it fails")]

    use super::*;

    #[test]
    fn a_cgroup_that_others_share_is_nobodys() {
        let tree = tempfile::TempDir::new().expect("a folder");
        let own = tree.path().join("system.slice/kubelet.service");
        fs::create_dir_all(&own).expect("made");
        fs::write(own.join("cgroup.events"), "").expect("written");
        assert_eq!(folder(tree.path(), "/system.slice/kubelet.service"), Ok(own));
        assert_eq!(folder(tree.path(), "/"), Err(KubeletError::Root));
        assert_eq!(folder(tree.path(), "/../../kubelet.service"), Err(KubeletError::NoFolder));
        assert_eq!(folder(tree.path(), "/elsewhere"), Err(KubeletError::NoFolder));
        let mut kubelet = Kubelet::new(
            Some(KubeletCgroup::Folder(tree.path().to_owned())),
            PathBuf::from("/proc"),
            tree.path().to_owned(),
        );
        assert_eq!(kubelet.look(), Some(None), "the root of the tree exempts nobody");
        assert_eq!(Kubelet::new(None, "/proc".into(), "/".into()).look(), None);
    }
}
