//! What an identity *is*: trust domains, SPIFFE IDs, the X.509-SVID profile, trust bundles and the
//! arithmetic of renewal. Pure: no I/O, no clock (time is an argument), no TLS library.
//!
//! Sources: the SPIFFE ID, X509-SVID and Trust Domain & Bundle standards. Where signatures, paths
//! and keys are checked is `culvert-mtls`.

pub mod bundle;
mod der;
mod id;
pub mod renewal;
pub mod x509;

pub use id::{IdError, MAX_ID_LEN, MAX_TRUST_DOMAIN_LEN, SpiffeId, TrustDomain};
