//! The server's own certificate: made here, kept in memory, renewed at half of its life.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use culvert_identity::{
    SpiffeId,
    bundle::{BundleError, X509Bundle},
    renewal::Renewal,
};
use culvert_mtls::{
    AuthorityError, Credentials, CredentialsError, CredentialsWriter, LocalIdentity, Trust, TrustBundles,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use crate::{
    ca::{Authority, CaError, RequestError, Roots, SigningRequest},
    metrics::Metrics,
};

/// How often both clocks are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// `spiffe://TD/culvert/control`, kept fresh.
pub struct OwnIdentity {
    authority: Arc<Authority>,
    writer: CredentialsWriter,
    bundles: TrustBundles,
    roots: Roots,
    life: Duration,
    began: Instant,
    renewal: Renewal,
}

/// Why the server has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The own request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What was signed cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The roots cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A root cannot be used to build paths.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No key.
    #[error("no key could be made: {0}")]
    Key(String),
}

impl OwnIdentity {
    /// Makes the first certificate.
    pub fn new(authority: Arc<Authority>, life: Duration) -> Result<Self, OwnError> {
        let bundles = TrustBundles::new();
        let roots = authority.roots();
        bundles.set(X509Bundle::parse_pem(authority.trust_domain().clone(), &roots.pem)?)?;
        let id = SpiffeId::of_control(authority.trust_domain());
        let (writer, _) = LocalIdentity::new(id, &Trust::new(bundles.clone()));
        let began = Instant::now();
        let now = SystemTime::now();
        let renewal = Renewal::plan(now, now, now, Duration::ZERO, 0.0);
        let mut own = Self { authority, writer, bundles, roots, life, began, renewal };
        own.renew(now)?;
        Ok(own)
    }

    /// For TLS.
    pub fn identity(&self) -> LocalIdentity {
        self.writer.identity().clone()
    }

    /// Keeps this certificate and the issuing key fresh, for ever.
    pub async fn run(mut self, metrics: Arc<Metrics>) {
        loop {
            let now = SystemTime::now();
            match self.authority.rotate_if_due(now) {
                Ok(true) => tracing::info!("a new issuing key signs from now on"),
                Ok(false) => {}
                Err(error) => tracing::error!(reason = error.reason(), %error, "the issuing key could not be replaced"),
            }
            if let Err(error) = self.follow_roots() {
                tracing::error!(%error, "the roots of the trust domain cannot be used to verify callers");
            }
            metrics.issuing_expiry.set(since_epoch(self.authority.issuing_not_after()));
            if self.renewal.due(now, self.began.elapsed())
                && let Err(error) = self.renew(now)
            {
                tracing::error!(%error, "the server's own certificate could not be renewed");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Callers are verified with the roots of now.
    fn follow_roots(&mut self) -> Result<(), OwnError> {
        let roots = self.authority.roots();
        if roots != self.roots {
            self.bundles.set(X509Bundle::parse_pem(self.authority.trust_domain().clone(), &roots.pem)?)?;
            self.roots = roots;
        }
        Ok(())
    }

    fn renew(&mut self, now: SystemTime) -> Result<(), OwnError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| OwnError::Key(error.to_string()))?;
        let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
        let request = SigningRequest::from_pem(&request.map_err(|error| OwnError::Key(error.to_string()))?)?;
        let issued = self.authority.sign(self.writer.identity().id(), &request, self.life, now)?;
        let key = Zeroizing::new(key.serialize_pem());
        let credentials = Credentials::from_pem(issued.chain.concat(), key.as_bytes())?;
        let (not_before, not_after) = (credentials.not_before(), credentials.not_after());
        self.writer.publish(credentials)?;
        self.renewal = Renewal::plan(not_before, not_after, now, self.began.elapsed(), 0.0);
        Ok(())
    }
}

fn since_epoch(at: SystemTime) -> i64 {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
