//! The X509-SVID profile: what a chain of certificates must look like before anybody builds a path.
//!
//! Source: X509-SVID sections 2 to 5. The order of the checks is fixed, because the first failure is
//! the one that is reported: encoding, URI SAN, SPIFFE ID, path, leaf, then the other certificates.

use std::time::{Duration, SystemTime};

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME},
    parse_x509_certificate,
    time::ASN1Time,
};

use crate::{IdError, SpiffeId, der};

/// What a well-formed leaf says of itself. Nothing here is proven: that takes a path and a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// The identity of the only URI SAN.
    pub id: SpiffeId,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// Serial number, lower-case hex, as encoded.
    pub serial: String,
    /// DER of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

/// First and last moment of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
}

/// Why a chain does not have the shape of an X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No certificate at all.
    #[error("the chain has no certificate")]
    EmptyChain,
    /// The text is not PEM.
    #[error("not PEM")]
    NotPem,
    /// Certificate `.0` of the chain (the leaf is 0) is not strict DER, or has bytes after it.
    #[error("certificate {0} of the chain is not a DER certificate")]
    NotDer(usize),
    /// A name or an extension that this check needs cannot be read, or is there twice.
    #[error("certificate {0} of the chain has an extension that cannot be read or is repeated")]
    BadExtension(usize),
    /// The leaf has no URI SAN.
    #[error("the leaf has no URI SAN")]
    NoUriSan,
    /// The leaf has more than one URI SAN.
    #[error("the leaf has {0} URI SANs, not one")]
    ManyUriSans(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("the leaf's URI SAN is not a SPIFFE ID")]
    NotASpiffeId(#[source] IdError),
    /// A SPIFFE ID without path names a trust domain and authenticates nobody.
    #[error("the leaf's SPIFFE ID has no path")]
    IdWithoutPath,
    /// The leaf is a CA certificate.
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// The leaf has no keyUsage.
    #[error("the leaf has no keyUsage")]
    KeyUsageMissing,
    /// keyUsage lacks digitalSignature.
    #[error("the leaf's keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// keyUsage has keyCertSign.
    #[error("the leaf's keyUsage has keyCertSign")]
    LeafSignsCertificates,
    /// keyUsage has cRLSign.
    #[error("the leaf's keyUsage has cRLSign")]
    LeafSignsCrls,
    /// keyUsage is not critical.
    #[error("the leaf's keyUsage is not critical")]
    KeyUsageNotCritical,
    /// A certificate above the leaf is not a CA certificate.
    #[error("certificate {0} of the chain signs and is not a CA certificate")]
    IntermediateNotCa(usize),
    /// A certificate above the leaf lacks keyCertSign.
    #[error("certificate {0} of the chain signs without keyCertSign")]
    IntermediateKeyUsage(usize),
}

impl ProfileError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EmptyChain => "empty_chain",
            Self::NotPem => "not_pem",
            Self::NotDer(_) => "not_der",
            Self::BadExtension(_) => "bad_extension",
            Self::NoUriSan => "no_uri_san",
            Self::ManyUriSans(_) => "many_uri_sans",
            Self::NotASpiffeId(_) => "not_a_spiffe_id",
            Self::IdWithoutPath => "id_without_path",
            Self::LeafIsCa => "leaf_is_ca",
            Self::KeyUsageMissing => "key_usage_missing",
            Self::NoDigitalSignature => "key_usage_no_digital_signature",
            Self::LeafSignsCertificates => "key_usage_cert_sign",
            Self::LeafSignsCrls => "key_usage_crl_sign",
            Self::KeyUsageNotCritical => "key_usage_not_critical",
            Self::IntermediateNotCa(_) => "intermediate_not_ca",
            Self::IntermediateKeyUsage(_) => "intermediate_key_usage",
        }
    }
}

