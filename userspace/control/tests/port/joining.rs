//! Tokens and node certificates.

use std::{io::ErrorKind, time::Duration};

use culvert_identity::SpiffeId;
use culvert_wire::proto::culvert::{RenewRequest, node_service_client::NodeServiceClient};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use super::{
    client::{Caller, Key, verified, word},
    discovery::Watcher,
    plane::{Plane, domain, pod},
};

#[tokio::test]
async fn a_token_makes_a_node_once_and_its_certificate_renews_itself() {
    let plane = Plane::start(&pod("web", "n1"));
    let (token, key) = (plane.token("n1"), Key::new());
    let (node, chain) = Caller::nobody(&plane).join(&token, &key).await.unwrap();
    assert_eq!(node, "n1");
    assert_eq!(verified(&plane, &chain), SpiffeId::of_node(&domain(), "n1").unwrap());
    let joined = plane.audit(|line| line["action"] == "join" && line["granted"] == true);
    assert_eq!((joined["node"].as_str(), joined["serial"].is_string()), (Some("n1"), true));

    let again = Caller::nobody(&plane).join(&token, &Key::new()).await.unwrap_err();
    assert_eq!(word(&again), (Code::Unauthenticated, String::new()), "guessers are told nothing");
    plane.audited("join", "token_unknown");

    let caller = Caller::with(&plane, key.with(&chain));
    let fresh = Key::new();
    let renewed = NodeServiceClient::new(caller.channel()).renew(RenewRequest { csr: fresh.csr() }).await.unwrap();
    assert_eq!(verified(&plane, &renewed.into_inner().cert_chain), SpiffeId::of_node(&domain(), "n1").unwrap());
    plane.audit(|line| line["action"] == "renew" && line["granted"] == true && line["node"] == "n1");
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_audited() {
    let plane = Plane::start(&pod("web", "n1"));
    let (one, two) = (plane.token("n1"), plane.token("n2"));
    let secret_of_two = two.rsplit_once('.').unwrap().1;
    let table = [
        (format!("n1.{secret_of_two}"), "token_wrong"),
        ("n1.0123".to_owned(), "token_wrong"),
        (format!("n3.{secret_of_two}"), "token_unknown"),
        ("nonsense".to_owned(), "token_malformed"),
        (String::new(), "token_malformed"),
    ];
    for (token, reason) in table {
        let refused = Caller::nobody(&plane).join(&token, &Key::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
        plane.audited("join", reason);
    }
    let log = std::fs::read_to_string(plane.state("audit.log")).unwrap();
    assert!(!log.contains(secret_of_two) && !log.contains("0123\""), "no secret is written down");
    Caller::nobody(&plane).join(&one, &Key::new()).await.unwrap();
}

#[tokio::test]
async fn a_mistake_in_the_request_does_not_cost_the_token() {
    let plane = Plane::start(&pod("web", "n1"));
    let token = plane.token("n1");
    let request = culvert_wire::proto::culvert::JoinRequest { token: token.clone(), csr: "nothing".to_owned() };
    let mut client = NodeServiceClient::new(Caller::nobody(&plane).channel());
    let refused = client.join(request).await.unwrap_err();
    assert_eq!(word(&refused), (Code::InvalidArgument, "csr_malformed".to_owned()));
    Caller::nobody(&plane).join(&token, &Key::new()).await.unwrap();
}

#[tokio::test]
async fn a_token_goes_with_no_certificate() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let refused = node.join(&plane.token("n2"), &Key::new()).await.unwrap_err();
    assert_eq!(word(&refused), (Code::PermissionDenied, "certificate_at_join".to_owned()));
    let line = plane.audited("join", "certificate_at_join");
    assert_eq!(line["caller"], "spiffe://cluster.local/culvert/node/n1");
}

/// Every call but Join, by whoever is not a node.
#[tokio::test]
async fn every_other_call_takes_a_node_certificate() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let thief = Caller::workload(&plane, &node, "web").await;
    let nobody = Caller::nobody(&plane);
    let cases =
        [(&nobody, Code::Unauthenticated, "no_client_certificate"), (&thief, Code::PermissionDenied, "not_a_node")];
    for (caller, code, reason) in cases {
        let expected = (code, reason.to_owned());
        let stream = Watcher::open(caller).await.err().unwrap();
        assert_eq!(word(&stream), expected);
        plane.audited("stream", reason);
        let issue = caller.issue("web", &super::client::identity_of("web"), &Key::new()).await.unwrap_err();
        assert_eq!(word(&issue), expected);
        plane.audited("issue", reason);
        let renew = NodeServiceClient::new(caller.channel()).renew(RenewRequest { csr: Key::new().csr() }).await;
        assert_eq!(word(&renew.unwrap_err()), expected);
        plane.audited("renew", reason);
        assert_eq!(word(&super::reports::report(caller, vec![]).await.unwrap_err()), expected);
        plane.audited("report", reason);
    }
    let stolen = plane.audited("stream", "not_a_node");
    assert_eq!(stolen["caller"], super::client::identity_of("web"));
}

