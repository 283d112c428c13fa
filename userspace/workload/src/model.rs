//! The domain's nouns. Wire messages and Kubernetes objects are translated into these.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use culvert_identity::{SpiffeId, TrustDomain};
use ipnet::IpNet;

/// The UID that Kubernetes gave a pod (or the UUIDv5 of `namespace/name` in file mode).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

/// How a workload takes connections from other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Enrolled: mutual TLS on port 15008.
    Hbone,
    /// Not enrolled: plain TCP on its own ports.
    Plain,
}

/// Kubernetes' pod phase, as far as it matters here: a pod that ended has no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Scheduled; init containers may be running.
    Pending,
    /// Running.
    Running,
    /// Succeeded or Failed.
    Ended,
}

/// What becomes of a pod of which nothing but its namespace is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Membership {
    /// It is enrolled if it says nothing itself.
    Enrolled,
    /// It is not, but others of its namespace are, by labels of their own: it may be one of them.
    Mixed,
    /// It is not, and neither is anybody else there.
    Outside,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Enrolled or not.
    pub membership: Membership,
}

/// One pod of the mesh or beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Key of the record.
    pub uid: WorkloadUid,
    /// By which kubelet and the cgroups know it, where that is another one: a static pod's (annotation
    /// `kubernetes.io/config.mirror`).
    pub kubelet_uid: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `spec.serviceAccountName`, `default` when unset.
    pub service_account: Arc<str>,
    /// The mesh's trust domain, or a foreign one.
    pub trust_domain: TrustDomain,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: Arc<str>,
    /// The pod's addresses, of both families; never empty for a workload that can be called.
    pub addresses: Vec<IpAddr>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Named container ports, for services whose `targetPort` is a name.
    pub named_ports: BTreeMap<String, u16>,
    /// Ports that kubelet probes (`httpGet`, `tcpSocket`, `grpc`), sorted.
    pub probe_ports: Vec<u16>,
    /// Enrolled or not.
    pub protocol: Protocol,
    /// May it be picked as an endpoint.
    pub ready: bool,
    /// Pending, running or ended.
    pub phase: Phase,
    /// Shares the node's network namespace: never captured, never looked up by address.
    pub host_network: bool,
    /// `culvert.dev/non-tcp: deny`: UDP, SCTP and raw IP are dropped at the guard, but DNS.
    pub deny_non_tcp: bool,
    /// The services that select this workload.
    pub services: Vec<ServiceName>,
}

/// `namespace/name` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

/// A service: virtual addresses in front of the workloads that name it in [`Workload::services`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub name: ServiceName,
    /// `spec.clusterIPs`; empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.sessionAffinity: ClientIP`: a client is brought back to the same endpoint as long as there is one and the same
    /// set of them.
    pub client_ip_affinity: bool,
    /// `spec.internalTrafficPolicy: Local`: only endpoints on the client's own node.
    pub local: bool,
}

/// One entry of `spec.ports` with protocol TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, possibly empty.
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `targetPort`.
    pub target: TargetPort,
}

/// `targetPort`: a number, or the name of a container port that each endpoint resolves for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// What plaintext peers may do where no PeerAuthentication says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MtlsDefault {
    /// Istio's default: plaintext is let in.
    #[default]
    Permissive,
    /// Plaintext is refused.
    Strict,
}

/// What happens to a connection that no AuthorizationPolicy concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActionDefault {
    /// Istio's default: let in.
    #[default]
    Allow,
    /// Refused.
    Deny,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Other names of the same trust domain, used when principals are compared.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The namespace whose policies concern all namespaces; Istio's default is `istio-system`.
    pub root_namespace: Arc<str>,
    /// `defaultMode`.
    pub default_mode: MtlsDefault,
    /// `defaultAction`.
    pub default_action: ActionDefault,
    /// Ranges of pod and service addresses. Outside of them an unknown address is the outside world.
    pub cluster_ranges: Vec<IpNet>,
}

impl Workload {
    /// The identity that this workload proves: `spiffe://TD/ns/NS/sa/SA`.
    /// `None` where names do not fit in a SPIFFE ID, which the control plane refuses earlier.
    pub fn identity(&self) -> Option<SpiffeId> {
        SpiffeId::of_service_account(&self.trust_domain, &self.namespace, &self.service_account).ok()
    }

    /// The services of its namespace that select it.
    pub fn own_services(&self) -> Vec<&str> {
        self.services.iter().filter(|name| name.namespace == self.namespace).map(|name| &*name.name).collect()
    }

    /// Whether that is its identity.
    pub fn is(&self, identity: &SpiffeId) -> bool {
        identity.is_of_service_account(&self.trust_domain, &self.namespace, &self.service_account)
    }
}

impl ServiceName {
    /// From its two halves.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl WorkloadUid {
    /// From its text.
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
