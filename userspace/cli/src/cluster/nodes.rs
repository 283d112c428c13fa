//! Taking culvert out of nodes: a pod on each, with the agent's own mounts and rights, that runs `culvert-agent uninstall`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Api, ClusterError, Say,
    api::{list, place},
};

const LOOK: Duration = Duration::from_secs(1);
/// What these pods are found by.
const NAME: &str = "culvert-leave";

/// Leaves every node where culvert's agent runs or would run. `agent`: its DaemonSet.
pub(super) async fn leave(api: &Api, agent: &Value, limit: Duration, say: Say<'_>) -> Result<(), ClusterError> {
    let namespace = agent["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let pods = place("v1", "pods", Some(&namespace));
    let nodes = api.all("/api/v1/nodes", "").await.map_err(ClusterError::at("the list of Nodes"))?;
    let (ready, away): (Vec<&Value>, Vec<&Value>) =
        nodes.iter().filter(|node| concerned(agent, node)).partition(|node| is_ready(node));
    for node in &away {
        say(format!("Node {}: not ready, it is not taken care of: run this again when it is back", name(node)));
    }
    let mut open = BTreeMap::new();
    for node in ready {
        let pod = pod(agent, name(node));
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        // What an earlier try left is of that try.
        gone(api, &format!("{pods}/{pod_name}"), limit).await?;
        api.create(&pods, &pod).await.map_err(ClusterError::at(format!("Pod {namespace}/{pod_name}")))?;
        open.insert(name(node).to_owned(), (format!("{pods}/{pod_name}"), String::new()));
    }
    let outcome = wait(api, &mut open, limit, say).await;
    let left = api.all(&pods, &format!("app.kubernetes.io/name={NAME}")).await.unwrap_or_default();
    for pod in left.iter().filter(|_| outcome.is_ok()) {
        let at = format!("{pods}/{}", name(pod));
        api.delete(&at).await.map_err(ClusterError::at(at.clone()))?;
    }
    outcome
}

async fn wait(
    api: &Api,
    open: &mut BTreeMap<String, (String, String)>,
    limit: Duration,
    say: Say<'_>,
) -> Result<(), ClusterError> {
    let begun = Instant::now();
    loop {
        let mut done = Vec::new();
        for (node, (at, last)) in open.iter_mut() {
            let pod = api.find(at).await.map_err(ClusterError::at(at.clone()))?.unwrap_or_default();
            if pod["status"]["phase"] == "Succeeded" {
                say(format!("Node {node}: nothing of culvert is left"));
                done.push(node.clone());
            }
            *last = state(&pod);
        }
        open.retain(|node, _| !done.contains(node));
        if open.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            let nodes = open.iter().map(|(node, (at, last))| format!("Node {node} ({at}: {last})")).collect();
            return Err(ClusterError::Nodes { limit, nodes });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why a pod has not done its work.
fn state(pod: &Value) -> String {
    let status = &pod["status"]["containerStatuses"][0];
    let (waiting, last) = (&status["state"]["waiting"], &status["lastState"]["terminated"]);
    let words = [&pod["status"]["phase"], &waiting["reason"], &waiting["message"], &last["message"]];
    let words: Vec<&str> = words.into_iter().filter_map(Value::as_str).collect();
    if words.is_empty() { "gone".to_owned() } else { words.join(" ") }
}

async fn gone(api: &Api, at: &str, limit: Duration) -> Result<(), ClusterError> {
    let begun = Instant::now();
    while api.find(at).await.map_err(ClusterError::at(at))?.is_some() {
        api.delete(at).await.map_err(ClusterError::at(at))?;
        if begun.elapsed() >= limit {
            return Err(ClusterError::Nodes { limit, nodes: vec![format!("{at} does not go away")] });
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The agent's pod, but to clean up on one node and end.
pub(super) fn pod(agent: &Value, node: &str) -> Value {
    let mut spec = agent["spec"]["template"]["spec"].clone();
    let unused = ["token", "root", "cni-token"];
    let keep = |value: &mut Value| {
        if let Value::Array(items) = value {
            items.retain(|item| !unused.iter().any(|name| item["name"] == *name));
        }
    };
    spec["nodeName"] = node.into();
    spec["restartPolicy"] = "OnFailure".into();
    keep(&mut spec["volumes"]);
    let container = &mut spec["containers"][0];
    keep(&mut container["volumeMounts"]);
    container["args"] = json!(["uninstall"]);
    container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    if let Value::Object(fields) = container {
        for name in ["ports", "readinessProbe"] {
            fields.remove(name);
        }
    }
    let labels =
        json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "culvert", "culvert.dev/enroll": "false"});
    let name = format!("{NAME}-{}", node.chars().take(200).collect::<String>());
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "namespace": agent["metadata"]["namespace"], "labels": labels,
            "annotations": agent["spec"]["template"]["metadata"]["annotations"]}})
}

/// Would the DaemonSet put an agent there.
fn concerned(agent: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let wanted = agent["spec"]["template"]["spec"]["nodeSelector"].as_object();
    let chosen = wanted.into_iter().flatten().all(|(key, value)| labels[key] == *value);
    chosen && labels["kubernetes.io/os"] != "windows"
}

fn is_ready(node: &Value) -> bool {
    list(&node["status"]["conditions"]).iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
