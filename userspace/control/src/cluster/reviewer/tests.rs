//! Tokens, against an API server of few words.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, File, MeshOverrides, assemble};
use culvert_wire::TrustBundle;
use http_body_util::Full;
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::index::Snapshot;

const USER: &str = "system:serviceaccount:culvert-system:culvert-agent";

fn pod(uid: &str, namespace: &str, account: &str, node: &str, phase: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {uid}, namespace: {namespace}, uid: {uid}}}, \
         spec: {{nodeName: '{node}', hostNetwork: true, serviceAccountName: {account}, containers: [{{name: c}}]}}, \
         status: {{phase: {phase}}}}}\n"
    )
}

fn published() -> Published {
    let text = [
        pod("agent-1", "culvert-system", "culvert-agent", "n1", "Running"),
        pod("agent-old", "culvert-system", "culvert-agent", "n1", "Failed"),
        pod("agent-new", "culvert-system", "culvert-agent", "", "Pending"),
        pod("thief", "shop", "culvert-agent", "n1", "Running"),
        pod("other", "culvert-system", "default", "n1", "Running"),
    ];
    let file = File { name: "a.yaml".to_owned(), text: Ok(text.concat()) };
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let overrides = MeshOverrides {
        trust_domain: trust_domain.clone(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    };
    let state = assemble(&Catalog::read(&[file], &Catalog::default()).0, &overrides, &Default::default()).state;
    let bundle = TrustBundle { trust_domain, authorities: vec![vec![1]], sequence: 1 };
    Published {
        snapshot: Arc::new(Snapshot::new(1, &state, &bundle)),
        state: Arc::new(state),
        complaints: Arc::default(),
        unread: None,
        unkept: None,
    }
}

/// Answers each TokenReview with `status`.
async fn api(status: Value) -> (Api, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (status, count) = (status.clone(), Arc::clone(&count));
            tokio::spawn(http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(move |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let body = json!({"kind": "TokenReview", "status": status}).to_string();
                    async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))) }
                }),
            ));
        }
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    (Api::of(kube::Client::try_from(config).unwrap()), asked)
}

fn expected() -> Expected {
    Expected {
        namespace: "culvert-system".to_owned(),
        account: "culvert-agent".to_owned(),
        audience: "culvert-control".to_owned(),
    }
}

