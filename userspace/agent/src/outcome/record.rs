//! What is written about a connection.

use std::{
    borrow::Cow,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_tunnel::Traceparent;
use culvert_workload::Workload;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Ending;

/// An enum whose variants have one stable word each, the same in log, JSON and metric labels.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The stable word.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// Who opened the connection, seen from the local pod.
    Direction {
        /// The local pod called.
        Outbound = "outbound",
        /// The local pod was called.
        Inbound = "inbound",
    }
}

words! {
    /// How the connection crosses the wire.
    Transport {
        /// Not decided: it ended before.
        None = "none",
        /// Mutual TLS, HTTP/2 CONNECT.
        Hbone = "hbone",
        /// Plain TCP into the mesh.
        Plaintext = "plaintext",
        /// Plain TCP out of the mesh.
        Passthrough = "passthrough",
        /// The pod called itself by its own address.
        Hairpin = "hairpin",
    }
}

words! {
    /// The step that failed.
    Step {
        /// Taking the socket.
        Accept = "accept",
        /// Finding out who and where to.
        Attribute = "attribute",
        /// Deciding.
        Authorize = "authorize",
        /// TCP or TLS to the peer.
        Dial = "dial",
        /// The peer's answer to CONNECT.
        Connect = "connect",
        /// The TLS handshake of a peer that called us.
        Handshake = "handshake",
        /// The application's socket.
        Deliver = "deliver",
        /// Moving bytes.
        Splice = "splice",
    }
}

words! {
    /// Whose fault it is.
    Blame {
        /// The other end of the wire.
        Peer = "peer",
        /// The local application.
        Pod = "pod",
        /// The agent.
        Us = "us",
        /// What lies between.
        Network = "network",
    }
}

words! {
    /// How it ended, in one word.
    Kind {
        /// Both sides were done.
        Closed = "closed",
        /// Refused by us.
        Denied = "denied",
        /// A step did not succeed.
        Failed = "failed",
        /// Ended because it was no longer allowed.
        Revoked = "revoked",
        /// Nobody said how.
        Abandoned = "abandoned",
    }
}

/// A point in time. It becomes text where somebody reads it: most records are forgotten before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub SystemTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::try_from(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => f.write_str("-"),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time: Timestamp = String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?;
        Ok(Self(time.into()))
    }
}

/// `traceparent` as its header has it.
mod trace {
    use super::{Deserialize, Deserializer, Serializer, Traceparent};

    pub(super) fn serialize<S: Serializer>(trace: &Option<Traceparent>, serializer: S) -> Result<S::Ok, S::Error> {
        match trace {
            Some(trace) => serializer.collect_str(trace),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Traceparent>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| Traceparent::parse(&text)))
    }
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The TCP address.
    pub addr: SocketAddr,
    /// `metadata.name` of the pod, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// SPIFFE ID, only where a certificate proved it (or is about to: our own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// Record in the roster, for labels.
    #[serde(skip)]
    pub record: Option<Arc<Workload>>,
}

/// Everything about one connection, as it is logged, shown and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was accepted, RFC 3339.
    pub time: Moment,
    /// Seen from the local pod.
    pub direction: Direction,
    /// How it crosses the wire.
    pub transport: Transport,
    /// Who called.
    pub src: Party,
    /// Who was called. The address is the one on the wire (15008 under HBONE).
    pub dst: Party,
    /// The CONNECT authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hbone_addr: Option<SocketAddr>,
    /// What the application asked for, where it differs from where the call went (a service's address).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_dst: Option<SocketAddr>,
    /// `namespace/name` of the service that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// How the peer's identity is known, such as `handshake` or `none: plaintext`.
    pub identity_from: Cow<'static, str>,
    /// How it ended.
    pub outcome: Kind,
    /// Why, unless it simply closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The policy that decided, also when it allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// Its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Whose fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// The chain of errors, or the decision in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Bytes that the client sent.
    pub from_client: u64,
    /// Bytes that the client got.
    pub to_client: u64,
    /// Milliseconds from accept to end.
    pub duration_ms: u64,
    /// `traceparent` of the CONNECT request.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "trace")]
    pub trace: Option<Traceparent>,
}

impl Party {
    /// Somebody with an address only.
    pub fn at(addr: SocketAddr) -> Self {
        Self { addr, workload: None, namespace: None, identity: None, record: None }
    }

    /// Adds what the roster knows. The identity is not taken from it: only a certificate proves one.
    pub fn known(&mut self, workload: &Arc<Workload>) {
        self.workload = Some(workload.name.clone());
        self.namespace = Some(workload.namespace.clone());
        self.record = Some(workload.clone());
    }
}

impl Record {
    pub(crate) fn new(direction: Direction, source: SocketAddr, destination: SocketAddr, now: SystemTime) -> Self {
        Self {
            time: Moment(now),
            direction,
            transport: Transport::None,
            src: Party::at(source),
            dst: Party::at(destination),
            hbone_addr: None,
            original_dst: None,
            service: None,
            identity_from: "none: not asked".into(),
            outcome: Kind::Abandoned,
            reason: None,
            policy: None,
            rule: None,
            step: None,
            blame: None,
            error: None,
            from_client: 0,
            to_client: 0,
            duration_ms: 0,
            trace: None,
        }
    }

    pub(super) fn finish(&mut self, ending: Ending, lasted: Duration, from_client: u64, to_client: u64) {
        self.from_client = from_client;
        self.to_client = to_client;
        self.duration_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        match ending {
            Ending::Closed => self.outcome = Kind::Closed,
            Ending::Abandoned => {
                self.outcome = Kind::Abandoned;
                self.reason = Some("abandoned".into());
            }
            Ending::Denied(decided) => self.decided(Kind::Denied, decided),
            Ending::Revoked(decided) => self.decided(Kind::Revoked, decided),
            Ending::Failed(failure) => {
                self.outcome = Kind::Failed;
                self.reason = Some(failure.reason.into());
                self.step = Some(failure.step);
                self.blame = Some(failure.blame);
                self.error = Some(failure.text);
            }
        }
    }

    fn decided(&mut self, kind: Kind, decided: super::Decided) {
        self.outcome = kind;
        self.reason = Some(decided.reason.into());
        self.policy = decided.policy.or(self.policy.take());
        self.rule = decided.rule;
        self.error = decided.text;
    }
}
