//! Licences, bans and sources by cargo-deny; advisories where their database can be fetched.

use std::process::Stdio;

use anyhow::Result;

use crate::tools::{self, Consent, Need};
use crate::{paths, pins, shell};

pub(crate) fn run(consent: Consent) -> Result<()> {
    tools::ensure(&[Need::Deny], consent)?;
    shell::run(deny().args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    let fetched =
        deny().args(["fetch", "db"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !fetched.is_ok_and(|status| status.success()) {
        println!("advisories: NOT RUN, the advisory database could not be fetched");
        return Ok(());
    }
    shell::run(deny().args(["check", "advisories"]))
}

fn deny() -> std::process::Command {
    let mut command = shell::program(paths::tool(pins::CARGO_DENY.name));
    command.args(["--workspace", "--all-features"]);
    command
}
