//! Istio's ztunnel on a node, from a given program: in shared mode, told of its pods over its CNI socket, with its state
//! from a file. For comparisons and for tests in which it is at the other end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::process::Process;
use crate::topology::{Node, Pod};

mod zds;

pub use zds::Conversation;

/// How long its start may take on a busy machine.
const START: Duration = Duration::from_secs(20);

/// What istio-cni sets up in each pod, in nft's words (ztunnel's `scripts/ztunnel-redirect-inpod.sh`).
const REDIRECT: &str = include_str!("ztunnel/redirect.nft");
const ROUTES: &str = "rule add fwmark 0x111/0xfff pref 32764 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100\n";

/// Where it listens in each of its pods.
const PORTS: [u16; 3] = [15001, 15006, 15008];

/// What a pod is in the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its service account.
    pub account: &'a str,
}

/// One that runs. When it is dropped it ends, and lets its pods go.
#[derive(Debug)]
pub struct Ztunnel {
    /// The process.
    pub process: Process,
    /// Over its CNI socket.
    pub conversation: Conversation,
}

impl Ztunnel {
    /// Starts `program` on a node with the state in `state` (its local configuration) and these settings, which say where
    /// its certificates come from.
    pub fn start(node: &Node, program: &Path, state: &Path, settings: &[(&str, &str)]) -> Result<Ztunnel> {
        let socket = PathBuf::from(format!("/run/lab/zds-{}.sock", node.name()));
        // One that ran before has left its socket.
        let _ = std::fs::remove_file(&socket);
        let listener = zds::listen(&socket)?;
        let mut command = node.netns().command(program);
        command.env("PROXY_MODE", "shared").env("INPOD_UDS", &socket).env("XDS_ADDRESS", "");
        command.env("LOCAL_XDS_PATH", state).env("NODE_NAME", node.name()).env("CLUSTER_ID", "Kubernetes");
        command.envs(settings.iter().copied());
        let process = Process::start_command(&format!("ztunnel-{}", node.name()), command)?;
        Ok(Ztunnel { process, conversation: Conversation::begin(&listener)? })
    }

    /// Puts a pod into its care, as istio-cni does, and waits until it listens there.
    pub fn take(&mut self, pod: &Pod, member: Member<'_>) -> Result<()> {
        redirect(pod.netns())?;
        self.take_again(pod, member)
    }

    /// The same for a pod that another ztunnel has had before.
    pub fn take_again(&mut self, pod: &Pod, member: Member<'_>) -> Result<()> {
        self.conversation.add_pod(pod, member)?;
        self.process.wait_for_ports(pod.netns(), &PORTS, START)
    }
}

fn redirect(netns: &Netns) -> Result<()> {
    let file = format!("/run/lab/{}-ztunnel.nft", netns.name());
    std::fs::write(&file, REDIRECT)?;
    netns.run("nft", &["-f", &file])?;
    netns.ip_batch(ROUTES)
}
