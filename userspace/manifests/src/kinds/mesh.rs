//! Mesh: culvert's own settings of the whole mesh.
//!
//! ```yaml
//! apiVersion: culvert.dev/v1alpha1
//! kind: Mesh
//! metadata: {name: mesh}
//! spec:
//!   trustDomain: cluster.local
//!   trustDomainAliases: []
//!   rootNamespace: istio-system
//!   defaultMode: STRICT        # PERMISSIVE (Istio's default) or STRICT
//!   defaultAction: DENY        # ALLOW (Istio's default) or DENY
//!   podCIDRs: [10.244.0.0/16]
//!   serviceCIDRs: [10.96.0.0/12]
//! ```

use culvert_identity::TrustDomain;
use culvert_workload::{ActionDefault, MtlsDefault};
use ipnet::IpNet;

use super::{meta, node::ranges};
use crate::fields::Fields;

/// Settings of the mesh, so far as the object says anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshObject {
    /// `spec.trustDomain`.
    pub trust_domain: Option<TrustDomain>,
    /// `spec.trustDomainAliases`.
    pub trust_domain_aliases: Option<Vec<TrustDomain>>,
    /// `spec.rootNamespace`.
    pub root_namespace: Option<String>,
    /// `spec.defaultMode`.
    pub default_mode: Option<MtlsDefault>,
    /// `spec.defaultAction`.
    pub default_action: Option<ActionDefault>,
    /// `spec.podCIDRs`.
    pub pod_ranges: Vec<IpNet>,
    /// `spec.serviceCIDRs`.
    pub service_ranges: Vec<IpNet>,
}

impl MeshObject {
    /// What holds while the object has errors: what could be read, and nothing that opens more than that.
    pub(super) fn closed(self) -> Self {
        Self { default_mode: Some(MtlsDefault::Strict), default_action: Some(ActionDefault::Deny), ..self }
    }
}

const SPEC: &[&str] =
    &["defaultAction", "defaultMode", "podCIDRs", "rootNamespace", "serviceCIDRs", "trustDomain", "trustDomainAliases"];

pub(super) fn read(object: &Fields<'_>) -> MeshObject {
    let object = object.clone().only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    meta::metadata(&object);
    let spec = object.inner("spec").only(SPEC);
    let aliases = spec.texts("trustDomainAliases").into_iter();
    let aliases = aliases.filter_map(|(path, text)| trust_domain(&spec, &path, text)).collect();
    MeshObject {
        trust_domain: spec.text("trustDomain").and_then(|text| trust_domain(&spec, &spec.at("trustDomain"), text)),
        trust_domain_aliases: spec.has("trustDomainAliases").then_some(aliases),
        root_namespace: root_namespace(&spec),
        default_mode: choice(
            &spec,
            "defaultMode",
            [("PERMISSIVE", MtlsDefault::Permissive), ("STRICT", MtlsDefault::Strict)],
        ),
        default_action: choice(
            &spec,
            "defaultAction",
            [("ALLOW", ActionDefault::Allow), ("DENY", ActionDefault::Deny)],
        ),
        pod_ranges: ranges(&spec, "podCIDRs"),
        service_ranges: ranges(&spec, "serviceCIDRs"),
    }
}

fn trust_domain(spec: &Fields<'_>, path: &str, text: &str) -> Option<TrustDomain> {
    match TrustDomain::parse(text) {
        Ok(domain) => Some(domain),
        Err(error) => {
            let text = format!("{text:?} is not a trust domain: {error}");
            spec.notes().error("bad_trust_domain", path, text, "write it as in cluster.local, without spiffe://");
            None
        }
    }
}

fn root_namespace(spec: &Fields<'_>) -> Option<String> {
    let text = spec.text("rootNamespace")?;
    if !meta::is_dns_label(text) {
        let complaint = format!("{text:?} is not the name of a namespace");
        spec.notes().error("bad_name", spec.at("rootNamespace"), complaint, "Istio's default is istio-system");
        return None;
    }
    Some(text.to_owned())
}

fn choice<T: Copy, const N: usize>(spec: &Fields<'_>, key: &str, known: [(&str, T); N]) -> Option<T> {
    let text = spec.text(key)?;
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names = known.map(|(name, _)| name).join(" or ");
        spec.notes().error("bad_value", spec.at(key), format!("{text:?} is unknown"), &format!("write {names}"));
    }
    found
}
