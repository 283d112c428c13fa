//! `cargo xtask kind`: the same on kind, for people who have Docker and kind. Not part of any suite: neither can be had
//! where those run.

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::cluster;
use crate::tools::Consent;
use crate::{paths, shell};

const CLUSTER: &str = "culvert";
const IMAGES: &[&str] = &["culvert-control", "culvert-agent", "culvert-keeper"];

/// What to do.
#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Task {
    /// Makes a kind cluster, builds the images and installs culvert by its chart.
    Up,
    /// Shows that culvert runs: its pods, and what an agent says.
    Test,
    /// Deletes the kind cluster.
    Down,
}

pub(crate) fn run(task: Task, consent: Consent) -> Result<()> {
    for program in ["docker", "kind", "kubectl", "helm"] {
        shell::output(Command::new("sh").args(["-c", &format!("command -v {program}")])).with_context(|| {
            format!("`{program}` is not installed; `cargo xtask cluster` needs neither Docker nor kind")
        })?;
    }
    match task {
        Task::Up => up(consent),
        Task::Test => test(),
        Task::Down => shell::run(command("kind").args(["delete", "cluster", "--name", CLUSTER])),
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::root());
    command
}

fn up(consent: Consent) -> Result<()> {
    shell::run(command("kind").args(["create", "cluster", "--config", "deploy/kind/cluster.yaml", "--wait", "120s"]))?;
    let programs = cluster::fixed::programs(consent)?;
    for image in IMAGES {
        let name = format!("localhost/culvert/{image}:{}", env!("CARGO_PKG_VERSION"));
        let mut build = command("docker");
        build.args(["build", "--file", "deploy/Dockerfile", "--target", image, "--tag", &name]);
        shell::run(build.arg(&programs))?;
        shell::run(command("kind").args(["load", "docker-image", &name, "--name", CLUSTER]))?;
    }
    let mut helm = command("helm");
    helm.args(["upgrade", "--install", "culvert", "deploy/helm/culvert", "--kube-context", "kind-culvert"]);
    helm.args(["--namespace", "culvert-system", "--create-namespace", "--set", "images.pullPolicy=Never"]);
    shell::run(helm.args(["--wait", "--timeout", "3m"]))
}

fn test() -> Result<()> {
    let kubectl = || {
        let mut kubectl = command("kubectl");
        kubectl.args(["--context", "kind-culvert", "--namespace", "culvert-system"]);
        kubectl
    };
    shell::run(kubectl().args(["rollout", "status", "deployment/culvert-control", "--timeout=120s"]))?;
    shell::run(kubectl().args(["rollout", "status", "daemonset/culvert-agent", "--timeout=120s"]))?;
    shell::run(kubectl().args(["exec", "daemonset/culvert-agent", "--", "/usr/local/bin/culvert", "status"]))
}
