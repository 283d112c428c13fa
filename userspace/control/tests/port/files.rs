//! The directory, the command line, metrics and the admin socket.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, Instant},
};

use culvert_wire::{Kind, Resource};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{
    client::Caller,
    discovery::Watcher,
    plane::{MESH, Plane, pod},
};

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if head.starts_with("HTTP/1.1 200") { body.to_owned() } else { head.lines().next().unwrap().to_owned() }
}

pub(crate) async fn admin(plane: &Plane, path: &str) -> String {
    get(UnixStream::connect(plane.admin()).await.unwrap(), path).await
}

async fn public(plane: &Plane, path: &str) -> String {
    get(TcpStream::connect(plane.metrics).await.unwrap(), path).await
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const POLICY: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{from: [{source: {namespaces: [bad]}}]}]}
";

fn invalid(watcher: &Watcher) -> Option<bool> {
    match watcher.get(Kind::AuthorizationPolicy, "shop/p") {
        Some(Resource::AuthorizationPolicy(policy)) => Some(policy.invalid.is_some()),
        _ => None,
    }
}

#[tokio::test]
async fn a_broken_policy_keeps_its_last_good_version_across_a_restart() {
    let mut plane = Plane::start(&format!("{}{POLICY}", pod("web", "n1")));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    assert_eq!(invalid(&watcher), Some(false));
    let broken = POLICY.replace("DENY", "DENI");
    plane.put("a.yaml", &format!("{}{broken}", pod("web", "n1")));
    eventually("the complaint is shown", async || admin(&plane, "/complaints").await.contains("spec.action")).await;
    plane.kill();
    plane.run();
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    assert_eq!(invalid(&watcher), Some(false), "the last good version");
    let metrics = public(&plane, "/metrics").await;
    assert!(metrics.lines().any(|line| line == "culvert_control_complaints{severity=\"error\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_policy_that_never_was_good_is_served_as_one_that_refuses() {
    let plane = Plane::start(&format!("{}{}", pod("web", "n1"), POLICY.replace("DENY", "DENI")));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    assert_eq!(invalid(&watcher), Some(true));
    plane.put("a.yaml", &format!("{}{POLICY}", pod("web", "n1")));
    watcher.next_state().await;
    assert_eq!(invalid(&watcher), Some(false), "mended");
}

#[tokio::test]
async fn a_directory_that_vanishes_changes_nothing_but_what_is_said() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let first = watcher.first_state().await;
    let aside = plane.manifests().with_file_name("aside");
    fs::rename(plane.manifests(), &aside).unwrap();
    let unusable = async || {
        let metrics = public(&plane, "/metrics").await;
        metrics.lines().any(|line| line == "culvert_control_manifests_unusable 1")
    };
    eventually("the metric says so", unusable).await;
    let mut other = Watcher::open(&node).await.unwrap();
    assert_eq!(other.first_state().await, first);
    assert!(other.get(Kind::Workload, "uid-web").is_some());
    fs::rename(aside, plane.manifests()).unwrap();
    eventually("it is taken again", async || !unusable().await).await;
    fs::set_permissions(plane.manifests(), fs::Permissions::from_mode(0o777)).unwrap();
    eventually("a directory that others may write to is not taken", unusable).await;
}

/// A generation that a restart would take back is told to nobody.
#[tokio::test]
async fn what_cannot_be_kept_on_disk_is_not_served_and_said() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let first = watcher.first_state().await;
    fs::remove_file(plane.state("last-good.json")).unwrap();
    fs::create_dir(plane.state("last-good.json")).unwrap();
    plane.put("b.yaml", &pod("api", "n1"));
    let unkept = async || {
        let metrics = public(&plane, "/metrics").await;
        metrics.lines().any(|line| line == "culvert_control_state_unkept 1")
    };
    eventually("the metric says so", unkept).await;
    let status: serde_json::Value = serde_json::from_str(&admin(&plane, "/status").await).unwrap();
    assert!(status["stateNotKept"].as_str().unwrap().contains("last-good.json"), "{status}");
    let mut other = Watcher::open(&node).await.unwrap();
    assert_eq!(other.first_state().await, first);
    assert!(other.get(Kind::Workload, "uid-api").is_none());
    fs::remove_dir(plane.state("last-good.json")).unwrap();
    watcher.next_state().await;
    assert!(watcher.get(Kind::Workload, "uid-api").is_some(), "kept and served once it can be");
    assert!(!unkept().await);
}

