//! Authorities that make certificates, good and bad, and handshakes between any two configurations.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle};
use culvert_mtls::{
    Credentials, CredentialsWriter, LocalIdentity, Trust, TrustBundles, VerifiedPeer, failure_reason, peer_of,
    provider, refusal_of, server_name,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName as Hint, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub const NOW: u64 = 1_900_000_000;
pub const HOUR: u64 = 3600;
pub const TILL: &str = "spiffe://td.test/ns/shop/sa/till";
pub const BANK: &str = "spiffe://td.test/ns/bank/sa/ledger";

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

pub fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A wall clock that a test sets.
#[derive(Debug)]
pub struct SetClock(pub AtomicU64);

impl SetClock {
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

impl TimeProvider for SetClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

/// A chain with its key, whatever it looks like.
pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

/// A CA: a root, and perhaps intermediates beneath it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root: CertificateDer<'static>,
    /// Lowest first, without the root.
    between: Vec<CertificateDer<'static>>,
}

pub fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = moment(NOW - 1000 * HOUR).into();
    params.not_after = moment(NOW + 1000 * HOUR).into();
    params
}

impl Authority {
    pub fn new() -> Self {
        Self::with(ca_params(), KeyPair::generate().unwrap())
    }

    pub fn with(params: CertificateParams, key: KeyPair) -> Self {
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root, between: vec![] }
    }

    /// An intermediate below this one.
    pub fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (ca_params(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::OrganizationName, format!("{} below", self.between.len() + 1));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut between = vec![certificate];
        between.extend(self.between.iter().cloned());
        Self { issuer: Issuer::new(params, key), root: self.root.clone(), between }
    }

    pub fn leaf(&self, id: &str) -> Issued {
        self.odd_leaf(id, |_| {})
    }

    pub fn odd_leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = moment(NOW - HOUR).into();
        params.not_after = moment(NOW + HOUR).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.between.iter().cloned());
        Issued { chain, key }
    }

    pub fn bundle(&self, trust_domain: &str) -> X509Bundle {
        X509Bundle::from_der(domain(trust_domain), &[&self.root]).unwrap()
    }
}

impl Issued {
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    pub fn certified(&self) -> CertifiedKey {
        let key = provider().key_provider.load_private_key(self.key_der()).unwrap();
        CertifiedKey::new(self.chain.clone(), key)
    }

    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.chain.clone(), self.certified().key).unwrap()
    }
}

/// One process under test: its clock, its trust, and an authority whose bundle it has for `td.test`.
pub struct World {
    pub clock: Arc<SetClock>,
    pub trust: Trust,
    pub authority: Authority,
}

impl World {
    pub fn new() -> Self {
        Self::under(Authority::new())
    }

    pub fn under(authority: Authority) -> Self {
        let clock = Arc::new(SetClock(AtomicU64::new(NOW)));
        let trust = Trust::with_clock(TrustBundles::new(), clock.clone());
        assert!(trust.bundles().set(authority.bundle("td.test")).unwrap());
        Self { clock, trust, authority }
    }

    pub fn local(&self, text: &str) -> (CredentialsWriter, LocalIdentity) {
        let (writer, local) = LocalIdentity::new(id(text), &self.trust);
        writer.publish(self.authority.leaf(text).credentials()).unwrap();
        (writer, local)
    }
}

/// What one side saw.
pub type Seen = Result<Met, io::Error>;

#[derive(Debug)]
pub struct Met {
    pub peer: Result<VerifiedPeer, culvert_mtls::Refusal>,
    pub suite: rustls::CipherSuite,
    pub alpn: Option<Vec<u8>>,
    pub version: rustls::ProtocolVersion,
    pub kind: rustls::HandshakeKind,
}

fn met(connection: &rustls::CommonState) -> Met {
    Met {
        peer: peer_of(connection),
        suite: connection.negotiated_cipher_suite().unwrap().suite(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        version: connection.protocol_version().unwrap(),
        kind: connection.handshake_kind().unwrap(),
    }
}

async fn accept(io: DuplexStream, config: Arc<ServerConfig>) -> Seen {
    let mut stream = TlsAcceptor::from(config).accept(io).await?;
    let seen = met(stream.get_ref().1);
    stream.write_all(b"x").await?;
    stream.flush().await?;
    let _ = stream.read_u8().await;
    Ok(seen)
}

async fn dial(io: DuplexStream, config: Arc<ClientConfig>) -> Seen {
    let mut stream = TlsConnector::from(config).connect(server_name(), io).await?;
    let seen = met(stream.get_ref().1);
    // In TLS 1.3 a client hears only after its own end of the handshake that it was refused.
    stream.read_u8().await?;
    stream.shutdown().await?;
    Ok(seen)
}

/// Runs a whole handshake in memory: what the server saw, what the client saw.
pub async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (Seen, Seen) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(accept(near, server), dial(far, client))
}

/// The reason for which that side refused the other, or what else happened.
pub fn refused(seen: &Seen) -> &'static str {
    match seen {
        Ok(_) => "accepted",
        Err(error) => refusal_of(error).map_or("refused nothing", |refusal| refusal.reason()),
    }
}

pub fn failed(seen: &Seen) -> &'static str {
    seen.as_ref().err().map_or("accepted", |error| failure_reason(error))
}

/// Somebody who shows any certificate and accepts any peer.
#[derive(Debug)]
struct AcceptsAll;

pub fn impostor_client(shown: Option<&Issued>) -> ClientConfig {
    impostor_client_with(provider(), shown)
}

pub fn impostor_client_with(provider: Arc<CryptoProvider>, shown: Option<&Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAll));
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub fn impostor_server(shown: &Issued) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AcceptsAll))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

impl ServerCertVerifier for AcceptsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AcceptsAll {
    fn root_hint_subjects(&self) -> &[Hint] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
