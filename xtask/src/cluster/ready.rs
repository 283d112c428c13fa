//! Waiting for a cluster to be of use.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cluster::inside;
use crate::cluster::place::{Machine, NODES, Place};
use crate::shell;

/// Asks the API server with the administrator's rights.
pub(crate) struct Kubectl<'a> {
    pub(crate) place: &'a Place,
    pub(crate) program: PathBuf,
}

impl Kubectl<'_> {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(self.place.kubeconfig());
        command
    }

    /// The API server's own word.
    pub(crate) fn api_ready(&self) -> Result<()> {
        until(self.place, Duration::from_secs(90), || {
            let answer = shell::output(self.command().args(["get", "--raw=/readyz", "--request-timeout=2s"]))?;
            ensure!(answer == "ok", "{answer}");
            Ok(())
        })
    }

    /// Both nodes, with the ranges of their pods written down as a cloud's controller would.
    pub(crate) fn nodes_ready(&self) -> Result<()> {
        for node in NODES {
            let range = format!(r#"{{"spec":{{"podCIDR":"{0}","podCIDRs":["{0}"]}}}}"#, node.pods());
            until(self.place, Duration::from_secs(60), || {
                shell::output(self.command().args(["patch", "node", node.name, "--patch", &range])).map(drop)
            })?;
        }
        let mut wait = self.command();
        wait.args(["wait", "node", "--all", "--for=condition=Ready", "--timeout=90s"]);
        shell::output(&mut wait).map(drop).with_context(|| format!("see {}", self.place.logs().display()))?;
        until(self.place, Duration::from_secs(30), || {
            shell::output(self.command().args(["get", "serviceaccount", "default"])).map(drop)
        })
    }
}

/// Tries again until it succeeds, the time is over or the cluster is gone.
pub(crate) fn until(place: &Place, limit: Duration, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = attempt() else { return Ok(()) };
        let logs = place.logs();
        if begun.elapsed() > Duration::from_secs(2) && !place.is_running()? {
            bail!("the cluster ended: see {}", logs.display());
        }
        if begun.elapsed() > limit {
            return Err(error).with_context(|| format!("not ready within {limit:?}: see {}", logs.display()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A command that will run on a machine, in all its namespaces.
pub(crate) fn on(place: &Place, machine: Machine) -> Result<Command> {
    let pid = inside::first_process(place, machine)?;
    let mut enter = Command::new("nsenter");
    enter.args(["--target", &pid.to_string(), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--"]);
    Ok(enter)
}

/// Gives both nodes the images in `files`.
pub(crate) fn import(place: &Place, debian: &Path, files: &[PathBuf]) -> Result<()> {
    for node in NODES {
        for file in files {
            until(place, Duration::from_secs(60), || {
                let mut command = on(place, node)?;
                command.arg(debian.join("usr/bin/ctr")).args(["--namespace", "k8s.io", "images", "import"]);
                shell::output(command.arg(file)).map(drop)
            })?;
        }
    }
    Ok(())
}
