//! The cluster itself.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::agents::Agent;
use crate::within;

/// Names the file that says where everything is.
const PLACE: &str = "CULVERT_CLUSTER";

/// culvert's namespace.
pub(crate) const SYSTEM: &str = "culvert-system";

/// Where everything is.
#[derive(Debug, Deserialize)]
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    xtask: PathBuf,
    repository: PathBuf,
    programs: PathBuf,
    seeds: Option<PathBuf>,
    cases: Option<PathBuf>,
}

impl Cluster {
    /// The cluster of this run, as it is: without culvert, unless a test has installed it.
    pub fn bare() -> Result<&'static Cluster> {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        if let Some(cluster) = CLUSTER.get() {
            return Ok(cluster);
        }
        let place =
            std::env::var_os(PLACE).with_context(|| format!("{PLACE} is not set: run `cargo xtask cluster test`"))?;
        let text = std::fs::read(&place).with_context(|| format!("cannot read {}", place.display()))?;
        let cluster = serde_json::from_slice(&text)?;
        Ok(CLUSTER.get_or_init(|| cluster))
    }

    /// The cluster with culvert installed by its chart, once per run.
    pub fn get() -> Result<&'static Cluster> {
        static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
        let cluster = Cluster::bare()?;
        let outcome = INSTALLED.get_or_init(|| cluster.install(&[]).map_err(|error| format!("{error:#}")));
        match outcome {
            Ok(()) => Ok(cluster),
            Err(error) => bail!("culvert is not installed: {error}"),
        }
    }

    /// Installs or upgrades by the chart, with more `--set` words, and waits until everything is ready.
    pub fn install(&self, set: &[&str]) -> Result<()> {
        let mut helm = self.helm();
        helm.args(["upgrade", "--install", "culvert"]).arg(self.repository.join("deploy/helm/culvert"));
        helm.args(["--namespace", SYSTEM, "--create-namespace", "--set", "images.pullPolicy=Never"]);
        // Half a second of CPU requested by every replica is a lot where two nodes share two cores.
        helm.args(["--set", "control.resources.requests.cpu=10m", "--set", "agent.resources.requests.cpu=10m"]);
        for word in set {
            helm.args(["--set", word]);
        }
        output(&mut helm)?;
        self.ready()
    }

    /// Waits until culvert's own pods are ready.
    pub fn ready(&self) -> Result<()> {
        for what in ["deployment/culvert-control", "daemonset/culvert-agent", "daemonset/culvert-keeper"] {
            let asked = self.kubectl(&["-n", SYSTEM, "rollout", "status", what, "--timeout=120s"]);
            // A DaemonSet that is updated on deletion only has no rollout to follow.
            if what.ends_with("keeper") {
                self.daemon_ready("culvert-keeper")?;
            } else {
                asked?;
            }
        }
        Ok(())
    }

    fn daemon_ready(&self, name: &str) -> Result<()> {
        within(Duration::from_secs(60), name, || {
            let status = self.get_json(&["-n", SYSTEM, "get", "daemonset", name])?["status"].clone();
            ensure!(status["numberReady"] == 2, "{status}");
            Ok(())
        })
    }

    /// Its name, as `cargo xtask cluster --name` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The repository.
    pub fn repository(&self) -> &PathBuf {
        &self.repository
    }

    /// A program that was built for this run, by its path on every machine of the cluster.
    pub fn program(&self, name: &str) -> Result<String> {
        let path = self.programs.join(name);
        ensure!(path.is_file(), "{} was not built", path.display());
        Ok(path.to_string_lossy().into_owned())
    }

    /// Manifests of others that are applied as they are: `--seeds DIR`.
    pub fn seeds(&self) -> Result<&PathBuf> {
        self.seeds.as_ref().context("no manifests were given: cargo xtask cluster test --seeds DIR")
    }

    /// Third-party cases: `--cases DIR`.
    pub fn cases(&self) -> Result<&PathBuf> {
        self.cases.as_ref().context("no cases were given: cargo xtask cluster test --cases DIR")
    }

    /// `helm` on this cluster.
    pub fn helm(&self) -> Command {
        let mut command = Command::new(&self.helm);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl` on this cluster.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Runs `kubectl` and returns what it printed.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        output(self.kubectl_command().args(words))
    }

    /// Runs `kubectl WORDS -o json`.
    pub fn get_json(&self, words: &[&str]) -> Result<Value> {
        let printed = self.kubectl(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("kubectl {}: {printed}", words.join(" ")))
    }

    /// `kubectl apply` of a text; the error has what the API server or the webhook said.
    pub fn apply(&self, text: &str) -> Result<String> {
        self.give("apply", text)
    }

    /// `kubectl create`: an error where the object exists.
    pub fn create(&self, text: &str) -> Result<String> {
        self.give("create", text)
    }

    fn give(&self, verb: &str, text: &str) -> Result<String> {
        let mut command = self.kubectl_command();
        command.args([verb, "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
        let done = child.wait_with_output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "{said}");
        Ok(said)
    }

    /// Stops, kills, freezes, thaws or starts a machine, or one component of it.
    pub fn tell(&self, action: &str, machine: &str, component: Option<&str>) -> Result<()> {
        let mut command = Command::new(&self.xtask);
        command.args(["cluster", "--name", &self.name, "tell", action, machine]).args(component);
        output(&mut command).map(drop)
    }

    /// Runs a program on a machine.
    pub fn on(&self, machine: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.xtask);
        output(command.args(["cluster", "--name", &self.name, "exec", machine]).args(words))
    }

    /// Kills all processes of this name on a machine, as a crash would.
    pub fn kill(&self, machine: &str, name: &str) -> Result<()> {
        let each = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = \"$0\" ] && kill -9 ${p#/proc/} && n=1; done; [ \"$n\" ]";
        self.on(machine, &["sh", "-c", each, name]).map(drop).with_context(|| format!("no {name} on {machine}"))
    }

    /// Waits for the API server.
    pub fn api_answers(&self) -> Result<()> {
        within(Duration::from_secs(60), "the API server", || self.kubectl(&["get", "--raw=/readyz"]).map(drop))
    }

    /// The agent of a node.
    pub fn agent(&'static self, node: &str) -> Result<Agent> {
        Agent::find(self, node)
    }
}

/// Runs to the end and returns standard output; failure is an error with standard error in it.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !done.status.success() {
        bail!(
            "{command:?}: {}: {}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
