//! The book of pods in the run directory: what a killed agent's successor needs to find its pods again.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The pod's UID.
    pub uid: String,
    /// Inode number of its network namespace.
    pub netns_inode: u64,
    /// Name of its veth on the node.
    pub host_veth: String,
    /// Index of that veth.
    pub host_ifindex: u32,
}

/// The folder with one file per pod.
#[derive(Debug, Clone)]
pub struct Book {
    folder: PathBuf,
}

impl Book {
    /// Opens the book below the run directory.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let folder = run_dir.join("pods");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// Writes a pod down, at once or not at all.
    pub fn put(&self, entry: &Entry) -> io::Result<()> {
        let path = self.path(&entry.uid);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(entry).map_err(io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        fs::rename(&fresh, path)
    }

    /// Strikes a pod out.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All pods that can be read; the others are named in the log.
    pub fn all(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
            match read {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a page of the book of pods is unreadable")
                }
            }
        }
        Ok(entries)
    }

    /// UIDs are checked by the redirect before a pod is written down: no slash, no dot.
    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{uid}.json"))
    }
}
