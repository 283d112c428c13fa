//! What is counted. Labels come from enumerations only.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Generation of the index.
    pub generation: Gauge<u64, AtomicU64>,
    /// Resources by type.
    pub resources: Family<Type, Gauge>,
    /// Complaints about manifests by severity.
    pub complaints: Family<Severity, Gauge>,
    /// 1 while the directory as a whole cannot be taken.
    pub manifests_unusable: Gauge,
    /// 1 while the newest state cannot be kept on disk and is therefore not published.
    pub state_unkept: Gauge,
    /// Open discovery streams.
    pub streams: Gauge,
    /// Discovery responses sent by type.
    pub responses: Family<Type, Counter>,
    /// Resources sent by type.
    pub sent: Family<Type, Counter>,
    /// Discovery responses that an agent refused, by type.
    pub nacks: Family<Type, Counter>,
    /// Certificates signed, by what they are for.
    pub issued: Family<Action, Counter>,
    /// Calls refused.
    pub refused: Family<Refused, Counter>,
    /// TLS handshakes that failed.
    pub handshakes_failed: Family<Reason, Counter>,
    /// Objects that the admission webhook was asked about, by what it said.
    pub reviews: Family<Reason, Counter>,
    /// End of the issuing key, seconds since the epoch.
    pub issuing_expiry: Gauge,
}

/// Label of a resource type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Type {
    /// [`culvert_wire::Kind::label`].
    pub r#type: &'static str,
}

/// Label of a severity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Severity {
    /// `error`, `warning`, `info`.
    pub severity: &'static str,
}

/// Label of an action, as in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Action {
    /// `issue`, `join`, `renew`.
    pub action: &'static str,
}

/// Labels of a refusal, as in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// What was asked for.
    pub action: &'static str,
    /// Why it was refused.
    pub reason: &'static str,
}

/// Label of a reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// Why.
    pub reason: &'static str,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("culvert_control"),
            generation: Gauge::default(),
            resources: Family::default(),
            complaints: Family::default(),
            manifests_unusable: Gauge::default(),
            state_unkept: Gauge::default(),
            streams: Gauge::default(),
            responses: Family::default(),
            sent: Family::default(),
            nacks: Family::default(),
            issued: Family::default(),
            refused: Family::default(),
            handshakes_failed: Family::default(),
            reviews: Family::default(),
            issuing_expiry: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry: r, .. } = self;
        r.register("generation", "Generation of the index", self.generation.clone());
        r.register("resources", "Resources by type", self.resources.clone());
        r.register("complaints", "Complaints about manifests", self.complaints.clone());
        let help = "Whether the directory of manifests cannot be taken and the last good state is served";
        r.register("manifests_unusable", help, self.manifests_unusable.clone());
        let help = "Whether the newest state cannot be kept on disk and is therefore not published";
        r.register("state_unkept", help, self.state_unkept.clone());
        r.register("streams", "Open discovery streams", self.streams.clone());
        r.register("xds_responses", "Discovery responses sent", self.responses.clone());
        r.register("xds_resources_sent", "Resources sent in discovery responses", self.sent.clone());
        r.register("xds_nacks", "Discovery responses that an agent refused", self.nacks.clone());
        r.register("certificates_issued", "Certificates signed", self.issued.clone());
        r.register("refusals", "Calls refused", self.refused.clone());
        r.register("handshakes_failed", "TLS handshakes that failed", self.handshakes_failed.clone());
        r.register("admission_reviews", "Objects that the admission webhook judged", self.reviews.clone());
        let help = "End of the issuing key in seconds since the epoch";
        r.register("issuing_key_expiry_timestamp_seconds", help, self.issuing_expiry.clone());
    }

    /// The exposition format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
