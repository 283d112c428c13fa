//! Each way in which a peer is refused, in both directions, over real handshakes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

mod support;

use std::sync::Arc;

use culvert_identity::bundle::X509Bundle;
use culvert_mtls::{Expected, refusal_of};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, NameConstraints,
};
use support::*;

/// Shows a chain to a good server and to a good client. Each refuses for `reason`, and the one who showed
/// it learns no more than that it was refused.
async fn refused_by_both(world: &World, shown: &Issued, reason: &str) {
    refused_as_client(world, shown, reason).await;
    refused_as_server(world, shown, reason).await;
}

async fn refused_as_client(world: &World, shown: &Issued, reason: &str) {
    let (_writer, local) = world.local(BANK);
    let (server, client) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(shown)))).await;
    assert_eq!(refused(&server), reason, "as client: {server:?}");
    assert_eq!(failed(&client), "refused_by_peer", "as client: {client:?}");
}

async fn refused_as_server(world: &World, shown: &Issued, reason: &str) {
    let (_writer, local) = world.local(BANK);
    let dial = local.client_config(&Expected::one(id(TILL))).unwrap();
    let (server, client) = shake(Arc::new(impostor_server(shown)), dial).await;
    assert_eq!(refused(&client), reason, "as server: {client:?}");
    assert_eq!(failed(&server), "refused_by_peer", "as server: {server:?}");
}

#[tokio::test]
async fn a_good_chain_shown_in_the_same_way_is_accepted() {
    let world = World::new();
    let shown = world.authority.leaf(TILL);
    let (_writer, local) = world.local(BANK);
    let (server, client) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&shown)))).await;
    assert_eq!(server.unwrap().peer.unwrap().id(), &id(TILL));
    client.unwrap();
    let dial = local.client_config(&Expected::one(id(TILL))).unwrap();
    let (server, client) = shake(Arc::new(impostor_server(&shown)), dial).await;
    assert_eq!(client.unwrap().peer.unwrap().id(), &id(TILL));
    server.unwrap();
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_in_the_bundle() {
    let world = World::new();
    // The same name as the real one, another key.
    refused_by_both(&world, &Authority::new().leaf(TILL), "unknown_authority").await;
    let mut named = ca_params();
    named.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
    let other_name = Authority::with(named, KeyPair::generate().unwrap());
    refused_by_both(&world, &other_name.leaf(TILL), "unknown_authority").await;
}

#[tokio::test]
async fn a_peer_of_a_trust_domain_without_bundle() {
    let world = World::new();
    // Signed by our own authority: that must not help.
    refused_by_both(&world, &world.authority.leaf("spiffe://other.test/ns/shop/sa/till"), "no_bundle_for_trust_domain")
        .await;
}

#[tokio::test]
async fn a_peer_that_is_signed_by_the_authority_of_another_trust_domain() {
    let world = World::new();
    let other = Authority::new();
    world.trust.bundles().set(other.bundle("other.test")).unwrap();
    refused_by_both(&world, &world.authority.leaf("spiffe://other.test/ns/shop/sa/till"), "unknown_authority").await;
    refused_by_both(&world, &other.leaf(TILL), "unknown_authority").await;
}

#[tokio::test]
async fn a_peer_of_a_trust_domain_whose_bundle_is_empty() {
    let world = World::new();
    let nobody = X509Bundle::from_der::<Vec<u8>>(domain("other.test"), &[]).unwrap();
    world.trust.bundles().set(nobody).unwrap();
    refused_by_both(&world, &world.authority.leaf("spiffe://other.test/x"), "empty_bundle").await;
}

#[tokio::test]
async fn an_ended_certificate() {
    let world = World::new();
    let shown = world.authority.odd_leaf(TILL, |p| p.not_after = moment(NOW - 1).into());
    refused_by_both(&world, &shown, "expired").await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet() {
    let world = World::new();
    let shown = world.authority.odd_leaf(TILL, |p| p.not_before = moment(NOW + 11).into());
    refused_by_both(&world, &shown, "not_yet_valid").await;
    // A clock that is a little ahead is no reason.
    let ahead = world.authority.odd_leaf(TILL, |p| p.not_before = moment(NOW + 10).into());
    let (_writer, local) = world.local(BANK);
    let (server, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&ahead)))).await;
    assert_eq!(refused(&server), "accepted");
}

