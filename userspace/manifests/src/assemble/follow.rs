//! Single pods and policies that change, put into the state without assembling all of it anew.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use culvert_workload::WorkloadUid;

use super::{Assembly, MeshOverrides, State, View, backends::Members, people, people::Selecting, whole};
use crate::{
    catalog::{Catalog, Held},
    kinds::Object,
    object::{ObjectKey, ObjectKind},
};

/// What stays as it is while only pods and policies change: the selectors of services, and who serves those without.
#[derive(Debug)]
pub struct Frame {
    services: Selecting,
    members: Members,
    /// A pod's change may concern other records than its own.
    entangled: bool,
}

/// Objects that changed, with what they were before.
pub type Changed = BTreeMap<ObjectKey, Option<Arc<Held>>>;

impl Frame {
    /// Puts all objects together, as [`super::assemble`] does.
    pub fn assemble(
        catalog: &Catalog,
        overrides: &MeshOverrides,
        reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
    ) -> (Assembly, Self) {
        whole(catalog, overrides, reported)
    }

    pub(super) fn new(services: Selecting, members: Members, contested: bool) -> Self {
        let entangled = contested || members.any_by_address();
        Self { services, members, entangled }
    }

    /// The next state, when of `catalog`, which has the changes already, only these objects and the reported addresses
    /// of these pods differ. It is what assembling everything would give, without the complaints. `None`: the changes
    /// concern more than their own records, so that everything is to be assembled.
    pub fn follow(
        &self,
        state: &State,
        catalog: &Catalog,
        changed: &Changed,
        reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
    ) -> Option<State> {
        let mut next = state.clone();
        let pods: Vec<_> = changed.iter().filter(|(key, _)| key.kind == ObjectKind::Pod).collect();
        if self.entangled && !pods.is_empty() {
            return None;
        }
        for (key, before) in &pods {
            self.forget_pod(&mut next, key, before.as_deref())?;
        }
        for (key, _) in &pods {
            self.put_pod(&mut next, key, catalog, reported)?;
        }
        for (key, before) in changed.iter().filter(|(key, _)| key.kind != ObjectKind::Pod) {
            follow_other(&mut next, key, before.as_deref(), catalog)?;
        }
        Some(next)
    }

    fn forget_pod(&self, next: &mut State, key: &ObjectKey, before: Option<&Held>) -> Option<()> {
        let Some(Held { object: Object::Pod(pod), .. }) = before else { return Some(()) };
        if let Some(record) = next.workloads.get(&pod.uid) {
            let own = *record.namespace == *key.namespace && *record.name == *key.name;
            if !own {
                return None;
            }
            next.namespaces.leave(record);
            next.workloads.remove(&pod.uid);
        }
        Some(())
    }

    fn put_pod(
        &self,
        next: &mut State,
        key: &ObjectKey,
        catalog: &Catalog,
        reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
    ) -> Option<()> {
        let Some(held) = catalog.get(key) else { return Some(()) };
        let Object::Pod(pod) = &held.object else { return Some(()) };
        let mut view = View { catalog, complaints: Vec::new() };
        let mesh = &next.mesh;
        let record = people::record(&mut view, (key, held, pod), mesh, &self.services, &self.members, reported);
        let Some(record) = record else { return Some(()) };
        next.namespaces.enter(&record);
        match next.workloads.insert(pod.uid.clone(), Arc::new(record)) {
            // Somebody else has this UID.
            Some(_) => None,
            None => Some(()),
        }
    }
}

fn follow_other(next: &mut State, key: &ObjectKey, before: Option<&Held>, catalog: &Catalog) -> Option<()> {
    let now = catalog.get(key).map(|held| &held.object);
    match key.kind {
        // They matter to complaints only.
        ObjectKind::ServiceAccount | ObjectKind::RequestAuthentication => {}
        ObjectKind::AuthorizationPolicy => {
            let policies = Arc::make_mut(&mut next.authorization);
            if let Some(Held { object: Object::AuthorizationPolicy(old), .. }) = before {
                policies.remove(&old.name);
            }
            if let Some(Object::AuthorizationPolicy(policy)) = now {
                policies.insert(policy.name.clone(), policy.clone());
            }
        }
        ObjectKind::PeerAuthentication => {
            let policies = Arc::make_mut(&mut next.authentication);
            if let Some(Held { object: Object::PeerAuthentication(old), .. }) = before {
                policies.remove(&old.name);
            }
            if let Some(Object::PeerAuthentication(policy)) = now {
                policies.insert(policy.name.clone(), policy.clone());
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests;
