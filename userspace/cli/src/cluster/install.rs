//! `culvert install`: what the chart does, by server-side apply.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use super::{
    Api, ClusterError, MANAGED_BY, OURS, Options, Say, Server,
    api::{list, path, place, plural},
    definitions::{self, owner},
    objects, ready, title,
};

/// Kinds that the chart has, where they are not the server's newest: what an earlier installation left of them is taken away.
const KINDS: &[(&str, &str, bool)] = &[
    ("apps/v1", "DaemonSet", true),
    ("apps/v1", "Deployment", true),
    ("batch/v1", "Job", true),
    ("batch/v1", "CronJob", true),
    ("batch/v1beta1", "CronJob", true),
    ("policy/v1", "PodDisruptionBudget", true),
    ("policy/v1beta1", "PodDisruptionBudget", true),
    ("v1", "Service", true),
    ("v1", "Secret", true),
    ("v1", "ConfigMap", true),
    ("v1", "ServiceAccount", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
    ("rbac.authorization.k8s.io/v1", "Role", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", false),
    ("monitoring.coreos.com/v1", "ServiceMonitor", true),
    ("monitoring.coreos.com/v1", "PodMonitor", true),
];

/// All objects of an installation, whoever applied them.
const SELECTOR: &str = "app.kubernetes.io/part-of=culvert,app.kubernetes.io/instance=culvert";

/// Installs, or brings an installation to these options; waits for at most `limit`, not at all for zero.
pub async fn install(api: &Api, options: &Options, limit: Duration, say: Say<'_>) -> Result<(), ClusterError> {
    let server = api.server().await.map_err(ClusterError::at("the API server"))?;
    if server.minor < 20 {
        return Err(ClusterError::Old { version: server.version });
    }
    let all = objects(options, Some(&server))?;
    not_elsewhere(api, &options.namespace).await?;
    for object in &all {
        not_helms(api, object).await?;
    }
    for definition in all.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        definitions::ensure(api, definition, say).await?;
    }
    for object in all.iter().filter(|object| object["kind"] != "CustomResourceDefinition") {
        put(api, object, say).await?;
    }
    let kept: BTreeSet<String> = all.iter().filter_map(|object| path(object).ok()).collect();
    sweep(api, &server, &options.namespace, &kept, say).await?;
    if limit.is_zero() {
        return Ok(());
    }
    ready::wait(api, &all, limit, say).await
}

/// A second installation would share names with the first.
async fn not_elsewhere(api: &Api, namespace: &str) -> Result<(), ClusterError> {
    let name = "ValidatingWebhookConfiguration culvert";
    let at = place("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations/culvert", None);
    let Some(held) = api.find(&at).await.map_err(ClusterError::at(name))? else { return Ok(()) };
    match held["webhooks"][0]["clientConfig"]["service"]["namespace"].as_str() {
        Some(other) if other != namespace => Err(ClusterError::Owned {
            object: format!("{name}, field webhooks[0].clientConfig.service.namespace"),
            owner: format!("the installation in namespace {other}"),
            remedy: format!("a cluster has one: give --namespace {other}, or uninstall that one first"),
        }),
        _ => Ok(()),
    }
}

/// What Helm installed is Helm's to change.
async fn not_helms(api: &Api, object: &Value) -> Result<(), ClusterError> {
    let at = path(object).map_err(ClusterError::at(title(object)))?;
    if object["kind"] == "CustomResourceDefinition" {
        return Ok(());
    }
    let held = api.find(&at).await.map_err(ClusterError::at(title(object)))?;
    let helms = held.filter(|held| held["metadata"]["annotations"]["meta.helm.sh/release-name"].is_string());
    match helms {
        Some(held) if object["kind"] != "Namespace" => Err(ClusterError::Owned {
            object: format!("{}, field metadata.annotations[meta.helm.sh/release-name]", title(object)),
            owner: owner(&held),
            remedy: "change it with `helm upgrade`, or take it away with `helm uninstall` first".to_owned(),
        }),
        _ => Ok(()),
    }
}

async fn put(api: &Api, object: &Value, say: Say<'_>) -> Result<(), ClusterError> {
    let at = path(object).map_err(ClusterError::at(title(object)))?;
    let before = api.find(&at).await.map_err(ClusterError::at(title(object)))?;
    // A namespace that was there is its owner's.
    if let (Some(held), "Namespace") = (&before, object["kind"].as_str().unwrap_or_default())
        && held["metadata"]["labels"][MANAGED_BY] != OURS
    {
        return Ok(());
    }
    // Its name says what is in it.
    if before.is_some() && object["kind"] == "Job" {
        return Ok(());
    }
    let now = api.apply(object).await.map_err(ClusterError::at(title(object)))?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    match before {
        None => say(format!("{}: created", title(object))),
        Some(before) if version(&before) != version(&now) => say(format!("{}: changed", title(object))),
        Some(_) => {}
    }
    Ok(())
}

/// Takes away what is culvert's and not among `kept`.
pub(super) async fn sweep(
    api: &Api,
    server: &Server,
    namespace: &str,
    kept: &BTreeSet<String>,
    say: Say<'_>,
) -> Result<(), ClusterError> {
    for (api_version, kind, namespaced) in KINDS {
        if *api_version != "v1" && !server.serves.contains(*api_version) {
            continue;
        }
        let all = place(api_version, &plural(kind), namespaced.then_some(namespace));
        for mut held in api.all(&all, SELECTOR).await.map_err(ClusterError::at(all.clone()))? {
            let name = held["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let at = format!("{all}/{name}");
            held["kind"] = (*kind).into();
            // The same object under another version of its kind.
            let same = |path: &String| path.ends_with(&format!("/{}/{name}", plural(kind)));
            if kept.iter().any(same) || !list(&held["metadata"]["ownerReferences"]).is_empty() {
                continue;
            }
            api.delete(&at).await.map_err(ClusterError::at(title(&held)))?;
            say(format!("{}: removed", title(&held)));
        }
    }
    Ok(())
}
