//! One local identity: who publishes its credentials, and who shakes hands with them.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use culvert_identity::SpiffeId;
use rustls::{ClientConfig, ServerConfig};

use crate::{Credentials, CredentialsError, Expected, PeerVerifier, Refusal, Trust};

/// A local identity as TLS sees it. A cheap handle; clones share the content. It hands out finished
/// configurations, and none before the first SVID, after its end, or once the identity was erased.
#[derive(Clone)]
pub struct LocalIdentity(Arc<Inner>);

struct Inner {
    id: SpiffeId,
    trust: Trust,
    current: ArcSwapOption<Ready>,
}

/// All that a handshake needs, built once per generation of credentials.
struct Ready {
    credentials: Arc<Credentials>,
    server: Arc<ServerConfig>,
    server_optional: Arc<ServerConfig>,
    /// Expects nobody; each dial puts its own expectation in.
    client: ClientConfig,
}

/// The writing end of a [`LocalIdentity`]. There is one, and when it is dropped the key goes with it.
pub struct CredentialsWriter(LocalIdentity);

impl LocalIdentity {
    /// An identity without credentials: every handshake fails with `no_svid` until some are published.
    pub fn new(id: SpiffeId, trust: &Trust) -> (CredentialsWriter, Self) {
        let inner = Inner { id, trust: trust.clone(), current: ArcSwapOption::empty() };
        let identity = Self(Arc::new(inner));
        (CredentialsWriter(identity.clone()), identity)
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// What peers are verified against.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// The credentials in use, if they are usable now: else `no_svid` or `svid_expired`.
    pub fn credentials(&self) -> Result<Arc<Credentials>, Refusal> {
        self.ready().map(|ready| Arc::clone(&ready.credentials))
    }

    /// The generation of the credentials held, usable or not; 0 without any. A tunnel made with a lower
    /// one takes no new stream.
    pub fn generation(&self) -> u64 {
        self.0.current.load().as_ref().map_or(0, |ready| ready.credentials.generation())
    }

    /// For accepting peers that must prove who they are.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Refusal> {
        self.ready().map(|ready| Arc::clone(&ready.server))
    }

    /// For the control port: a client may come without certificate (to join), but not with a bad one.
    /// Whoever serves the calls has to ask [`crate::peer_of`] who it is.
    pub fn server_config_optional_client(&self) -> Result<Arc<ServerConfig>, Refusal> {
        self.ready().map(|ready| Arc::clone(&ready.server_optional))
    }

    /// For dialling a peer that must be one of `expected`.
    pub fn client_config(&self, expected: &Expected) -> Result<Arc<ClientConfig>, Refusal> {
        let ready = self.ready()?;
        // A clone copies a dozen pointers; what is costly to build is shared.
        let mut config = ready.client.clone();
        config.dangerous().set_certificate_verifier(Arc::new(self.0.trust.server_verifier(expected)));
        Ok(Arc::new(config))
    }

    fn ready(&self) -> Result<Arc<Ready>, Refusal> {
        let ready = self.0.current.load_full().ok_or_else(|| Refusal::NoSvid(self.0.id.clone()))?;
        match self.0.trust.now() {
            Some(now) if now <= ready.credentials.not_after() => Ok(ready),
            _ => Err(Refusal::SvidExpired(self.0.id.clone())),
        }
    }
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalIdentity({}, generation {})", self.0.id, self.generation())
    }
}

impl CredentialsWriter {
    /// Puts credentials in place of the former ones. Handshakes under way end with what they began with.
    pub fn publish(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let Inner { id, trust, current } = &*self.0.0;
        if credentials.id() != id {
            return Err(CredentialsError::OtherIdentity { got: credentials.id().clone(), wanted: id.clone() });
        }
        let bundles = trust.bundles();
        let build = |e: rustls::Error| CredentialsError::Config(e.to_string());
        let key = &credentials.certified;
        let server = trust.server_config(key, PeerVerifier::of_client(bundles.clone())).map_err(build)?;
        let server_optional =
            trust.server_config(key, PeerVerifier::of_optional_client(bundles.clone())).map_err(build)?;
        let client = trust.client_config(Some(key), &Expected::any_of([])).map_err(build)?;
        current.store(Some(Arc::new(Ready { credentials: Arc::new(credentials), server, server_optional, client })));
        Ok(())
    }

    /// Takes the credentials away: from now on `no_svid`.
    pub fn erase(&self) {
        self.0.0.current.store(None);
    }

    /// The reading end.
    pub fn identity(&self) -> &LocalIdentity {
        &self.0
    }
}

impl Drop for CredentialsWriter {
    fn drop(&mut self) {
        self.erase();
    }
}
