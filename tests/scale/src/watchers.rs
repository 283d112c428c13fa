//! The control plane as a process of its own, and what the kernel says of it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use culvert_control::{
    cli::{Cli, Command},
    cluster, run,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Child,
};

/// Ticks of `/proc/PID/stat` in a second: fixed by the kernel's interface.
const TICKS: u64 = 100;

/// What the child does: exactly what `culvert-control` does with these arguments.
pub(crate) async fn control(arguments: Vec<String>) -> Result<()> {
    let words = std::iter::once("culvert-control".to_owned()).chain(arguments).map(Into::into).collect();
    match Cli::of(words)?.command {
        Command::Serve(args) => run::serve(args, std::future::pending()).await,
        Command::Ca(args) => {
            cluster::renew_keys(&args).await?;
            Ok(())
        }
        _ => bail!("neither serve nor ca"),
    }
}

/// A running control plane.
pub(crate) struct Control {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// When it was started.
    pub(crate) begun: Instant,
}

/// Memory and time of a process so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// Resident, in bytes.
    pub(crate) resident: u64,
    /// Most that was resident at a time.
    pub(crate) most: u64,
    /// Of all processors.
    pub(crate) processor: Duration,
}

impl Control {
    /// Makes the keys and starts it.
    pub(crate) async fn start(folder: &Path, api: SocketAddr, whole_up_to: usize) -> Result<Self> {
        let kubeconfig = folder.join("kubeconfig");
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {"server": format!("http://{api}")}}],
            "users": [{"name": "scale", "user": {}}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": "scale"}}]});
        fs::write(&kubeconfig, text.to_string())?;
        let kubeconfig = kubeconfig.display().to_string();
        let program = std::env::current_exe()?;
        let keys = ["control", "ca", "--kubeconfig", &kubeconfig].map(str::to_owned);
        let made = tokio::process::Command::new(&program).args(keys).status().await?;
        anyhow::ensure!(made.success(), "the keys are not made: {made}");
        let (address, metrics) = (free()?, free()?);
        let state = folder.join("state").display().to_string();
        let (listen, shown, limit) = (address.to_string(), metrics.to_string(), whole_up_to.to_string());
        let arguments = [
            "control",
            "--source",
            "kube",
            "--kubeconfig",
            &kubeconfig,
            "--state",
            &state,
            "--listen",
            &listen,
            "--metrics",
            &shown,
            "--cluster-range",
            "10.0.0.0/8",
            "--cluster-range",
            "172.16.0.0/12",
            "--whole-up-to",
            &limit,
        ];
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = spawn(&program, &arguments)?;
        let mut control = Self { child, program, arguments, address, metrics, begun: Instant::now() };
        control.ready().await?;
        Ok(control)
    }

    /// Kills it and starts it again at once.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.child.kill().await?;
        self.begun = Instant::now();
        self.child = spawn(&self.program, &self.arguments)?;
        self.ready().await
    }

    /// Waits until it serves.
    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.sample("streams").await.is_err() {
            if let Some(ended) = self.child.try_wait()? {
                bail!("the control plane has ended: {ended}");
            }
            anyhow::ensure!(Instant::now() < deadline, "the control plane does not serve");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The sum of a metric's samples.
    pub(crate) async fn sample(&self, name: &str) -> Result<u64> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let prefix = format!("culvert_control_{name}");
        let of_it = |line: &&str| line.strip_prefix(&*prefix).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines: Vec<&str> = text.lines().filter(of_it).collect();
        let values = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        anyhow::ensure!(text.contains("# EOF"), "no metrics");
        Ok(values.sum::<f64>() as u64)
    }

    /// What it has used since its start.
    pub(crate) fn used(&self) -> Result<Use> {
        used(self.child.id().context("it has ended")?)
    }
}

fn spawn(program: &Path, arguments: &[String]) -> Result<Child> {
    let mut command = tokio::process::Command::new(program);
    Ok(command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).spawn()?)
}

/// A port that nobody has now.
fn free() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// What a process has used so far.
pub(crate) fn used(pid: u32) -> Result<Use> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("a stat line")?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Use {
        resident: kilobytes("VmRSS:").context("VmRSS")? * 1024,
        most: kilobytes("VmHWM:").context("VmHWM")? * 1024,
        processor: Duration::from_millis((ticks(11) + ticks(12)) * 1000 / TICKS),
    })
}
