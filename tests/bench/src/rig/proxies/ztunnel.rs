//! A ztunnel per node in shared mode, told of its pods over its CNI socket, state from a file, its own test CA.

use std::path::Path;

use anyhow::Result;
use culvert_lab::{Netns, Node, Pod, Process};

use super::zds::{self, Conversation};
use super::{nft, wait_for_ports};
use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::pair::Pair;
use crate::rig::{Arguments, template};

const CONFIGURATION: &str = include_str!("../../../rivals/ztunnel.yaml");

/// What istio-cni sets up in each pod, in nft's words (ztunnel's `scripts/ztunnel-redirect-inpod.sh`).
const REDIRECT: &str = include_str!("../../../rivals/ztunnel.nft");
const ROUTES: &str = "rule add fwmark 0x111/0xfff pref 32764 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100\n";

pub(crate) fn start(pair: Pair, program: &Path, wanted: &Arguments) -> Result<Found> {
    let words = [
        ("client", pair.client.ip4().to_string()),
        ("other", pair.other.ip4().to_string()),
        ("server", pair.server.ip4().to_string()),
        ("client_node", pair.client_node.name().to_owned()),
        ("server_node", pair.server_node.name().to_owned()),
    ];
    let state = format!("/run/lab/ztunnel-{}.yaml", pair.number());
    std::fs::write(&state, template::fill(CONFIGURATION, &words)?)?;
    let mut processes = Vec::new();
    let mut conversations = Vec::new();
    for (node, pods) in [
        (&pair.client_node, vec![(&pair.client, "client"), (&pair.other, "other")]),
        (&pair.server_node, vec![(&pair.server, "server")]),
    ] {
        let (process, conversation) = start_node(node, program, &state, wanted.workers, &pods)?;
        processes.push(process);
        conversations.push(conversation);
    }
    let version = Netns::own().run(&program.to_string_lossy(), &["version"]).unwrap_or_default();
    Ok(Found {
        contender: Contender::Ztunnel,
        pair,
        processes,
        beside: Vec::new(),
        conversations,
        version: version.trim().to_owned(),
        agreed: None,
        workers: wanted.workers,
        strangers: vec![Stranger::OtherPod, Stranger::Plaintext(15008), Stranger::Certificate(15008, None)],
    })
}

fn start_node(
    node: &Node,
    program: &Path,
    state: &str,
    workers: usize,
    pods: &[(&Pod, &str)],
) -> Result<(Process, Conversation)> {
    let path = format!("/run/lab/zds-{}.sock", node.name());
    let listener = zds::listen(Path::new(&path))?;
    let mut command = node.netns().command(program);
    command.env("PROXY_MODE", "shared").env("INPOD_UDS", &path).env("FAKE_CA", "true").env("XDS_ADDRESS", "");
    command.env("LOCAL_XDS_PATH", state).env("NODE_NAME", node.name()).env("CLUSTER_ID", "Kubernetes");
    command.env("ZTUNNEL_WORKER_THREADS", workers.to_string()).env("RUST_LOG", "warn,access=off");
    let mut process = Process::start_command(&format!("ztunnel-{}", node.name()), command)?;
    let conversation = Conversation::begin(&listener)?;
    for (pod, name) in pods {
        nft(pod.netns(), "ztunnel", REDIRECT)?;
        pod.netns().ip_batch(ROUTES)?;
        conversation.add_pod(pod, name)?;
        wait_for_ports(&mut process, pod.netns(), &[15001, 15006, 15008])?;
    }
    Ok((process, conversation))
}
