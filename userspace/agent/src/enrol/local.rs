//! What the control plane says of this node's own pods: written down for the CNI plugin, and compared with what is held.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use culvert_handover::known::{Asked, Known};
use culvert_workload::{Membership, Phase, Protocol, Workload};

use super::{Discovery, Enroller};
use crate::snapshot::Snapshot;

/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Pause while pods are missing.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause while none is.
const PERIOD: Duration = Duration::from_secs(30);

impl Enroller {
    /// Writes down what the CNI plugin needs to know, for ever. In a task of its own: what is held up elsewhere must not
    /// make the list old.
    pub async fn write_known(self: Arc<Self>, list: PathBuf) {
        let mut changes = self.parts.shared.current.changes();
        let mut written = None;
        loop {
            changes.borrow_and_update();
            if let Some(snapshot) = self.parts.shared.current.get() {
                write(&list, known(&snapshot, &local(&snapshot, &self.parts.node)), &mut written).await;
            }
            let pause = if written.is_some() { PERIOD } else { PAUSE };
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => tokio::time::sleep(TOGETHER).await,
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Follows the records of this node, for ever.
    pub async fn attend(self: Arc<Self>, discovery: Option<Discovery>) {
        let mut changes = self.parts.shared.current.changes();
        // What was let go may be wanted again.
        let mut held = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            held.borrow_and_update();
            let mut missing = false;
            if let (Some(snapshot), Some(discovery)) = (self.parts.shared.current.get(), &discovery) {
                let local = local(&snapshot, &self.parts.node);
                let wanted: Vec<_> = local.into_iter().filter(|one| should_be_held(one)).collect();
                missing = self.discover(discovery, &wanted).await;
            }
            let pause = if missing { PAUSE } else { PERIOD };
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => tokio::time::sleep(TOGETHER).await,
                    Err(_) => return,
                },
                Ok(()) = held.changed() => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

fn local(snapshot: &Snapshot, node: &str) -> Vec<Arc<Workload>> {
    let here = |one: &&Arc<Workload>| *one.node == *node && one.phase != Phase::Ended && !one.host_network;
    snapshot.roster.workloads().filter(here).cloned().collect()
}

fn should_be_held(record: &Workload) -> bool {
    record.protocol == Protocol::Hbone
}

/// A namespace in which somebody is enrolled is one whose pods wait, whatever else is said of it; that one is not in the
/// mesh only the control plane says, and it is never inferred from pods that happen not to be.
fn known(snapshot: &Snapshot, local: &[Arc<Workload>]) -> Known {
    let told = snapshot.namespaces.iter().map(|(name, membership)| (&**name, *membership != Membership::Outside));
    let mut namespaces: BTreeMap<&str, bool> = told.collect();
    let enrolled = snapshot.roster.workloads().filter(|one| should_be_held(one));
    namespaces.extend(enrolled.map(|one| (&*one.namespace, true)));
    Known {
        pods: local.iter().map(|one| (one.uid.to_string(), should_be_held(one))).collect(),
        namespaces: namespaces.into_iter().map(|(name, waits)| (name.to_owned(), waits)).collect(),
    }
}

async fn write(list: &std::path::Path, now: Known, written: &mut Option<Known>) {
    if written.as_ref() == Some(&now) {
        return;
    }
    let (path, fresh) = (list.to_owned(), now.clone());
    // What is not known any more must not open a pod: rather no list than an old one.
    let put = move || {
        fresh.write(&path).inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        let asked = Asked::beside(&path);
        // One that stays is outweighed by the list.
        fresh.pods.keys().for_each(|uid| drop(asked.forget(uid)));
        io::Result::Ok(())
    };
    match super::blocking(put).await {
        Ok(Ok(())) => *written = Some(now),
        Ok(Err(error)) => {
            *written = None;
            tracing::warn!(%error, path = %list.display(), "the CNI plugin's list is not written");
        }
        Err(_stopping) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test stops where it fails")]

    use super::*;
    use crate::samples::{pod, snapshot};

    #[test]
    fn the_list_says_of_a_namespace_only_what_somebody_said() {
        let mut tool = pod("tool", "10.0.0.3");
        (tool.namespace, tool.protocol) = ("tools".into(), Protocol::Plain);
        let mut far = pod("far", "10.0.1.3");
        (far.namespace, far.node) = ("far".into(), "n2".into());
        let web = pod("web", "10.0.0.2");
        let namespace = web.namespace.to_string();
        let mut state = snapshot([web, tool, far], [], []);
        let list = known(&state, &local(&state, "n1"));
        assert_eq!(list.pods, [("web".to_owned(), true), ("tool".to_owned(), false)].into());
        assert_eq!(list.namespaces, [(namespace.clone(), true), ("far".to_owned(), true)].into());

        let says = [
            ("tools", Membership::Outside),
            ("empty", Membership::Enrolled),
            ("mixed", Membership::Mixed),
            // A pod that is enrolled there is heard of at once, and its namespace may be later.
            ("far", Membership::Outside),
        ];
        state.namespaces = Arc::new(says.map(|(name, membership)| (name.into(), membership)).into());
        let list = known(&state, &local(&state, "n1"));
        let expected = [(&*namespace, true), ("far", true), ("tools", false), ("empty", true), ("mixed", true)];
        assert_eq!(list.namespaces, expected.map(|(name, waits)| (name.to_owned(), waits)).into());
    }
}
