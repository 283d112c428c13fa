//! Kernel tests T1 to T30: the capture design against this kernel.
//!
//! The tests play the agent: they use `culvert-redirect` as it does, on real network namespaces,
//! with real sockets and the real programs. What they need beyond that is here.

pub mod agent;
pub mod frame;
pub mod peer;
pub mod raw;
pub mod relay;

pub use agent::{Accepted, Agent, Taken};
pub use anyhow::{Context, Error, Result, bail, ensure};
pub use culvert_lab::{Lab, Node, Pod, PodOptions, PodStyle, in_sandbox};
pub use culvert_redirect::{Counter, PodSettings};
pub use relay::Relay;

use std::time::{Duration, Instant};

/// The address of a pod in a family.
pub fn own(pod: &Pod, v6: bool) -> Result<std::net::IpAddr> {
    pod.ips().into_iter().find(|ip| ip.is_ipv6() == v6).context("the pod has no address of this family")
}

/// Asks again until the answer is yes; a failure names what was waited for.
pub fn eventually(what: &str, patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done()? {
        ensure!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
