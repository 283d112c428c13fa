//! What the token of one node's agent is good for in other hands.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

const SYSTEM: &str = "culvert-system";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A file of a volume of an agent's pod, by its path on the node.
fn volume(cluster: &'static Cluster, node: &str, file: &str) -> Result<String> {
    let pod = cluster.agent(node)?.pod().to_owned();
    let uid = uid(cluster, SYSTEM, &pod)?;
    Ok(format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~{file}"))
}

fn uid(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String> {
    let read = cluster.get_json(&["-n", namespace, "get", "pod", pod])?;
    Ok(read["metadata"]["uid"].as_str().context("a UID")?.to_owned())
}

fn control(cluster: &Cluster) -> Result<String> {
    let service = cluster.get_json(&["-n", SYSTEM, "get", "service", "culvert-control"])?;
    Ok(format!("{}:15012", service["spec"]["clusterIP"].as_str().context("an address")?))
}

/// What all control planes have written down.
fn audit(cluster: &Cluster) -> Result<Vec<Value>> {
    let words = ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=culvert-control", "--tail=-1"];
    let log = cluster.kubectl(&words)?;
    Ok(log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["target"] == "audit")
        .collect())
}

/// Each line that the thief printed.
fn steal(cluster: &'static Cluster, token: &str, wishes: &[(&str, &str)]) -> Result<Vec<String>> {
    let (thief, root) = (cluster.program("cluster-thief")?, volume(cluster, "node1", "configmap/root/root.pem")?);
    let control = control(cluster)?;
    let mut words = vec![thief.as_str(), &control, &root, token];
    words.extend(wishes.iter().flat_map(|(pod, id)| [*pod, *id]));
    Ok(cluster.on("node1", &words)?.lines().map(str::to_owned).collect())
}

#[test]
fn a_stolen_agents_token_gives_no_identity_of_other_nodes_ended_pods_or_other_domains() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "stolen", &json!({"culvert.dev/enroll": "true"}))?;
    let once =
        |name| App { spec: json!({"restartPolicy": "Never"}), ..App::doing(name, "node1", &["call", "127.0.0.1:1"]) };
    space.run(&[App::idle("here", "node1"), App::idle("there", "node2")])?;
    space.create(&[once("ended")])?;
    within(Duration::from_secs(30), "the end of a pod", || {
        let pod = cluster.get_json(&["-n", "stolen", "get", "pod", "ended"])?;
        ensure!(pod["status"]["phase"] == "Failed", "{}", pod["status"]["phase"]);
        Ok(())
    })?;
    let uid = |pod: &str| uid(cluster, "stolen", pod);
    let (here, there, ended) = (uid("here")?, uid("there")?, uid("ended")?);
    let token = volume(cluster, "node1", "projected/token/token")?;
    let id = |account: &str| format!("spiffe://cluster.local/ns/stolen/sa/{account}");
    let foreign = "spiffe://elsewhere/ns/stolen/sa/here";
    let table = [
        (&here, id("here"), "granted"),
        (&there, id("there"), "pod_on_other_node"),
        (&here, id("there"), "not_the_pods_identity"),
        (&ended, id("ended"), "unknown_pod"),
        (&here, foreign.to_owned(), "other_trust_domain"),
        (&NOBODY.to_owned(), id("here"), "unknown_pod"),
    ];
    let wishes: Vec<(&str, &str)> = table.iter().map(|(pod, id, _)| (pod.as_str(), id.as_str())).collect();
    let said = steal(cluster, &token, &wishes)?;
    assert_eq!(said.len(), table.len() + 1, "{said:?}");
    for ((pod, id, wanted), said) in table.iter().zip(&said[1..]) {
        assert!(said.contains(wanted), "{pod} {id}: {said}, not {wanted}");
    }
    within(Duration::from_secs(10), "the audit log", || {
        let audit = audit(cluster)?;
        for (pod, id, wanted) in &table {
            let is_it = |line: &&Value| {
                let text = line.to_string();
                let granted = *wanted == "granted" && text.contains("true");
                text.contains(pod.as_str()) && text.contains(id) && (granted || text.contains(wanted))
            };
            ensure!(audit.iter().any(|line| is_it(&line)), "nothing is written of {pod} {id} {wanted}");
        }
        Ok(())
    })
}

#[test]
fn a_pods_own_token_opens_nothing() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "ordinary", &json!({}))?;
    let sources =
        json!([{"serviceAccountToken": {"audience": "culvert-control", "expirationSeconds": 600, "path": "token"}}]);
    let spec = json!({"volumes": [{"name": "token", "projected": {"sources": sources}}]});
    let container = json!({"volumeMounts": [{"name": "token", "mountPath": "/token"}]});
    space.run(&[App { spec, container, ..App::idle("curious", "node1") }])?;
    let uid = uid(cluster, "ordinary", "curious")?;
    let token = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/token/token");
    let said = steal(cluster, &token, &[])?;
    assert!(said.len() == 1 && said[0].contains("token_other_account"), "{said:?}");
    within(Duration::from_secs(10), "the audit log", || {
        let written = audit(cluster)?.iter().any(|line| line.to_string().contains("token_other_account"));
        ensure!(written, "nothing is written of it");
        Ok(())
    })
}

#[test]
fn an_agent_that_is_told_of_a_pod_that_nobody_knows_enrols_nothing() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "unknown", &json!({}))?;
    space.run(&[App::idle("bystander", "node1")])?;
    let uid = uid(cluster, "unknown", "bystander")?;
    let find = r#"for p in /proc/[0-9]*; do grep -q "pod$0" $p/cgroup 2>/dev/null && echo $p/ns/net && break; done"#;
    let netns = cluster.on("node1", &["sh", "-c", find, &uid])?;
    let agent = cluster.agent("node1")?;
    for (uid, reason) in [(NOBODY, "no_record"), (&uid, "namespace_not_enrolled")] {
        let words = ["-n", SYSTEM, "exec", agent.pod(), "--", "/usr/local/bin/culvert-agent", "enrol"];
        let more = ["--socket", "/run/culvert/agent/enrol.sock", "--uid", uid, "--netns", netns.trim()];
        let done = cluster.kubectl_command().args(words).args(more).output()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            !done.status.success() && said.contains(reason),
            "{uid}: {said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let pods = agent.ask(&["status"])?["pods"].to_string();
        assert!(!pods.contains(uid), "{pods}");
    }
    Ok(())
}
