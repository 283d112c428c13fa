//! The messages between control plane and agents, and their conversion to domain types.

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
