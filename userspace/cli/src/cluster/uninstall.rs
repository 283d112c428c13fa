//! `culvert uninstall`: nodes first, then the cluster's objects.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Api, ClusterError, MANAGED_BY, OURS, Options, Say,
    api::{list, path, place},
    definitions::{self, owner},
    install::sweep,
    nodes, objects, title,
};

/// Made at run time by culvert itself; Secrets only with the mark that says so.
const MADE: &[(&str, &str, &str)] = &[
    ("v1", "configmaps", "culvert-root"),
    ("v1", "configmaps", "culvert-nodes"),
    ("v1", "secrets", "culvert-issuing"),
    ("v1", "secrets", "culvert-root-key"),
    ("coordination.k8s.io/v1", "leases", "culvert-control"),
];
const MADE_BY: &str = "culvert.dev/made-by";

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Nodes and cluster.
    Everything,
    /// Nodes, and the agents on them: what Helm's hook runs before Helm takes the rest.
    Nodes,
}

/// Takes culvert away.
pub async fn uninstall(
    api: &Api,
    namespace: &str,
    how: Leave,
    limit: Duration,
    say: Say<'_>,
) -> Result<(), ClusterError> {
    let options = Options { namespace: namespace.to_owned(), ..Options::default() };
    options.check()?;
    let server = api.server().await.map_err(ClusterError::at("the API server"))?;
    let agents = place("apps/v1", "daemonsets/culvert-agent", Some(namespace));
    let agent = api.find(&agents).await.map_err(ClusterError::at(agents.clone()))?;
    if let Some(agent) = &agent {
        let helms = agent["metadata"]["annotations"]["meta.helm.sh/release-name"].is_string();
        if helms && how == Leave::Everything {
            return Err(ClusterError::Owned {
                object: format!("DaemonSet {namespace}/culvert-agent"),
                owner: owner(agent),
                remedy: "take it away with `helm uninstall`, which cleans the nodes as well".to_owned(),
            });
        }
        nodes::leave(api, agent, limit, say).await?;
        api.delete(&agents).await.map_err(ClusterError::at(agents.clone()))?;
        say(format!("DaemonSet {namespace}/culvert-agent: removed"));
    }
    if how == Leave::Nodes {
        return Ok(());
    }
    let ours = api.find(&place("v1", &format!("namespaces/{namespace}"), None)).await;
    let ours = ours.map_err(ClusterError::at(format!("Namespace {namespace}")))?;
    if agent.is_none() && ours.is_none() {
        return Err(ClusterError::NotInstalled { namespace: namespace.to_owned() });
    }
    sweep(api, &server, namespace, &BTreeSet::new(), say).await?;
    made(api, namespace, say).await?;
    for definition in objects(&options, Some(&server))?.iter().filter(|one| one["kind"] == "CustomResourceDefinition") {
        definitions::remove(api, definition, say).await?;
    }
    match ours.filter(|held| held["metadata"]["labels"][MANAGED_BY] == OURS) {
        Some(held) => own_namespace(api, &held, limit, say).await,
        None => Ok(()),
    }
}

async fn made(api: &Api, namespace: &str, say: Say<'_>) -> Result<(), ClusterError> {
    for (api_version, plural, name) in MADE {
        let at = format!("{}/{name}", place(api_version, plural, Some(namespace)));
        let Some(held) = api.find(&at).await.map_err(ClusterError::at(at.clone()))? else { continue };
        if *plural == "secrets" && held["metadata"]["annotations"][MADE_BY].is_null() {
            say(format!("Secret {namespace}/{name}: kept, somebody else made it"));
            continue;
        }
        api.delete(&at).await.map_err(ClusterError::at(at.clone()))?;
        say(format!("{}: removed", title(&held)));
    }
    Ok(())
}

/// The namespace goes when this command made it and nobody else uses it.
async fn own_namespace(api: &Api, held: &Value, limit: Duration, say: Say<'_>) -> Result<(), ClusterError> {
    let name = held["metadata"]["name"].as_str().unwrap_or_default();
    let begun = Instant::now();
    // Culvert's own pods are on their way out.
    let others = loop {
        let others = strangers(api, name).await?;
        if others.is_empty() || begun.elapsed() >= limit {
            break others;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    if let Some(first) = others.first() {
        say(format!("Namespace {name}: kept, there are {} other objects in it ({first}, ...)", others.len()));
        return Ok(());
    }
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let at = path(&object).map_err(ClusterError::at(title(&object)))?;
    api.delete(&at).await.map_err(ClusterError::at(title(&object)))?;
    say(format!("Namespace {name}: removed"));
    Ok(())
}

/// What would go with the namespace and is not what every namespace has.
async fn strangers(api: &Api, namespace: &str) -> Result<Vec<String>, ClusterError> {
    let mut found = Vec::new();
    for plural in ["pods", "configmaps", "secrets", "services", "persistentvolumeclaims"] {
        let all = place("v1", plural, Some(namespace));
        for held in api.all(&all, "").await.map_err(ClusterError::at(all.clone()))? {
            let name = held["metadata"]["name"].as_str().unwrap_or_default();
            let usual = name == "kube-root-ca.crt" || held["type"] == "kubernetes.io/service-account-token";
            let going = !held["metadata"]["deletionTimestamp"].is_null() && plural != "pods";
            if !usual && !going {
                found.push(format!("{plural}/{name}"));
            }
        }
    }
    let all = place("apps/v1", "deployments", Some(namespace));
    let held = api.all(&all, "").await.map_err(ClusterError::at(all.clone()))?;
    found.extend(list(&Value::Array(held)).iter().map(title));
    Ok(found)
}
