//! Whole calls, against a real TLS server and a real Unix socket.

use std::{collections::BTreeMap, path::Path};

use culvert_handover::enrolment::{Answer, Claim, Request};
use tempfile::TempDir;

use super::server::{self, Asked};
use crate::{call::Environment, commands::run, failure::Failure};

const PREVIOUS: &str =
    "{ \"cniVersion\": \"1.0.0\",\n  \"interfaces\":[{\"name\":\"veth1\"}],\"ips\" : [],\"dns\":{} }";

struct Scene {
    folder: TempDir,
    kubeconfig: String,
}

impl Scene {
    /// Namespaces `shop` (enrolled) and `tools` (not), each with the pod `web` of UID `NAMESPACE-uid`.
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut objects = BTreeMap::new();
        for (namespace, labels) in [("shop", "\"culvert.dev/enroll\":\"true\""), ("tools", "")] {
            let path = format!("/api/v1/namespaces/{namespace}");
            let pod = format!("{{\"metadata\":{{\"uid\":\"{namespace}-uid\"}},\"spec\":{{}}}}");
            objects.insert(format!("{path}/pods/web"), pod);
            objects.insert(path, format!("{{\"metadata\":{{\"labels\":{{{labels}}}}}}}"));
        }
        let mirror = "{\"metadata\":{\"uid\":\"api-uid\",\"annotations\":{\"kubernetes.io/config.mirror\":\"0123456789abcdef0123456789abcdef\"}}}";
        objects.insert("/api/v1/namespaces/shop/pods/static".to_owned(), mirror.to_owned());
        let kubeconfig = server::api(folder.path(), objects).display().to_string();
        Self { folder, kubeconfig }
    }

    /// Nobody listens at the API server's address.
    fn without_api() -> Self {
        let folder = TempDir::new().expect("a folder");
        let root = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate").cert.pem();
        let kubeconfig = server::kubeconfig(folder.path(), "https://127.0.0.1:1", &root).display().to_string();
        Self { folder, kubeconfig }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("enrol.sock")
    }

    fn agent(&self, answer: Answer) -> Asked {
        server::agent(&self.socket(), answer)
    }

    fn knows(&self, text: &str) {
        let path = self.folder.path().join("known.json");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("changed");
    }

    fn call(&self, command: &str, namespace: &str, name: &str, uid: &str) -> Result<String, Failure> {
        let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
        self.call_with(command, &arguments, "/proc/self/ns/net", PREVIOUS)
    }

    fn call_with(&self, command: &str, arguments: &str, netns: &str, previous: &str) -> Result<String, Failure> {
        let environment = Environment::from(
            [
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", netns),
                ("CNI_ARGS", arguments),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let netconf = format!(
            "{{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"type\":\"culvert-cni\",\"socket\":{:?},\"kubeconfig\":{:?},\
             \"known\":{:?},\"excludeNamespaces\":[\"kube-system\"],\"prevResult\":{previous}}}",
            self.socket(),
            self.kubeconfig,
            self.folder.path().join("known.json"),
        );
        run(&environment, netconf.as_bytes()).map(|text| String::from_utf8(text).expect("text"))
    }

    fn refusal(&self, command: &str, namespace: &str, name: &str, uid: &str) -> String {
        let failure = self.call(command, namespace, name, uid).expect_err("it has to wait");
        assert_eq!((failure.code, failure.version.as_str()), (11, "0.4.0"), "{failure}");
        failure.msg.rsplit(": ").next().unwrap_or_default().to_owned()
    }
}

fn heard(asked: &Asked) -> Vec<(Request, usize)> {
    std::mem::take(&mut asked.lock().expect("not poisoned"))
}

fn good() -> Answer {
    Answer { ok: true, ..Answer::default() }
}

fn bad(reason: &str) -> Answer {
    Answer { reason: Some(reason.to_owned()), ..Answer::default() }
}

#[test]
fn a_pod_of_the_mesh_is_handed_over_and_the_previous_result_passes_byte_for_byte() {
    let scene = Scene::new();
    let asked = scene.agent(good());
    assert_eq!(scene.call("ADD", "shop", "web", "shop-uid").expect("taken"), PREVIOUS);
    let pod = Claim { namespace: "shop".to_owned(), name: "web".to_owned(), veths: vec!["veth1".to_owned()] };
    assert_eq!(heard(&asked), [(Request::Enrol { uid: "shop-uid".to_owned(), pod: Some(pod) }, 1)]);
    assert_eq!(scene.call("CHECK", "shop", "web", "shop-uid").expect("captured"), "");
    assert_eq!(heard(&asked), [(Request::Check { uid: "shop-uid".to_owned() }, 0)]);
    assert_eq!(scene.call("DEL", "shop", "web", "shop-uid").expect("gone"), "");
    assert_eq!(heard(&asked), [(Request::Withdraw { uid: "shop-uid".to_owned() }, 1)]);
}

#[test]
fn a_runtime_that_says_no_uid_and_a_static_pod_get_the_api_servers() {
    let scene = Scene::new();
    let asked = scene.agent(good());
    let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
    scene.call_with("ADD", arguments, "/proc/self/ns/net", PREVIOUS).expect("taken");
    scene.call("ADD", "shop", "static", "0123456789abcdef0123456789abcdef").expect("taken");
    let uids: Vec<String> = heard(&asked)
        .into_iter()
        .map(|(request, _)| match request {
            Request::Enrol { uid, .. } => uid,
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(uids, ["shop-uid", "api-uid"]);
}

#[test]
fn a_pod_of_the_mesh_waits_for_as_long_as_the_agent_does_not_take_it() {
    let scene = Scene::new();
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "agent_unreachable");
    assert_eq!(scene.refusal("CHECK", "shop", "web", "shop-uid"), "agent_unreachable");
    let _asked = scene.agent(bad("no_record"));
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "no_record");
    // Another pod under the same name, and one that the API server does not have.
    assert_eq!(scene.refusal("ADD", "shop", "web", "older-uid"), "pod_replaced");
    assert_eq!(scene.refusal("ADD", "shop", "nobody", "x"), "pod_unknown");
}

#[test]
fn a_dead_agent_holds_nobody_else_back() {
    let scene = Scene::new();
    for (namespace, uid) in [("tools", "tools-uid"), ("kube-system", "any")] {
        for command in ["ADD", "CHECK", "DEL"] {
            let text = scene.call(command, namespace, "web", uid).expect("passes");
            assert_eq!(text, if command == "ADD" { PREVIOUS } else { "" }, "{command} {namespace}");
        }
    }
    // Not Kubernetes at all.
    scene.call_with("ADD", "IgnoreUnknown=1", "/proc/self/ns/net", PREVIOUS).expect("passes");
    // And where nobody answers at all, what everything else needs passes first.
    Scene::without_api().call("ADD", "kube-system", "web", "any").expect("passes");
}

#[test]
fn without_an_api_server_the_agents_list_decides_and_what_it_does_not_know_waits() {
    let scene = Scene::without_api();
    assert_eq!(scene.refusal("ADD", "tools", "web", "tools-uid"), "namespace_unknown");
    scene.knows("{\"pods\":{\"shop-uid\":true,\"tools-uid\":false}}");
    scene.call("ADD", "tools", "web", "tools-uid").expect("passes");
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "agent_unreachable");
    assert_eq!(scene.refusal("ADD", "tools", "web", "newer-uid"), "namespace_unknown");
    let asked = scene.agent(good());
    scene.call("ADD", "shop", "web", "shop-uid").expect("taken");
    assert_eq!(heard(&asked).len(), 1);
}

