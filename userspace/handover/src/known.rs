//! What the agent knew last of its node's pods: written by the agent, read by the CNI plugin when the API server does not
//! answer. `RUN_DIR/known.json`.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Pods of this node by UID: enrolled or not.
    #[serde(default)]
    pub pods: BTreeMap<String, bool>,
    /// Namespaces: whether somebody there is enrolled, or would be who says nothing himself. `false` is the control plane's
    /// word and nobody else's; of what it does not speak of, nothing is said here.
    #[serde(default)]
    pub namespaces: BTreeMap<String, bool>,
}

impl Known {
    /// Reads the list, if it is this user's alone.
    pub fn read(path: &Path) -> io::Result<Self> {
        private(path)?;
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
    }

    /// Writes the list, at once or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, &serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}

/// Pods that the CNI plugin has judged to be the mesh's, by their labels: written and read by the plugin beside the list, for
/// when the API server does not answer any more. One file each, named by UID.
#[derive(Debug)]
pub struct Asked {
    folder: PathBuf,
}

impl Asked {
    /// Beside this list.
    pub fn beside(list: &Path) -> Self {
        Self { folder: list.with_file_name("asked") }
    }

    /// Notes a pod.
    pub fn note(&self, uid: &str) -> io::Result<()> {
        // After a reboot it may be the first here, and the agent uses no folder that others can look into.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.of(uid)?).map(drop)
    }

    /// Whether a pod was noted. A folder that cannot be read notes everybody.
    pub fn has(&self, uid: &str) -> bool {
        self.of(uid).and_then(|file| file.try_exists()).unwrap_or(true)
    }

    /// The list knows the pod itself now. (Not at its `DEL`: each try that fails ends with one.)
    pub fn forget(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.of(uid)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A UID becomes the name of a file: nothing else may.
    fn of(&self, uid: &str) -> io::Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if uid.is_empty() || uid.starts_with('.') || uid.len() > 128 || !uid.bytes().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{uid:?} is no UID")));
        }
        Ok(self.folder.join(uid))
    }
}

/// Puts a file of mode 0600 in place, at once or not at all, through a temporary one beside it.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let fresh = path.with_file_name(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made anew: nobody has it open, and its mode is ours from the beginning.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

/// A file that decides over pods, or opens the API server, is not one that others can write or read.
pub fn private(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_file() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let text = format!("{} must be a file of this user with mode 0600", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}
