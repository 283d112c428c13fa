//! A relay agent as a process of its own, for tests that kill it.
//!
//! `relay-agent NODE BPFFS UID=NETNS...` runs in the node's netns, enrols each pod, prints `ready` and
//! relays in plaintext until it is killed.

use std::fs::File;

use anyhow::{Context, Result};
use culvert_netns_tests::relay;
use culvert_redirect::{Config, HostHooks, PodSettings, Redirect};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let node = words.next().context("the node's name is missing")?;
    let bpffs = words.next().context("the bpffs is missing")?.into();
    let config = Config {
        bpffs,
        node,
        ebpf_log: false,
        kubelet_cgroup: None,
        dns: Vec::new(),
        hooks: HostHooks::Auto,
        proc: "/proc".into(),
    };
    let redirect = Redirect::open(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for word in words {
            let (uid, path) = word.split_once('=').context("expected UID=NETNS")?;
            let pod = redirect.enrol(uid, File::open(path)?.into(), PodSettings::default())?;
            tasks.push(relay::serve(pod, &std::sync::Arc::default())?);
        }
        println!("ready");
        std::future::pending::<()>().await;
        Ok(())
    })
}
