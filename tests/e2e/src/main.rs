//! The demo, and the processes that it runs inside the pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use culvert_e2e::{demo, http};
use culvert_lab::{report, sandbox};

/// Two nodes, their pods and real conversations between them.
#[derive(Parser)]
#[command(name = "culvert-demo")]
struct Arguments {
    /// The Kubernetes manifests to run.
    #[arg(long, value_name = "DIR", default_value = "deploy/examples")]
    manifests: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Inside a pod: answers HTTP on these ports.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long)]
        port: Vec<u16>,
    },
    /// Inside a pod: makes one HTTP call and prints what came of it.
    #[command(hide = true)]
    Call {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        marker: String,
        #[arg(long)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Serve { name, port }) => http::serve(&name, &port).map(|()| true),
        Some(Role::Call { to, marker, seconds }) => call(to, &marker, seconds),
        None => show(&arguments.manifests),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn call(to: SocketAddr, marker: &str, seconds: u64) -> Result<bool> {
    println!("{}", serde_json::to_string(&http::get(to, marker, Duration::from_secs(seconds)))?);
    Ok(true)
}

/// The demo itself, in a sandbox of its own.
fn show(manifests: &std::path::Path) -> Result<bool> {
    if let Some(status) = sandbox::enter_or_reexec()? {
        return Ok(status.success());
    }
    let outcome = demo::run(manifests);
    if outcome.is_err() && std::env::var_os("CULVERT_LAB_VERBOSE").is_some() {
        println!("{}", report::operators_view());
    }
    outcome
}
