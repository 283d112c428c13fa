//! `cargo xtask conformance --dir DIR`.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::shell;

/// Runs the runner of tests/conformance over `dir`; it prints a line per table and fails on any failed or unread file.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir)?;
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "culvert-conformance", "--", "--dir"]).arg(&dir);
    shell::run(&mut cargo).with_context(|| format!("conformance over {}", dir.display()))
}
