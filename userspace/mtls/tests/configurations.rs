//! What is negotiated, what is kept between handshakes (nothing), and when there are configurations at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

mod support;

use std::{error::Error, fmt, io, sync::Arc};

use culvert_identity::bundle::X509Bundle;
use culvert_mtls::{
    Credentials, CredentialsError, Expected, LocalIdentity, Refusal, anonymous_client_config, failure_reason, peer_of,
    provider, refusal_of,
};
use rcgen::KeyPair;
use rustls::{
    CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion,
    client::Resumption,
    crypto::aws_lc_rs::{self, cipher_suite, kx_group},
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;

fn expected(text: &str) -> Expected {
    Expected::one(id(text))
}

#[tokio::test]
async fn two_agents_meet_with_the_preferred_suite_group_and_protocol_and_know_each_other() {
    let world = World::new();
    let ((_w1, till), (_w2, bank)) = (world.local(TILL), world.local(BANK));
    let (server, client) = shake(bank.server_config().unwrap(), till.client_config(&expected(BANK)).unwrap()).await;
    for (seen, peer, own) in [(server.unwrap(), &till, &bank), (client.unwrap(), &bank, &till)] {
        let verified = seen.peer.unwrap();
        assert_eq!(verified.id(), peer.id());
        assert_eq!(verified.svid(), peer.credentials().unwrap().svid());
        assert_ne!(verified.svid(), own.credentials().unwrap().svid());
        assert_eq!(verified.group(), Some(NamedGroup::X25519MLKEM768));
        assert_eq!(seen.suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
        assert_eq!(seen.alpn.as_deref(), Some(&b"h2"[..]));
    }
}

#[test]
fn nobody_is_proven_while_the_handshake_is_under_way() {
    let world = World::new();
    let ((_w1, till), (_w2, bank)) = (world.local(TILL), world.local(BANK));
    let dial = till.client_config(&expected(BANK)).unwrap();
    let mut client = rustls::ClientConnection::new(dial, culvert_mtls::server_name()).unwrap();
    let mut server = rustls::ServerConnection::new(bank.server_config().unwrap()).unwrap();
    let reason = |connection: &rustls::CommonState| peer_of(connection).map_or_else(|r| r.reason(), |_| "proven");
    assert_eq!(reason(&server), "not_proven");
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    server.read_tls(&mut &flight[..]).unwrap();
    server.process_new_packets().unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(reason(&server), "not_proven");
    flight.clear();
    while server.wants_write() {
        server.write_tls(&mut flight).unwrap();
    }
    client.read_tls(&mut &flight[..]).unwrap();
    client.process_new_packets().unwrap();
    flight.clear();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    server.read_tls(&mut &flight[..]).unwrap();
    server.process_new_packets().unwrap();
    assert_eq!((reason(&client), reason(&server)), ("proven", "proven"));
}

#[tokio::test]
async fn any_one_of_several_expected_identities_will_do() {
    let world = World::new();
    let ((_w1, till), (_w2, bank)) = (world.local(TILL), world.local(BANK));
    let either = Expected::any_of([id("spiffe://td.test/x"), id(BANK)]);
    let (_, client) = shake(bank.server_config().unwrap(), till.client_config(&either).unwrap()).await;
    assert_eq!(client.unwrap().peer.unwrap().id(), &id(BANK));
}

#[tokio::test]
async fn chains_with_intermediates_and_rsa_roots_are_accepted() {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let world = World::under(Authority::with(ca_params(), rsa));
    let (_writer, local) = world.local(BANK);
    let deep = world.authority.below(|_| {}).below(|_| {}).leaf(TILL);
    assert_eq!(deep.chain.len(), 3);
    let (server, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&deep)))).await;
    assert_eq!(server.unwrap().peer.unwrap().id(), &id(TILL));
}

#[tokio::test]
async fn peers_of_a_federated_trust_domain_are_known_by_their_own_bundle() {
    let (here, there) = (World::new(), Authority::new());
    here.trust.bundles().set(there.bundle("other.test")).unwrap();
    let (_writer, local) = here.local(BANK);
    let shown = there.leaf("spiffe://other.test/ns/shop/sa/till");
    let (server, _) = shake(local.server_config().unwrap(), Arc::new(impostor_client(Some(&shown)))).await;
    assert_eq!(server.unwrap().peer.unwrap().id().trust_domain_str(), "other.test");
}

