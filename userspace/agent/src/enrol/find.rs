//! Finding a pod's network namespace again by its inode number.
//!
//! Nothing is kept that would hold a namespace alive after its pod: no bind mount, no open descriptor. A namespace is
//! looked for where its users keep it, among the named ones and among those of running processes. That the inode
//! number still means the same namespace is proven by the pin: the kernel reports the inode of the namespace that the
//! pinned link is attached to, and 0 once that namespace is gone.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Where named namespaces are kept.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Opens the namespace with this inode number, if anybody has it.
pub(crate) fn netns(proc: &Path, inode: u64) -> Option<OwnedFd> {
    let named = NAMED.iter().flat_map(|folder| entries(Path::new(folder)));
    let of_processes = entries(proc).filter(|path| is_process(path)).map(|path| path.join("ns/net"));
    named.chain(of_processes).find_map(|path| open(&path, inode))
}

pub(super) fn open(path: &Path, inode: u64) -> Option<OwnedFd> {
    if fs::metadata(path).ok()?.ino() != inode {
        return None;
    }
    let file = File::open(path).ok()?;
    // What was opened counts, not what was looked at.
    (file.metadata().ok()?.ino() == inode).then(|| file.into())
}

pub(super) fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

pub(super) fn is_process(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
}
