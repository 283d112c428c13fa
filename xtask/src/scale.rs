//! `cargo xtask scale`: the control plane and many agents in a simulated cluster.

use anyhow::Result;
use clap::Args;

use crate::shell;

/// How large, and for how long.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Arguments of the simulation (`-- --help` lists them); 100,000 pods, 5,000 services and 1,000 agents without any.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs it.
pub(crate) fn run(wanted: &Arguments) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "culvert-scale", "--"]).args(&wanted.arguments);
    shell::run(&mut cargo)
}
