//! Where things are.

use std::path::{Path, PathBuf};

/// The repository: where the workspace's `Cargo.toml` is.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// What is shared by every build of this tree: tools and BPF programs, whatever `CARGO_TARGET_DIR` says.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where cargo puts the workspace's own programs.
pub(crate) fn cargo_target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(target, |folder| root().join(folder))
}

/// Flags of rustc by which the same sources give the same bytes wherever they and what is built of them lie.
pub(crate) fn alike_everywhere() -> String {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let home = home.unwrap_or_else(|_| "/nonexistent".to_owned());
    let root = root().display().to_string();
    let target = cargo_target().display().to_string();
    // Of several that fit, rustc takes the last.
    [(root, "/culvert"), (home, "/cargo"), (target, "/culvert/target")]
        .map(|(here, everywhere)| format!("--remap-path-prefix={here}={everywhere}"))
        .join(" ")
}

/// Programs installed with `cargo install --root target/tools`.
pub(crate) fn tool(name: &str) -> PathBuf {
    target().join("tools/bin").join(name)
}
