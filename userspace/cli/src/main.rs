//! `culvert`: the operator's command. It asks a node's agent over its admin socket, or looks at this machine.

mod ask;
mod check;
mod recent;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
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
    /// Whether this machine has what culvert needs.
    Check {
        /// Where bpffs is mounted.
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
    },
}

/// Exit codes: 0 answered, 1 something is missing (`check`), 2 no answer.
const MISSING: u8 = 1;
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    match run(&command, &options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if options.json {
                println!("{}", json!({ "error": { "message": format!("{error:#}") } }));
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
        Command::Check { bpffs } => {
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
