//! A ztunnel per node, with state from a file and its own test CA.

use std::path::Path;

use anyhow::Result;
use culvert_lab::ztunnel::{Conversation, Member, Ztunnel};
use culvert_lab::{Netns, Node, Pod, Process};

use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::pair::Pair;
use crate::rig::{Arguments, template};

const CONFIGURATION: &str = include_str!("../../../rivals/ztunnel.yaml");

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
    let workers = workers.to_string();
    let settings = [("FAKE_CA", "true"), ("ZTUNNEL_WORKER_THREADS", workers.as_str()), ("RUST_LOG", "warn,access=off")];
    let mut ztunnel = Ztunnel::start(node, program, Path::new(state), &settings)?;
    for (pod, name) in pods {
        ztunnel.take(pod, Member { namespace: "bench", name, account: name })?;
    }
    Ok((ztunnel.process, ztunnel.conversation))
}
