use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{answers::open, serve_metrics, why::why};
use crate::{
    metrics::Metrics,
    samples::{allow, pod, service, snapshot},
};

#[test]
fn why_is_the_answer_of_the_data_path() {
    let mut web = pod("web", "10.0.0.2");
    web.services.push(culvert_workload::ServiceName::new("shop", "web"));
    web.node = "n2".into();
    let state = snapshot(
        [pod("client", "10.0.0.1"), pod("stranger", "10.0.0.9"), web],
        [service("web", "10.96.0.1")],
        [allow("web", &["client"])],
    );
    let allowed = why(&state, "shop/client", "shop/web", 80).expect("an answer");
    assert!(allowed.allowed, "{allowed:?}");
    assert_eq!(
        (allowed.transport.as_str(), allowed.policy.as_deref(), allowed.rule),
        ("hbone", Some("shop/web"), Some(0))
    );
    assert_eq!(allowed.destination.node.as_deref(), Some("n2"), "a pod of another node");
    assert!(allowed.identity_from.starts_with("handshake"));

    let service = why(&state, "10.0.0.1", "10.96.0.1", 80).expect("an answer");
    assert_eq!((service.port, service.destination.address.to_string().as_str()), (8080, "10.0.0.2"));

    let refused = why(&state, "shop/stranger", "10.0.0.2", 80).expect("an answer");
    assert_eq!((refused.allowed, refused.reason.as_str()), (false, "no_allow_matched"));
    let near = &refused.explanation.expect("explained")["near_misses"][0];
    assert_eq!(near["field"], "rules[0].from[0].source.principals");
    assert_eq!(near["have"], "cluster.local/ns/shop/sa/stranger");
}

#[test]
fn why_knows_those_who_are_not_in_the_mesh() {
    let state = snapshot([pod("client", "10.0.0.1"), pod("web", "10.0.0.2")], [], [allow("web", &["client"])]);
    let outside = why(&state, "192.0.2.7", "shop/web", 80).expect("an answer");
    assert_eq!((outside.allowed, outside.reason.as_str()), (false, "peer_unauthenticated"));
    assert_eq!(outside.identity_from, "none: plaintext");
    let out = why(&state, "shop/client", "192.0.2.7", 443).expect("an answer");
    assert_eq!((out.allowed, out.transport.as_str()), (true, "passthrough"));
    let unknown = why(&state, "shop/client", "10.9.9.9", 443).expect("an answer");
    assert_eq!((unknown.allowed, unknown.reason.as_str()), (false, "unknown_destination"));
    assert_eq!(why(&state, "shop/nobody", "shop/web", 1).expect_err("no such pod").reason(), "unknown_end");
}

#[test]
fn what_is_open_is_said_in_one_line() {
    let closed = snapshot([pod("web", "10.0.0.2")], [], [allow("web", &["client"])]);
    assert!(open(&closed).starts_with("nothing: all 1 enrolled"), "{}", open(&closed));
    let mut wide = closed;
    let mut mesh = (*wide.mesh).clone();
    mesh.default_mode = culvert_workload::MtlsDefault::Permissive;
    mesh.default_action = culvert_workload::ActionDefault::Allow;
    wide.settings = std::sync::Arc::new(crate::snapshot::policy_settings(&mesh));
    wide.authorizations.clear();
    assert_eq!(open(&wide), "plaintext may enter: shop (1); no ALLOW policy limits who may call: shop (1)");
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of loopback");
    socket.connect(to).await.expect("accepted")
}

/// Whoever connects and says nothing takes no place that readiness needs, however many they are.
#[tokio::test]
async fn silent_connections_do_not_keep_readiness_from_being_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(serve_metrics(listener, Arc::new(Metrics::new(10)), Arc::default()));
    let mut silent = Vec::new();
    for host in 1..=100 {
        silent.push(connect(&format!("127.0.1.{host}"), address).await);
    }
    for _ in 0..20 {
        silent.push(connect("127.0.0.1", address).await);
    }
    let ready = async {
        let mut asked = connect("127.0.0.1", address).await;
        let request = b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        asked.write_all(request).await.expect("sent");
        let mut answer = String::new();
        asked.read_to_string(&mut answer).await.expect("answered");
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(2), ready).await.expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not_synced\n"), "{answer}");
    // The oldest have made room: not by waiting for their patience to end.
    let first = tokio::time::timeout(Duration::from_secs(2), silent[0].read(&mut [0])).await;
    assert!(!matches!(first, Err(_) | Ok(Ok(1..))), "{first:?}");
}
