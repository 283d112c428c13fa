//! Metrics that Istio does not have, under `culvert_`.

use std::sync::OnceLock;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Label `reason` or `result`: always a word from code, never text from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Handshake {
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// `ok` or the reason of the refusal.
    pub result: &'static str,
}

/// Labels of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Decision {
    /// `open` or `rejudge`.
    pub cause: &'static str,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Labels of a finished handshake.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Group {
    /// Key exchange group, such as `X25519MLKEM768`.
    pub group: &'static str,
}

/// A counter of the kernel side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kernel {
    /// Its name: `culvert_abi::Counter::name`.
    pub counter: &'static str,
}

/// One word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Word {
    /// The word.
    pub reason: &'static str,
}

/// The agent's own metrics.
#[derive(Debug, Default)]
pub struct Own {
    /// TLS handshakes by result.
    pub handshakes: Family<Handshake, Counter>,
    /// Seconds that a handshake took.
    pub handshake_seconds: HistogramOf,
    /// Seconds from dialling to the peer's 200.
    pub connect_seconds: HistogramOf,
    /// Key exchange groups in use.
    pub tls_groups: Family<Group, Counter>,
    /// Policy decisions.
    pub decisions: Family<Decision, Counter>,
    /// One of them.
    allowed: OnceLock<Counter>,
    /// Connections that were ended because they are no longer allowed.
    pub revoked: Family<Word, Counter>,
    /// Seconds that judging all live connections again took.
    pub rejudge_seconds: HistogramOf,
    /// Outcomes that were not `closed`, by reason.
    pub refusals: Family<Word, Counter>,
    /// Successful renewals of SVIDs.
    pub rotations: Counter,
    /// Failed attempts to renew, by reason.
    pub rotation_failures: Family<Word, Counter>,
    /// Seconds from asking for a certificate to having it.
    pub issue_seconds: HistogramOf,
    /// Seconds until the first SVID of this node ends (negative: it has).
    pub svid_expiry: Gauge,
    /// What steering and guard have counted, passed and dropped, as read from the kernel.
    pub kernel: Family<Kernel, Gauge>,
    /// Pods that are enrolled.
    pub pods: Gauge,
    /// Pods of which the kernel says that they are captured.
    pub pods_captured: Gauge,
    /// Pods whose listeners the keeper holds.
    pub pods_kept: Gauge,
    /// Tunnels that are open now.
    pub tunnels: Gauge,
    /// Generation of the control plane's state that is enforced.
    pub generation: Gauge,
    /// Is the control plane's stream up.
    pub control_connected: Gauge,
    /// Connections that went out in plaintext because the destination is not enrolled.
    pub passthrough: Counter,
    /// Resources that could not be understood.
    pub rejected_resources: Counter,
}

/// Buckets from 100 us to 10 s.
#[derive(Debug, Clone)]
pub struct HistogramOf(pub Histogram);

impl Default for HistogramOf {
    fn default() -> Self {
        Self(Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]))
    }
}

impl HistogramOf {
    /// One more observation.
    pub fn observe(&self, duration: std::time::Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

impl Own {
    /// One more handshake: `ok` or the reason why not.
    pub fn handshake(&self, direction: &'static str, result: &'static str) {
        self.handshakes.get_or_create(&Handshake { direction, result }).inc();
    }

    /// One more decision.
    pub fn decided(&self, cause: &'static str, verdict: &'static str, reason: &'static str) {
        self.decisions.get_or_create(&Decision { cause, verdict, reason }).inc();
    }

    /// A connection was allowed: the decision that every connection meets, counted without a search.
    pub fn allowed(&self) {
        let decision = || Decision { cause: "open", verdict: "allow", reason: "allowed" };
        self.allowed.get_or_init(|| self.decisions.get_or_create(&decision()).clone()).inc();
    }

    /// The key exchange of a finished handshake.
    pub fn group(&self, group: Option<rustls::NamedGroup>) {
        let group = match group {
            Some(rustls::NamedGroup::X25519MLKEM768) => "X25519MLKEM768",
            Some(rustls::NamedGroup::X25519) => "X25519",
            Some(rustls::NamedGroup::secp256r1) => "P-256",
            Some(_) => "other",
            None => "unknown",
        };
        self.tls_groups.get_or_create(&Group { group }).inc();
    }

    /// One more of these, by its word.
    pub fn word(family: &Family<Word, Counter>, reason: &'static str) {
        family.get_or_create(&Word { reason }).inc();
    }

    pub(super) fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        let sub = registry.sub_registry_with_prefix("culvert");
        sub.register("tls_handshakes", "TLS handshakes by direction and result", own.handshakes.clone());
        let (seconds, groups) = (Unit::Seconds, own.tls_groups.clone());
        sub.register_with_unit("tls_handshake", "Handshake time", seconds.clone(), own.handshake_seconds.0.clone());
        sub.register_with_unit("connect", "From dial to answer", seconds.clone(), own.connect_seconds.0.clone());
        sub.register("tls_groups", "Handshakes by key exchange group", groups);
        sub.register("policy_decisions", "Decisions by cause, verdict and reason", own.decisions.clone());
        sub.register("revoked_connections", "Connections ended while open, by reason", own.revoked.clone());
        sub.register_with_unit(
            "rejudge",
            "Judging live connections again",
            seconds.clone(),
            own.rejudge_seconds.0.clone(),
        );
        sub.register("refusals", "Connections that did not end well, by reason", own.refusals.clone());
        sub.register("svid_rotations", "Successful renewals", own.rotations.clone());
        sub.register("svid_rotation_failures", "Failed renewals by reason", own.rotation_failures.clone());
        sub.register_with_unit("svid_issue", "From asking to having", seconds.clone(), own.issue_seconds.0.clone());
        sub.register_with_unit("svid_expiry", "Until the first SVID ends", seconds, own.svid_expiry.clone());
        sub.register("kernel_events", "What steering and guard have passed and dropped", own.kernel.clone());
        sub.register("pods_enrolled", "Enrolled pods", own.pods.clone());
        sub.register("pods_captured", "Pods captured, as read from the kernel", own.pods_captured.clone());
        sub.register("pods_kept", "Pods whose listeners the keeper holds", own.pods_kept.clone());
        sub.register("tunnels_open", "Open tunnels", own.tunnels.clone());
        sub.register("enforced_generation", "Generation that is enforced", own.generation.clone());
        sub.register("control_connected", "1 while the control plane's stream is up", own.control_connected.clone());
        sub.register(
            "passthrough_connections",
            "Plaintext connections to places not enrolled",
            own.passthrough.clone(),
        );
        sub.register("rejected_resources", "Resources that were not understood", own.rejected_resources.clone());
        own
    }
}
