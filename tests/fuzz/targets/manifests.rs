//! A directory of YAML that anybody may have written: no panic, and what cannot be read is said.
#![no_main]

use std::collections::BTreeMap;

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, File, MeshOverrides, assemble};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let file = File { name: "fuzz.yaml".to_owned(), text: Ok(text.to_owned()) };
    let (catalog, complaints) = Catalog::read(&[file], &Catalog::default());
    let Ok(trust_domain) = TrustDomain::parse("cluster.local") else { return };
    let overrides =
        MeshOverrides { trust_domain, default_mode: None, default_action: None, cluster_ranges: Vec::new() };
    let assembly = assemble(&catalog, &overrides, &BTreeMap::new());
    for complaint in complaints.iter().chain(&assembly.complaints) {
        assert!(!complaint.to_string().is_empty(), "a complaint says something");
    }
});
