//! What certificates look like. Source: SPIFFE X509-SVID.

use std::time::{Duration, SystemTime};

use culvert_identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber, date_time_ymd,
};

use super::CaError;

/// Longest life of a leaf, whatever is asked for.
pub const MAX_LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A leaf begins this much before now, for verifiers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// What the certificate is.
pub(super) enum Role<'a> {
    Root(&'a TrustDomain),
    Issuing(&'a TrustDomain),
    Leaf(&'a SpiffeId),
    /// DNS names of a server that is no member of the mesh.
    Server(&'a [String]),
}

/// The parameters of a certificate, with its serial number.
pub(super) fn params(
    role: &Role<'_>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<(CertificateParams, SerialNumber), CaError> {
    let serial = serial();
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.clone());
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds(now - BACKDATE));
    params.not_after = epoch + Duration::from_secs(seconds(not_after));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = !matches!(role, Role::Root(_));
    match role {
        Role::Root(domain) | Role::Issuing(domain) => {
            let (name, length) = if matches!(role, Role::Root(_)) { ("root", 1) } else { ("issuing", 0) };
            params.distinguished_name.push(DnType::CommonName, format!("culvert {name} {domain} {}", hex(&serial, 4)));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            // A CA's own SPIFFE ID has no path.
            params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
        }
        Role::Leaf(id) => {
            // With an empty subject the SAN becomes critical (RFC 5280 section 4.2.1.6).
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.subject_alt_names = vec![uri(id.as_str())?];
        }
        Role::Server(names) => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = names.iter().map(|name| dns(name)).collect::<Result<_, _>>()?;
        }
    }
    Ok((params, serial))
}

/// 16 random bytes, positive and not zero.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

pub(super) fn hex(serial: &SerialNumber, bytes: usize) -> String {
    let all = serial.to_bytes();
    hex::encode(&all[..bytes.min(all.len())])
}

fn uri(text: &str) -> Result<SanType, CaError> {
    text.try_into().map(SanType::URI).map_err(|error: rcgen::Error| CaError::Signing(error.to_string()))
}

fn dns(text: &str) -> Result<SanType, CaError> {
    text.try_into().map(SanType::DnsName).map_err(|error: rcgen::Error| CaError::Signing(error.to_string()))
}

/// Whole seconds since the epoch: certificates know no smaller unit.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