#[test]
fn it_does_not_start_from_nothing_or_from_what_others_may_write() {
    let plane = Plane::stopped(&[]);
    let refused = |plane: &Plane, word: &str| {
        let output = plane.run_to_end(&[]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert!(text.contains(word), "{text}");
    };
    refused(&plane, "holds no object");
    plane.put("mesh.yaml", MESH);
    fs::set_permissions(plane.manifests(), fs::Permissions::from_mode(0o775)).unwrap();
    refused(&plane, "chmod go-w");
    fs::set_permissions(plane.manifests(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(plane.state(""), fs::Permissions::from_mode(0o755)).unwrap();
    refused(&plane, "chmod 0700");
    fs::remove_dir_all(plane.manifests()).unwrap();
    fs::set_permissions(plane.state(""), fs::Permissions::from_mode(0o700)).unwrap();
    refused(&plane, "No such file");
}

#[tokio::test]
async fn an_empty_directory_at_a_restart_is_bridged_by_the_last_good_state() {
    let mut plane = Plane::start(&pod("web", "n1"));
    plane.kill();
    fs::remove_file(plane.manifests().join("a.yaml")).unwrap();
    fs::remove_file(plane.manifests().join("mesh.yaml")).unwrap();
    plane.run();
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    assert!(watcher.get(Kind::Workload, "uid-web").is_some());
    assert!(admin(&plane, "/complaints").await.contains("holds no object"));
}

#[test]
fn check_prints_complaints_and_says_by_its_exit_code_whether_there_are_errors() {
    let plane = Plane::stopped(&[]);
    plane.put("mesh.yaml", MESH);
    let check = || {
        let output = plane.tool(&["check", "--manifests", plane.manifests().to_str().unwrap()]);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check();
    assert_eq!((code, text.lines().last()), (0, Some("0 errors, 0 warnings, 0 notes")), "{text}");
    plane.put("a.yaml", &pod("web", "n1").replace("nodeName", "nodName"));
    let (code, text) = check();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning: a.yaml:2: Pod shop/web: spec.nodName: unknown field"), "{text}");
    assert!(text.contains("did you mean \"nodeName\"?") && text.contains("unknown_service_account"), "{text}");
    plane.put("b.yaml", "a: b: c\n");
    let (code, text) = check();
    assert_eq!(code, 1);
    assert!(text.contains("error: b.yaml:1:") && text.contains("[not_yaml]"), "{text}");
}

#[tokio::test]
async fn metrics_readiness_and_admin_say_how_it_is() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    let refused = Caller::nobody(&plane);
    assert!(Watcher::open(&refused).await.is_err());
    assert_eq!(public(&plane, "/readyz").await, "ok\n");
    let metrics = public(&plane, "/metrics").await;
    for line in [
        "culvert_control_streams 1",
        "culvert_control_resources{type=\"workload\"} 1",
        "culvert_control_certificates_issued_total{action=\"join\"} 1",
        "culvert_control_refusals_total{action=\"stream\",reason=\"no_client_certificate\"} 1",
        "culvert_control_manifests_unusable 0",
        "culvert_control_state_unkept 0",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line} is not in {metrics}");
    }
    assert_eq!(public(&plane, "/status").await, "HTTP/1.1 404 Not Found", "status is for the admin socket");
    eventually("the node has answered", async || {
        let status: serde_json::Value = serde_json::from_str(&admin(&plane, "/status").await).unwrap();
        assert_eq!(status["trustDomain"], "cluster.local");
        status["nodes"]["n1"]["answeredGeneration"] == status["generation"]
    })
    .await;
    assert_eq!(fs::metadata(plane.admin()).unwrap().mode() & 0o7777, 0o600);
}
