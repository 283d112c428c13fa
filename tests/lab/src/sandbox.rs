//! The sandbox: namespaces and mounts that end with their first process.
//!
//! `setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child --mount-proc` starts this very program again
//! as process 1 of a new pid namespace, with an empty `/run`, bpffs on `/run/bpf` and `lo` up. When the caller dies, by
//! whatever signal, the kernel kills `unshare`, which takes process 1 with it, and with process 1 everything in there.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};

use crate::{netns, report, shell};

/// Where bpffs is mounted inside the sandbox.
pub const BPFFS: &str = "/run/bpf";

/// Set inside the sandbox; its value is the word that proves that a test's body ran.
const MARK: &str = "CULVERT_LAB_SANDBOX";

/// How lines of the sandbox itself begin; `cargo xtask test` repeats those that say why a test fails.
const SAYS: &str = "culvert-lab:";

/// Seconds a test may take; overrides the default for slow machines.
const TIMEOUT: &str = "CULVERT_LAB_TIMEOUT";
const DEFAULT_TIMEOUT: u64 = 180;

/// Runs a test body in a sandbox of its own, see [`run`].
///
/// The body is a closure that returns `anyhow::Result<()>`; an optional first argument is the time it may take.
#[macro_export]
macro_rules! in_sandbox {
    ($body:expr) => {{
        fn here() {}
        $crate::sandbox::run(::std::any::type_name_of_val(&here), None, $body)
    }};
    ($limit:expr, $body:expr) => {{
        fn here() {}
        $crate::sandbox::run(::std::any::type_name_of_val(&here), Some($limit), $body)
    }};
}

/// True when this process runs in a sandbox.
pub fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// The test's name for `--exact`: without the crate in front and the macro's inner function behind.
fn test_name(here: &str) -> &str {
    let path = here.strip_suffix("::here").unwrap_or(here);
    path.split_once("::").map_or(path, |(_, name)| name)
}

/// Outside, starts this test binary again in a sandbox for the one test `here` names, and fails as it fails; inside, runs
/// `body`. A failure prints the operator's view. Use it through [`in_sandbox!`].
///
/// # Panics
/// When the body fails, exceeds its time, or did not run at all.
#[expect(clippy::panic, reason = "it is how a test fails")]
pub fn run(here: &str, limit: Option<Duration>, body: impl FnOnce() -> Result<()>) {
    let name = test_name(here);
    let outcome = if inside() { run_inside(name, body) } else { run_outside(name, limit) };
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

fn run_inside(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    prepare()?;
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(anyhow!("{}", netns::panic_text(panic.as_ref()))));
    match outcome {
        Ok(()) => {
            println!("\n{}", proof(name));
            Ok(())
        }
        Err(error) => {
            // First and last: the view between them is long, and may be cut where it is shown.
            println!("\n{SAYS} {name} fails: {error:#}\n{}", report::operators_view());
            Err(error)
        }
    }
}

fn proof(name: &str) -> String {
    format!("{SAYS} body of {name} ran to its end")
}

fn run_outside(name: &str, limit: Option<Duration>) -> Result<()> {
    let arguments: Vec<OsString> =
        ["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"].map(OsString::from).into();
    let log = std::env::temp_dir().join(format!("culvert-lab-{}-{}.log", std::process::id(), name.replace("::", "-")));
    let out = std::fs::File::create(&log)?;
    let child = sandboxed(&std::env::current_exe()?, &arguments)?.stdout(out.try_clone()?).stderr(out).spawn()?;
    let ended = wait(child, limit.unwrap_or_else(default_limit));
    let printed = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    // Not to be taken for lines of the test program outside, which are counted.
    printed.lines().for_each(|line| println!("| {line}"));
    let status = ended.with_context(|| format!("test {name}"))?;
    if !status.success() {
        bail!("{name} failed in its sandbox ({status}); its output is above");
    }
    if !printed.contains(&proof(name)) {
        bail!("{name} was not run: the sandboxed test binary found no test of this name");
    }
    Ok(())
}

fn default_limit() -> Duration {
    let seconds = std::env::var(TIMEOUT).ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_TIMEOUT);
    Duration::from_secs(seconds)
}

fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("not done within {limit:?}: killed, with everything in its sandbox");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// For programs: outside, runs this program again with the same arguments in a sandbox and returns how it ended; inside,
/// prepares the sandbox and returns `None`, and the caller goes on.
pub fn enter_or_reexec() -> Result<Option<ExitStatus>> {
    if inside() {
        prepare()?;
        return Ok(None);
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = sandboxed(&std::env::current_exe()?, &arguments)?.status()?;
    Ok(Some(status))
}

/// The command that runs `program arguments` as first process of a new sandbox.
pub fn sandboxed(program: &Path, arguments: &[OsString]) -> Result<Command> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and eBPF need root: run this as root (sudo keeps the toolchain with `sudo -E`)");
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(program)
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null());
    Ok(command)
}

/// Inside: an empty `/run`, bpffs, `lo` up. Refuses to touch anything when it is not in namespaces of its own.
fn prepare() -> Result<()> {
    if std::process::id() != 1 {
        bail!("{MARK} is set, but this is not the first process of a sandbox: unset it");
    }
    mount(Some("lab"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .context("cannot mount an empty /run")?;
    std::fs::DirBuilder::new().mode(0o700).create(BPFFS)?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .context("cannot mount bpffs: the kernel needs CONFIG_BPF_SYSCALL")?;
    std::fs::create_dir("/run/lab")?;
    shell::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}
