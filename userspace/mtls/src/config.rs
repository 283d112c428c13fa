//! rustls configurations: the one place where versions, suites, groups and protocols are chosen.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::{DefaultTimeProvider, TimeProvider},
    version::TLS13,
};
use rustls_pki_types::ServerName;

use crate::{Expected, PeerVerifier, TrustBundles};

/// The only application protocol.
pub const ALPN_H2: &[u8] = b"h2";

/// aws-lc with culvert's choice: AES-128-GCM before AES-256-GCM, X25519MLKEM768 before X25519 before P-256.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

/// The name to give to a connector. It is neither sent (no SNI) nor checked (the SPIFFE ID is).
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// What all handshakes of a process share: the bundles, and the clock that dates are checked by.
#[derive(Clone)]
pub struct Trust {
    bundles: TrustBundles,
    clock: Arc<dyn TimeProvider>,
}

impl Trust {
    /// With the system's wall clock.
    pub fn new(bundles: TrustBundles) -> Self {
        Self::with_clock(bundles, Arc::new(DefaultTimeProvider))
    }

    /// With another clock (tests; one that gives no time fails every handshake).
    pub fn with_clock(bundles: TrustBundles, clock: Arc<dyn TimeProvider>) -> Self {
        Self { bundles, clock }
    }

    /// The bundles.
    pub fn bundles(&self) -> &TrustBundles {
        &self.bundles
    }

    /// The wall clock, in whole seconds as certificates count.
    pub fn now(&self) -> Option<SystemTime> {
        self.clock.current_time().map(|now| SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs()))
    }

    pub(crate) fn server_config(
        &self,
        certified: &Arc<CertifiedKey>,
        verifier: PeerVerifier,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(&self.clock))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.ignore_client_order = true;
        // Nothing may outlive a revoked trust: no session is kept anywhere.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }

    /// Without `certified` the client stays anonymous.
    pub(crate) fn client_config(
        &self,
        certified: Option<&Arc<CertifiedKey>>,
        expected: &Expected,
    ) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_details(provider(), Arc::clone(&self.clock))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.server_verifier(expected)));
        let mut config = match certified {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    pub(crate) fn server_verifier(&self, expected: &Expected) -> PeerVerifier {
        PeerVerifier::of_server(self.bundles.clone(), expected.clone())
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.bundles).finish()
    }
}

/// A client that proves nothing and checks everything: for the call in which a node joins by token.
pub fn anonymous_client_config(trust: &Trust, expected: &Expected) -> Result<Arc<ClientConfig>, rustls::Error> {
    trust.client_config(None, expected).map(Arc::new)
}
