//! An enrolled pod, as the data path sees it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use culvert_identity::SpiffeId;
use culvert_mtls::{LocalIdentity, Refusal};
use culvert_policy::Denial;
use culvert_redirect::Netns;
use culvert_tunnel::{Baggage, Generation, Local};
use culvert_workload::{Found, Workload, WorkloadUid};
use tokio_util::sync::CancellationToken;

use crate::{
    judge::Judge,
    live::{Ground, LiveTable},
    places::PodPlaces,
    snapshot::Snapshot,
    telemetry,
};

/// Reason of connections that end because a change of policy, label, namespace or roster no longer allows them.
pub const POLICY_CHANGE: &str = "policy_change";
/// Reason of connections that end with their pod.
pub const POD_WITHDRAWN: &str = "pod_withdrawn";

/// A pod whose connections this agent carries.
#[derive(Debug)]
pub struct Pod {
    /// Its UID.
    pub uid: WorkloadUid,
    /// Makes sockets inside it.
    pub netns: Netns,
    /// Its addresses, read inside it.
    pub addresses: Vec<IpAddr>,
    /// Name of its veth on the node.
    pub host_veth: String,
    /// What proves who it is.
    pub local: LocalIdentity,
    /// Its open connections.
    pub live: Arc<LiveTable>,
    /// Places for its connections.
    pub places: PodPlaces,
    /// Cancelled when the pod is let go.
    pub gone: CancellationToken,
    workload: ArcSwap<Workload>,
    /// The same, as peers are told.
    about: ArcSwap<Baggage>,
    judge: ArcSwap<Judge>,
}

/// What enrolment found out about a pod.
#[derive(Debug)]
pub struct PodParts {
    /// The control plane's record of it.
    pub workload: Arc<Workload>,
    /// Makes sockets inside it.
    pub netns: Netns,
    /// Its addresses, read inside it.
    pub addresses: Vec<IpAddr>,
    /// Name of its veth on the node.
    pub host_veth: String,
    /// What proves who it is.
    pub local: LocalIdentity,
    /// Places for its connections.
    pub places: PodPlaces,
}

impl Pod {
    /// A pod that refuses everything until [`Pod::follow`] has seen a snapshot.
    pub fn new(parts: PodParts) -> Self {
        Self {
            uid: parts.workload.uid.clone(),
            netns: parts.netns,
            addresses: parts.addresses,
            host_veth: parts.host_veth,
            local: parts.local,
            places: parts.places,
            live: Arc::default(),
            gone: CancellationToken::new(),
            about: ArcSwap::from_pointee(telemetry::baggage(&parts.workload)),
            workload: ArcSwap::new(parts.workload),
            judge: ArcSwap::from_pointee(Judge::closed()),
        }
    }

    /// The control plane's newest record.
    pub fn workload(&self) -> Arc<Workload> {
        self.workload.load_full()
    }

    /// What peers are told about it.
    pub(crate) fn about(&self) -> Arc<Baggage> {
        self.about.load_full()
    }

    /// The newest rule set.
    pub fn judge(&self) -> Arc<Judge> {
        self.judge.load_full()
    }

    /// Whom it proves to be.
    pub fn identity(&self) -> &SpiffeId {
        self.local.id()
    }

    /// As whom tunnels to this pod are served, with the newest SVID.
    pub fn serving(&self) -> Result<Local, Refusal> {
        let credentials = self.local.credentials()?;
        Ok(Local {
            identity: self.local.id().clone(),
            generation: self.serving_generation(),
            tls: self.local.server_config()?,
            until: credentials.not_after(),
        })
    }

    /// How long the SVID in use is still valid. (Not its whole life: issuers date the beginning back.)
    pub fn svid_left(&self) -> Option<Duration> {
        self.local.credentials().ok()?.not_after().duration_since(SystemTime::now()).ok()
    }

    /// The edition of SVID and bundles that served tunnels should have been made with.
    pub fn serving_generation(&self) -> Generation {
        let bundle = self.local.trust().bundles().generation();
        Generation { svid: self.local.generation(), bundle }
    }

    /// The same for tunnels that this pod dials to a peer of that trust domain.
    pub fn dialling_generation(&self, peer: &SpiffeId) -> Generation {
        let bundle = self.local.trust().bundles().generation_of(peer.trust_domain_str());
        Generation { svid: self.local.generation(), bundle }
    }

    /// Takes in a new snapshot: record, rules, and every open connection judged again. Gives the words of the decisions
    /// that ended some.
    pub fn follow(&self, snapshot: &Snapshot, record: &Arc<Workload>) -> Vec<&'static str> {
        self.about.store(Arc::new(telemetry::baggage(record)));
        self.workload.store(record.clone());
        if let Some(judge) = Judge::renew(&self.judge.load(), snapshot, record) {
            self.judge.store(Arc::new(judge));
        }
        let judge = self.judge.load_full();
        let mut words = Vec::new();
        for live in self.live.all() {
            let Some(objection) = objection(&judge, snapshot, &live.ground) else { continue };
            let word = objection.word();
            live.object(objection);
            if live.revoke(POLICY_CHANGE) {
                words.push(word);
            }
        }
        words
    }

    /// The control plane says that the pod is not the mesh's any more: until its traffic is its own again, whatever still
    /// comes by here passes, as it would without us.
    pub fn leave(&self) {
        self.judge.store(Arc::new(Judge::open()));
    }

    /// Ends everything of this pod.
    pub fn let_go(&self) {
        self.gone.cancel();
        self.live.revoke_where(|_| Some(POD_WITHDRAWN));
    }
}

/// Why what a connection rests on no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// Policy refuses it.
    Policy(Denial),
    /// The address belongs to somebody else, or the other way of reaching it is due now.
    Moved(&'static str),
}

impl Objection {
    /// The word of the decision; for a moved destination that of the change itself.
    fn word(&self) -> &'static str {
        match self {
            Self::Policy(denial) => denial.reason.as_str(),
            Self::Moved(_) => POLICY_CHANGE,
        }
    }
}

/// A way out that an earlier snapshot allowed: may it still be taken. Asked once its connection is in the table of live
/// ones, so that every later change finds it there.
pub(crate) fn still_leads(snapshot: &Snapshot, ground: &Ground) -> bool {
    match ground {
        Ground::Destination { address, workload, identity } => {
            snapshot.holder(address.ip()).is_none_or(|holder| holder.uid == *workload && holder.is(identity))
        }
        Ground::NotEnrolled(address) => !matches!(snapshot.roster.lookup(address.ip()), Found::Enrolled(_)),
        Ground::Allowed(_) | Ground::Itself => true,
    }
}

fn objection(judge: &Judge, snapshot: &Snapshot, ground: &Ground) -> Option<Objection> {
    match ground {
        Ground::Allowed(connection) => judge.objection(connection).map(Objection::Policy),
        Ground::Destination { address, workload, identity } => match snapshot.holder(address.ip()) {
            // Gone from the roster: the peer itself ends what has to end.
            None => None,
            Some(holder) if holder.uid == *workload && holder.is(identity) => None,
            Some(_) => Some(Objection::Moved("the destination's address belongs to another workload")),
        },
        Ground::NotEnrolled(_) | Ground::Itself => None,
    }
}
