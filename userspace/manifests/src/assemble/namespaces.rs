//! Namespaces: what becomes of a pod of which nothing else is known.

use std::{collections::BTreeMap, sync::Arc};

use culvert_workload::{Membership, Protocol, Workload};

use super::{View, people};
use crate::{
    kinds::{NamespaceObject, Object},
    object::ObjectKind,
};

/// All namespaces that are known, and who is enrolled in those that are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    told: Arc<BTreeMap<Arc<str>, Membership>>,
    /// How many pods are enrolled by labels of their own, where their namespace is not: so that the last one that goes is
    /// noticed without a look at all others.
    exceptions: Arc<BTreeMap<Arc<str>, usize>>,
}

impl Namespaces {
    pub(super) fn of<'w>(view: &View<'_>, workloads: impl Iterator<Item = &'w Workload>) -> Self {
        let told = view.of_kind(ObjectKind::Namespace).filter_map(|(key, held)| match &held.object {
            Object::Namespace(namespace) => Some((key.name.as_str().into(), by_itself(view, namespace))),
            _ => None,
        });
        let mut namespaces = Self { told: Arc::new(told.collect()), exceptions: Arc::default() };
        workloads.for_each(|workload| namespaces.enter(workload));
        namespaces
    }

    /// What agents are told of each.
    pub fn told(&self) -> &Arc<BTreeMap<Arc<str>, Membership>> {
        &self.told
    }

    /// A record is there from now on.
    pub(super) fn enter(&mut self, record: &Workload) {
        let told = self.told.get(&record.namespace);
        let of_outside = matches!(told, Some(Membership::Mixed | Membership::Outside));
        if record.protocol != Protocol::Hbone || !of_outside {
            return;
        }
        let count = Arc::make_mut(&mut self.exceptions).entry(Arc::clone(&record.namespace)).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.tell(record, Membership::Mixed);
        }
    }

    /// A record that was there is gone.
    pub(super) fn leave(&mut self, record: &Workload) {
        if record.protocol != Protocol::Hbone || !self.exceptions.contains_key(&record.namespace) {
            return;
        }
        let exceptions = Arc::make_mut(&mut self.exceptions);
        let Some(count) = exceptions.get_mut(&record.namespace) else { return };
        *count -= 1;
        if *count == 0 {
            exceptions.remove(&record.namespace);
            self.tell(record, Membership::Outside);
        }
    }

    fn tell(&mut self, record: &Workload, membership: Membership) {
        Arc::make_mut(&mut self.told).insert(Arc::clone(&record.namespace), membership);
    }
}

fn by_itself(view: &View<'_>, namespace: &NamespaceObject) -> Membership {
    if people::enrols(view, namespace) { Membership::Enrolled } else { Membership::Outside }
}