#[test]
fn without_an_api_server_a_new_pod_is_what_its_namespace_was_said_to_be() {
    let list = "{\"pods\":{\"own\":true},\"namespaces\":{\"shop\":true,\"tools\":false}}";
    for (namespace, uid, without_agent, asks) in [
        ("tools", "new", Ok(()), false),
        ("tools", "own", Err("agent_unreachable"), true),
        ("shop", "new", Err("agent_unreachable"), true),
        ("elsewhere", "new", Err("namespace_unknown"), false),
    ] {
        let scene = Scene::without_api();
        scene.knows(list);
        match without_agent {
            Ok(()) => assert_eq!(scene.call("ADD", namespace, "web", uid).expect("passes at once"), PREVIOUS),
            Err(reason) => assert_eq!(scene.refusal("ADD", namespace, "web", uid), reason, "{namespace} {uid}"),
        }
        let asked = scene.agent(good());
        let taken = scene.call("ADD", namespace, "web", uid);
        assert_eq!(taken.is_ok(), without_agent != Err("namespace_unknown"), "{namespace} {uid}");
        assert_eq!(heard(&asked).len(), usize::from(asks), "{namespace} {uid}");
    }
}

#[test]
fn an_api_server_that_refuses_the_plugin_does_not_open_pods() {
    let scene = Scene::new();
    let text = std::fs::read_to_string(&scene.kubeconfig).expect("read");
    std::fs::write(&scene.kubeconfig, text.replace(server::TOKEN, "another")).expect("written");
    // What was known before does not go before the answer that could be had, but for a pod that the control plane has named.
    scene.knows("{\"pods\":{\"named\":false},\"namespaces\":{\"tools\":false}}");
    assert_eq!(scene.refusal("ADD", "tools", "web", "tools-uid"), "namespace_unknown");
    scene.call("ADD", "tools", "web", "named").expect("passes");
    // Another root: whoever answers there is not believed.
    let root = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate").cert.pem();
    let server = text.split("\"server\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a server");
    server::kubeconfig(scene.folder.path(), server, &root);
    assert_eq!(scene.refusal("ADD", "tools", "web", "tools-uid"), "namespace_unknown");
    // A kubeconfig that others can read is not used.
    std::fs::write(&scene.kubeconfig, text).expect("written");
    scene.call("ADD", "tools", "web", "tools-uid").expect("passes");
    std::fs::set_permissions(&scene.kubeconfig, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("changed");
    assert_eq!(scene.refusal("ADD", "tools", "web", "tools-uid"), "namespace_unknown");
}

#[test]
fn a_pod_that_was_the_meshs_is_not_let_through_because_the_api_server_is_silent_the_next_time() {
    let mut scene = Scene::new();
    // Its namespace is outside, as far as the agent has heard.
    scene.knows("{\"namespaces\":{\"shop\":false}}");
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "agent_unreachable");
    let folder = std::fs::metadata(scene.folder.path().join("asked")).expect("noted");
    let mode = std::os::unix::fs::MetadataExt::mode(&folder);
    assert_eq!(mode & 0o777, 0o700, "the agent would not use a folder that others can look into");
    let nobody = Scene::without_api();
    scene.kubeconfig.clone_from(&nobody.kubeconfig);
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "agent_unreachable");
    scene.call("ADD", "shop", "other", "other-uid").expect("nobody has said that it is the mesh's");
    // The runtime takes down what could not be added, before kubelet tries again.
    scene.call("DEL", "shop", "web", "shop-uid").expect("gone");
    assert_eq!(scene.refusal("ADD", "shop", "web", "shop-uid"), "agent_unreachable");
    // The control plane's word about this very pod.
    scene.knows("{\"pods\":{\"shop-uid\":false},\"namespaces\":{\"shop\":false}}");
    scene.call("ADD", "shop", "web", "shop-uid").expect("it is not the mesh's any more");
    // Where nothing can be noted, nothing is promised.
    assert_eq!(scene.refusal("ADD", "shop", "web", "../known.json"), "namespace_unknown");
}

