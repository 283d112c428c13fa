//! Settings of the mesh that policies depend on, and the workload they are compiled for.

use std::{collections::BTreeMap, sync::Arc};

use crate::{domains::TrustDomains, model::Selector};

/// Istio's default root namespace.
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

/// What holds where no PeerAuthentication says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DefaultMode {
    /// Plaintext is let in: Istio's default.
    #[default]
    Permissive,
    /// Only authenticated peers.
    Strict,
}

/// What holds for a workload that no enforced ALLOW policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DefaultAction {
    /// Istio's default.
    #[default]
    Allow,
    /// Refuse (`default_deny`).
    Deny,
}

/// What the whole mesh agrees on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// The namespace whose policies concern all namespaces.
    pub root_namespace: Arc<str>,
    /// The mesh's trust domain and its aliases.
    pub domains: TrustDomains,
    /// `defaultMode`.
    pub default_mode: DefaultMode,
    /// `defaultAction`.
    pub default_action: DefaultAction,
}

/// The workload a rule set is compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its own labels (not its service's).
    pub labels: &'a BTreeMap<String, String>,
    /// The services of its namespace that select it.
    pub services: &'a [&'a str],
}

impl MeshSettings {
    /// Istio's open defaults for a mesh of this trust domain.
    pub fn new(domains: TrustDomains) -> Self {
        Self {
            root_namespace: DEFAULT_ROOT_NAMESPACE.into(),
            domains,
            default_mode: DefaultMode::default(),
            default_action: DefaultAction::default(),
        }
    }

    /// Whether a policy of `namespace` with this selector concerns the workload. Policies of the root namespace
    /// concern every namespace; a waypoint's policy concerns no workload directly.
    pub fn selects(&self, namespace: &str, selector: &Selector, subject: Subject<'_>) -> bool {
        if namespace != subject.namespace && namespace != &*self.root_namespace {
            return false;
        }
        match selector {
            Selector::Namespace => true,
            Selector::Labels(wanted) => {
                wanted.iter().all(|(key, value)| subject.labels.get(key).is_some_and(|have| have == value))
            }
            // Also for the root namespace: a policy and its targets are in one namespace.
            Selector::Services(names) => {
                namespace == subject.namespace && subject.services.iter().any(|service| names.contains(*service))
            }
            Selector::Waypoint => false,
        }
    }
}
