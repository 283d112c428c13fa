//! The rule set of one local pod, compiled anew only when something that concerns the pod has changed.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use culvert_policy::{
    AuthorizationPolicy, Connection, Denial, MeshSettings, PeerAuthentication, PolicyName, RuleSet, Subject, Verdict,
    decide,
};
use culvert_workload::Workload;

use crate::snapshot::Snapshot;

/// What decides about connections to one pod.
#[derive(Debug)]
pub struct Judge {
    rules: RuleSet,
    sources: Option<Sources>,
}

/// The objects that a rule set was compiled from; the same objects give the same rule set.
#[derive(Debug)]
struct Sources {
    settings: Arc<MeshSettings>,
    authorizations: Vec<Arc<AuthorizationPolicy>>,
    authentications: Vec<Arc<PeerAuthentication>>,
}

impl Judge {
    /// Refuses everything: nothing is known of the pod yet.
    pub fn closed() -> Self {
        Self { rules: RuleSet::closed(), sources: None }
    }

    /// Refuses nothing: the control plane has said that the pod is not the mesh's, and it is on its way out.
    pub fn open() -> Self {
        Self { rules: RuleSet::open(), sources: None }
    }

    /// Compiles what concerns the workload; gives nothing when that is what `former` was compiled from.
    pub fn renew(former: &Self, snapshot: &Snapshot, workload: &Workload) -> Option<Self> {
        let sources = Sources::of(snapshot, workload);
        if former.sources.as_ref().is_some_and(|before| before.same(&sources)) {
            return None;
        }
        Some(Self::compile(sources, workload))
    }

    /// The judge of any workload of the snapshot, also of one on another node.
    pub fn of(snapshot: &Snapshot, workload: &Workload) -> Self {
        Self::compile(Sources::of(snapshot, workload), workload)
    }

    fn compile(sources: Sources, workload: &Workload) -> Self {
        let services = workload.own_services();
        let rules = RuleSet::compile(
            Subject { namespace: &workload.namespace, labels: &workload.labels, services: &services },
            &sources.settings,
            sources.authorizations.iter().map(Arc::as_ref),
            sources.authentications.iter().map(Arc::as_ref),
        );
        Self { rules, sources: Some(sources) }
    }

    /// The rule set.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// May this connection be?
    pub fn decide(&self, connection: &Connection) -> Verdict {
        decide(&self.rules, connection)
    }

    /// Why an open connection may not go on; nothing while it may.
    pub fn objection(&self, connection: &Connection) -> Option<Denial> {
        self.rules.judge(&connection.facts()).err()
    }
}

impl Sources {
    fn of(snapshot: &Snapshot, workload: &Workload) -> Self {
        Self {
            settings: snapshot.settings.clone(),
            authorizations: selected(snapshot, workload, &snapshot.authorizations, |policy| &policy.selector),
            authentications: selected(snapshot, workload, &snapshot.authentications, |policy| &policy.selector),
        }
    }

    fn same(&self, other: &Self) -> bool {
        *self.settings == *other.settings
            && same_objects(&self.authorizations, &other.authorizations)
            && same_objects(&self.authentications, &other.authentications)
    }
}

fn same_objects<T: PartialEq>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
}

/// The objects of the workload's and the root namespace that select it, in order of their names. Other namespaces are
/// not even looked at.
fn selected<T>(
    snapshot: &Snapshot,
    workload: &Workload,
    objects: &BTreeMap<PolicyName, Arc<T>>,
    selector: impl Fn(&T) -> &culvert_policy::Selector,
) -> Vec<Arc<T>> {
    let root = &snapshot.settings.root_namespace;
    let services = workload.own_services();
    let subject = Subject { namespace: &workload.namespace, labels: &workload.labels, services: &services };
    let namespaces = [Some(&workload.namespace), Some(root).filter(|root| **root != workload.namespace)];
    let of_namespace = |namespace: &Arc<str>| {
        let first = PolicyName { namespace: namespace.clone(), name: "".into() };
        let namespace = namespace.clone();
        objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(name, _)| name.namespace == namespace)
    };
    namespaces
        .into_iter()
        .flatten()
        .flat_map(of_namespace)
        .filter(|(name, object)| snapshot.settings.selects(&name.namespace, selector(object), subject))
        .map(|(_, object)| object.clone())
        .collect()
}

#[cfg(test)]
mod tests;
