//! The first process of a machine, and of the sandbox around the machines: starts components, starts them again when they
//! end, reaps what nobody else waits for, and does what it is told over a socket: one line of JSON each way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cluster::cgroups;
use crate::cluster::plan::Component;

/// Between an end and the next start.
const PAUSE: Duration = Duration::from_millis(500);

/// Between two looks.
const MOMENT: Duration = Duration::from_millis(20);

/// How long a component may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a supervisor can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// Ends it in order; it stays down.
    Stop,
    /// Ends it at once; it stays down.
    Halt,
    /// Ends it at once, as a crash would; it comes back.
    Kill,
    /// Stops its threads.
    Freeze,
    /// Lets them go on.
    Thaw,
    /// Starts it after `stop` or `halt`.
    Start,
    /// Says how everything is.
    List,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    action: Action,
    component: String,
}

/// How one component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    /// In the supervisor's own pid namespace; none while it is down.
    pub(crate) pid: Option<i32>,
    /// How often it was started.
    pub(crate) starts: u32,
    /// How it ended last.
    pub(crate) ended: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    components: Vec<Report>,
}

#[derive(Debug)]
struct Kept {
    component: Component,
    wanted: bool,
    report: Report,
}

type Table = Arc<Mutex<BTreeMap<String, Kept>>>;

/// Runs the components for ever.
pub(crate) fn run(components: Vec<Component>, socket: &Path, slices: bool) -> Result<()> {
    let mut table = BTreeMap::new();
    let names: Vec<String> = components.iter().map(|component| component.name.clone()).collect();
    for component in components {
        let report = Report { name: component.name.clone(), pid: None, starts: 0, ended: None };
        table.insert(component.name.clone(), Kept { component, wanted: true, report });
    }
    let table = Arc::new(Mutex::new(table));
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let asked = Arc::clone(&table);
    thread::spawn(move || serve(&listener, &asked, slices));
    for name in names {
        start(&table, &name, slices);
    }
    reap(&table, slices)
}

fn lock(table: &Table) -> MutexGuard<'_, BTreeMap<String, Kept>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes how children end. As first process of its pid namespace it waits for all, its own and those it inherited, and
/// nothing else in it may wait for a child; elsewhere only for the components.
fn reap(table: &Table, slices: bool) -> Result<()> {
    let first = std::process::id() == 1;
    loop {
        if first {
            let ended = waitpid(None, None);
            note(table, ended, slices)?;
        } else {
            let pids: Vec<i32> = lock(table).values().filter_map(|kept| kept.report.pid).collect();
            for pid in pids {
                let ended = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
                note(table, ended, slices)?;
            }
            thread::sleep(MOMENT);
        }
    }
}

fn note(table: &Table, ended: Result<WaitStatus, Errno>, slices: bool) -> Result<()> {
    match ended {
        Ok(WaitStatus::Exited(pid, code)) => note_end(table, pid, format!("with code {code}"), slices),
        Ok(WaitStatus::Signaled(pid, signal, _)) => note_end(table, pid, format!("by {signal}"), slices),
        Ok(_) | Err(Errno::EINTR) => {}
        Err(Errno::ECHILD) => thread::sleep(MOMENT),
        Err(error) => bail!("cannot wait for components: {error}"),
    }
    Ok(())
}

fn note_end(table: &Table, pid: Pid, how: String, slices: bool) {
    let mut table_now = lock(table);
    let Some(kept) = table_now.values_mut().find(|kept| kept.report.pid == Some(pid.as_raw())) else { return };
    kept.report.pid = None;
    kept.report.ended = Some(how);
    if kept.wanted {
        let (table, name) = (Arc::clone(table), kept.report.name.clone());
        thread::spawn(move || {
            thread::sleep(PAUSE);
            start(&table, &name, slices);
        });
    }
}

/// Starts a component that is wanted and down. The table stays locked meanwhile: its end is noted after its start.
fn start(table: &Table, name: &str, slices: bool) {
    let mut table = lock(table);
    let Some(kept) = table.get_mut(name).filter(|kept| kept.wanted && kept.report.pid.is_none()) else { return };
    kept.report.starts += 1;
    match spawn(&kept.component, slices) {
        Ok(pid) => kept.report.pid = Some(pid),
        Err(error) => kept.report.ended = Some(format!("{error:#}")),
    }
}

fn spawn(component: &Component, slices: bool) -> Result<i32> {
    let mut log = File::options().create(true).append(true).open(&component.log)?;
    writeln!(log, "--- {} is started: {}", component.name, component.command.join(" "))?;
    let mut command = Command::new("sh");
    if slices && let Some(cgroup) = cgroups::for_component(&component.name)? {
        command.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""]).arg(cgroup);
    } else {
        command.args(["-c", "exec \"$@\"", "sh"]);
    }
    command.args(&component.command).envs(&component.environment);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().with_context(|| format!("cannot start {}", component.name))?;
    Ok(i32::try_from(child.id())?)
}

