//! `culvert-agent uninstall`: leaves a node as it was before culvert, whether an agent runs or not.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use culvert_redirect::{Config, HostHooks, Redirect};

use crate::{
    cni::{CniSettings, Installation, Place},
    enrol::protocol::{self, Request},
    harden,
    settings::Uninstall,
};

/// Takes everything away; what is gone already is no error.
pub fn uninstall(what: &Uninstall) -> anyhow::Result<()> {
    // A running agent has to know, or it would put everything back.
    if !agent_has_done_it(what)? {
        let_pods_go(what)?;
    }
    // The agent may have other settings, or none of these.
    if let (Some(bin_dir), Some(conf_dir)) = (&what.cni_bin_dir, &what.cni_conf_dir) {
        installation(what, bin_dir, conf_dir).remove().context("the CNI configuration could not be taken away")?;
    }
    Redirect::dismantle(&what.bpffs, &what.node).context("the pins could not be removed")?;
    clear(&what.run_dir).with_context(|| what.run_dir.display().to_string())
}

/// Removes the run directory, if it is one: a folder that an agent has locked.
fn clear(run_dir: &Path) -> io::Result<()> {
    if !run_dir.join("agent.lock").is_file() {
        return Ok(());
    }
    match fs::remove_dir_all(run_dir) {
        // In a container it is a mount; the node's is empty now.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        other => absent(other),
    }
}

fn agent_has_done_it(what: &Uninstall) -> anyhow::Result<bool> {
    match protocol::ask(&what.run_dir.join("enrol.sock"), &Request::Uninstall, None, None) {
        Ok(answer) if answer.ok => Ok(true),
        Ok(answer) => {
            let (reason, message) = (answer.reason.unwrap_or_default(), answer.message.unwrap_or_default());
            anyhow::bail!("the agent refuses ({reason}): {message}")
        }
        // No agent: nobody would put anything back.
        Err(_) => Ok(false),
    }
}

fn let_pods_go(what: &Uninstall) -> anyhow::Result<()> {
    harden::open_sysctls();
    let config = Config {
        bpffs: what.bpffs.clone(),
        node: what.node.clone(),
        ebpf_log: false,
        kubelet_cgroup: None,
        dns: Vec::new(),
        hooks: HostHooks::Auto,
        proc: what.host_proc.clone(),
    };
    let redirect = Redirect::open(config).context("the kernel side cannot be used")?;
    for pod in redirect.pinned().context("the pins cannot be read")? {
        redirect.withdraw(&pod.uid).with_context(|| format!("pod {}", pod.uid))?;
    }
    Ok(())
}

fn installation(what: &Uninstall, bin_dir: &Path, conf_dir: &Path) -> Installation {
    let settings = CniSettings {
        bin_dir: bin_dir.to_owned(),
        conf_dir: conf_dir.to_owned(),
        conf_dir_on_node: conf_dir.to_owned(),
        plugin: bin_dir.to_owned(),
        exclude_namespaces: Vec::new(),
        api: None,
        istio_labels: false,
    };
    let place = Place { socket: what.run_dir.join("enrol.sock"), known: what.run_dir.join("known.json") };
    Installation::new(settings, place)
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
