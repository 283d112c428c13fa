//! Who is served: agents by the tokens of their pods, for the pods of their node, and nobody else.

use culvert_kube_tests::{Agent, Control, Server, run};
use culvert_lab::{
    anyhow::{Result, ensure},
    in_sandbox,
};
use culvert_svid::IssueError;
use serde_json::{Value, json};

const NAMESPACE: &str = "culvert-system";

fn pod(name: &str, node: &str, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "serviceAccountName": "web", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIP": "10.244.1.2"}})
}

async fn shop(server: &Server) -> Result<()> {
    let labels = json!({"culvert.dev/enroll": "true"});
    server
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}))
        .await?;
    for (namespace, name) in [("shop", "culvert-agent"), (NAMESPACE, "other")] {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}});
        server.apply(&account).await?;
    }
    Ok(())
}

#[test]
fn only_the_token_of_a_live_agents_pod_opens_the_control_plane() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let control = Control::install(&server).await?;
        shop(&server).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        agent.stream().await?.until("the agent's own pod", |stream| stream.workload("agent-1").map(drop)).await?;

        let agents = (NAMESPACE, "culvert-agent");
        let own = server.get(&Agent::pod("agent-1", "n1")).await?;
        let thief = server.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "thief", "namespace": "shop"},
            "spec": {"nodeName": "n1", "serviceAccountName": "culvert-agent", "containers": [{"name": "c", "image": "i"}]}})).await?;
        let other = server
            .apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": NAMESPACE},
            "spec": {"nodeName": "n1", "serviceAccountName": "other", "containers": [{"name": "c", "image": "i"}]}}))
            .await?;
        let audience = "culvert-control";
        let table = [
            ("another audience", server.token(agents, "vault", 600, Some(&own)).await?, "token_other_audience"),
            ("no pod", server.token(agents, audience, 600, None).await?, "token_unbound"),
            ("an hour", server.token(agents, audience, 3600, Some(&own)).await?, "token_long_lived"),
            (
                "another account",
                server.token((NAMESPACE, "other"), audience, 600, Some(&other)).await?,
                "token_other_account",
            ),
            (
                "another namespace",
                server.token(("shop", "culvert-agent"), audience, 600, Some(&thief)).await?,
                "token_other_account",
            ),
            (
                "a forged one",
                forged(&server.token(agents, audience, 600, Some(&own)).await?),
                "token_not_authenticated",
            ),
            ("none at all", "nothing".to_owned(), "token_malformed"),
        ];
        for (what, token, reason) in table {
            let port = Agent::port(&server, &control, "bad", &token).await?;
            ensure!(Agent::with(port).await.is_err(), "{what} was let in");
            let audit = control.audit();
            let last = audit.lines().last().unwrap_or_default();
            ensure!(last.contains(&format!("\"reason\":\"{reason}\"")), "{what}: {last}");
        }
        // Of a pod that is gone: the API server takes the token back, and the open stream ends.
        let mut stream = agent.stream().await?;
        stream.until("it is served", |stream| stream.workload("agent-1").map(drop)).await?;
        server.delete(&own).await?;
        let ended = async { while stream.next().await.is_ok() {} };
        ensure!(tokio::time::timeout(std::time::Duration::from_secs(20), ended).await.is_ok(), "the stream stays open");
        ensure!(control.audit().contains("\"reason\":\"agent_pod_gone\""), "it ended for another reason");
        control.stop().await;
        Ok(())
    }));
}

/// The same token with another signature.
fn forged(token: &str) -> String {
    let mut parts: Vec<&str> = token.split('.').collect();
    let other: String = parts.pop().unwrap_or_default().chars().rev().collect();
    format!("{}.{other}", parts.join("."))
}

#[test]
fn an_agents_token_gives_identities_of_its_own_nodes_live_pods_only() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let control = Control::install(&server).await?;
        shop(&server).await?;
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let here = uid(&server.apply(&pod("here", "n1", "Running")).await?);
        let there = uid(&server.apply(&pod("there", "n2", "Running")).await?);
        let ended = uid(&server.apply(&pod("ended", "n1", "Succeeded")).await?);
        let starting = uid(&server.apply(&pod("starting", "n1", "Pending")).await?);
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        stream.until("the pods", |stream| stream.workload("starting").and(stream.workload("there")).map(drop)).await?;
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        ensure!(agent.issue(&here, web).await? > 1, "no chain");
        ensure!(agent.issue(&starting, web).await? > 1, "init containers run while a pod is Pending");
        let table = [
            (there.as_str(), web, "pod_on_other_node"),
            (&ended, web, "unknown_pod"),
            ("00000000-0000-0000-0000-000000000000", web, "unknown_pod"),
            (&here, "spiffe://cluster.local/ns/shop/sa/admin", "not_the_pods_identity"),
            (&here, "spiffe://elsewhere/ns/shop/sa/web", "other_trust_domain"),
            (&here, "spiffe://cluster.local/ns/kube-system/sa/web", "not_the_pods_identity"),
        ];
        for (pod, identity, reason) in table {
            match agent.issue(pod, identity).await {
                Err(IssueError::Denied(text)) if text.starts_with(reason) => {}
                other => ensure!(false, "{pod} {identity}: {other:?}, not {reason}"),
            }
            ensure!(control.audit().contains(&format!("\"reason\":\"{reason}\"")), "{reason} is not in the audit log");
        }
        // A certificate of one node with the token of another one's agent.
        let stranger = Agent::join(&server, &control, "agent-2", "n2").await?;
        let mixed = Agent { port: stranger.port.clone(), identity: agent.identity };
        match mixed.issue(&there, web).await {
            Err(IssueError::Denied(text)) if text.starts_with("token_of_other_node") => {}
            other => ensure!(false, "a stolen node certificate: {other:?}"),
        }
        control.stop().await;
        Ok(())
    }));
}
