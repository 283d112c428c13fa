//! What is known of a connection when it is judged.

use std::net::IpAddr;

use culvert_identity::SpiffeId;

/// Who is across the socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A peer that proved this identity in a TLS handshake.
    Authenticated(SpiffeId),
    /// A peer without TLS: it has no identity, whatever it says.
    Plaintext,
}

/// One connection towards a workload, as the destination's side sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who calls.
    pub peer: Peer,
    /// The caller's address, taken from the TCP peer.
    pub source_ip: IpAddr,
    /// The workload's address.
    pub destination_ip: IpAddr,
    /// The workload's port, after any service port was translated.
    pub destination_port: u16,
}

/// The attributes that rules are matched against at L4. Borrowed from a [`Connection`]; it can also be
/// put together from parts by who knows an identity in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// `None` for a plaintext peer: identity attributes are then *absent*, not unknown.
    pub identity: Option<IdentityFacts<'a>>,
    /// `source.ip`, IPv4 in its own form.
    pub source_ip: IpAddr,
    /// `destination.ip`, IPv4 in its own form.
    pub destination_ip: IpAddr,
    /// `destination.port`.
    pub destination_port: u16,
}

/// An authenticated identity, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityFacts<'a> {
    /// `source.principal`: the SPIFFE ID without `spiffe://`.
    pub principal: &'a str,
    /// `source.trustDomain`.
    pub trust_domain: &'a str,
    /// `source.namespace` and the account in it, only for paths of exactly the form `/ns/NS/sa/SA`.
    pub account: Option<(&'a str, &'a str)>,
}

impl Connection {
    /// The attributes of this connection. IPv4-mapped IPv6 addresses become IPv4.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            identity: match &self.peer {
                Peer::Authenticated(id) => Some(IdentityFacts::of(id)),
                Peer::Plaintext => None,
            },
            source_ip: self.source_ip.to_canonical(),
            destination_ip: self.destination_ip.to_canonical(),
            destination_port: self.destination_port,
        }
    }
}

impl<'a> IdentityFacts<'a> {
    /// The parts of a SPIFFE ID.
    pub fn of(id: &'a SpiffeId) -> Self {
        Self { principal: id.principal(), trust_domain: id.trust_domain_str(), account: id.service_account() }
    }
}
