//! Reading objects of security.istio.io/v1 and v1beta1: AuthorizationPolicy and PeerAuthentication.
//!
//! Two layers, as in a cluster. The *schema* ([`check_schema`]) sees the object as text: types, unknown fields, spelling
//! of enums, lengths. *Admission* ([`admit`]) sees what it says: which combinations are meaningless or contradict
//! each other. [`read`] asks both and gives the policy, or every complaint at once.

mod admission;
mod authorization;
mod complaint;
mod condition;
mod crd;
mod hints;
mod peer;
mod schema;
mod selector;
mod shape;

use serde_json::Value;

use crate::model::{AuthorizationPolicy, PeerAuthentication, PolicyName};

pub use admission::{Review, admit};
pub use complaint::Complaint;
pub use crd::definitions;
pub use schema::check_schema;

/// The API group of both kinds.
pub const GROUP: &str = "security.istio.io";

/// The kinds that are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `PeerAuthentication`.
    PeerAuthentication,
}

/// A policy that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// An AuthorizationPolicy.
    Authorization(AuthorizationPolicy),
    /// A PeerAuthentication.
    Authentication(PeerAuthentication),
}

/// An object that is understood, with what its author should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The policy.
    pub policy: Policy,
    /// What is legal but probably not meant.
    pub warnings: Vec<Complaint>,
}

/// An object that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which one; the name is empty where it has none.
    pub name: PolicyName,
    /// Everything that is wrong with it; never empty.
    pub complaints: Vec<Complaint>,
    /// What is legal but probably not meant.
    pub warnings: Vec<Complaint>,
    /// A policy that refuses what the object selects (all of its namespace where even that cannot be told): what to
    /// enforce where no last good version is known. `invalid` is set.
    pub stand_in: Policy,
}

impl Kind {
    /// The kind of an object, where it is one of ours in a version that we know.
    pub fn of(object: &Value) -> Option<Self> {
        let (group, version) = object.get("apiVersion")?.as_str()?.split_once('/')?;
        if group != GROUP || !matches!(version, "v1" | "v1beta1") {
            return None;
        }
        match object.get("kind")?.as_str()? {
            "AuthorizationPolicy" => Some(Self::AuthorizationPolicy),
            "PeerAuthentication" => Some(Self::PeerAuthentication),
            _ => None,
        }
    }
}

impl Policy {
    /// Its name.
    pub fn name(&self) -> &PolicyName {
        match self {
            Self::Authorization(policy) => &policy.name,
            Self::Authentication(policy) => &policy.name,
        }
    }
}

/// Reads a whole Kubernetes object (`apiVersion`, `kind`, `metadata`, `spec`). `None`: not one of the two kinds, or a
/// version of them that does not exist.
pub fn read(object: &Value) -> Option<Result<Accepted, Rejected>> {
    let kind = Kind::of(object)?;
    let mut complaints = check_schema(object);
    let Review { complaints: more, mut warnings, .. } = admit(object)?;
    complaints.extend(more);
    complaint::merge(&mut complaints);
    complaint::shorten(&mut warnings);
    let name = selector::name_of(object);
    Some(if complaints.is_empty() {
        Ok(Accepted { policy: admission::policy(kind, object), warnings })
    } else {
        let stand_in = admission::stand_in(kind, object, &complaints);
        complaint::shorten(&mut complaints);
        Err(Rejected { name, complaints, warnings, stand_in })
    })
}
