//! A program running in a namespace of the lab, with its log in a file.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Netns, report, shell};

/// A started program. Dropping it kills it by its id and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program arguments` inside `netns`; standard output and error go to `/run/lab/NAME.log`, or
    /// `/run/lab/NAME-2.log` and so on where another one of that name was started before.
    pub fn start(netns: &Netns, name: &str, program: impl AsRef<Path>, arguments: &[&str]) -> Result<Process> {
        let mut command = netns.command(program.as_ref());
        command.args(arguments);
        Process::start_command(name, command)
    }

    /// Starts a prepared command, see [`Netns::command`].
    pub fn start_command(name: &str, mut command: Command) -> Result<Process> {
        let folder = Path::new("/run/lab");
        std::fs::create_dir_all(folder)?;
        let (log, out) = own_log(folder, name)?;
        report::register_log(name, log.clone());
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::words(&command)))?;
        Ok(Process { name: name.to_owned(), child, log, ended: None })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program's own process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The file its output goes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Waits until its log contains `text`; an early end of the program is an error.
    pub fn wait_for_log(&mut self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if self.log().contains(text) {
                return Ok(());
            }
            if let Some(status) = self.try_wait()? {
                bail!("{} ended ({status}) before it said {text:?}; its log:\n{}", self.name, self.log());
            }
            if Instant::now() > deadline {
                bail!("{} did not say {text:?} within {patience:?}; its log:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until something listens on these TCP ports of a namespace; an error when this process ends before.
    pub fn wait_for_ports(&mut self, netns: &Netns, ports: &[u16], patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let table = netns.run("cat", &["/proc/net/tcp", "/proc/net/tcp6"])?;
            let listens =
                |port: &u16| table.lines().any(|line| line.contains(&format!(":{port:04X} ")) && line.contains(" 0A "));
            if ports.iter().all(listens) {
                return Ok(());
            }
            if let Some(status) = self.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name(), self.log());
            }
            if Instant::now() > deadline {
                bail!("{} does not listen:\n{}", self.name(), self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has ended, and how.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {patience:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to exactly this process.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.try_wait()?.is_none() {
            kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("cannot signal {}", self.name))?;
        }
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.wait(Duration::from_secs(5))?;
        if status.signal().is_none() {
            bail!("{} had ended on its own before it was killed: {status}", self.name);
        }
        Ok(())
    }

    /// Asks it to end (`SIGTERM`) and waits.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(patience)
    }

    /// Open file descriptors, from `/proc`.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// Resident memory in KiB, from `/proc`.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .with_context(|| format!("no VmRSS for {}", self.name))
    }
}

/// A file that no other process writes to: what it says is this one's word.
fn own_log(folder: &Path, name: &str) -> Result<(PathBuf, File)> {
    for life in 1.. {
        let file = if life == 1 { format!("{name}.log") } else { format!("{name}-{life}.log") };
        let path = folder.join(file);
        match File::options().create_new(true).append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return Ok((path, opened?)),
        }
    }
    bail!("no name is left for the log of {name}")
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
