//! SPIFFE mutual TLS on rustls: credentials, bundles, verifiers with a reason for each refusal.
//!
//! TLS 1.3 only, no resumption, no tickets, no early data, no SNI, ALPN `h2`; AES-128-GCM before
//! AES-256-GCM; X25519MLKEM768 before X25519 before P-256. DNS names are ignored: a peer is its SPIFFE ID.
//!
//! ```text
//! let trust = Trust::new(TrustBundles::new());            // one per process; bundles are set as they arrive
//! let (writer, local) = LocalIdentity::new(id, &trust);   // `svid` keeps the writer
//! writer.publish(Credentials::new(chain, key)?)?;         // from now on configurations exist
//! let accept = TlsAcceptor::from(local.server_config()?); // per handshake: two atomic loads, no building
//! let dial = TlsConnector::from(local.client_config(&Expected::one(peer))?);
//! let stream = dial.connect(server_name(), tcp).await.map_err(|e| refusal_of(&e))?;
//! let peer = peer_of(stream.get_ref().1)?;                // who it is, proven
//! ```

mod bundles;
mod config;
mod credentials;
mod local;
mod peer;
mod refusal;
mod remembered;
mod verifier;

pub use bundles::{AuthorityError, BundleSet, TrustBundles};
pub use config::{ALPN_H2, Trust, anonymous_client_config, provider, server_name};
pub use credentials::{Credentials, CredentialsError};
pub use local::{CredentialsWriter, LocalIdentity};
pub use peer::{VerifiedPeer, peer_of};
pub use refusal::{Refusal, failure_reason, is_certificate_refused, refusal_of};
pub use verifier::{Expected, NOT_BEFORE_SKEW, PeerVerifier, Role, verify_chain};
