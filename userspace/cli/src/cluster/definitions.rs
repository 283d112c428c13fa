//! CustomResourceDefinitions belong to whoever brought them first: they are made where they are missing, kept up where they
//! are culvert's, and never touched where they are somebody else's.

use serde_json::Value;

use super::{
    Api, ClusterError, MANAGED_BY, OURS, Say,
    api::{list, path, place},
    title,
};

/// What was found of one definition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Ours,
    /// Somebody's; with a version that culvert reads, or without.
    Foreign {
        owner: String,
        fits: bool,
    },
}

/// Looks at what is there in the place of `wanted`.
pub(super) async fn look(api: &Api, wanted: &Value) -> Result<Found, ClusterError> {
    let at = path(wanted).map_err(ClusterError::at(title(wanted)))?;
    let held = api.find(&at).await.map_err(ClusterError::at(title(wanted)))?;
    Ok(match held {
        None => Found::Absent,
        Some(held) if held["metadata"]["labels"][MANAGED_BY] == OURS => Found::Ours,
        Some(held) => {
            let fits = versions(&held).any(|version| versions(wanted).any(|ours| ours == version));
            Found::Foreign { owner: owner(&held), fits }
        }
    })
}

/// Makes it or brings it up to date, unless it is somebody else's.
pub(super) async fn ensure(api: &Api, wanted: &Value, say: Say<'_>) -> Result<(), ClusterError> {
    let apply = async || api.apply(wanted).await.map(drop).map_err(ClusterError::at(title(wanted)));
    match look(api, wanted).await? {
        Found::Absent => {
            apply().await?;
            say(format!("{}: created", title(wanted)));
        }
        Found::Ours => apply().await?,
        Found::Foreign { owner, fits: true } => say(format!("{}: left as it is, it belongs to {owner}", title(wanted))),
        Found::Foreign { owner, fits: false } => {
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            return Err(ClusterError::Definition {
                name,
                wanted: versions(wanted).collect::<Vec<_>>().join(", "),
                owner,
            });
        }
    }
    Ok(())
}

/// Takes it away if it is culvert's and there is no object of it; deleting it would delete them.
pub(super) async fn remove(api: &Api, wanted: &Value, say: Say<'_>) -> Result<(), ClusterError> {
    match look(api, wanted).await? {
        Found::Absent => return Ok(()),
        Found::Foreign { owner, .. } => {
            say(format!("{}: left as it is, it belongs to {owner}", title(wanted)));
            return Ok(());
        }
        Found::Ours => {}
    }
    let spec = &wanted["spec"];
    let (group, plural) =
        (spec["group"].as_str().unwrap_or_default(), spec["names"]["plural"].as_str().unwrap_or_default());
    let version = versions(wanted).next().unwrap_or_default();
    let all = place(&format!("{group}/{version}"), plural, None);
    let count = api.all(&all, "").await.map_err(ClusterError::at(all.clone()))?.len();
    if count > 0 {
        say(format!("{}: kept, there are {count} objects of it", title(wanted)));
        return Ok(());
    }
    let at = path(wanted).map_err(ClusterError::at(title(wanted)))?;
    api.delete(&at).await.map_err(ClusterError::at(title(wanted)))?;
    say(format!("{}: removed", title(wanted)));
    Ok(())
}

fn versions(definition: &Value) -> impl Iterator<Item = &str> {
    let served = list(&definition["spec"]["versions"]).iter().filter(|version| version["served"] == true);
    served.filter_map(|version| version["name"].as_str())
}

/// Whose an object is, in words, from what it says of itself.
pub(super) fn owner(object: &Value) -> String {
    let metadata = &object["metadata"];
    let (labels, annotations) = (&metadata["labels"], &metadata["annotations"]);
    let word = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(release) = word(&annotations["meta.helm.sh/release-name"]) {
        let namespace = word(&annotations["meta.helm.sh/release-namespace"]).unwrap_or_default();
        return format!("Helm release {release} in namespace {namespace}");
    }
    for key in ["operator.istio.io/component", "release", "app", "app.kubernetes.io/part-of", MANAGED_BY] {
        if let Some(value) = word(&labels[key]) {
            return format!("{value} (label {key})");
        }
    }
    let managers = list(&metadata["managedFields"]).iter().filter_map(|entry| word(&entry["manager"]));
    managers.into_iter().next().map_or("somebody unknown".to_owned(), |name| format!("{name} (metadata.managedFields)"))
}