#[tokio::test]
async fn an_ended_certificate_of_a_stranger_is_a_strangers() {
    let shown = Authority::new().odd_leaf(TILL, |p| p.not_after = moment(NOW - 1).into());
    refused_by_both(&World::new(), &shown, "unknown_authority").await;
}

#[tokio::test]
async fn a_certificate_with_two_uri_sans() {
    let world = World::new();
    let shown = world.authority.odd_leaf(TILL, |p| p.subject_alt_names.push(uri(BANK)));
    refused_by_both(&world, &shown, "many_uri_sans").await;
}

#[tokio::test]
async fn a_certificate_without_san_or_with_a_host_name_only() {
    let world = World::new();
    refused_by_both(&world, &world.authority.odd_leaf(TILL, |p| p.subject_alt_names.clear()), "no_uri_san").await;
    let host = rcgen::SanType::DnsName("till.shop".try_into().unwrap());
    refused_by_both(&world, &world.authority.odd_leaf(TILL, |p| p.subject_alt_names = vec![host]), "no_uri_san").await;
}

#[tokio::test]
async fn a_certificate_whose_uri_is_no_workload() {
    let world = World::new();
    refused_by_both(&world, &world.authority.leaf("https://td.test/x"), "not_a_spiffe_id").await;
    refused_by_both(&world, &world.authority.leaf("spiffe://td.test"), "id_without_path").await;
}

#[tokio::test]
async fn a_ca_certificate_as_leaf() {
    let world = World::new();
    let ca = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    refused_by_both(&world, &world.authority.odd_leaf(TILL, ca), "leaf_is_ca").await;
}

#[tokio::test]
async fn a_leaf_that_may_sign_certificates_or_may_not_sign_handshakes() {
    use rcgen::KeyUsagePurpose::{DigitalSignature, KeyCertSign, KeyEncipherment};
    let world = World::new();
    let usages = |list: &[rcgen::KeyUsagePurpose]| world.authority.odd_leaf(TILL, |p| p.key_usages = list.to_vec());
    refused_by_both(&world, &usages(&[DigitalSignature, KeyCertSign]), "key_usage_cert_sign").await;
    refused_by_both(&world, &usages(&[KeyEncipherment]), "key_usage_no_digital_signature").await;
    refused_by_both(&world, &usages(&[]), "key_usage_missing").await;
}

#[tokio::test]
async fn a_certificate_for_the_other_role() {
    let world = World::new();
    let only = |purpose| world.authority.odd_leaf(TILL, |p| p.extended_key_usages = vec![purpose]);
    refused_as_client(&world, &only(ExtendedKeyUsagePurpose::ServerAuth), "wrong_purpose").await;
    refused_as_server(&world, &only(ExtendedKeyUsagePurpose::ClientAuth), "wrong_purpose").await;
    refused_by_both(&world, &only(ExtendedKeyUsagePurpose::CodeSigning), "wrong_purpose").await;
}

#[tokio::test]
async fn the_right_authority_but_an_unexpected_identity() {
    let world = World::new();
    let (_writer, bank) = world.local(BANK);
    let (_other_writer, till) = world.local(TILL);
    let dial = till.client_config(&Expected::one(id("spiffe://td.test/ns/bank/sa/vault"))).unwrap();
    let (server, client) = shake(bank.server_config().unwrap(), dial).await;
    assert_eq!(refused(&client), "unexpected_identity");
    let said = refusal_of(&client.unwrap_err()).unwrap().to_string();
    assert_eq!(said, format!("the peer is {BANK}, not spiffe://td.test/ns/bank/sa/vault"));
    assert_eq!(failed(&server), "refused_by_peer");
    // Nobody is expected: nobody is accepted.
    let (_, client) = shake(bank.server_config().unwrap(), till.client_config(&Expected::any_of([])).unwrap()).await;
    assert_eq!(refused(&client), "unexpected_identity");
}

