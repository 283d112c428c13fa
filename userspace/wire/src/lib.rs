//! The messages between control plane and agents, and their conversion to domain types.
//!
//! A message that says something this version does not understand is refused whole, with the field named: half of a
//! rule could let in what the whole one keeps out.

mod read;
pub mod report;
pub mod resource;

pub use read::{Fault, FieldError};
pub use resource::{Kind, Resource, ResourceError, SYNCED_NAME, TrustBundle};

/// Generated messages and services.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    /// Istio's CA protocol.
    pub mod ca {
        tonic::include_proto!("istio.v1.auth");
    }
    /// Delta xDS.
    pub mod discovery {
        tonic::include_proto!("envoy.service.discovery.v3");
    }
    /// culvert's own resources.
    pub mod culvert {
        tonic::include_proto!("culvert.v1");
    }
}
