//! Waiting until everything that was installed runs.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    Api, ClusterError, Say,
    api::{list, path, place},
    title,
};

const LOOK: Duration = Duration::from_secs(1);

/// Waits for all Deployments, DaemonSets and Jobs among `objects`.
pub(super) async fn wait(api: &Api, objects: &[Value], limit: Duration, say: Say<'_>) -> Result<(), ClusterError> {
    let begun = Instant::now();
    let mut open: Vec<&Value> = objects.iter().filter(|object| is_work(object)).collect();
    loop {
        let mut missing = Vec::new();
        let mut still = Vec::new();
        for object in open {
            let at = path(object).map_err(ClusterError::at(title(object)))?;
            match lacks(&api.get(&at).await.map_err(ClusterError::at(title(object)))?) {
                None => say(format!("{}: ready", title(object))),
                Some(lack) => {
                    missing.push(format!("{}: {lack}", title(object)));
                    still.push(object);
                }
            }
        }
        open = still;
        if open.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            let namespace = open[0]["metadata"]["namespace"].as_str().unwrap_or_default();
            missing.extend(reasons(api, namespace).await);
            return Err(ClusterError::NotReady { limit, what: missing });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_work(object: &Value) -> bool {
    ["Deployment", "DaemonSet", "Job"].iter().any(|kind| object["kind"] == *kind)
}

/// What an object still lacks; nothing when it is ready.
pub(super) fn lacks(object: &Value) -> Option<String> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let generation = number(&object["metadata"]["generation"]);
    if object["kind"] == "Job" {
        return (number(&status["succeeded"]) == 0).then(|| "has not succeeded".to_owned());
    }
    if number(&status["observedGeneration"]) < generation {
        return Some("its controller has not seen it yet".to_owned());
    }
    let (wanted, ready, updated) = if object["kind"] == "Deployment" {
        (number(&spec["replicas"]), number(&status["availableReplicas"]), number(&status["updatedReplicas"]))
    } else {
        // One that is replaced by hand runs as it is.
        let by_hand = spec["updateStrategy"]["type"] == "OnDelete";
        let wanted = number(&status["desiredNumberScheduled"]);
        let updated = if by_hand { wanted } else { number(&status["updatedNumberScheduled"]) };
        (wanted, number(&status["numberReady"]), updated)
    };
    if updated < wanted {
        return Some(format!("{updated} of {wanted} pods are new"));
    }
    (ready < wanted).then(|| format!("{ready} of {wanted} pods are ready"))
}

/// What kubelets say of culvert's containers that wait.
async fn reasons(api: &Api, namespace: &str) -> Vec<String> {
    let pods = api.all(&place("v1", "pods", Some(namespace)), "app.kubernetes.io/part-of=culvert").await;
    let mut reasons = Vec::new();
    for pod in pods.unwrap_or_default() {
        for container in list(&pod["status"]["containerStatuses"]) {
            let waiting = &container["state"]["waiting"];
            if let Some(reason) = waiting["reason"].as_str() {
                let message = waiting["message"].as_str().unwrap_or_default();
                reasons
                    .push(format!("Pod {}: {reason} {message}", pod["metadata"]["name"].as_str().unwrap_or_default()));
            }
        }
        let conditions = list(&pod["status"]["conditions"]).iter();
        for condition in conditions.filter(|one| one["type"] == "PodScheduled" && one["status"] == "False") {
            let message = condition["message"].as_str().unwrap_or_default();
            reasons.push(format!("Pod {}: {message}", pod["metadata"]["name"].as_str().unwrap_or_default()));
        }
    }
    reasons.sort();
    reasons.dedup();
    reasons.truncate(8);
    reasons
}
