//! Where everything that outlives the agent is pinned.
//!
//! ```text
//! <bpffs>/culvert/v<abi>/<node>/maps/<map>
//!                              /pods/<uid>/{guard,watch,steer,probe,listeners}
//! ```

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use culvert_abi::ABI_VERSION;

use crate::error::OpenError;

/// The pins of one node.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

/// The pins of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodPins {
    pub(crate) folder: PathBuf,
    pub(crate) guard: PathBuf,
    pub(crate) watch: PathBuf,
    pub(crate) steer: PathBuf,
    pub(crate) probe: PathBuf,
    pub(crate) listeners: PathBuf,
}

impl PodPins {
    fn at(folder: PathBuf) -> Self {
        let pin = |name| folder.join(name);
        Self {
            guard: pin("guard"),
            watch: pin("watch"),
            steer: pin("steer"),
            probe: pin("probe"),
            listeners: pin("listeners"),
            folder,
        }
    }

    /// Removes all pins of the pod, the guard last; what is pinned nowhere else is detached by that.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let (watch, guard) = (beside(&self.watch), beside(&self.guard));
        let host = self.folder.join("host");
        for pin in [&host, &self.steer, &self.probe, &self.listeners, &watch, &self.watch, &guard, &self.guard] {
            ignore_absent(std::fs::remove_file(pin))?;
        }
        ignore_absent(std::fs::remove_dir(&self.folder))
    }
}

/// Where the successor of a pin is pinned before it takes its place. (Names in bpffs have no dots.)
pub(crate) fn beside(pin: &Path) -> PathBuf {
    let mut name = pin.as_os_str().to_owned();
    name.push("-next");
    name.into()
}

pub(crate) fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a word is a folder name that bpffs takes and that cannot climb.
pub(crate) fn is_name(word: &str) -> bool {
    (1..=63).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Names of nodes may have dots, which bpffs refuses; they have no underscores.
fn node_folder(node: &str) -> Result<String, OpenError> {
    let folder = node.replace('.', "_");
    let fits = (1..=253).contains(&node.len()) && node.split('.').all(is_name) && !node.contains('_');
    if fits { Ok(folder) } else { Err(OpenError::NodeName(node.to_owned())) }
}

impl Pins {
    /// Makes the folders, or checks that the ones that are there are private.
    pub(crate) fn open(bpffs: &Path, node: &str) -> Result<Self, OpenError> {
        let node = node_folder(node)?;
        let mut path = bpffs.to_path_buf();
        for part in ["culvert".to_owned(), format!("v{ABI_VERSION}"), node] {
            path.push(part);
            private_folder(&path)?;
        }
        for part in ["maps", "pods"] {
            private_folder(&path.join(part))?;
        }
        Ok(Self { root: path })
    }

    /// See [`crate::Redirect::dismantle`].
    pub(crate) fn dismantle(bpffs: &Path, node: &str) -> Result<(), OpenError> {
        let all = bpffs.join("culvert");
        let version = all.join(format!("v{ABI_VERSION}"));
        let root = version.join(node_folder(node)?);
        let gone = |path: &Path| {
            let system = |source| OpenError::System { action: format!("remove {}", path.display()), source };
            ignore_absent(std::fs::remove_dir(path)).map_err(system)
        };
        let maps = root.join("maps");
        for map in std::fs::read_dir(&maps).into_iter().flatten().flatten() {
            let path = map.path();
            let system = |source| OpenError::System { action: format!("remove {}", path.display()), source };
            ignore_absent(std::fs::remove_file(&path)).map_err(system)?;
        }
        // A pod that is still there keeps its pins, and its folder is an error.
        [&maps, &root.join("pods"), &root].into_iter().try_for_each(|path| gone(path))?;
        // Other nodes may share the kernel, and other versions the node.
        let _ = std::fs::remove_dir(&version).and_then(|()| std::fs::remove_dir(&all));
        Ok(())
    }

    /// Pin of a shared map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Pins of a pod.
    pub(crate) fn pod(&self, uid: &str) -> PodPins {
        PodPins::at(self.root.join("pods").join(uid))
    }

    /// Makes the folder of a pod.
    pub(crate) fn make_pod(&self, uid: &str) -> Result<PodPins, OpenError> {
        let pins = self.pod(uid);
        private_folder(&pins.folder)?;
        Ok(pins)
    }

    /// Whether an agent of another layout of these pins has made a folder for a pod of this node.
    pub(crate) fn is_known_to_other_versions(&self, uid: &str) -> io::Result<bool> {
        let (Some(version), Some(node)) = (self.root.parent(), self.root.file_name()) else { return Ok(false) };
        let Some(all) = version.parent() else { return Ok(false) };
        for entry in std::fs::read_dir(all)? {
            let other = entry?.path();
            if other != version && other.join(node).join("pods").join(uid).try_exists()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// UIDs with a folder.
    pub(crate) fn pods(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in std::fs::read_dir(self.root.join("pods"))? {
            if let Ok(uid) = entry?.file_name().into_string() {
                uids.push(uid);
            }
        }
        uids.sort();
        Ok(uids)
    }
}

fn private_folder(path: &Path) -> Result<(), OpenError> {
    let system = |source| OpenError::System { action: format!("make the folder {}", path.display()), source };
    match DirBuilder::new().mode(0o700).create(path) {
        // The umask may have taken bits away, and a new folder of ours has to be usable by us.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(system)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(error)),
    }
    let metadata = std::fs::symlink_metadata(path).map_err(system)?;
    if metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & 0o7777 == 0o700 {
        return Ok(());
    }
    let kind = if metadata.is_dir() { "a folder" } else { "not a folder" };
    let found = format!("{kind} of uid {} with mode {:04o}", metadata.uid(), metadata.mode() & 0o7777);
    Err(OpenError::PinFolder { path: path.to_path_buf(), found })
}
