//! Running one command to its end, with its words in the error.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Runs `command` with nothing on its standard input and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let words = words(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{words}`"))?;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!("`{words}`: {}: {}{}", done.status, printed, String::from_utf8_lossy(&done.stderr));
    }
    Ok(printed)
}

/// Runs `command` with `input` on its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let words = words(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{words}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("`{words}`: {}: {}\ninput was:\n{input}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
