//! `culvert`: the operator's command. It asks a node's agent over its admin socket, looks at this machine, or puts culvert
//! into a cluster and takes it out.

mod ask;
mod check;
pub mod cluster;
mod deploy;
mod recent;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde_json::{Value, json};

/// What is captured, who may call whom, and why.
#[derive(Debug, Parser)]
#[command(name = "culvert", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// The agent's admin socket.
    #[arg(
        long,
        global = true,
        env = "CULVERT_ADMIN_SOCKET",
        value_name = "FILE",
        default_value = "/run/culvert/admin.sock"
    )]
    socket: PathBuf,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pods, captured or not as read from the kernel, identities, tunnels, and what is still open.
    Status,
    /// What would happen to a connection, and why.
    Why {
        /// A pod as namespace/name, or an address.
        source: String,
        /// A pod or a service as namespace/name, or an address.
        destination: String,
        /// The port that is called.
        port: u16,
    },
    /// The last connections and how they ended.
    Recent {
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Connections that are open now.
    Connections,
    /// Whether this machine has what culvert needs, or a cluster.
    Check {
        /// Where bpffs is mounted.
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
        /// Look at a cluster instead: versions, rights, definitions, nodes, other meshes.
        #[arg(long, conflicts_with = "bpffs")]
        cluster: bool,
        #[command(flatten)]
        reach: deploy::Reach,
        /// Culvert's own namespace.
        #[arg(long, value_name = "NAME", default_value = "culvert-system")]
        namespace: String,
    },
    /// Puts culvert into a cluster, as its chart does, or changes what is there.
    Install(Box<deploy::Install>),
    /// Takes culvert out of every node and then out of the cluster.
    Uninstall(deploy::Uninstall),
}

/// Exit codes: 0 answered or done, 1 something is missing (`check`), 2 no answer or not done.
const MISSING: u8 = 1;
const NO_ANSWER: u8 = 2;

/// The command line, for whoever wants to know what it takes.
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    match run(&command, &options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if options.json {
                let reason = error.downcast_ref::<cluster::ClusterError>().map(|error| error.reason());
                println!("{}", json!({ "error": { "message": format!("{error:#}"), "reason": reason } }));
            } else {
                eprintln!("culvert: {error:#}");
            }
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn run(command: &Command, options: &Options) -> anyhow::Result<u8> {
    let (question, print): (Value, fn(&Value) -> String) = match command {
        Command::Status => (json!({ "ask": "status" }), status::text),
        Command::Why { source, destination, port } => {
            (json!({ "ask": "why", "source": source, "destination": destination, "port": port }), why::text)
        }
        Command::Recent { limit } => (json!({ "ask": "recent", "limit": limit }), recent::outcomes),
        Command::Connections => (json!({ "ask": "connections" }), recent::connections),
        Command::Check { cluster: true, reach, namespace, .. } => {
            let findings = deploy::check(reach, namespace)?;
            show(options, &findings, check::cluster_text);
            return Ok(if check::possible(&findings) { 0 } else { MISSING });
        }
        Command::Install(install) => return deploy::install(install).map(|()| 0),
        Command::Uninstall(uninstall) => return deploy::uninstall(uninstall).map(|()| 0),
        Command::Check { bpffs, .. } => {
            let findings = check::findings(bpffs);
            show(options, &findings, check::text);
            return Ok(if check::all_good(&findings) { 0 } else { MISSING });
        }
    };
    let answer = ask::ask(&options.socket, &question)?;
    show(options, &answer, print);
    Ok(0)
}

fn show(options: &Options, answer: &Value, text: fn(&Value) -> String) {
    if options.json {
        println!("{answer}");
    } else {
        print!("{}", text(answer));
    }
}
