//! SPIFFE mutual TLS on rustls: credentials, bundles, verifiers with a reason for each refusal.
