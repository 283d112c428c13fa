//! What must be so before anything that touches the kernel is started: one sentence and the remedy each.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{pins, shell};

/// Everything that the kernel tests and the demo need of this machine.
pub(crate) fn kernel_work() -> Result<()> {
    root()?;
    kernel(&std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?)?;
    btf(Path::new("/sys/kernel/btf/vmlinux"))?;
    bpffs(&std::fs::read_to_string("/proc/filesystems").context("cannot read /proc/filesystems")?)
}

fn root() -> Result<()> {
    let uid = shell::output(shell::program("id").arg("-u"))?;
    if uid.trim() != "0" {
        bail!("network namespaces and eBPF need root: run it again as root (`sudo -E env PATH=$PATH cargo xtask ...`)");
    }
    Ok(())
}

fn kernel(release: &str) -> Result<()> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < pins::KERNEL_FLOOR {
        let (major, minor) = pins::KERNEL_FLOOR;
        bail!("this kernel is {}, culvert needs {major}.{minor} or newer: boot a newer one", release.trim());
    }
    Ok(())
}

fn btf(file: &Path) -> Result<()> {
    if !file.exists() {
        bail!(
            "the kernel has no BTF ({} is missing): boot a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's and Ubuntu's have",
            file.display()
        );
    }
    Ok(())
}

fn bpffs(filesystems: &str) -> Result<()> {
    if !filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf")) {
        bail!("the kernel has no bpf file system: boot a kernel with CONFIG_BPF_SYSCALL");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_piece_is_one_sentence_with_a_remedy() {
        let told = |outcome: Result<()>| outcome.expect_err("must be refused").to_string();
        assert!(told(kernel("5.4.0-150-generic\n")).contains("boot a newer one"));
        assert!(told(kernel("4.19.0")).contains("needs 5.10"));
        assert!(told(btf(Path::new("/nonexistent/vmlinux"))).contains("CONFIG_DEBUG_INFO_BTF"));
        assert!(told(bpffs("nodev\tsysfs\n\text4\n")).contains("CONFIG_BPF_SYSCALL"));
    }

    #[test]
    fn what_is_there_passes() {
        for release in ["5.10.0-8-amd64", "6.18.44", "7.0.0-rc1"] {
            kernel(release).unwrap();
        }
        bpffs("nodev\tbpf\n").unwrap();
    }
}
