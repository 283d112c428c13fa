//! Does a pod belong to the mesh: from labels, as `culvert-manifests` reads them for the control plane. Where this
//! module is not sure, the agent is asked, whose word is the control plane's.

use std::collections::BTreeMap;

use serde::Deserialize;

const ENROLL: &str = "culvert.dev/enroll";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
const SIDECAR: &str = "istio-proxy";
/// Marks the API server's image of a static pod; its value is the UID that kubelet uses.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What becomes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not the mesh's: it starts at once.
    Pass,
    /// The agent has to take it first.
    Ask,
}

/// A Namespace or a Pod of the API server, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Object {
    /// `metadata`.
    #[serde(default)]
    pub metadata: Metadata,
    /// `spec`; a Namespace has nothing of interest in it.
    #[serde(default)]
    pub spec: Spec,
}

/// `metadata`.
#[derive(Debug, Default, Deserialize)]
pub struct Metadata {
    /// UID.
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    #[serde(default)]
    containers: Option<Vec<Container>>,
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    name: String,
}

/// What an object says about enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Silent,
    In,
    Out,
    /// Neither `true` nor `false`: the control plane knows what becomes of it.
    Unclear,
}

impl Object {
    fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn own_wish(&self) -> Wish {
        // A label goes before an annotation.
        match self.label(ENROLL).or(self.annotation(ENROLL)) {
            None => Wish::Silent,
            Some("true") => Wish::In,
            Some("false") => Wish::Out,
            Some(_) => Wish::Unclear,
        }
    }

    fn istio_wish(&self) -> Wish {
        match self.label(DATAPLANE_MODE) {
            Some("ambient") => Wish::In,
            Some("none") => Wish::Out,
            _ => Wish::Silent,
        }
    }

    fn wish(&self, istio_labels: bool) -> Wish {
        match self.own_wish() {
            Wish::Silent if istio_labels => self.istio_wish(),
            own => own,
        }
    }

    fn has_sidecar(&self) -> bool {
        let lists = [&self.spec.containers, &self.spec.init_containers];
        let mut names = lists.into_iter().flatten().flatten().map(|container| container.name.as_str());
        self.annotation(SIDECAR_STATUS).is_some() || names.any(|name| name == SIDECAR)
    }

    /// The UID by which kubelet knows this pod, where it differs from the API server's: a static pod's.
    pub fn mirrored_uid(&self) -> Option<&str> {
        // An MD5 in hex, as kubelet makes it: never the UID of a pod that the API server made.
        self.annotation(MIRROR).filter(|uid| uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

/// Judges a pod by its labels and those of its namespace.
pub fn decide(namespace: &Object, pod: &Object, istio_labels: bool) -> Verdict {
    let wish = match pod.wish(istio_labels) {
        Wish::Silent => namespace.wish(istio_labels),
        own => own,
    };
    let claimed_by_istio = !istio_labels && [namespace, pod].iter().any(|one| one.istio_wish() == Wish::In);
    match wish {
        Wish::Silent | Wish::Out => Verdict::Pass,
        // Somebody else's proxy carries it, or claims to: the control plane does not enrol it either.
        Wish::In if pod.has_sidecar() || claimed_by_istio => Verdict::Pass,
        Wish::In | Wish::Unclear => Verdict::Ask,
    }
}
