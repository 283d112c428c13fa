//! A large cluster in one machine: a stand-in for the API server that serves synthetic objects by the real list and
//! watch, the control plane as a process of its own with `--source kube`, and many agents with the agent's own control
//! client, roster and policy compiler on real gRPC. Nothing leaves the loopback interface.
//!
//! `culvert-scale --pods 100000 --services 5000 --agents 1000` prints what it measured; with `--hold` it ends with 1
//! where a target of docs/control-plane.md is missed.

mod agents;
mod api;
mod cluster;
mod measure;
mod watchers;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// The simulation.
#[derive(Debug, Parser)]
#[command(name = "culvert-scale", version)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    size: Size,
}

/// Parts that run as processes of their own, so that their memory and time are theirs.
#[derive(Debug, Subcommand)]
enum Role {
    /// The control plane; the arguments are those of `culvert-control`.
    Control {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// How large, and for how long.
#[derive(Debug, Clone, Args)]
struct Size {
    /// Pods of the cluster.
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// Services, each in front of an equal part of the pods.
    #[arg(long, default_value_t = 5_000)]
    services: usize,
    /// Nodes, each with an agent.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// AuthorizationPolicies: one for each of so many namespaces.
    #[arg(long, default_value_t = 200)]
    policies: usize,
    /// Services that each node's pods call.
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// Pod changes per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Seconds of changes that are measured.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Pods up to which nodes are sent the whole mesh.
    #[arg(long, default_value_t = 2_000)]
    whole_up_to: usize,
    /// End with 1 where a target is missed.
    #[arg(long)]
    hold: bool,
    /// Another limit for the latency's 99th percentile, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    latency: u64,
}

impl Size {
    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).with_max_level(tracing_level()).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.role {
            Some(Role::Control { arguments }) => watchers::control(arguments).await.map(|()| ExitCode::SUCCESS),
            None => measure::measure(&cli.size).await,
        }
    })
}

fn tracing_level() -> tracing_subscriber::filter::LevelFilter {
    match std::env::var("CULVERT_SCALE_LOG").as_deref() {
        Ok("info") => tracing_subscriber::filter::LevelFilter::INFO,
        _ => tracing_subscriber::filter::LevelFilter::ERROR,
    }
}
