//! States for the tests of the services.

use std::collections::BTreeMap;

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, File, MeshOverrides, State, assemble};

pub(super) fn state(text: &str) -> State {
    let file = File { name: "a.yaml".to_owned(), text: Ok(text.to_owned()) };
    let overrides = MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    };
    assemble(&Catalog::read(&[file], &Catalog::default()).0, &overrides, &BTreeMap::new()).state
}

/// `spec` and `status` as flow mappings without their braces.
pub(super) fn pod(name: &str, node: &str, spec: &str, status: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, uid: uid-{name}, \
         labels: {{culvert.dev/enroll: 'true'}}}}, spec: {{nodeName: {node}, serviceAccountName: {name}, \
         containers: [{{name: c}}]{spec}}}, status: {{{status}}}}}\n"
    )
}
