//! A network namespace by name: enter it, run programs in it, change its own settings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{report, shell};

/// A named network namespace of the sandbox (`/run/netns/NAME`). Clones name the same one. It stays until
/// [`Netns::delete`] or the sandbox's end, so that the operator's view can still show it after a failure.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` is the sandbox's own namespace, which has no name.
    name: Option<String>,
    path: PathBuf,
}

impl Netns {
    /// Makes the namespace `name` with `lo` up, no duplicate address detection and no router solicitation.
    pub fn create(name: &str) -> Result<Netns> {
        shell::output(Command::new("ip").args(["netns", "add", name]))?;
        let path = Path::new("/run/netns").join(name);
        let netns = Netns { inner: Arc::new(Inner { name: Some(name.to_owned()), path }) };
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
            netns.sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0")?;
            netns.sysctl(&format!("net.ipv6.conf.{scope}.router_solicitations"), "0")?;
        }
        netns.ip("link set lo up")?;
        report::register_netns(&netns);
        Ok(netns)
    }

    /// The sandbox's own namespace, where the link between the nodes lives.
    pub fn own() -> Netns {
        Netns { inner: Arc::new(Inner { name: None, path: PathBuf::from("/proc/1/ns/net") }) }
    }

    /// Deletes the name. The namespace itself ends with the last process or socket in it.
    pub fn delete(&self) -> Result<()> {
        let Some(name) = &self.inner.name else { return Err(anyhow!("the sandbox's own namespace has no name")) };
        report::forget_netns(name);
        shell::output(Command::new("ip").args(["netns", "del", name])).map(drop)
    }

    /// Its name; `sandbox` for the sandbox's own.
    pub fn name(&self) -> &str {
        self.inner.name.as_deref().unwrap_or("sandbox")
    }

    /// A path that `setns` and `nsenter --net=` take.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// An open handle, as enrolment passes it.
    pub fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("cannot open {}", self.path().display()))
    }

    /// The inode that names this namespace in the kernel's answers.
    pub fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(self.open()?.metadata()?.ino())
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = self.open()?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(format!("in-{}", self.name())).spawn_scoped(scope, || {
                setns(&handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.name()))?;
                work()
            })?;
            thread.join().map_err(|panic| anyhow!("panic in {}: {}", self.name(), panic_text(panic.as_ref())))?
        })
    }

    /// Starts `work` on a thread of its own inside the namespace and does not wait for it.
    pub fn enter_detached<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T>>> {
        let handle = self.open()?;
        let name = self.name().to_owned();
        let thread = std::thread::Builder::new().name(format!("in-{name}")).spawn(move || {
            setns(&handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {name}"))?;
            work()
        })?;
        Ok(thread)
    }

    /// A command that will run in the namespace. Mounts (cgroup, bpffs) stay visible, unlike under `ip netns exec`, and
    /// the process id is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program in the namespace to its end and returns what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        shell::output(self.command(program).args(arguments))
    }

    /// Runs `ip WORDS` in the namespace, for example `netns.ip("route show table 100")`.
    pub fn ip(&self, words: &str) -> Result<String> {
        shell::output(self.ip_command().args(words.split_whitespace()))
    }

    /// Runs several `ip` commands, one a line, in one process; the first failure ends it.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        shell::feed(self.ip_command().args(["-batch", "-"]), lines)
    }

    fn ip_command(&self) -> Command {
        let mut command = Command::new("ip");
        if let Some(name) = &self.inner.name {
            command.args(["-n", name]);
        }
        command
    }

    /// Writes a `net.*` setting of this namespace (dots or slashes), never one of the machine.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key)?;
        let place = self.name().to_owned();
        self.enter(move || {
            std::fs::write(&path, value).with_context(|| format!("cannot write {} in {place}", path.display()))
        })
    }

    /// Reads a `net.*` setting of this namespace.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key)?;
        self.enter(move || Ok(std::fs::read_to_string(&path)?.trim().to_owned()))
    }
}

/// The file of a `net.*` setting. Interface names with dots must be written with slashes.
fn sysctl_path(key: &str) -> Result<PathBuf> {
    let slashed = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    if !slashed.starts_with("net/") {
        return Err(anyhow!("{key} is not a setting of a network namespace"));
    }
    Ok(Path::new("/proc/sys").join(slashed))
}

/// What a caught panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panic without a text".to_owned())
}
