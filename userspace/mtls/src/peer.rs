//! Who is at the other end of a finished handshake.

use culvert_identity::{
    SpiffeId,
    x509::{self, Svid},
};
use rustls::{CommonState, NamedGroup, ProtocolVersion};

use crate::{Refusal, remembered::Chain};

/// A peer that has proven its identity in a handshake of a configuration of this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    svid: Svid,
    group: Option<NamedGroup>,
}

impl VerifiedPeer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// What its leaf says: serial number, dates.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The key exchange that was negotiated.
    pub fn group(&self) -> Option<NamedGroup> {
        self.group
    }
}

/// The peer of a connection whose handshake has ended (`stream.get_ref().1` of tokio-rustls).
///
/// `not_proven` without a finished TLS 1.3 handshake; `no_client_certificate` when an optional client
/// presented none.
pub fn peer_of(connection: &CommonState) -> Result<VerifiedPeer, Refusal> {
    if connection.is_handshaking() || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Refusal::NotProven);
    }
    let chain = connection.peer_certificates().ok_or(Refusal::NoClientCertificate)?;
    let svid = Chain::of(chain).find().map_or_else(|| x509::check_chain(chain), Ok)?;
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    Ok(VerifiedPeer { svid, group })
}
