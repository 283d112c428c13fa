//! What a peer presents: chains, bundles and bundle documents. No panic; what is accepted keeps the SVID profile.
#![no_main]

use culvert_identity::{TrustDomain, bundle::X509Bundle, bundle::Document, x509};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, rest)) = data.split_first() else { return };
    let Ok(domain) = TrustDomain::parse("cluster.local") else { return };
    match mode % 5 {
        0 => {
            if let Ok(svid) = x509::check_chain(&[rest]) {
                assert!(!svid.id.path().is_empty(), "a leaf's identity has a path");
            }
        }
        // Two certificates: a leaf and what claims to have signed it.
        1 => {
            let middle = rest.len() / 2;
            let _ = x509::check_chain(&[&rest[..middle], &rest[middle..]]);
        }
        2 => {
            let _ = x509::load_chain_pem(rest);
            let _ = X509Bundle::parse_pem(domain, rest);
        }
        3 => {
            if let Ok(bundle) = X509Bundle::parse_concatenated_der(domain.clone(), rest) {
                let again = X509Bundle::parse_pem(domain, bundle.to_pem());
                let same = again.is_ok_and(|again| again.authorities() == bundle.authorities());
                assert!(same, "a bundle survives PEM");
            }
        }
        _ => {
            let _ = Document::parse(domain, rest);
        }
    }
});
