//! What rules mean: our own tables of the facts that policies rest on.

mod compiling;
mod corners;
mod covering;
mod explaining;
mod grammar;
mod identities;
mod layers;
mod matching;
mod merging;
mod properties;
mod reading;

use std::{collections::BTreeMap, net::IpAddr};

use culvert_identity::SpiffeId;
use serde_json::{Value, json};

use crate::{
    AuthorizationPolicy, Connection, DefaultAction, DefaultMode, MeshSettings, Peer, PeerAuthentication, RuleSet,
    Subject, TrustDomains, Verdict, decide,
    istio::{self, Accepted, Complaint, Policy, Rejected},
};

/// Everything that a test needs to ask for one decision about workload `app=web` of namespace `shop`.
pub(crate) struct World {
    pub(crate) settings: MeshSettings,
    pub(crate) authorizations: Vec<AuthorizationPolicy>,
    pub(crate) authentications: Vec<PeerAuthentication>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            settings: MeshSettings::new(TrustDomains::new("mesh.test", ["old.test"])),
            authorizations: Vec::new(),
            authentications: Vec::new(),
        }
    }

    /// Both defaults closed.
    pub(crate) fn closed() -> Self {
        let mut world = Self::new();
        world.settings.default_mode = DefaultMode::Strict;
        world.settings.default_action = DefaultAction::Deny;
        world
    }

    /// Adds an AuthorizationPolicy of namespace `shop`.
    pub(crate) fn with(self, name: &str, spec: Value) -> Self {
        self.with_object(authorization(name, spec))
    }

    pub(crate) fn with_object(mut self, object: Value) -> Self {
        match accepted(&object).policy {
            Policy::Authorization(policy) => self.authorizations.push(policy),
            Policy::Authentication(policy) => self.authentications.push(policy),
        }
        self
    }

    /// Adds a PeerAuthentication of namespace `shop`.
    pub(crate) fn with_peers(self, name: &str, spec: Value) -> Self {
        self.with_object(object("PeerAuthentication", "shop", name, spec))
    }

    pub(crate) fn rules(&self) -> RuleSet {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let subject = Subject { namespace: "shop", labels: &labels, services: &["web"] };
        RuleSet::compile(subject, &self.settings, &self.authorizations, &self.authentications)
    }

    pub(crate) fn decide(&self, connection: &Connection) -> Verdict {
        decide(&self.rules(), connection)
    }

    /// `allow`, or the reason of the denial.
    pub(crate) fn answer(&self, connection: &Connection) -> &'static str {
        match self.decide(connection) {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(denial) => denial.reason.as_str(),
        }
    }
}

pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": { "namespace": namespace, "name": name },
        "spec": spec,
    })
}

pub(crate) fn authorization(name: &str, spec: Value) -> Value {
    object("AuthorizationPolicy", "shop", name, spec)
}

pub(crate) fn accepted(object: &Value) -> Accepted {
    istio::read(object).expect("one of our kinds").unwrap_or_else(|rejected| panic!("{:#?}", rejected.complaints))
}

pub(crate) fn rejected(object: &Value) -> Rejected {
    istio::read(object).expect("one of our kinds").expect_err("should be refused")
}

pub(crate) fn codes(complaints: &[Complaint]) -> Vec<(&str, &str)> {
    complaints.iter().map(|complaint| (complaint.field.as_str(), complaint.code)).collect()
}

/// A connection from `mesh.test/ns/NS/sa/SA` (or from nobody, for `""`) to port 8080.
pub(crate) fn from(account: &str) -> Connection {
    match account.split_once('/') {
        Some((namespace, account)) => from_id(&format!("spiffe://mesh.test/ns/{namespace}/sa/{account}")),
        None => connection(Peer::Plaintext),
    }
}

pub(crate) fn from_id(id: &str) -> Connection {
    connection(Peer::Authenticated(SpiffeId::parse(id).expect("a SPIFFE ID")))
}

fn connection(peer: Peer) -> Connection {
    Connection { peer, source_ip: ip("10.0.0.1"), destination_ip: ip("10.0.1.1"), destination_port: 8080 }
}

impl Connection {
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.destination_port = port;
        self
    }

    pub(crate) fn source(mut self, address: &str) -> Self {
        self.source_ip = ip(address);
        self
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
