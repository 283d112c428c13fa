//! What people write, read and validated but not yet compiled. Values stay the strings of the
//! manifest: `compile` gives them meaning once per workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// `namespace/name` of a policy object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// Which workloads a policy concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Every workload of the policy's namespace, or of the mesh when it is the root namespace.
    Namespace,
    /// Workloads that carry all of these labels (within the namespace, or everywhere from the root namespace).
    Labels(BTreeMap<String, String>),
    /// `targetRefs` to Services of the policy's own namespace: the workloads behind any of them, whichever way they are
    /// called. What of it only a waypoint sees is unknown.
    Services(BTreeSet<String>),
    /// `targetRefs` to nothing but gateways or ServiceEntries: a waypoint's business, never evaluated by the agent.
    Waypoint,
}

/// `spec.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Let in what matches; once one ALLOW policy selects a workload, the rest is refused.
    #[default]
    Allow,
    /// Refuse what matches or may match.
    Deny,
    /// Only marks the log record.
    Audit,
    /// Ask an external authorizer; only a waypoint can, so L4 refuses what matches or may match.
    Custom,
}

/// An AuthorizationPolicy of security.istio.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Whom it concerns.
    pub selector: Selector,
    /// What a match means.
    pub action: Action,
    /// `istio.io/dry-run`: evaluated and reported, never enforced.
    pub dry_run: bool,
    /// OR of these; no rule never matches.
    pub rules: Vec<Rule>,
    /// The object could not be understood and has no last good version: it refuses everything that it selects
    /// (reason `policy_invalid`), unless it is a dry run or its action AUDIT. The text says what is wrong with it.
    pub invalid: Option<Arc<str>>,
}

/// One rule: `from` AND `to` AND every `when`. An empty list holds always.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// OR of these.
    pub from: Vec<Source>,
    /// OR of these.
    pub to: Vec<Operation>,
    /// AND of these.
    pub when: Vec<Condition>,
}

/// `rules[].from[].source`: fields AND, values of a field OR, `not…` holds when no value matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the names are Istio's field names
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// `rules[].to[].operation`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the names are Istio's field names
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// `rules[].when[]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// An attribute such as `source.principal`.
    pub key: String,
    /// OR of these.
    pub values: Vec<String>,
    /// None of these.
    pub not_values: Vec<String>,
}

/// `mtls.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MtlsMode {
    /// Inherit from the wider scope.
    #[default]
    Unset,
    /// As PERMISSIVE inbound; clients never downgrade.
    Disable,
    /// mTLS and plaintext.
    Permissive,
    /// Only peers with an authenticated identity.
    Strict,
}

/// A PeerAuthentication of security.istio.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Its name.
    pub name: PolicyName,
    /// Whom it concerns; a selector without labels counts as none.
    pub selector: Selector,
    /// `spec.mtls.mode`.
    pub mode: MtlsMode,
    /// `spec.portLevelMtls`, by workload port.
    pub port_modes: BTreeMap<u16, MtlsMode>,
    /// `metadata.creationTimestamp` in seconds since the epoch, 0 where it is unknown: the oldest of a scope wins.
    pub created: i64,
    /// As [`AuthorizationPolicy::invalid`].
    pub invalid: Option<Arc<str>>,
}

impl PolicyName {
    /// From its two halves.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// What `Display` gives, shared: for records of many connections.
    pub fn shared(&self) -> Arc<str> {
        [&*self.namespace, "/", &self.name].concat().into()
    }
}

impl serde::Serialize for PolicyName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
