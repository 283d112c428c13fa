//! What a node's agent says, asked with the operator's command inside of its pod.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM};
use crate::within;

/// The agent of one node.
pub struct Agent {
    cluster: &'static Cluster,
    pod: String,
}

/// One connection as its agent recorded it.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// `inbound` or `outbound`.
    pub direction: String,
    /// `hbone`, `plaintext`, ...
    pub transport: String,
    /// Who called.
    pub src: Party,
    /// Who was called.
    pub dst: Party,
    /// Where the application called, where that is another address than the one that was dialled.
    #[serde(default)]
    pub original_dst: Option<String>,
    /// The address and port that the tunnel was asked for.
    #[serde(default)]
    pub hbone_addr: Option<String>,
    /// `namespace/name` of the service that was called.
    #[serde(default)]
    pub service: Option<String>,
    /// How it ended.
    pub outcome: String,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// `namespace/name` of the deciding policy.
    #[serde(default)]
    pub policy: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Party {
    /// Address and port.
    pub addr: String,
    /// The workload, where known.
    #[serde(default)]
    pub workload: Option<String>,
    /// SPIFFE ID, where a certificate proved one.
    #[serde(default)]
    pub identity: Option<String>,
}

impl Agent {
    pub(crate) fn find(cluster: &'static Cluster, node: &str) -> Result<Agent> {
        let selector = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let label = "app.kubernetes.io/name=culvert-agent";
        let list = cluster.get_json(&["-n", SYSTEM, "get", "pods", "-l", label, &selector])?;
        let items = list["items"].as_array().context("a list")?;
        let alive = items.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let pod = alive.with_context(|| format!("no agent runs on {node}"))?;
        Ok(Agent { cluster, pod: pod["metadata"]["name"].as_str().context("a name")?.to_owned() })
    }

    /// Its pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// Asks it with `culvert WORDS --json`.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let command = [&["-n", SYSTEM, "exec", &self.pod, "--", "/usr/local/bin/culvert", "--json"], words].concat();
        Ok(serde_json::from_str(&self.cluster.kubectl(&command)?)?)
    }

    /// The pods of a namespace that the kernel says are captured, without deviation.
    pub fn captured(&self, namespace: &str) -> Result<Vec<String>> {
        let status = self.ask(&["status"])?;
        let pods = status["pods"].as_array().context("pods")?.iter();
        let mine = pods.filter(|pod| pod["namespace"] == namespace && pod["captured"] == true);
        Ok(mine.filter_map(|pod| pod["name"].as_str().map(str::to_owned)).collect())
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}:15020/proxy/metrics", self.pod);
        let served = self.cluster.kubectl(&["get", "--raw", &path])?;
        let line = served.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// The newest record that fits, waited for.
    pub fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        within(Duration::from_secs(5), what, || {
            let recent: Vec<Record> = serde_json::from_value(self.ask(&["recent", "--limit", "200"])?)?;
            match recent.iter().rev().find(|record| fits(record)) {
                Some(record) => Ok(record.clone()),
                None => bail!("no such record among {recent:#?}"),
            }
        })
    }
}
