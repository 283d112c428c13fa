//! What the API server says reaches agents, and an API server that is away takes nothing back.
#![allow(clippy::unwrap_used, reason = "a test may")]

use culvert_kube_tests::{Agent, Control, Server, run};
use culvert_lab::{anyhow::ensure, in_sandbox};
use culvert_wire::{Kind, Resource};
use serde_json::{Value, json};

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(namespace: &str, name: &str, ip: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "n1", "serviceAccountName": name, "containers": [{"name": "c", "image": "i",
            "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

async fn definitions(server: &Server) -> culvert_lab::anyhow::Result<()> {
    for definition in culvert_policy::istio::definitions() {
        server.apply(&definition).await?;
    }
    Ok(())
}

#[test]
fn pods_namespaces_services_and_policies_reach_agents_and_go_again() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        definitions(&server).await?;
        server.apply(&namespace("shop", json!({"culvert.dev/enroll": "true"}))).await?;
        server.apply(&namespace("plain", json!({}))).await?;
        let control = Control::install(&server).await?;
        server.apply(&pod("shop", "web", "10.244.1.2", json!({"app": "web"}))).await?;
        server.apply(&pod("shop", "out", "10.244.1.3", json!({"culvert.dev/enroll": "false"}))).await?;
        server.apply(&pod("plain", "free", "10.244.1.4", json!({}))).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        let enrolled = |stream: &culvert_kube_tests::Stream, name: &str| {
            Some(stream.workload(name)?.protocol == culvert_kube_tests::Protocol::Hbone)
        };
        stream.until("web is enrolled", |stream| enrolled(stream, "web")?.then_some(())).await?;
        stream.until("out is not", |stream| (!enrolled(stream, "out")?).then_some(())).await?;
        stream.until("free is not", |stream| (!enrolled(stream, "free")?).then_some(())).await?;

        server.apply(&namespace("plain", json!({"culvert.dev/enroll": "true"}))).await?;
        stream.until("the label enrols", |stream| enrolled(stream, "free")?.then_some(())).await?;
        server.apply(&namespace("plain", json!({}))).await?;
        stream.until("its removal takes out", |stream| (!enrolled(stream, "free")?).then_some(())).await?;

        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]}});
        server.apply(&service).await?;
        let name = (Kind::Service, "shop/web".to_owned());
        stream.until("the service", |stream| stream.held.get(&name).map(drop)).await?;
        stream.until("the pod serves it", |stream| (stream.workload("web")?.services.len() == 1).then_some(())).await?;

        let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
        server.apply(&policy).await?;
        let name = (Kind::PeerAuthentication, "shop/default".to_owned());
        stream.until("the policy", |stream| stream.held.get(&name).map(drop)).await?;
        server.delete(&policy).await?;
        stream.until("the policy is gone", |stream| (!stream.held.contains_key(&name)).then_some(())).await?;

        let mut ended = pod("shop", "web", "10.244.1.2", json!({"app": "web"}));
        ended["status"]["phase"] = json!("Succeeded");
        server.apply(&ended).await.ok();
        let held = server.get(&ended).await?;
        let path = "/api/v1/namespaces/shop/pods/web/status";
        let mut done = held;
        done["status"]["phase"] = json!("Succeeded");
        server.api.send(http::Method::PUT, path, culvert_control::api::Body::Whole, &done).await?;
        stream.until("a pod that has ended is gone", |stream| stream.workload("web").is_none().then_some(())).await?;
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn an_api_server_that_is_away_takes_nothing_back_and_is_followed_again() {
    in_sandbox!(|| run(async {
        let mut server = Server::start().await?;
        definitions(&server).await?;
        server.apply(&namespace("shop", json!({"culvert.dev/enroll": "true"}))).await?;
        server.apply(&pod("shop", "web", "10.244.1.2", json!({}))).await?;
        server.apply(&pod("shop", "gone", "10.244.1.3", json!({}))).await?;
        let control = Control::install(&server).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        stream.until("web is known", |stream| stream.workload("web").map(drop)).await?;
        stream.until("gone is known", |stream| stream.workload("gone").map(drop)).await?;
        server.stop_api();
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        let mut second = agent.stream().await?;
        second.until("a new stream is served while it is away", |stream| stream.workload("gone").map(drop)).await?;
        server.start_api().await?;
        server.delete(&pod("shop", "gone", "10.244.1.3", json!({}))).await?;
        server.apply(&pod("shop", "new", "10.244.1.4", json!({}))).await?;
        stream.until("what is new is followed", |stream| stream.workload("new").map(drop)).await?;
        stream.until("what is gone as well", |stream| stream.workload("gone").is_none().then_some(())).await?;
        ensure!(stream.workload("web").is_some(), "what stayed was lost");
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn an_invalid_object_takes_no_good_one_away() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        definitions(&server).await?;
        server.apply(&namespace("shop", json!({"culvert.dev/enroll": "true"}))).await?;
        let control = Control::install(&server).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        let policy = |name: &str, rules: Value| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
                "metadata": {"name": name, "namespace": "shop"}, "spec": {"rules": rules}})
        };
        let good = json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]);
        server.apply(&policy("good", good.clone())).await?;
        let invalid = |stream: &culvert_kube_tests::Stream, name: &str| match stream
            .held
            .get(&(Kind::AuthorizationPolicy, format!("shop/{name}")))?
        {
            Resource::AuthorizationPolicy(policy) => Some(policy.invalid.is_some()),
            _ => None,
        };
        stream.until("a good one", |stream| (!invalid(stream, "good")?).then_some(())).await?;
        // What only admission refuses, with no webhook there: it slips in.
        let bad = json!([{"from": []}]);
        server.apply(&policy("bad", bad.clone())).await?;
        stream.until("a new one refuses what it selects", |stream| invalid(stream, "bad")?.then_some(())).await?;
        server.apply(&policy("good", bad)).await?;
        server.apply(&policy("last", good)).await?;
        stream.until("another good one", |stream| (!invalid(stream, "last")?).then_some(())).await?;
        ensure!(invalid(&stream, "good") == Some(false), "the last good version did not stay");
        control.stop().await;
        Ok(())
    }));
}