fn reviewer(api: Api) -> Reviewer {
    let (sender, receiver) = watch::channel(published());
    // The value stays when its sender goes.
    drop(sender);
    Reviewer::new(api, expected(), receiver)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn token(claims: &Value) -> String {
    format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn good_claims() -> Value {
    json!({"sub": USER, "aud": ["culvert-control"], "iat": 1_799_999_900_u64, "exp": 1_800_000_500_u64,
        "kubernetes.io": {"pod": {"uid": "agent-1"}}})
}

fn status(pod: &str) -> Value {
    json!({"authenticated": true, "audiences": ["culvert-control"],
        "user": {"username": USER, "extra": {"authentication.kubernetes.io/pod-uid": [pod]}}})
}

async fn reason(status: Value, claims: Value) -> Result<Agent, &'static str> {
    let (api, _) = api(status).await;
    reviewer(api).agent(Some(&token(&claims)), now()).await.map_err(|refusal| refusal.reason())
}

fn with(mut value: Value, path: &str, new: Value) -> Value {
    *value.pointer_mut(path).unwrap() = new;
    value
}

#[tokio::test]
async fn an_agents_token_gives_the_node_of_its_pod() {
    let agent = reason(status("agent-1"), good_claims()).await.unwrap();
    assert_eq!((agent.node.as_str(), agent.pod.as_str()), ("n1", "agent-1"));
}

#[tokio::test]
async fn everybody_else_is_refused_with_a_reason() {
    let good = || status("agent-1");
    let uid = "/user/extra/authentication.kubernetes.io~1pod-uid";
    let table = [
        (json!({"authenticated": false}), good_claims(), "token_not_authenticated"),
        (json!({}), good_claims(), "token_not_authenticated"),
        (with(good(), "/audiences", json!(["https://kubernetes.default.svc"])), good_claims(), "token_other_audience"),
        (with(good(), "/audiences", json!(null)), good_claims(), "token_other_audience"),
        (
            with(good(), "/user/username", json!("system:serviceaccount:shop:culvert-agent")),
            good_claims(),
            "token_other_account",
        ),
        (with(good(), "/user/username", json!("admin")), good_claims(), "token_other_account"),
        (with(good(), uid, json!([])), good_claims(), "token_unbound"),
        (with(good(), "/user/extra", json!({})), good_claims(), "token_unbound"),
        (status("agent-old"), good_claims(), "agent_pod_gone"),
        (status("agent-new"), good_claims(), "agent_pod_unknown"),
        (status("nobody"), good_claims(), "agent_pod_unknown"),
        (status("thief"), good_claims(), "token_other_account"),
        (status("other"), good_claims(), "token_other_account"),
        (good(), with(good_claims(), "/aud", json!(["other"])), "token_other_audience"),
        (good(), with(good_claims(), "/sub", json!("system:serviceaccount:shop:web")), "token_other_account"),
        (good(), with(good_claims(), "/exp", json!(1_800_000_000_u64)), "token_expired"),
        (good(), with(good_claims(), "/iat", json!(1_799_990_000_u64)), "token_long_lived"),
        (good(), with(good_claims(), "/exp", json!("never")), "token_malformed"),
        (good(), with(good_claims(), "/kubernetes.io", json!({})), "token_unbound"),
    ];
    for (status, claims, word) in table {
        assert_eq!(reason(status.clone(), claims.clone()).await, Err(word), "{status} {claims}");
    }
    let (api, asked) = api(good()).await;
    let reviewer = reviewer(api);
    for text in [None, Some(""), Some("x"), Some("a.!.c"), Some("a.e30.c")] {
        assert!(reviewer.agent(text, now()).await.is_err());
    }
    for pod in ["nobody", "thief", "other", "agent-old", "agent-new"] {
        let made_up = with(good_claims(), "/kubernetes.io/pod/uid", json!(pod));
        assert!(reviewer.agent(Some(&token(&made_up)), now()).await.is_err());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "what is no agent's token by its own account costs no question");
}

#[tokio::test]
async fn an_answer_holds_for_a_moment_and_longer_only_while_nobody_can_be_asked() {
    let (api, asked) = api(status("agent-1")).await;
    let asks = reviewer(api);
    let token = token(&good_claims());
    for _ in 0..3 {
        asks.agent(Some(&token), now()).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    asks.agent(Some(&token), now() + FRESH).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2, "asked again after {FRESH:?}");

    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let away = reviewer(Api::of(kube::Client::try_from(nowhere).unwrap()));
    assert_eq!(away.agent(Some(&token), now()).await.map_err(|e| e.reason()), Err("api_unreachable"));
    *away.answers.lock().unwrap() = asks.answers.lock().unwrap().clone();
    let later = now() + FRESH * 3;
    assert!(away.agent(Some(&token), later).await.is_ok(), "what the API server has said holds while it is away");
    let ended = away.agent(Some(&token), now() + Duration::from_secs(500)).await;
    assert_eq!(ended.map_err(|error| error.reason()), Err("token_expired"), "and not beyond the token's end");
}

#[tokio::test]
async fn an_answer_that_is_taken_back_is_forgotten() {
    let (yes, _) = api(status("agent-1")).await;
    let first = reviewer(yes);
    let token = token(&good_claims());
    first.agent(Some(&token), now()).await.unwrap();
    let (no, _) = api(json!({"authenticated": false})).await;
    let second = reviewer(no);
    *second.answers.lock().unwrap() = first.answers.lock().unwrap().clone();
    let refused = second.agent(Some(&token), now() + FRESH).await;
    assert_eq!(refused.map_err(|error| error.reason()), Err("token_not_authenticated"));
    assert!(second.answers.lock().unwrap().is_empty());
}
