//! Who is at the two ends of a tunnel, and with which credentials.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use culvert_identity::SpiffeId;

/// What streams must have in common to share a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The identity that we prove.
    pub source: SpiffeId,
    /// The identity that the peer must prove.
    pub destination: SpiffeId,
    /// Where the tunnel goes, normally the peer pod's address and port 15008.
    pub address: SocketAddr,
    /// Where it comes from: the address of the pod that we speak for.
    pub from: IpAddr,
    /// The UID of the peer workload. Addresses are given out again; UIDs are not.
    pub peer: Arc<str>,
}

/// Which edition of our SVID and of the trust bundles a handshake was made with. Both numbers only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Generation {
    /// Edition of the SVID.
    pub svid: u64,
    /// Edition of the bundles (and of revocations, where there are any).
    pub bundle: u64,
}

impl Generation {
    /// Whether a handshake of this generation is out of date for one who has `other`.
    pub(crate) fn is_older_than(self, other: Self) -> bool {
        self.svid < other.svid || self.bundle < other.bundle
    }
}

/// Everything that [`crate::Pool`] needs to reach a peer, apart from the socket.
#[derive(Debug, Clone)]
pub struct Route {
    /// Who and where.
    pub key: TunnelKey,
    /// The edition of the credentials in `tls`.
    pub generation: Generation,
    /// The TLS configuration: our SVID, and a verifier that accepts `key.destination` only.
    pub tls: Arc<rustls::ClientConfig>,
    /// Until when the SVID in `tls` is valid.
    pub until: SystemTime,
}

/// As whom, and how, a tunnel is served.
#[derive(Debug, Clone)]
pub struct Local {
    /// The identity that we prove.
    pub identity: SpiffeId,
    /// The edition of the credentials in `tls`.
    pub generation: Generation,
    /// The TLS configuration: our SVID, and a verifier that demands a certificate from the client.
    pub tls: Arc<rustls::ServerConfig>,
    /// Until when the SVID in `tls` is valid.
    pub until: SystemTime,
}

/// What the handshake proved about the other end of a tunnel.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's identity, as its certificate says and the verifier accepted.
    pub identity: SpiffeId,
    /// Until when this handshake counts: the earlier end of the two certificates that were used.
    pub until: SystemTime,
    /// The peer's TCP address.
    pub address: SocketAddr,
    /// Our end's TCP address; for a served tunnel the address that the peer has called.
    pub local: SocketAddr,
    /// The key exchange that was used, such as `X25519MLKEM768`.
    pub key_exchange: Option<rustls::NamedGroup>,
    /// The cipher suite that was used.
    pub suite: Option<rustls::CipherSuite>,
    /// The edition of our credentials in this handshake.
    pub generation: Generation,
}
