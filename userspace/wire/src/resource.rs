//! Resources of delta xDS: type URLs, names, and the way between bytes and domain types.

mod people;
mod rules;

use std::net::IpAddr;

use culvert_identity::TrustDomain;
use culvert_policy::{AuthorizationPolicy, PeerAuthentication};
use culvert_workload::{Mesh, Namespace, Service, Workload};
use prost::Message;
use prost_types::Any;

use crate::{
    proto::culvert as message,
    read::{Fault, FieldError, Read, address_bytes, addresses, required, trust_domain},
};

/// Name of the marker that ends a state of a type; see `docs/control-plane.md`.
pub const SYNCED_NAME: &str = "@synced";
/// Type URL of the marker's body.
pub const SYNCED_TYPE_URL: &str = "type.googleapis.com/culvert.v1.Synced";
/// Name of the one resource of type [`Kind::Mesh`].
pub const MESH_NAME: &str = "mesh";

/// The types of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Settings of the whole mesh; one resource named `mesh`.
    Mesh,
    /// Named by pod UID.
    Workload,
    /// Named `namespace/name`.
    Service,
    /// Named `namespace/name`.
    AuthorizationPolicy,
    /// Named `namespace/name`.
    PeerAuthentication,
    /// The roots of a trust domain, named by it.
    Bundle,
    /// Whether its pods are enrolled; named by it.
    Namespace,
}

/// The roots of one trust domain, as they are sent; `culvert_identity` knows what may be trusted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose roots.
    pub trust_domain: TrustDomain,
    /// DER certificates; none means that nobody of that trust domain is believed.
    pub authorities: Vec<Vec<u8>>,
    /// SPIFFE's `spiffe_sequence`: a lower one than the held one is to be ignored.
    pub sequence: u64,
}

/// One resource in domain types.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is its kind
pub enum Resource {
    Mesh(Mesh),
    Workload(Workload),
    Service(Service),
    AuthorizationPolicy(AuthorizationPolicy),
    PeerAuthentication(PeerAuthentication),
    Bundle(TrustBundle),
    Namespace(Namespace),
}

/// Why a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// There is no body.
    #[error("resource {name:?} has no body")]
    NoBody {
        /// The resource's name.
        name: String,
    },
    /// The body is of another type than the stream's.
    #[error("resource {name:?} is of type {got:?}, expected {expected:?}")]
    WrongType {
        /// The resource's name.
        name: String,
        /// What was asked for.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// Not a message of that type.
    #[error("resource {name:?} is not a message of its type: {detail}")]
    Malformed {
        /// The resource's name.
        name: String,
        /// What the decoder said.
        detail: String,
    },
    /// The name and the body's own name differ.
    #[error("resource {name:?} calls itself {own:?}")]
    WrongName {
        /// The resource's name.
        name: String,
        /// The name that follows from its body.
        own: String,
    },
    /// A field that cannot be taken as it is.
    #[error("resource {name:?}: {error}")]
    Field {
        /// The resource's name.
        name: String,
        /// Which field, and why.
        error: FieldError,
    },
}

impl ResourceError {
    /// The stable word for logs, metrics and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoBody { .. } => "resource_no_body",
            Self::WrongType { .. } => "resource_wrong_type",
            Self::Malformed { .. } => "resource_malformed",
            Self::WrongName { .. } => "resource_wrong_name",
            Self::Field { error, .. } => error.fault.reason(),
        }
    }

    /// The name of the refused resource.
    pub fn name(&self) -> &str {
        match self {
            Self::NoBody { name }
            | Self::WrongType { name, .. }
            | Self::Malformed { name, .. }
            | Self::WrongName { name, .. }
            | Self::Field { name, .. } => name,
        }
    }
}

impl Kind {
    /// All types, in the order in which an agent needs them.
    pub const ALL: [Self; 7] = [
        Self::Mesh,
        Self::Bundle,
        Self::Workload,
        Self::Service,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::Namespace,
    ];

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Mesh => "type.googleapis.com/culvert.v1.Mesh",
            Self::Workload => "type.googleapis.com/culvert.v1.Workload",
            Self::Service => "type.googleapis.com/culvert.v1.Service",
            Self::AuthorizationPolicy => "type.googleapis.com/culvert.v1.AuthorizationPolicy",
            Self::PeerAuthentication => "type.googleapis.com/culvert.v1.PeerAuthentication",
            Self::Bundle => "type.googleapis.com/culvert.v1.Bundle",
            Self::Namespace => "type.googleapis.com/culvert.v1.Namespace",
        }
    }

    /// The type with this URL.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The short name, for logs and metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Workload => "workload",
            Self::Service => "service",
            Self::AuthorizationPolicy => "authorization_policy",
            Self::PeerAuthentication => "peer_authentication",
            Self::Bundle => "bundle",
            Self::Namespace => "namespace",
        }
    }
}