fn serve(listener: &UnixListener, table: &Table, slices: bool) {
    for stream in listener.incoming().flatten() {
        let table = Arc::clone(table);
        thread::spawn(move || {
            let outcome = answer(stream, &table, slices);
            if let Err(error) = outcome {
                eprintln!("a request was not answered: {error:#}");
            }
        });
    }
}

fn answer(mut stream: UnixStream, table: &Table, slices: bool) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let error = act(&request, table, slices).err().map(|error| format!("{error:#}"));
    let components = lock(table).values().map(|kept| kept.report.clone()).collect();
    writeln!(stream, "{}", serde_json::to_string(&Answer { error, components })?)?;
    Ok(())
}

fn act(request: &Request, table: &Table, slices: bool) -> Result<()> {
    if request.action == Action::List {
        return Ok(());
    }
    let name = &request.component;
    let pid = {
        let mut table = lock(table);
        let Some(kept) = table.get_mut(name) else { bail!("there is no component {name}") };
        kept.wanted = match request.action {
            Action::Stop | Action::Halt => false,
            Action::Start => true,
            _ => kept.wanted,
        };
        kept.report.pid.map(Pid::from_raw)
    };
    let signal = match request.action {
        Action::Stop => Signal::SIGTERM,
        Action::Halt | Action::Kill => Signal::SIGKILL,
        Action::Freeze => Signal::SIGSTOP,
        Action::Thaw => Signal::SIGCONT,
        Action::Start | Action::List => {
            start(table, name, slices);
            return Ok(());
        }
    };
    let Some(pid) = pid else { return Ok(()) };
    kill(pid, signal)?;
    if matches!(request.action, Action::Stop | Action::Halt | Action::Kill) {
        gone(table, name, pid)?;
    }
    Ok(())
}

/// Waits until the process is reaped; one that does not end in time is killed.
fn gone(table: &Table, name: &str, pid: Pid) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let down = || lock(table).get(name).is_none_or(|kept| kept.report.pid != Some(pid.as_raw()));
    while !down() {
        if Instant::now() > deadline {
            kill(pid, Signal::SIGKILL)?;
            ensure!(Instant::now() < deadline + PATIENCE, "{name} does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Asks the supervisor behind `socket`.
pub(crate) fn ask(socket: &Path, action: Action, component: &str) -> Result<Vec<Report>> {
    let asked = || format!("nobody answers on {}: is the cluster up?", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(asked)?;
    let request = Request { action, component: component.to_owned() };
    writeln!(stream, "{}", serde_json::to_string(&request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Answer = serde_json::from_str(&line).with_context(asked)?;
    if let Some(error) = answer.error {
        bail!("{error}");
    }
    Ok(answer.components)
}

/// A component that runs one of our own processes inside.
pub(crate) fn own(name: &str, program: &Path, arguments: &[&str], log: PathBuf) -> Component {
    let mut command = vec![program.to_string_lossy().into_owned()];
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Component { name: name.to_owned(), command, environment: BTreeMap::new(), log }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_started_again_and_what_was_stopped_stays_down() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let log = folder.path().join("log");
        let component = own("sleeper", Path::new("sleep"), &["1000"], log);
        let at = socket.clone();
        // Runs until this process ends.
        thread::spawn(move || run(vec![component], &at, false));
        let until = |wanted: &dyn Fn(&Report) -> bool| {
            for _ in 0..500 {
                let seen = ask(&socket, Action::List, "").ok().and_then(|all| all.into_iter().next());
                if let Some(report) = seen.filter(|report| wanted(report)) {
                    return report;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("did not come to pass");
        };
        let first = until(&|report| report.pid.is_some());
        ask(&socket, Action::Kill, "sleeper").unwrap();
        let second = until(&|report| report.pid.is_some() && report.starts == 2);
        assert_ne!(first.pid, second.pid);
        ask(&socket, Action::Stop, "sleeper").unwrap();
        thread::sleep(PAUSE * 2);
        let third = until(&|_| true);
        assert_eq!((third.pid, third.starts), (None, 2));
        ask(&socket, Action::Start, "sleeper").unwrap();
        assert!(until(&|report| report.starts == 3).pid.is_some());
        assert!(ask(&socket, Action::Stop, "nobody").unwrap_err().to_string().contains("no component nobody"));
        ask(&socket, Action::Halt, "sleeper").unwrap();
    }
}
