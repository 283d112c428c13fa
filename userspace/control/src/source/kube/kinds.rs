//! Which kinds are watched, and where the API server has them.

use culvert_manifests::ObjectKind;
use serde_json::Value;

use crate::api::{Api, ApiError};

/// Slices that only repeat what the pods of a selector say.
const DERIVED_SLICES: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// Everything that is watched; each has a task of its own.
pub(super) const WATCHED: [Watched; 10] = [
    Watched::Core(ObjectKind::Namespace, "namespaces"),
    Watched::Core(ObjectKind::Node, "nodes"),
    Watched::Core(ObjectKind::ServiceAccount, "serviceaccounts"),
    Watched::Core(ObjectKind::Pod, "pods"),
    Watched::Core(ObjectKind::Service, "services"),
    Watched::Endpoints,
    Watched::Custom(ObjectKind::PeerAuthentication, "peerauthentications.security.istio.io"),
    Watched::Custom(ObjectKind::AuthorizationPolicy, "authorizationpolicies.security.istio.io"),
    Watched::Custom(ObjectKind::RequestAuthentication, "requestauthentications.security.istio.io"),
    Watched::Custom(ObjectKind::Mesh, "meshes.culvert.dev"),
];

/// One thing to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Watched {
    /// Of the API's oldest group.
    Core(ObjectKind, &'static str),
    /// EndpointSlices, in the version that is there; Endpoints of servers without them.
    Endpoints,
    /// Of a CustomResourceDefinition with this name.
    Custom(ObjectKind, &'static str),
}

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: ObjectKind,
    pub(super) api_version: String,
    /// Path of all of them.
    pub(super) path: String,
    /// Of `labelSelector`, possibly empty.
    pub(super) selector: &'static str,
}

impl Watched {
    /// The name for logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Core(kind, _) | Self::Custom(kind, _) => kind.as_str(),
            Self::Endpoints => "EndpointSlice",
        }
    }

    /// Asks where the objects are. `None`: there is no such kind in this cluster.
    pub(super) async fn place(self, api: &Api) -> Result<Option<Place>, ApiError> {
        match self {
            Self::Core(kind, plural) => Ok(Some(core(kind, plural))),
            Self::Endpoints => Ok(Some(slices(&api.get("/apis").await?))),
            Self::Custom(kind, name) => {
                let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
                match api.get(&path).await {
                    Ok(definition) => Ok(custom(kind, name, &definition)),
                    Err(error) if error.is(404) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn core(kind: ObjectKind, plural: &str) -> Place {
    Place { kind, api_version: "v1".to_owned(), path: format!("/api/v1/{plural}"), selector: "" }
}

/// `groups`: the APIGroupList.
fn slices(groups: &Value) -> Place {
    let groups = groups["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let group = groups.iter().find(|group| group["name"] == "discovery.k8s.io");
    let versions = group.and_then(|group| group["versions"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let served = |known: &&&str| versions.iter().any(|version| version["groupVersion"] == ***known);
    match ObjectKind::EndpointSlice.api_versions().iter().find(served) {
        Some(version) => Place {
            kind: ObjectKind::EndpointSlice,
            api_version: (*version).to_owned(),
            path: format!("/apis/{version}/endpointslices"),
            selector: DERIVED_SLICES,
        },
        None => core(ObjectKind::Endpoints, "endpoints"),
    }
}

/// The first version that is read and served.
fn custom(kind: ObjectKind, name: &str, definition: &Value) -> Option<Place> {
    let (plural, group) = name.split_once('.')?;
    let versions = definition["spec"]["versions"].as_array()?;
    let served = |known: &&&str| {
        let served = |version: &&Value| version["served"] == true;
        versions
            .iter()
            .filter(served)
            .any(|version| version["name"].as_str().is_some_and(|version| format!("{group}/{version}") == ***known))
    };
    let api_version = kind.api_versions().iter().find(served)?;
    let path = format!("/apis/{api_version}/{plural}");
    Some(Place { kind, api_version: (*api_version).to_owned(), path, selector: "" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_are_read_in_the_newest_version_that_is_served_and_endpoints_where_there_are_none() {
        let groups = |versions: &[&str]| {
            let versions: Vec<Value> =
                versions.iter().map(|version| json!({"groupVersion": format!("discovery.k8s.io/{version}")})).collect();
            json!({"groups": [{"name": "apps"}, {"name": "discovery.k8s.io", "versions": versions}]})
        };
        assert_eq!(slices(&groups(&["v1", "v1beta1"])).path, "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(slices(&groups(&["v1beta1"])).path, "/apis/discovery.k8s.io/v1beta1/endpointslices");
        assert_eq!(slices(&groups(&["v2"])).path, "/api/v1/endpoints");
        assert_eq!(slices(&json!({"groups": []})).kind, ObjectKind::Endpoints);
    }

    #[test]
    fn a_custom_kind_is_read_in_a_version_that_is_served() {
        let definition = |served: [bool; 2]| json!({"spec": {"versions": [{"name": "v1beta1", "served": served[0]}, {"name": "v1", "served": served[1]}]}});
        let name = "peerauthentications.security.istio.io";
        let place = |served| custom(ObjectKind::PeerAuthentication, name, &definition(served)).map(|place| place.path);
        assert_eq!(place([true, true]).unwrap(), "/apis/security.istio.io/v1/peerauthentications");
        assert_eq!(place([true, false]).unwrap(), "/apis/security.istio.io/v1beta1/peerauthentications");
        assert_eq!(place([false, false]), None);
    }
}