#[tokio::test]
async fn a_client_without_certificate() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let (server, client) = shake(local.server_config().unwrap(), Arc::new(impostor_client(None))).await;
    assert_eq!(refused(&server), "no_client_certificate");
    assert_eq!(failed(&client), "refused_by_peer");
}

#[tokio::test]
async fn somebody_elses_certificate_without_the_key_to_it() {
    let world = World::new();
    let mut stolen = world.authority.leaf(TILL);
    stolen.key = KeyPair::generate().unwrap();
    let (_writer, local) = world.local(BANK);
    let (server, client) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&stolen)))).await;
    assert_eq!((failed(&server), failed(&client)), ("bad_signature", "refused_by_peer"));
    let dial = local.client_config(&Expected::one(id(TILL))).unwrap();
    let (server, client) = shake(Arc::new(impostor_server(&stolen)), dial).await;
    assert_eq!((failed(&client), failed(&server)), ("bad_signature", "refused_by_peer"));
}

#[tokio::test]
async fn chains_that_break_above_the_leaf() {
    let world = World::new();
    let root = &world.authority;
    let mut without = root.below(|_| {}).leaf(TILL);
    without.chain.truncate(1);
    refused_by_both(&world, &without, "unknown_authority").await;
    let not_ca = root.below(|p| p.is_ca = IsCa::ExplicitNoCa);
    refused_by_both(&world, &not_ca.leaf(TILL), "intermediate_not_ca").await;
    let no_sign = root.below(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature]);
    refused_by_both(&world, &no_sign.leaf(TILL), "intermediate_key_usage").await;
    let ended = root.below(|p| p.not_after = moment(NOW - 1).into());
    refused_by_both(&world, &ended.leaf(TILL), "signer_not_valid").await;
    let too_deep = root.below(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))).below(|_| {});
    refused_by_both(&world, &too_deep.leaf(TILL), "bad_path").await;
    // A name constraint that the leaf breaks.
    let constrained = root.below(|p| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("shop".into())];
        p.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let host = rcgen::SanType::DnsName("till.elsewhere".try_into().unwrap());
    refused_by_both(&world, &constrained.odd_leaf(TILL, |p| p.subject_alt_names.push(host)), "bad_path").await;
    // URI name constraints cannot be judged by the path builder: even one that fits is refused.
    let uri_constrained = root.below(|p| {
        let permitted = [&[0x30, 13, 0xa0, 11, 0x30, 9, 0x86, 7][..], b"td.test"].concat();
        let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], permitted);
        extension.set_criticality(true);
        p.custom_extensions.push(extension);
    });
    refused_by_both(&world, &uri_constrained.leaf(TILL), "bad_path").await;
}

#[tokio::test]
async fn a_bundle_whose_authorities_have_all_ended() {
    let mut params = ca_params();
    params.not_after = moment(NOW + 10).into();
    let world = World::under(Authority::with(params, KeyPair::generate().unwrap()));
    let shown = world.authority.odd_leaf(TILL, |p| p.not_after = moment(NOW + HOUR).into());
    let (_writer, local) = world.local(BANK);
    let (server, dial) = (local.server_config().unwrap(), local.client_config(&Expected::one(id(TILL))).unwrap());
    world.clock.set(NOW + 11);
    let (seen, _) = shake(server, Arc::new(impostor_client(Some(&shown)))).await;
    assert_eq!(refused(&seen), "authorities_expired");
    let (_, seen) = shake(Arc::new(impostor_server(&shown)), dial).await;
    assert_eq!(refused(&seen), "authorities_expired");
    // A valid authority beside the ended one is still good for its own.
    let fresh = Authority::new();
    let both = X509Bundle::from_der(domain("td.test"), &[&world.authority.root, &fresh.root]).unwrap();
    world.trust.bundles().set(both).unwrap();
    let (seen, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&fresh.leaf(TILL))))).await;
    assert_eq!(refused(&seen), "accepted");
    let (seen, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&shown)))).await;
    assert_eq!(refused(&seen), "unknown_authority");
}