#[test]
fn del_never_fails() {
    let scene = Scene::new();
    let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=shop-uid";
    for netns in ["/proc/self/ns/net", "", "/nowhere"] {
        for previous in [PREVIOUS, "null"] {
            assert_eq!(scene.call_with("DEL", arguments, netns, previous).expect("gone"), "");
        }
    }
    let environment = Environment::from([("CNI_COMMAND".to_owned(), "DEL".to_owned())]);
    assert_eq!(run(&environment, b"no configuration").expect("gone"), b"");
    // Without the namespace it could be the pod's next sandbox that is withdrawn.
    let asked = scene.agent(bad("system_call_failed"));
    scene.call_with("DEL", arguments, "", PREVIOUS).expect("gone");
    assert_eq!(heard(&asked), []);
    scene.call("DEL", "shop", "web", "shop-uid").expect("gone");
    assert_eq!(heard(&asked).len(), 1);
}

#[test]
fn versions_and_environment_are_as_the_specification_says() {
    let only = |command: &str| Environment::from([("CNI_COMMAND".to_owned(), command.to_owned())]);
    let answer = run(&only("VERSION"), b"{\"cniVersion\":\"0.4.0\"}").expect("answered");
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    let versions = serde_json::json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(answer, serde_json::json!({"cniVersion": "0.4.0", "supportedVersions": versions}));
    let netconf = b"{\"cniVersion\":\"1.0.0\",\"prevResult\":{}}";
    for (environment, expected) in [(Environment::default(), 4), (only("ADD"), 4), (only("LIST"), 4)] {
        assert_eq!(run(&environment, netconf).expect_err("refused").code, expected);
    }
    assert_eq!(run(&only("ADD"), b"{\"cniVersion\":\"9.0.0\"}").expect_err("refused").code, 1);
    assert_eq!(run(&only("STATUS"), netconf).expect("good"), b"");
    assert_eq!(run(&only("GC"), netconf).expect("good"), b"");
    let failure: serde_json::Value = serde_json::from_slice(&Failure::wait("why", "what").json()).expect("JSON");
    let text = "culvert: the pod waits: why";
    assert_eq!(failure, serde_json::json!({"cniVersion": "1.0.0", "code": 11, "msg": text, "details": "what"}));
    assert!(Path::new("/proc/self/ns/net").exists(), "the scene's namespace");
}
