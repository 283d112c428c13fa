//! One file per contender: its configuration, its processes, and how it is made to stand in the way.

use super::pair::Pair;
use super::template::Side;
use crate::serve::PORTS;
use anyhow::Result;

pub(crate) mod culvert;
pub(crate) mod floor;
pub(crate) mod sidecar;
pub(crate) mod ztunnel;

/// Sends what the client's application sends to the server's ports to a proxy in the client's own pod, as the sidecar's
/// init container does it. The proxy's own connections go to other ports and are left alone.
fn redirect_to_sidecar(pair: &Pair) -> Result<()> {
    let server = pair.server.ip4();
    let mut rules =
        String::from("table ip bench {\n chain out {\n  type nat hook output priority -100; policy accept;\n");
    for port in PORTS {
        rules.push_str(&format!("  ip daddr {server} tcp dport {port} redirect to :{}\n", Side::Client.listen(port)));
    }
    rules.push_str(" }\n}\n");
    nft(pair.client.netns(), "sidecar", &rules)
}

/// Loads rules in a pod's namespace.
fn nft(netns: &culvert_lab::Netns, name: &str, rules: &str) -> Result<()> {
    let file = format!("/run/lab/{}-{name}.nft", netns.name());
    std::fs::write(&file, rules)?;
    netns.run("nft", &["-f", &file]).map(drop)
}
