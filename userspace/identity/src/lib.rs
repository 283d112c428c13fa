//! What an identity *is*: trust domains, SPIFFE IDs, the X.509-SVID profile, trust bundles and the
//! arithmetic of renewal. Pure: no I/O, no clock (time is an argument), no TLS library.
//!
//! Sources: the SPIFFE ID, X509-SVID and Trust Domain & Bundle standards.

mod id;

pub use id::{IdError, SpiffeId, TrustDomain};