#[tokio::test]
async fn plaintext_gets_no_answer_and_is_audited() {
    let plane = Plane::start(&pod("web", "n1"));
    let mut stream = TcpStream::connect(plane.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    match timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap() {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    // At most a TLS alert (content type 21), never a frame of HTTP/2.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    plane.audited("handshake", "not_tls");
}

/// A CA of our own making that says it is the same trust domain.
#[tokio::test]
async fn a_certificate_of_a_strange_ca_does_not_get_past_the_handshake() {
    let plane = Plane::start(&pod("web", "n1"));
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().unwrap();
    for (uri, reason) in [
        ("spiffe://cluster.local/culvert/node/n1", "unknown_authority"),
        ("spiffe://other.local/culvert/node/n1", "no_bundle_for_trust_domain"),
    ] {
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = leaf.signed_by(&key, &issuer).unwrap().pem();
        let credentials = culvert_mtls::Credentials::from_pem(chain, key.serialize_pem()).unwrap();
        assert!(Watcher::open(&Caller::with(&plane, credentials)).await.is_err());
        plane.audited("handshake", reason);
    }
}

#[tokio::test]
async fn nothing_outlives_the_node_certificate() {
    let plane = Plane::start_with(&pod("web", "n1"), &["--leaf-life", "10"]);
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    let ended = timeout(Duration::from_secs(25), watcher.end()).await.unwrap();
    assert_eq!(word(&ended), (Code::Unauthenticated, "node_certificate_expired".to_owned()));
    let late = node.issue("web", &super::client::identity_of("web"), &Key::new()).await.unwrap_err();
    assert_eq!(word(&late), (Code::Unauthenticated, "node_certificate_expired".to_owned()));
    // The server's own certificate had the same life, and was renewed meanwhile.
    Caller::node(&plane, "n2").await;
}

/// Whoever proves nothing has 15 s and few places; who has joined keeps the connection.
#[tokio::test]
async fn a_connection_without_a_certificate_ends_and_takes_no_place_for_ever() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    let begun = std::time::Instant::now();
    let mut strangers = Vec::new();
    while let Some(stranger) = Caller::stranger(&plane).await {
        strangers.push(stranger);
        assert!(strangers.len() <= 32, "places without end for one address");
    }
    assert!(strangers.len() >= 30, "only {}", strangers.len());
    plane.audited("handshake", "too_many_handshakes");
    let mut first = strangers.remove(0);
    let ended = timeout(Duration::from_secs(25), first.read_to_end(&mut Vec::new())).await;
    ended.expect("it goes on").map(drop).unwrap_or_default();
    assert!(begun.elapsed() >= Duration::from_secs(14), "ended after {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(2)).await;
    Caller::nobody(&plane).join(&plane.token("n2"), &Key::new()).await.expect("the places are free again");
    assert!(timeout(Duration::from_millis(100), watcher.end()).await.is_err(), "a node's connection stays");
}

#[tokio::test]
async fn a_request_of_nobody_is_read_as_far_as_one_can_be_meant() {
    let plane = Plane::start(&pod("web", "n1"));
    let refused = Caller::nobody(&plane).join(&"t".repeat(40_000), &Key::new()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
}
