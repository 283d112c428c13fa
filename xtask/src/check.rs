//! `cargo xtask check`: rules of the project that the compiler does not keep.

pub(crate) mod abi;
pub(crate) mod arrows;
pub(crate) mod deny;
pub(crate) mod versions;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::shell;
use crate::tools::Consent;

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// Crates depend on each other only as docs/architecture.md says.
    Arrows,
    /// The sources are formatted.
    Fmt,
    /// No warning of clippy.
    Clippy,
    /// Licences, bans, sources, and advisories where their database can be fetched.
    Deny,
    /// The contract of kernel and agent does not change under the same version.
    Abi,
    /// Tool versions are named in one place only.
    Versions,
}

/// Runs one check, or all and then names what failed.
pub(crate) fn run(which: Option<Which>, update: bool, consent: Consent) -> Result<()> {
    let wanted = which.map_or_else(|| Which::value_variants().to_vec(), |one| vec![one]);
    let mut failed = Vec::new();
    for check in wanted {
        let outcome = match check {
            Which::Arrows => arrows::run(),
            Which::Fmt => shell::run(shell::cargo().args(["fmt", "--all", "--check"])),
            Which::Clippy => clippy(),
            Which::Deny => deny::run(consent),
            Which::Abi => abi::run(update),
            Which::Versions => versions::run(),
        };
        let name = format!("{check:?}").to_lowercase();
        match outcome {
            Ok(()) => println!("check {name}: good"),
            Err(error) => {
                println!("check {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn clippy() -> Result<()> {
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}
