//! More pods on the nodes of a pair: servers beside the server, clients beside the client.

use anyhow::Result;
use culvert_lab::{Node, Pod, PodOptions, Process};

use super::START;
use super::pair::Pair;

/// A pod beside those of a pair.
#[derive(Debug)]
pub(crate) struct More {
    /// Its name, also that of its UID behind `bench-`.
    pub(crate) name: String,
    /// Its service account and its label `app`: whom the policy takes it for.
    pub(crate) account: &'static str,
    pub(crate) pod: Pod,
    /// What a server runs.
    #[expect(dead_code, reason = "dropping it ends it")]
    application: Option<Process>,
}

impl More {
    /// A server on the server's node.
    pub(crate) fn server(pair: &Pair, number: usize) -> Result<More> {
        let name = format!("server-{number}");
        let pod = make(&pair.server_node, &format!("s{number}-{}", pair.number()))?;
        let program = std::env::current_exe()?;
        let mut application =
            Process::start(pod.netns(), &format!("app-{name}-{}", pair.number()), program, &["serve"])?;
        application.wait_for_log("serving", START)?;
        Ok(More { name, account: "server", pod, application: Some(application) })
    }

    /// A client on the client's node.
    pub(crate) fn client(pair: &Pair, number: usize) -> Result<More> {
        let pod = make(&pair.client_node, &format!("c{number}-{}", pair.number()))?;
        Ok(More { name: format!("client-{number}"), account: "client", pod, application: None })
    }
}

fn make(node: &Node, name: &str) -> Result<Pod> {
    node.pod(name, &PodOptions { ipv6: true, ..PodOptions::default() })
}
