//! What culvert needs of a machine, and one sentence on what to do where it is missing.

use std::path::Path;

use nix::sys::statfs::{FsType, statfs};

use crate::deviation::Finding;
use crate::error::OpenError;
use crate::hook::Mechanism;

const BPF_FS: FsType = FsType(0xcafe_4a11);

fn good(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding { name, ok: true, detail: detail.into(), remedy: None }
}

fn bad(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { name, ok: false, detail: detail.into(), remedy: Some(remedy.into()) }
}

/// See [`crate::check_machine`].
pub(crate) fn check(bpffs: &Path) -> Vec<Finding> {
    vec![root(), btf(), bpffs_mounted(bpffs), sk_lookup(), tcx(), cgroup2(), socket_destroy()]
}

/// Refuses a machine on which culvert cannot work. What only degrades it is not asked for here.
pub(crate) fn require(bpffs: &Path) -> Result<(), OpenError> {
    for finding in [root(), btf(), bpffs_mounted(bpffs), sk_lookup()] {
        if let Finding { name, ok: false, detail, remedy: Some(remedy) } = finding {
            return Err(OpenError::Unsupported { name, what: detail, remedy });
        }
    }
    Ok(())
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        good("root", "running as uid 0")
    } else {
        bad("root", format!("running as uid {}", nix::unistd::geteuid()), "run it as root")
    }
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        good("btf", format!("{path} is there"))
    } else {
        bad("btf", format!("{path} is not there"), "use a kernel built with CONFIG_DEBUG_INFO_BTF=y")
    }
}

fn bpffs_mounted(bpffs: &Path) -> Finding {
    let shown = bpffs.display();
    match statfs(bpffs) {
        Ok(found) if found.filesystem_type() == BPF_FS => good("bpffs", format!("bpffs is mounted on {shown}")),
        Ok(_) => bad("bpffs", format!("{shown} is not a bpffs"), format!("run `mount -t bpf bpf {shown}`")),
        Err(error) => bad(
            "bpffs",
            format!("{shown} cannot be read: {error}"),
            format!("make the folder and run `mount -t bpf bpf {shown}`"),
        ),
    }
}

fn sk_lookup() -> Finding {
    match aya::sys::is_program_supported(aya::programs::ProgramType::SkLookup) {
        Ok(true) => good("sk_lookup", "the kernel has sk_lookup programs"),
        Ok(false) => bad("sk_lookup", "the kernel has no sk_lookup programs", "use Linux 5.9 or newer"),
        Err(error) => bad(
            "sk_lookup",
            format!("the kernel refused the question: {error}"),
            "run it as root with CAP_BPF or CAP_SYS_ADMIN",
        ),
    }
}

fn tcx() -> Finding {
    match Mechanism::detect() {
        Mechanism::Tcx => good("tcx", "the kernel has tcx links"),
        Mechanism::Clsact => good("tcx", "the kernel has no tcx (Linux 6.6): clsact filters are used instead"),
    }
}

fn cgroup2() -> Finding {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (folder, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| folder.to_owned())
    });
    match folder {
        Some(folder) => good("cgroup2", format!("cgroup2 is mounted on {folder}")),
        None => bad(
            "cgroup2",
            "no cgroup2 is mounted: kubelet's probes cannot be recognised",
            "mount cgroup2, or let the agent proxy the probes",
        ),
    }
}

/// Asks to end a connection that cannot exist: a kernel that can answers that there is none.
fn socket_destroy() -> Finding {
    let nobody = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    match crate::diag::Diag::open().and_then(|diag| diag.can_destroy(nobody)) {
        Ok(true) => good("socket_destroy", "open connections of a pod can be ended when it is enrolled"),
        Ok(false) => bad(
            "socket_destroy",
            "the kernel cannot end connections by request",
            "use a kernel built with CONFIG_INET_DIAG_DESTROY=y, or enrol pods before they start",
        ),
        Err(error) => bad("socket_destroy", format!("cannot ask the kernel: {error}"), "run it as root"),
    }
}