/// Checks the profile of a chain in DER, leaf first, and returns what its leaf says.
pub fn check_chain<C: AsRef<[u8]>>(chain: &[C]) -> Result<Svid, ProfileError> {
    let certificates =
        chain.iter().enumerate().map(|(at, der)| parse(at, der.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let (leaf, signers) = certificates.split_first().ok_or(ProfileError::EmptyChain)?;
    let id = only_uri_id(leaf)?;
    check_leaf(leaf)?;
    signers.iter().enumerate().try_for_each(|(at, signer)| check_signer(at + 1, signer))?;
    let Validity { not_before, not_after } = validity_of(leaf);
    Ok(Svid {
        id,
        not_before,
        not_after,
        serial: hex(leaf.tbs_certificate.raw_serial()),
        public_key: leaf.tbs_certificate.subject_pki.raw.to_vec(),
    })
}

/// Reads the certificates of a PEM text (blocks of other kinds, such as keys, are passed over) as a
/// chain, leaf first, and checks its profile.
pub fn load_chain_pem(text: impl AsRef<[u8]>) -> Result<(Vec<Vec<u8>>, Svid), ProfileError> {
    let chain = certificates_of_pem(text.as_ref())?;
    let svid = check_chain(&chain)?;
    Ok((chain, svid))
}

/// The validity of one certificate in DER.
pub fn validity(der: &[u8]) -> Result<Validity, ProfileError> {
    Ok(validity_of(&parse(0, der)?))
}

/// The DER of each certificate of a PEM text, in order.
pub fn certificates_of_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, ProfileError> {
    let blocks = pem::parse_many(text).map_err(|_| ProfileError::NotPem)?;
    Ok(blocks.into_iter().filter(|b| b.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect())
}

pub(crate) fn parse(at: usize, bytes: &[u8]) -> Result<X509Certificate<'_>, ProfileError> {
    match parse_x509_certificate(bytes) {
        Ok(([], certificate)) if der::is_strict(bytes) && is_consistent(&certificate) => Ok(certificate),
        _ => Err(ProfileError::NotDer(at)),
    }
}

/// What the parser leaves to its callers (RFC 5280 sections 4.1.1.2, 4.1.2.1 and 4.1.2.4).
fn is_consistent(certificate: &X509Certificate<'_>) -> bool {
    let tbs = &certificate.tbs_certificate;
    let names = [tbs.issuer.as_raw(), tbs.subject.as_raw()];
    tbs.version.0 <= 2 && tbs.signature == certificate.signature_algorithm && names.into_iter().all(der::is_name)
}

/// Is this certificate allowed to sign others? A certificate of version 1 has no extensions and
/// cannot say; then the answer is `None`.
pub(crate) fn says_it_is_ca(certificate: &X509Certificate<'_>) -> Result<Option<bool>, ProfileError> {
    if certificate.version.0 < 2 {
        return Ok(None);
    }
    basic_constraints_ca(0, certificate).map(Some)
}

fn only_uri_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, ProfileError> {
    let names = match extension(0, leaf, &OID_X509_EXT_SUBJECT_ALT_NAME)?.map(|e| e.parsed_extension()) {
        None => return Err(ProfileError::NoUriSan),
        Some(ParsedExtension::SubjectAlternativeName(names)) => names,
        Some(_) => return Err(ProfileError::BadExtension(0)),
    };
    // A name that the parser could not read might be a URI to somebody else's parser.
    if names.general_names.iter().any(|n| matches!(n, GeneralName::Invalid(..))) {
        return Err(ProfileError::BadExtension(0));
    }
    let mut uris = names.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(ProfileError::NoUriSan)?;
    match uris.count() {
        0 => {}
        more => return Err(ProfileError::ManyUriSans(more + 1)),
    }
    let id = SpiffeId::parse(uri).map_err(ProfileError::NotASpiffeId)?;
    if id.path().is_empty() {
        return Err(ProfileError::IdWithoutPath);
    }
    Ok(id)
}

fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), ProfileError> {
    if basic_constraints_ca(0, leaf)? {
        return Err(ProfileError::LeafIsCa);
    }
    let extension = extension(0, leaf, &OID_X509_EXT_KEY_USAGE)?.ok_or(ProfileError::KeyUsageMissing)?;
    let ParsedExtension::KeyUsage(usage) = extension.parsed_extension() else {
        return Err(ProfileError::BadExtension(0));
    };
    match () {
        () if !usage.digital_signature() => Err(ProfileError::NoDigitalSignature),
        () if usage.key_cert_sign() => Err(ProfileError::LeafSignsCertificates),
        () if usage.crl_sign() => Err(ProfileError::LeafSignsCrls),
        () if !extension.critical => Err(ProfileError::KeyUsageNotCritical),
        () => Ok(()),
    }
}

fn check_signer(at: usize, signer: &X509Certificate<'_>) -> Result<(), ProfileError> {
    if !basic_constraints_ca(at, signer)? {
        return Err(ProfileError::IntermediateNotCa(at));
    }
    match extension(at, signer, &OID_X509_EXT_KEY_USAGE)?.map(|e| e.parsed_extension()) {
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => Ok(()),
        _ => Err(ProfileError::IntermediateKeyUsage(at)),
    }
}

fn basic_constraints_ca(at: usize, certificate: &X509Certificate<'_>) -> Result<bool, ProfileError> {
    match extension(at, certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)?.map(|e| e.parsed_extension()) {
        None => Ok(false),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(constraints.ca),
        Some(_) => Err(ProfileError::BadExtension(at)),
    }
}

/// The extension of that kind; two of a kind are an error, since parsers differ in which one they take.
fn extension<'c, 'd>(
    at: usize,
    certificate: &'c X509Certificate<'d>,
    kind: &x509_parser::der_parser::Oid<'static>,
) -> Result<Option<&'c X509Extension<'d>>, ProfileError> {
    certificate.get_extension_unique(kind).map_err(|_| ProfileError::BadExtension(at))
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity { not_before: time(validity.not_before), not_after: time(validity.not_after) }
}

fn time(at: ASN1Time) -> SystemTime {
    let seconds = at.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests;
