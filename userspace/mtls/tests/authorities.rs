//! Authorities outside of their own dates, and verifiers used for the wrong end.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{sync::Arc, time::Duration};

use culvert_identity::bundle::X509Bundle;
use culvert_mtls::{Expected, PeerVerifier, server_name};
use rcgen::KeyPair;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::UnixTime;
use support::{
    Authority, BANK, HOUR, NOW, TILL, World, ca_params, domain, id, impostor_client, moment, refused, shake,
};

#[tokio::test]
async fn an_authority_that_has_not_begun_signs_nothing() {
    let mut params = ca_params();
    params.not_before = moment(NOW + 100).into();
    let world = World::under(Authority::with(params, KeyPair::generate().unwrap()));
    // The leaf is as good as its dates go.
    let shown = world.authority.leaf(TILL);
    let (_writer, local) = world.local(BANK);
    let seen = || async { shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&shown)))).await.0 };
    assert_eq!(refused(&seen().await), "authorities_expired");
    world.clock.set(NOW + 101);
    assert_eq!(refused(&seen().await), "accepted");
}

#[tokio::test]
async fn an_authority_that_has_not_begun_is_not_used_beside_a_good_one() {
    let (now, mut params) = (World::new(), ca_params());
    params.not_before = moment(NOW + 100).into();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "next");
    let next = Authority::with(params, KeyPair::generate().unwrap());
    let both = X509Bundle::from_der(domain("td.test"), &[&now.authority.root, &next.root]).unwrap();
    now.trust.bundles().set(both).unwrap();
    let (_writer, local) = now.local(BANK);
    let shown = next.odd_leaf(TILL, |p| p.not_after = moment(NOW + HOUR).into());
    let (seen, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&shown)))).await;
    assert_eq!(refused(&seen), "unknown_authority");
    let good = now.authority.leaf(TILL);
    let (seen, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&good)))).await;
    assert_eq!(refused(&seen), "accepted");
}

#[test]
fn a_verifier_of_clients_accepts_no_server() {
    let world = World::new();
    let shown = world.authority.leaf(TILL);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let verify = |verifier: PeerVerifier| {
        verifier.verify_server_cert(&shown.chain[0], &shown.chain[1..], &server_name(), &[], now)
    };
    let bundles = || world.trust.bundles().clone();
    assert!(verify(PeerVerifier::of_server(bundles(), Expected::one(id(TILL)))).is_ok());
    assert!(verify(PeerVerifier::of_client(bundles())).is_err());
    assert!(verify(PeerVerifier::of_optional_client(bundles())).is_err());
}
