//! Running programs, with their words in the error.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// What `cargo run` sets for us and what must not reach another cargo.
const INHERITED: &[&str] =
    &["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTDOC"];

/// The command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A program with the repository as working directory and without what our own `cargo run` left in the environment.
pub(crate) fn program(name: impl AsRef<Path>) -> Command {
    let mut command = Command::new(name.as_ref());
    command.current_dir(crate::paths::root());
    for variable in INHERITED {
        command.env_remove(variable);
    }
    command
}

/// `cargo` of the pinned toolchain.
pub(crate) fn cargo() -> Command {
    program("cargo")
}

/// Runs to the end with output passed on; failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = words(command);
    let status = command.status().with_context(|| format!("cannot start `{words}`"))?;
    if !status.success() {
        bail!("`{words}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end and returns standard output; failure is an error with standard error in it.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let words = words(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{words}`"))?;
    if !done.status.success() {
        bail!("`{words}` failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
