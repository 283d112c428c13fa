//! Entering a network namespace, and coming back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};

/// A network namespace that is kept open.
#[derive(Debug)]
pub(crate) struct Namespace {
    fd: OwnedFd,
    inode: u64,
}

impl Namespace {
    /// The calling thread's own.
    pub(crate) fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let inode = file.metadata()?.ino();
        Ok(Self { fd: file.into(), inode })
    }

    /// Takes a descriptor; `None` if it is not one of a network namespace.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Option<Self>> {
        // `ioctl_ns(2)`; Linux 4.11. Everything else answers ENOTTY or another number.
        const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
        // SAFETY: the request takes no argument and only reads the kind of the file.
        let kind = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Ok(None);
        }
        let file = File::from(fd);
        let inode = file.metadata()?.ino();
        Ok(Some(Self { fd: file.into(), inode }))
    }

    /// Inode number: its identity in the kernel's answers.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` on this thread inside the namespace and comes back to `home` before it returns.
    ///
    /// A thread that cannot come back would go on in the wrong network: the process ends instead.
    pub(crate) fn enter<T>(&self, home: &Namespace, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let back = Back(home);
        let result = work();
        drop(back);
        result
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Comes back also when `work` panics.
struct Back<'a>(&'a Namespace);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}
