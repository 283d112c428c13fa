//! One consistent state of the mesh: roster, policies and settings of one generation, immutable once published.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use culvert_identity::TrustDomain;
use culvert_policy::{
    AuthorizationPolicy, DefaultAction, DefaultMode, MeshSettings, PeerAuthentication, PolicyName, TrustDomains,
};
use culvert_wire::TrustBundle;
use culvert_workload::{ActionDefault, Found, Membership, Mesh, MtlsDefault, Roster, Workload};
use tokio::sync::watch;

use crate::coverage::{Asked, Coverage};

/// What the agent decides by. A connection sees one snapshot from its beginning to its decision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The control plane's generation.
    pub generation: u64,
    /// Settings of the mesh.
    pub mesh: Arc<Mesh>,
    /// The same as policies are compiled with.
    pub settings: Arc<MeshSettings>,
    /// Who lives where.
    pub roster: Roster,
    /// All AuthorizationPolicies.
    pub authorizations: BTreeMap<PolicyName, Arc<AuthorizationPolicy>>,
    /// All PeerAuthentications.
    pub authentications: BTreeMap<PolicyName, Arc<PeerAuthentication>>,
    /// The roots of each trust domain.
    pub bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    /// Whether pods of a namespace are enrolled when they say nothing themselves.
    pub namespaces: Arc<BTreeMap<Arc<str>, Membership>>,
    /// Of which addresses the roster says everything.
    pub coverage: Coverage,
}

impl Snapshot {
    /// The workload that holds an address; host-network pods and services hold none.
    pub fn holder(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.roster.lookup(address) {
            Found::Enrolled(workload) | Found::NotEnrolled(workload) => Some(workload),
            Found::Service(_) | Found::Host | Found::UnknownInside | Found::Outside => None,
        }
    }

    /// Is the roster's answer for this address the whole mesh's. Somebody who has it is not known without everybody else
    /// who has it; a service may be known without the workloads behind it.
    pub fn tells(&self, address: IpAddr) -> bool {
        if !self.coverage.partial || !self.roster.inside(address) || self.is_answered(address) {
            return true;
        }
        match self.roster.lookup(address) {
            Found::Enrolled(_) | Found::NotEnrolled(_) | Found::Host | Found::Outside => true,
            Found::Service(_) | Found::UnknownInside => false,
        }
    }

    fn is_answered(&self, address: IpAddr) -> bool {
        self.coverage.answered.contains(&address.to_canonical())
    }
}

/// The mesh's settings as policies are compiled with.
pub fn policy_settings(mesh: &Mesh) -> MeshSettings {
    let aliases = mesh.trust_domain_aliases.iter().map(TrustDomain::as_str);
    MeshSettings {
        root_namespace: mesh.root_namespace.clone(),
        domains: TrustDomains::new(mesh.trust_domain.as_str(), aliases),
        default_mode: match mesh.default_mode {
            MtlsDefault::Permissive => DefaultMode::Permissive,
            MtlsDefault::Strict => DefaultMode::Strict,
        },
        default_action: match mesh.default_action {
            ActionDefault::Allow => DefaultAction::Allow,
            ActionDefault::Deny => DefaultAction::Deny,
        },
    }
}

/// The current snapshot: read without a lock by every connection, replaced as a whole, and waited for.
#[derive(Debug)]
pub struct Current {
    snapshot: ArcSwapOption<Snapshot>,
    generation: watch::Sender<u64>,
    recovered: AtomicBool,
    asked: Asked,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            recovered: AtomicBool::new(false),
            asked: Asked::default(),
        }
    }
}

impl Current {
    /// The newest complete state; none before the first one.
    pub fn get(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Somebody wants to know whose address this is: asks the control plane where the snapshot does not tell, and keeps
    /// asking for what was asked before.
    pub fn need(&self, snapshot: &Snapshot, address: IpAddr) {
        if snapshot.coverage.partial && (snapshot.is_answered(address) || !snapshot.tells(address)) {
            self.asked.need(address);
        }
    }

    /// The addresses that are needed.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Puts a newer one in its place.
    pub fn set(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Some(snapshot));
        self.generation.send_modify(|count| *count += 1);
    }

    /// The pods of a former agent have been looked for.
    pub fn set_recovered(&self) {
        self.recovered.store(true, Ordering::Release);
    }

    /// Why the agent does not take over the node's pods yet; nothing when it does.
    pub fn unready(&self) -> Option<&'static str> {
        match (self.snapshot.load().is_some(), self.recovered.load(Ordering::Acquire)) {
            (false, _) => Some("not_synced"),
            (true, false) => Some("recovering"),
            (true, true) => None,
        }
    }

    /// Tells of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Asks every snapshot, beginning with the present one, until `found` has an answer or the time is over.
    pub async fn wait_for<T>(&self, patience: Duration, found: impl Fn(&Arc<Snapshot>) -> Option<T>) -> Option<T> {
        let mut changes = self.changes();
        let search = async {
            loop {
                changes.borrow_and_update();
                if let Some(answer) = self.get().as_ref().and_then(&found) {
                    return Some(answer);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, search).await.ok().flatten()
    }
}
