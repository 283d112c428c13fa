//! Settings of the mesh: flags over the Mesh object over Istio's defaults.

use std::collections::BTreeSet;

use culvert_identity::TrustDomain;
use culvert_policy::{Action, AuthorizationPolicy, DEFAULT_ROOT_NAMESPACE, PolicyName, Selector};
use culvert_workload::{ActionDefault, Mesh, MtlsDefault};
use ipnet::IpNet;

use super::View;
use crate::{
    catalog::{Catalog, Standing},
    complaint::Severity,
    kinds::{MeshObject, Object},
    object::ObjectKind,
};

/// The name of what refuses for a broken Mesh: none that an object of a cluster can have.
const REFUSAL: &str = "Mesh";

/// What the command line says; it goes before the Mesh object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshOverrides {
    /// The trust domain that the CA signs for: fixed by its root certificate.
    pub trust_domain: TrustDomain,
    /// `--default-mode`.
    pub default_mode: Option<MtlsDefault>,
    /// `--default-action`.
    pub default_action: Option<ActionDefault>,
    /// `--cluster-range`, in addition to the Mesh object's.
    pub cluster_ranges: Vec<IpNet>,
}

pub(super) fn mesh(view: &mut View<'_>, overrides: &MeshOverrides) -> Mesh {
    let entry = view.of_kind(ObjectKind::Mesh).next();
    let written = match entry {
        Some((_, held)) => match &held.object {
            Object::Mesh(mesh) => mesh.clone(),
            _ => MeshObject::default(),
        },
        None => MeshObject::default(),
    };
    if let Some(domain) = written.trust_domain.as_ref().filter(|domain| **domain != overrides.trust_domain) {
        let text = format!("{domain:?} is not the trust domain of this control plane, {:?}", overrides.trust_domain);
        let remedy = "a trust domain is for life: begin a new state folder to change it";
        view.complain(Severity::Error, entry, "spec.trustDomain", "trust_domain_fixed", text, remedy);
    }
    let ranges = cluster_ranges(view, &written, overrides);
    if ranges.is_empty() {
        let text = "no range of pod or service addresses is known: every unknown address counts as outside of the \
                    cluster and is reached in plaintext"
            .to_owned();
        let remedy = "write a Mesh with spec.podCIDRs and spec.serviceCIDRs";
        view.complain(Severity::Warning, entry, "spec.podCIDRs", "no_cluster_ranges", text, remedy);
    }
    Mesh {
        trust_domain: overrides.trust_domain.clone(),
        trust_domain_aliases: written.trust_domain_aliases.unwrap_or_default(),
        root_namespace: written.root_namespace.as_deref().unwrap_or(DEFAULT_ROOT_NAMESPACE).into(),
        default_mode: overrides.default_mode.or(written.default_mode).unwrap_or_default(),
        default_action: overrides.default_action.or(written.default_action).unwrap_or_default(),
        cluster_ranges: ranges,
    }
}

/// What refuses all traffic to workloads while the only Mesh that is known is broken. Nobody knows then which namespace is the
/// root, who else is trusted and which addresses are inside, so that no other policy can be told to do what it is meant to.
pub(super) fn refusal(catalog: &Catalog, mesh: &Mesh) -> Option<(PolicyName, AuthorizationPolicy)> {
    let (_, held) = catalog.of_kind(ObjectKind::Mesh).next()?;
    if held.standing != Standing::Invalid {
        return None;
    }
    let name = PolicyName::new(&mesh.root_namespace, REFUSAL);
    let policy = AuthorizationPolicy {
        name: name.clone(),
        // Of the root namespace, whichever it is now: of all namespaces.
        selector: Selector::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
        invalid: Some("the Mesh has errors and has no last good version".into()),
    };
    Some((name, policy))
}

fn cluster_ranges(view: &View<'_>, written: &MeshObject, overrides: &MeshOverrides) -> Vec<IpNet> {
    let nodes = view.of_kind(ObjectKind::Node).flat_map(|(_, held)| match &held.object {
        Object::Node(node) => node.pod_ranges.as_slice(),
        _ => &[],
    });
    let own = written.pod_ranges.iter().chain(&written.service_ranges).chain(&overrides.cluster_ranges);
    own.chain(nodes).copied().collect::<BTreeSet<_>>().into_iter().collect()
}