#[tokio::test]
async fn without_the_hybrid_exchange_the_classical_ones_are_used() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let shown = world.authority.leaf(TILL);
    let offer = |groups| {
        let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
        Arc::new(impostor_client_with(Arc::new(provider), Some(&shown)))
    };
    let server = || local.server_config().unwrap();
    for (groups, negotiated) in [
        (vec![kx_group::X25519], NamedGroup::X25519),
        (vec![kx_group::SECP256R1], NamedGroup::secp256r1),
        (vec![kx_group::SECP384R1, kx_group::X25519], NamedGroup::X25519),
        (vec![kx_group::X25519, kx_group::X25519MLKEM768], NamedGroup::X25519),
    ] {
        let (seen, _) = shake(server(), offer(groups)).await;
        assert_eq!(seen.unwrap().peer.unwrap().group(), Some(negotiated));
    }
    let (seen, _) = shake(server(), offer(vec![kx_group::SECP384R1])).await;
    assert_eq!(failed(&seen), "incompatible");
}

#[tokio::test]
async fn aes_128_comes_first_whatever_the_client_prefers_and_chacha_is_not_spoken() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let shown = world.authority.leaf(TILL);
    let offer = |suites| {
        let provider = rustls::crypto::CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() };
        Arc::new(impostor_client_with(Arc::new(provider), Some(&shown)))
    };
    let (aes128, aes256) = (cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384);
    let server = || local.server_config().unwrap();
    let (seen, _) = shake(server(), offer(vec![aes256, aes128])).await;
    assert_eq!(seen.unwrap().suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let (seen, _) = shake(server(), offer(vec![aes256])).await;
    assert_eq!(seen.unwrap().suite, CipherSuite::TLS13_AES_256_GCM_SHA384);
    let (seen, _) = shake(server(), offer(vec![cipher_suite::TLS13_CHACHA20_POLY1305_SHA256])).await;
    assert_eq!(failed(&seen), "incompatible");
}

#[tokio::test]
async fn a_client_without_alpn_is_accepted_and_one_with_another_protocol_is_not() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let mut client = impostor_client(Some(&world.authority.leaf(TILL)));
    client.alpn_protocols.clear();
    let (seen, _) = shake(local.server_config().unwrap(), Arc::new(client.clone())).await;
    assert_eq!(seen.unwrap().alpn, None);
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (server, client) = shake(local.server_config().unwrap(), Arc::new(client)).await;
    assert_eq!((failed(&server), failed(&client)), ("no_common_protocol", "no_common_protocol"));
}

#[tokio::test]
async fn no_session_is_resumed_on_either_side() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let shown = world.authority.leaf(TILL);
    // A client that would like to resume finds no ticket from us ..
    let mut eager = impostor_client(Some(&shown));
    eager.resumption = Resumption::in_memory_sessions(16);
    let eager = Arc::new(eager);
    for _ in 0..3 {
        let (server, client) = shake(local.server_config().unwrap(), Arc::clone(&eager)).await;
        assert_ne!(server.unwrap().kind, HandshakeKind::Resumed);
        assert_ne!(client.unwrap().kind, HandshakeKind::Resumed);
    }
    // .. nor do we use one that a server gives us; with an eager client of that server it would be used.
    let generous = Arc::new(impostor_server(&shown));
    let dial = local.client_config(&expected(TILL)).unwrap();
    let mut kinds = Vec::new();
    for client in [&dial, &dial, &eager, &eager] {
        let (_, seen) = shake(Arc::clone(&generous), Arc::clone(client)).await;
        kinds.push(seen.unwrap().kind);
    }
    assert!(kinds[..2].iter().all(|kind| *kind != HandshakeKind::Resumed), "{kinds:?}");
    assert_eq!(kinds[3], HandshakeKind::Resumed, "the test's server does resume");
}

#[tokio::test]
async fn no_server_name_is_sent() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = tokio_rustls::TlsConnector::from(local.client_config(&expected(TILL)).unwrap());
    let name = "till.shop".try_into().unwrap();
    let dial = tokio::spawn(async move { connector.connect(name, far).await.map(drop) });
    let hello = LazyConfigAcceptor::new(Default::default(), near).await.unwrap();
    assert_eq!(hello.client_hello().server_name(), None);
    drop(hello);
    assert!(dial.await.unwrap().is_err());
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    // A ClientHello of version 1.2 without supported_versions: one ECDHE suite, no compression, P-256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    near.write_all(&record).await.unwrap();
    let accept = tokio_rustls::TlsAcceptor::from(local.server_config().unwrap()).accept(far).await;
    let error = accept.map(drop).unwrap_err();
    assert_eq!(failure_reason(&error), "incompatible", "{error:?}");
    let mut alert = [0; 7];
    near.read_exact(&mut alert).await.unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert");
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: till\r\n\r\n").await.unwrap();
    let error =
        tokio_rustls::TlsAcceptor::from(local.server_config().unwrap()).accept(far).await.map(drop).unwrap_err();
    assert_eq!(failure_reason(&error), "not_tls", "{error:?}");
}

