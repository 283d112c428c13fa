//! The start-up taint: a node that joins with it gets no pods until its agent is ready, and then it is taken off.
//!
//! Agents have no rights at the API server, so this is the control plane's: each one looks after the nodes whose agents
//! report to it. What it knows of a node may be old, so the node's version goes with the change.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Method;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::{
    api::{Api, ApiError, Body},
    server::NodeBook,
};

/// Whatever its value and effect.
const TAINT: &str = "culvert.dev/agent-not-ready";
const LOOK: Duration = Duration::from_secs(1);
/// A node may be made anew under the same name, with the taint.
const AGAIN: Duration = Duration::from_secs(60);
/// Nodes per look: a thousand agents that come at once do not drown the API server.
const LOOKS: usize = 20;
/// A report counts for so long: agents report every 30 s.
const FRESH: Duration = Duration::from_secs(45);

/// Takes the taint off.
#[derive(Debug)]
pub(super) struct Taints {
    api: Api,
    nodes: Arc<NodeBook>,
    /// When each node was looked at last.
    looked: BTreeMap<String, Instant>,
}

impl Taints {
    pub(super) fn new(api: Api, nodes: Arc<NodeBook>) -> Self {
        Self { api, nodes, looked: BTreeMap::new() }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        loop {
            for (node, reported) in self.due() {
                match take_off(&self.api, &node, reported).await {
                    Ok(taken) => {
                        self.looked.insert(node.clone(), Instant::now());
                        if taken {
                            tracing::info!(node, taint = TAINT, "the agent is ready: the start-up taint is taken off");
                        }
                    }
                    // Changed meanwhile, or gone: the next look tells.
                    Err(error) if error.is(409) || error.is(404) => {}
                    Err(error) => {
                        tracing::warn!(node, reason = error.reason(), %error, "the start-up taint cannot be looked after");
                    }
                }
            }
            time::sleep(LOOK).await;
        }
    }

    /// Nodes whose agents are ready, which is when they report, and that were not looked at lately.
    fn due(&mut self) -> Vec<(String, SystemTime)> {
        self.looked.retain(|_, at| at.elapsed() < AGAIN);
        let reported = self.nodes.all().into_iter().filter_map(|(node, entry)| Some((node, entry.report?.0)));
        let fresh = reported.filter(|(_, at)| at.elapsed().is_ok_and(|age| age < FRESH));
        fresh.filter(|(node, _)| !self.looked.contains_key(node)).take(LOOKS).collect()
    }
}

async fn take_off(api: &Api, node: &str, reported: SystemTime) -> Result<bool, ApiError> {
    let path = format!("/api/v1/nodes/{node}");
    let held = api.get(&path).await?;
    let Some(patch) = patch(&held, reported) else { return Ok(false) };
    api.send(Method::PATCH, &path, Body::Merge, &patch).await?;
    Ok(true)
}

/// What takes the taint off and nothing else; nothing when it is not there, or when the report is of a former node of that
/// name.
fn patch(node: &Value, reported: SystemTime) -> Option<Value> {
    let created: jiff::Timestamp = node["metadata"]["creationTimestamp"].as_str()?.parse().ok()?;
    if reported < SystemTime::from(created) {
        return None;
    }
    let taints = node["spec"]["taints"].as_array()?;
    let rest: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != TAINT).collect();
    if rest.len() == taints.len() {
        return None;
    }
    let version = &node["metadata"]["resourceVersion"];
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    Some(json!({"metadata": {"resourceVersion": version}, "spec": {"taints": rest}}))
}

#[cfg(test)]
mod tests;