impl Resource {
    /// Its type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Mesh(_) => Kind::Mesh,
            Self::Workload(_) => Kind::Workload,
            Self::Service(_) => Kind::Service,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
            Self::Bundle(_) => Kind::Bundle,
            Self::Namespace(_) => Kind::Namespace,
        }
    }

    /// Its name on the wire.
    pub fn name(&self) -> String {
        match self {
            Self::Mesh(_) => MESH_NAME.to_owned(),
            Self::Workload(workload) => workload.uid.to_string(),
            Self::Service(service) => service.name.to_string(),
            Self::AuthorizationPolicy(policy) => policy.name.to_string(),
            Self::PeerAuthentication(policy) => policy.name.to_string(),
            Self::Bundle(bundle) => bundle.trust_domain.to_string(),
            Self::Namespace(namespace) => namespace.name.to_string(),
        }
    }

    /// The body. The same resource always gives the same bytes.
    pub fn encode(&self) -> Any {
        let value = match self {
            Self::Mesh(mesh) => people::mesh_message(mesh).encode_to_vec(),
            Self::Workload(workload) => people::workload_message(workload).encode_to_vec(),
            Self::Service(service) => people::service_message(service).encode_to_vec(),
            Self::AuthorizationPolicy(policy) => rules::authorization_message(policy).encode_to_vec(),
            Self::PeerAuthentication(policy) => rules::authentication_message(policy).encode_to_vec(),
            Self::Bundle(bundle) => bundle_message(bundle).encode_to_vec(),
            Self::Namespace(namespace) => people::namespace_message(namespace).encode_to_vec(),
        };
        Any { type_url: self.kind().type_url().to_owned(), value }
    }

    /// Reads the body of the resource called `name` on a stream of type `kind`, whole or not at all.
    pub fn decode(kind: Kind, name: &str, body: Option<&Any>) -> Result<Self, ResourceError> {
        let body = checked_body(name, kind.type_url(), body)?;
        let resource = match kind {
            Kind::Mesh => read(name, body, people::read_mesh).map(Self::Mesh),
            Kind::Workload => read(name, body, people::read_workload).map(Self::Workload),
            Kind::Service => read(name, body, people::read_service).map(Self::Service),
            Kind::AuthorizationPolicy => read(name, body, rules::read_authorization).map(Self::AuthorizationPolicy),
            Kind::PeerAuthentication => read(name, body, rules::read_authentication).map(Self::PeerAuthentication),
            Kind::Bundle => read(name, body, read_bundle).map(Self::Bundle),
            Kind::Namespace => read(name, body, people::read_namespace).map(Self::Namespace),
        }?;
        let own = resource.name();
        if own == name { Ok(resource) } else { Err(ResourceError::WrongName { name: name.to_owned(), own }) }
    }
}

/// What the marker `@synced` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marker {
    /// The generation that the type stands at.
    pub generation: u64,
    /// The node is served a part of the mesh: who is not in it may exist.
    pub partial: bool,
    /// Addresses that were asked for and of which the state says everything from now on.
    pub addresses: Vec<IpAddr>,
}

/// The body of the marker `@synced`.
pub fn synced(marker: &Marker) -> Any {
    let Marker { generation, partial, addresses } = marker;
    let addresses = addresses.iter().map(address_bytes).collect();
    let value = message::Synced { generation: *generation, partial: *partial, addresses }.encode_to_vec();
    Any { type_url: SYNCED_TYPE_URL.to_owned(), value }
}

/// What the marker `@synced` says.
pub fn read_synced(body: Option<&Any>) -> Result<Marker, ResourceError> {
    let body = checked_body(SYNCED_NAME, SYNCED_TYPE_URL, body)?;
    read(SYNCED_NAME, body, |raw: message::Synced| {
        let addresses = addresses("addresses", &raw.addresses)?;
        Ok(Marker { generation: raw.generation, partial: raw.partial, addresses })
    })
}

fn checked_body<'a>(name: &str, expected: &'static str, body: Option<&'a Any>) -> Result<&'a [u8], ResourceError> {
    let body = body.ok_or_else(|| ResourceError::NoBody { name: name.to_owned() })?;
    if body.type_url == expected {
        return Ok(&body.value);
    }
    Err(ResourceError::WrongType { name: name.to_owned(), expected, got: body.type_url.clone() })
}

fn read<M: Message + Default, T>(
    name: &str,
    body: &[u8],
    convert: impl FnOnce(M) -> Read<T>,
) -> Result<T, ResourceError> {
    let malformed =
        |error: prost::DecodeError| ResourceError::Malformed { name: name.to_owned(), detail: error.to_string() };
    let field = |error| ResourceError::Field { name: name.to_owned(), error };
    let message = M::decode(body).map_err(malformed)?;
    // The decoder drops fields that it does not know, and a rule without one of its fields may say more than the
    // whole rule. What does not come back to the same length had something else in it.
    if message.encoded_len() != body.len() {
        return Err(field(FieldError::new("(message)", Fault::UnknownFields)));
    }
    convert(message).map_err(field)
}

fn bundle_message(bundle: &TrustBundle) -> message::Bundle {
    message::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        authorities: bundle.authorities.clone(),
        sequence: bundle.sequence,
    }
}

fn read_bundle(raw: message::Bundle) -> Read<TrustBundle> {
    if let Some(index) = raw.authorities.iter().position(Vec::is_empty) {
        return Err(FieldError::new(format!("authorities[{index}]"), Fault::Missing));
    }
    required("trust_domain", &raw.trust_domain)?;
    Ok(TrustBundle {
        trust_domain: trust_domain("trust_domain", &raw.trust_domain)?,
        authorities: raw.authorities,
        sequence: raw.sequence,
    })
}

#[cfg(test)]
mod tests;