#[test]
fn there_is_no_configuration_before_the_first_svid_after_its_end_and_after_erasure() {
    let world = World::new();
    let (writer, local) = LocalIdentity::new(id(TILL), &world.trust);
    let reasons = |local: &LocalIdentity| {
        let word = |refusal: Refusal| refusal.reason();
        [
            local.server_config().map_or_else(word, |_| "there"),
            local.server_config_optional_client().map_or_else(word, |_| "there"),
            local.client_config(&expected(BANK)).map_or_else(word, |_| "there"),
            local.credentials().map_or_else(word, |_| "there"),
        ]
    };
    assert_eq!(reasons(&local), ["no_svid"; 4]);
    assert_eq!(local.generation(), 0);
    writer.publish(world.authority.leaf(TILL).credentials()).unwrap();
    assert_eq!(reasons(&local), ["there"; 4]);
    world.clock.set(NOW + HOUR);
    assert_eq!(reasons(&local), ["there"; 4], "the last second counts");
    world.clock.set(NOW + HOUR + 1);
    assert_eq!(reasons(&local), ["svid_expired"; 4]);
    let fresh = world.authority.odd_leaf(TILL, |p| p.not_after = moment(NOW + 3 * HOUR).into());
    writer.publish(fresh.credentials()).unwrap();
    assert_eq!(reasons(&local), ["there"; 4]);
    drop(writer);
    assert_eq!(reasons(&local), ["no_svid"; 4]);
}

#[test]
fn a_configuration_is_built_once_per_generation() {
    let world = World::new();
    let (writer, local) = world.local(TILL);
    let (first, before) = (local.server_config().unwrap(), local.generation());
    assert!(Arc::ptr_eq(&first, &local.server_config().unwrap()));
    writer.publish(world.authority.leaf(TILL).credentials()).unwrap();
    assert!(!Arc::ptr_eq(&first, &local.server_config().unwrap()));
    assert!(local.generation() > before);
    assert_eq!(local.generation(), local.credentials().unwrap().generation());
}

#[test]
fn the_key_goes_when_the_identity_is_erased() {
    let world = World::new();
    let (writer, local) = world.local(TILL);
    let weak = Arc::downgrade(&local.credentials().unwrap());
    let config = Arc::downgrade(&local.server_config().unwrap());
    assert!(weak.upgrade().is_some());
    drop(writer);
    assert!(weak.upgrade().is_none() && config.upgrade().is_none());
}

#[test]
fn credentials_are_a_good_chain_with_its_own_key_published_under_their_own_name() {
    let world = World::new();
    let reason = |r: Result<Credentials, CredentialsError>| r.err().map_or("good", |e| e.reason());
    let (one, two) = (world.authority.leaf(TILL), world.authority.leaf(TILL));
    assert_eq!(reason(Credentials::new(one.chain.clone(), one.certified().key)), "good");
    assert_eq!(reason(Credentials::new(one.chain.clone(), two.certified().key)), "key_mismatch");
    let odd = world.authority.odd_leaf(TILL, |p| p.subject_alt_names.push(uri(BANK)));
    assert_eq!(reason(Credentials::new(odd.chain.clone(), odd.certified().key)), "many_uri_sans");
    assert_eq!(reason(Credentials::new(vec![], one.certified().key)), "empty_chain");

    let pem = pem::encode(&pem::Pem::new("CERTIFICATE", one.chain[0].to_vec())) + &one.key.serialize_pem();
    assert_eq!(reason(Credentials::from_pem(&pem, &pem)), "good");
    assert_eq!(reason(Credentials::from_pem(&pem, two.key.serialize_pem())), "key_mismatch");
    assert_eq!(reason(Credentials::from_pem(&pem, "")), "bad_key");
    assert_eq!(reason(Credentials::from_pem(one.key.serialize_pem(), &pem)), "empty_chain");

    let (writer, _local) = LocalIdentity::new(id(BANK), &world.trust);
    assert_eq!(writer.publish(one.credentials()).unwrap_err().reason(), "other_identity");
}

#[tokio::test]
async fn a_change_of_a_bundle_counts_from_the_next_handshake_with_the_same_configuration() {
    let world = World::new();
    let (_writer, local) = world.local(BANK);
    let (server, shown) =
        (local.server_config().unwrap(), Arc::new(impostor_client(Some(&world.authority.leaf(TILL)))));
    let try_it = async || refused(&shake(Arc::clone(&server), Arc::clone(&shown)).await.0);
    assert_eq!(try_it().await, "accepted");
    world.trust.bundles().set(Authority::new().bundle("td.test")).unwrap();
    assert_eq!(try_it().await, "unknown_authority");
    assert!(world.trust.bundles().remove(&domain("td.test")));
    assert_eq!(try_it().await, "no_bundle_for_trust_domain");
    world.trust.bundles().set(world.authority.bundle("td.test")).unwrap();
    assert_eq!(try_it().await, "accepted");
}

