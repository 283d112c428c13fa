//! The comparison that ships: `cargo xtask bench` builds and runs this.

mod load;
mod look;
mod message;
mod meter;
mod output;
mod pulse;
mod regression;
mod report;
mod rig;
mod serve;
mod sockets;
mod stats;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load, rivals, rounds, report.
#[derive(Parser)]
#[command(name = "culvert-bench")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Runs the comparison in a lab.
    Run(rig::Arguments),
    /// Counts the instructions of culvert's agents and compares them with the committed figures.
    Counts(rig::CountArguments),
    /// First connections, with their handshakes, against what the machine can do.
    Cold(rig::ColdArguments),
    /// A node full of pods: one agent, or a sidecar in each.
    Sidecars(rig::SidecarArguments),
    /// Draws table and report once more, of one run or of several put together.
    Report {
        /// Files `raw.json`.
        #[arg(required = true)]
        raw: Vec<std::path::PathBuf>,
        #[arg(long)]
        out: std::path::PathBuf,
    },
    /// Looks at a report in a browser.
    Look(look::Arguments),
    /// How far apart the cores are, once a second.
    #[command(hide = true)]
    Pulse,
    /// Inside the server's pod.
    #[command(hide = true)]
    Serve,
    /// Inside the client's pod: one run, one line of JSON.
    #[command(hide = true)]
    Load(load::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().role {
        Role::Run(wanted) => held(rig::run(&wanted)),
        Role::Counts(wanted) => held(rig::count(&wanted)),
        Role::Cold(wanted) => held(rig::cold(&wanted)),
        Role::Sidecars(wanted) => held(rig::sidecars(&wanted)),
        Role::Report { raw, out } => output::Raw::read(&raw).and_then(|raw| output::write(&raw, &out)),
        Role::Look(wanted) => look::run(&wanted),
        Role::Pulse => watch_pulse(),
        Role::Serve => serve::run(),
        Role::Load(wanted) => load::run(&wanted),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What ran in a sandbox has said there why it failed.
fn held(outcome: anyhow::Result<bool>) -> anyhow::Result<()> {
    anyhow::ensure!(outcome?, "failed");
    Ok(())
}

fn watch_pulse() -> anyhow::Result<()> {
    loop {
        println!("{:?}", pulse::round_trip()?);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
