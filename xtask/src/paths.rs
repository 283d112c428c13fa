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

/// Programs installed with `cargo install --root target/tools`.
pub(crate) fn tool(name: &str) -> PathBuf {
    target().join("tools/bin").join(name)
}
