//! Who is the peer? The checks of spiffe.md section 3 in their order; the first failure is the answer.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::{
    SpiffeId,
    x509::{self, Svid},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::KeyUsage;

use crate::{BundleSet, Refusal, TrustBundles, bundles::Held, config::provider, remembered};

/// How far a peer's clock may be ahead: an SVID that begins up to this much later than now is accepted.
/// The end of an SVID is never stretched: it is the issuer's bound on what a stolen key is worth.
pub const NOT_BEFORE_SKEW: Duration = Duration::from_secs(10);

/// Which end of the connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It accepted the connection.
    Server,
    /// It opened the connection.
    Client,
}

/// The identities of which the peer must be one. An empty set expects nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(Arc<[SpiffeId]>);

impl Expected {
    /// Exactly this one.
    pub fn one(id: SpiffeId) -> Self {
        Self(Arc::new([id]))
    }

    /// One of these.
    pub fn any_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(ids.into_iter().collect())
    }

    /// Is it one of them?
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.0.contains(id)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [] => f.write_str("anybody"),
            [one] => one.fmt(f),
            [first, others @ ..] => write!(f, "{first} or one of {} others", others.len()),
        }
    }
}

/// Verifies the chain of a peer in `role` at `now` against the bundle of *its* trust domain.
///
/// This is everything but the expected identity and the proof of possession of the key.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    role: Role,
    now: SystemTime,
) -> Result<Svid, Refusal> {
    let remembered = remembered::Chain::of(chain);
    let known = remembered.find();
    let is_new = known.is_none();
    let svid = known.map_or_else(|| x509::check_chain(chain), Ok)?;
    let held = bundles.of_peer(&svid.id).ok_or_else(|| Refusal::NoBundle(svid.id.trust_domain()))?;
    if held.anchors.is_empty() {
        return Err(Refusal::EmptyBundle(svid.id.trust_domain()));
    }
    // The path comes before the dates of the leaf, so it is judged at a moment at which the leaf is valid:
    // a stranger's certificate is a stranger's even when it has also ended.
    let moment = now.min(svid.not_after).max(svid.not_before);
    check_path(chain, &svid, held, role, moment)?;
    if is_new {
        remembered.keep(&svid);
    }
    check_dates(&svid, now)?;
    Ok(svid)
}

fn check_dates(svid: &Svid, now: SystemTime) -> Result<(), Refusal> {
    if now > svid.not_after {
        return Err(Refusal::Expired { not_after: svid.not_after });
    }
    if now + NOT_BEFORE_SKEW < svid.not_before {
        return Err(Refusal::NotYetValid { not_before: svid.not_before });
    }
    Ok(())
}

fn check_path(
    chain: &[CertificateDer<'_>],
    svid: &Svid,
    held: &Held,
    role: Role,
    moment: SystemTime,
) -> Result<(), Refusal> {
    let bad = |error: webpki::Error| path_refusal(&error, svid);
    let [leaf, signers @ ..] = chain else { return Err(Refusal::NotProven) };
    let anchors = valid_anchors(held, moment);
    if anchors.is_empty() {
        return Err(Refusal::AuthoritiesExpired(svid.id.trust_domain()));
    }
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let since_epoch = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    webpki::EndEntityCert::try_from(leaf)
        .map_err(bad)?
        .verify_for_usage(
            remembered::algorithms(),
            &anchors,
            signers,
            UnixTime::since_unix_epoch(since_epoch),
            usage,
            None,
            None,
        )
        .map(drop)
        .map_err(bad)
}

/// webpki knows no dates of trust anchors; an authority outside of its own is not used here.
fn valid_anchors(held: &Held, moment: SystemTime) -> Cow<'_, [TrustAnchor<'static>]> {
    let valid = |at: usize| {
        let validity = &held.validities[at];
        validity.not_before <= moment && moment <= validity.not_after
    };
    if (0..held.anchors.len()).all(valid) {
        return Cow::Borrowed(&held.anchors);
    }
    Cow::Owned(held.anchors.iter().enumerate().filter(|(at, _)| valid(*at)).map(|(_, a)| a.clone()).collect())
}

fn path_refusal(error: &webpki::Error, svid: &Svid) -> Refusal {
    use webpki::Error as E;
    match error {
        // A namesake of an authority with another key is as unknown as one with another name.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Refusal::UnknownAuthority(svid.id.trust_domain()),
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::WrongPurpose,
        E::CertExpired { .. } | E::CertNotValidYet { .. } => Refusal::SignerNotValid,
        other => Refusal::BadPath(other.to_string()),
    }
}

/// rustls' verifier of both ends. It reads the bundles at each handshake, so a new bundle takes no new
/// configuration.
pub struct PeerVerifier {
    bundles: TrustBundles,
    expected: Option<Expected>,
    client_may_be_anonymous: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    /// For a client: the server must be one of `expected`.
    pub fn of_server(bundles: TrustBundles, expected: Expected) -> Self {
        Self::new(bundles, Some(expected), false)
    }

    /// For a server: each client must prove an identity, any identity.
    pub fn of_client(bundles: TrustBundles) -> Self {
        Self::new(bundles, None, false)
    }

    /// For a server: a client may present nothing; what it presents must be good.
    pub fn of_optional_client(bundles: TrustBundles) -> Self {
        Self::new(bundles, None, true)
    }

    fn new(bundles: TrustBundles, expected: Option<Expected>, client_may_be_anonymous: bool) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { bundles, expected, client_may_be_anonymous, algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Svid, Refusal> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let chain: Vec<_> =
            std::iter::once(leaf).chain(signers).map(|der| CertificateDer::from(der.as_ref())).collect();
        // A cache of verified leaves, keyed by (hash of the chain, generation of the bundle set, role), would
        // go around this call; dates and expected identity stay outside of it.
        let svid = verify_chain(&chain, &self.bundles.snapshot(), role, now)?;
        match &self.expected {
            Some(expected) if !expected.contains(&svid.id) => {
                Err(Refusal::UnexpectedIdentity { got: svid.id, expected: expected.clone() })
            }
            _ => Ok(svid),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// TLS 1.2 is not offered; should it ever be negotiated, nothing is accepted over it.
fn no_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        _dns_names_are_ignored: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.expected.is_none() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.verify(leaf, signers, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.client_may_be_anonymous
    }

    /// None: a client has one SVID per connection and nothing to choose by.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, signers, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
