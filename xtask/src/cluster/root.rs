//! A machine's own root file system: this machine's, seen through an overlay, so that whatever a kubelet, a container or a
//! DaemonSet writes stays in the sandbox's memory and is gone with it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cluster::cgroups;

/// Where the machines' writable layers lie in the sandbox; they outlive the machine's restart as a disk does.
const DISKS: &str = "/run/machines";

/// Folders that must not lie on an overlay, because containers' own overlays are made in them.
const OWN_DISK: &[&str] = &["var/lib/containerd", "var/lib/kubelet", "var/lib/etcd"];

/// What kubelet wants to find. It would write these settings of the whole machine; so it sees files that say they are
/// so, and the machine's own are not reachable.
const EXPECTED: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Gives this process, the first of its mount, pid and cgroup namespaces, a root of its own. `shared` folders are the
/// machine's real ones.
pub(crate) fn enter(name: &str, shared: &[PathBuf]) -> Result<()> {
    private_mounts()?;
    let disk = Path::new(DISKS).join(name);
    let root = disk.join("root");
    for folder in ["upper", "work", "root"] {
        std::fs::create_dir_all(disk.join(folder))?;
    }
    let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", disk.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .context("cannot mount the machine's root: the kernel needs CONFIG_OVERLAY_FS")?;
    for folder in OWN_DISK {
        let own = disk.join("disk").join(folder);
        std::fs::create_dir_all(&own)?;
        bind(&own, &root.join(folder), MsFlags::empty())?;
    }
    kernel_mounts(&root)?;
    // After those: they may lie below /tmp, which is a machine's own.
    for folder in shared {
        bind(folder, &below(&root, folder), MsFlags::empty())?;
    }
    sysctls(&root, &disk)?;
    cgroups::mount_own(&root)?;
    pivot(&root)
}

/// Mounts made from here on are nobody else's.
pub(crate) fn private_mounts() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot keep mounts private")
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> Result<()> {
    std::fs::create_dir_all(to)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | more, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

fn kernel_mounts(root: &Path) -> Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (kind, at, flags, data) in [
        ("proc", "proc", safe, None),
        ("sysfs", "sys", safe, None),
        ("tmpfs", "run", safe, Some("mode=755")),
        ("tmpfs", "tmp", safe, Some("mode=1777")),
        ("bpf", "sys/fs/bpf", MsFlags::empty(), Some("mode=700")),
    ] {
        let at = root.join(at);
        std::fs::create_dir_all(&at)?;
        mount(Some(kind), &at, Some(kind), flags, data).with_context(|| format!("cannot mount {}", at.display()))?;
    }
    bind(Path::new("/dev"), &root.join("dev"), MsFlags::MS_REC)
}

/// Only settings of a network namespace may be written; those of the whole machine are read-only or hidden.
fn sysctls(root: &Path, disk: &Path) -> Result<()> {
    for folder in ["fs", "kernel", "vm", "debug", "dev"] {
        let at = root.join("proc/sys").join(folder);
        if at.is_dir() {
            bind(&at, &at, MsFlags::empty())?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &at, None::<&str>, flags, None::<&str>)
                .with_context(|| format!("cannot protect {}", at.display()))?;
        }
    }
    for (name, value) in EXPECTED {
        let at = root.join("proc/sys").join(name);
        if at.exists() {
            let stand_in = disk.join(name.replace('/', "-"));
            std::fs::write(&stand_in, format!("{value}\n"))?;
            mount(Some(&stand_in), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("cannot cover {}", at.display()))?;
        }
    }
    Ok(())
}

fn pivot(root: &Path) -> Result<()> {
    nix::unistd::chdir(root)?;
    nix::unistd::pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root")?;
    nix::unistd::chdir("/")?;
    // As a systemd machine's: mounts that a pod makes with Bidirectional propagation are seen by the others.
    let flags = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("cannot share mounts within the machine")
}
