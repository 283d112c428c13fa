//! SPIFFE IDs and trust domains: no panic, and what is accepted keeps its promises.
#![no_main]

use culvert_identity::{SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = TrustDomain::parse(text);
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text, "an ID is its own text");
    assert_eq!(format!("spiffe://{}{}", id.trust_domain_str(), id.path()), text, "the parts make the whole");
    assert!(TrustDomain::parse(id.trust_domain_str()).is_ok(), "its trust domain is one");
    if let Some((namespace, account)) = id.service_account() {
        let again = SpiffeId::of_service_account(&id.trust_domain(), namespace, account);
        assert_eq!(again.as_ref(), Ok(&id), "namespace and service account name the same ID");
    }
});