#[test]
fn bundles_of_other_trust_domains_keep_their_generation() {
    let world = World::new();
    let bundles = world.trust.bundles();
    let (all, own) = (bundles.generation(), bundles.generation_of("td.test"));
    assert!(!bundles.set(world.authority.bundle("td.test")).unwrap(), "the same again is no change");
    assert_eq!(bundles.generation(), all);
    assert!(bundles.set(Authority::new().bundle("other.test")).unwrap());
    assert!(bundles.generation() > all);
    assert_eq!(bundles.generation_of("td.test"), own);
    assert!(bundles.generation_of("other.test") > own);
    assert!(bundles.set(Authority::new().bundle("td.test")).unwrap());
    assert!(bundles.generation_of("td.test") > own);
    assert_eq!(bundles.generation_of("nowhere.test"), 0);
    assert!(bundles.remove(&domain("other.test")) && !bundles.remove(&domain("other.test")));
    assert_eq!(bundles.generation_of("other.test"), 0);
    assert_eq!(bundles.snapshot().trust_domains().count(), 1);
    assert_eq!(bundles.snapshot().get(&domain("other.test")), None::<&X509Bundle>);
}

#[tokio::test]
async fn the_control_port_takes_a_client_without_certificate_but_not_one_with_a_bad_one() {
    let world = World::new();
    let control = "spiffe://td.test/culvert/control";
    let (_writer, local) = world.local(control);
    let port = || local.server_config_optional_client().unwrap();
    let anonymous = anonymous_client_config(&world.trust, &expected(control)).unwrap();
    let (server, client) = shake(port(), anonymous).await;
    assert_eq!(server.unwrap().peer.unwrap_err().reason(), "no_client_certificate");
    assert_eq!(client.unwrap().peer.unwrap().id(), &id(control));

    let (_node_writer, node) = world.local("spiffe://td.test/culvert/node/one");
    let (server, _) = shake(port(), node.client_config(&expected(control)).unwrap()).await;
    assert_eq!(server.unwrap().peer.unwrap().id().node(), Some("one"));

    let stranger = Authority::new().leaf("spiffe://td.test/culvert/node/one");
    let (server, client) = shake(port(), Arc::new(impostor_client(Some(&stranger)))).await;
    assert_eq!((refused(&server), failed(&client)), ("unknown_authority", "refused_by_peer"));
}

#[tokio::test]
async fn a_joining_node_does_not_give_its_token_to_somebody_else() {
    let world = World::new();
    let control = "spiffe://td.test/culvert/control";
    let anonymous = || anonymous_client_config(&world.trust, &expected(control)).unwrap();
    let workload = world.authority.leaf(TILL);
    let (_, client) = shake(Arc::new(impostor_server(&workload)), anonymous()).await;
    assert_eq!(refused(&client), "unexpected_identity");
    let (_, client) = shake(Arc::new(impostor_server(&Authority::new().leaf(control))), anonymous()).await;
    assert_eq!(refused(&client), "unknown_authority");
}

#[derive(Debug)]
struct Wrapped(io::Error);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something above")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_refusal_is_found_under_any_wrapping() {
    let refusal = Refusal::NoBundle(domain("td.test"));
    let tls = || rustls::Error::from(refusal.clone());
    assert_eq!(refusal_of(&tls()), Some(refusal.clone()));
    assert_eq!(refusal_of(&io::Error::other(tls())), Some(refusal.clone()));
    assert_eq!(
        refusal_of(&Wrapped(io::Error::other(io::Error::other(Wrapped(io::Error::other(tls())))))),
        Some(refusal.clone())
    );
    assert_eq!(refusal_of(&io::Error::from(refusal.clone())), Some(refusal.clone()));
    assert_eq!(refusal_of(&io::Error::other("unrelated")), None);
    assert_eq!(failure_reason(&Wrapped(io::ErrorKind::ConnectionReset.into())), "reset");
    assert_eq!(failure_reason(&io::Error::from(io::ErrorKind::UnexpectedEof)), "closed");
    assert_eq!(failure_reason(&Wrapped(io::Error::other(tls()))), "no_bundle_for_trust_domain");
}

#[test]
fn the_provider_is_made_once_and_offers_only_what_is_documented() {
    assert!(Arc::ptr_eq(&provider(), &provider()));
    let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
    assert_eq!(groups, [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1]);
    let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
    assert_eq!(suites, [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384]);
}
