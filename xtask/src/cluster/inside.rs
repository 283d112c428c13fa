//! The processes that make up a cluster, from the outside in: keeper, sandbox, machine. Each is this program, started with
//! a hidden command.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};

use crate::cluster::place::{API_PORT, CONTROL, Machine, Place};
use crate::cluster::plan::Plan;
use crate::cluster::{cgroups, network, root, supervise};

/// The plan of the sandbox: its components are the machines.
pub(crate) const SANDBOX: &str = "sandbox";

/// Hidden commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Stage {
    /// Holds the lock, starts the sandbox, cleans up after it. Standard input is the socket for the API server.
    Keeper { folder: PathBuf },
    /// First process of the sandbox: link, machines, and a way in for the API server's clients.
    Sandbox { folder: PathBuf },
    /// Makes a machine's network and enters its cgroup, then becomes its first process.
    Boot { folder: PathBuf, machine: String },
    /// First process of a machine.
    Machine { folder: PathBuf, machine: String },
}

pub(crate) fn run(stage: &Stage) -> Result<()> {
    match stage {
        Stage::Keeper { folder } => keeper(&Place::at(folder)?),
        Stage::Sandbox { folder } => sandbox(&Place::at(folder)?),
        Stage::Boot { folder, machine } => boot(&Place::at(folder)?, Machine::by_name(machine)?),
        Stage::Machine { folder, machine } => inside_machine(&Place::at(folder)?, Machine::by_name(machine)?),
    }
}

fn keeper(place: &Place) -> Result<()> {
    let lock = place.lock_file()?;
    if lock.try_lock().is_err() {
        bail!("the cluster {} has a keeper already", place.name());
    }
    lock.set_len(0)?;
    std::io::Write::write_all(&mut &lock, std::process::id().to_string().as_bytes())?;
    let _ = nix::unistd::setsid();
    let mut waited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        waited.add(signal);
    }
    waited.thread_block()?;
    let mut sandbox = Command::new("setpriv");
    sandbox.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]);
    sandbox.args(["--mount-proc", "--"]).arg(place.program()).args(["cluster", "inside", "sandbox"]);
    let mut child = sandbox.arg(place.folder()).spawn().context("cannot start the sandbox")?;
    while waited.wait()? == Signal::SIGCHLD && child.try_wait()?.is_none() {}
    let _ = child.kill();
    child.wait()?;
    cgroups::remove(&place.cgroup())
}

fn sandbox(place: &Place) -> Result<()> {
    ensure!(std::process::id() == 1, "this is not the first process of a sandbox");
    root::private_mounts()?;
    mount(Some("cluster"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .context("cannot mount an empty /run")?;
    network::fabric()?;
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    thread::spawn(move || relay(&listener));
    let plan = Plan::read(&place.plan(SANDBOX))?;
    supervise::run(plan.components, &place.socket(SANDBOX), false)
}

/// The socket was made outside and keeps its network; what arrives there is carried to the API server.
fn relay(listener: &TcpListener) {
    for outer in listener.incoming().flatten() {
        thread::spawn(move || {
            let Ok(inner) = TcpStream::connect((CONTROL.address(), API_PORT)) else { return };
            let (Ok(outer_too), Ok(inner_too)) = (outer.try_clone(), inner.try_clone()) else { return };
            let back = thread::spawn(move || carry(&inner_too, &outer_too));
            carry(&outer, &inner);
            let _ = back.join();
        });
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn boot(place: &Place, machine: Machine) -> Result<()> {
    network::machine(machine)?;
    cgroups::join(&format!("{}/{}", place.cgroup(), machine.name))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter", &format!("--net=/run/netns/{}", machine.name), "--"]);
    command.args(["unshare", "--cgroup", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "--"]).arg(place.program()).args(["cluster", "inside", "machine"]);
    Err(command.arg(place.folder()).arg(machine.name).stdin(Stdio::null()).exec()).context("cannot become a machine")
}

fn inside_machine(place: &Place, machine: Machine) -> Result<()> {
    ensure!(std::process::id() == 1, "this is not the first process of a machine");
    std::fs::write("/proc/sys/kernel/hostname", machine.name).context("cannot name the machine")?;
    let plan = Plan::read(&place.plan(machine.name))?;
    root::enter(machine.name, &plan.shared)?;
    plan.lay_out()?;
    supervise::run(plan.components, &place.socket(machine.name), true)
}

/// The process ids, in the pid namespace of whoever asks, of the machine's first process: the child of `unshare` whose
/// command line names cluster and machine.
pub(crate) fn first_process(place: &Place, machine: Machine) -> Result<u32> {
    let wanted = [
        place.program().to_string_lossy().into_owned(),
        "cluster".to_owned(),
        "inside".to_owned(),
        "machine".to_owned(),
        place.folder().to_string_lossy().into_owned(),
        machine.name.to_owned(),
    ];
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if command_line(&entry.path()).is_some_and(|words| words == wanted) {
            return Ok(pid);
        }
    }
    bail!("{} of the cluster {} is not running", machine.name, place.name())
}

fn command_line(process: &Path) -> Option<Vec<String>> {
    let bytes = std::fs::read(process.join("cmdline")).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    Some(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}
