//! Finds the BPF object that the crate embeds: `target/ebpf/culvert-programs` of the workspace, or
//! the file that `CULVERT_EBPF_OBJECT` names. Without one the crate builds, and opening says so.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=CULVERT_EBPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("programs.o");
    let object = object();
    println!("cargo::rerun-if-changed={}", object.display());
    let copied = fs::read(&object).and_then(|bytes| fs::write(&out, bytes));
    if copied.is_err() {
        println!("cargo::warning=no {}: run `cargo xtask build-ebpf`", object.display());
        if let Err(error) = fs::write(&out, []) {
            println!("cargo::error=cannot write {}: {error}", out.display());
        }
    }
}

fn object() -> PathBuf {
    if let Some(path) = env::var_os("CULVERT_EBPF_OBJECT") {
        return PathBuf::from(path);
    }
    let here = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&here).join("../../target/ebpf/culvert-programs")
}
