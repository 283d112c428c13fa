//! What comes from outside: netconf, arguments, the API server's answers, the agent's list.

use std::{fs, os::unix::fs::PermissionsExt as _};

use culvert_handover::known::Known;

use crate::{
    call::{Environment, PodName},
    decide::Verdict,
    failure::code,
    http, known,
    netconf::{MAX_NETCONF, NetConf},
};

#[test]
fn a_netconf_is_read_with_its_defaults() {
    let text = br#"{"cniVersion":"1.0.0","name":"net","type":"culvert-cni","unknown":1,"prevResult":{"interfaces":
        [{"name":"cni0"},{"name":"veth1","sandbox":""},{"name":"eth0","sandbox":"/run/netns/x"}]}}"#;
    let conf = NetConf::parse(text).expect("good");
    assert_eq!(conf.socket.to_str(), Some("/run/culvert/enrol.sock"));
    assert_eq!(conf.known.to_str(), Some("/run/culvert/known.json"));
    assert!(conf.kubeconfig.is_none() && conf.exclude_namespaces.is_empty() && !conf.istio_labels);
    assert_eq!(conf.host_interfaces(), ["cni0", "veth1"]);
}

#[test]
fn a_netconf_that_is_none_is_refused_with_its_code() {
    for (text, expected) in [
        ("", code::DECODE),
        ("\"x\"", code::DECODE),
        ("{\"cniVersion\":1}", code::DECODE),
        ("{\"cniVersion\":\"1.0.0\",\"excludeNamespaces\":\"kube-system\"}", code::DECODE),
        ("{}", code::INCOMPATIBLE),
        ("{\"cniVersion\":\"0.2.0\"}", code::INCOMPATIBLE),
        ("{\"cniVersion\":\"2.0.0\"}", code::INCOMPATIBLE),
    ] {
        assert_eq!(NetConf::parse(text.as_bytes()).expect_err(text).code, expected, "{text}");
    }
    let long = vec![b' '; MAX_NETCONF + 1];
    assert_eq!(NetConf::parse(&long).expect_err("too long").code, code::DECODE);
    for text in ["{\"cniVersion\":\"1.0.0\"}", "{\"cniVersion\":\"1.0.0\",\"prevResult\":null}"] {
        let error = NetConf::parse(text.as_bytes()).expect("good").previous().expect_err("not chained");
        assert_eq!(error.code, code::CONFIG);
    }
}

#[test]
fn the_pod_is_read_from_the_arguments() {
    let pod = |arguments: &str| Environment::from([("CNI_ARGS".to_owned(), arguments.to_owned())]).pod();
    let expected = |uid: Option<&str>| PodName {
        namespace: "shop".to_owned(),
        name: "web-0.a".to_owned(),
        uid: uid.map(str::to_owned),
    };
    let full =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0.a;K8S_POD_INFRA_CONTAINER_ID=1;K8S_POD_UID=u-1";
    assert_eq!(pod(full), Some(expected(Some("u-1"))));
    assert_eq!(pod("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0.a"), Some(expected(None)));
    for none in [
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAMESPACE=shop",
        "K8S_POD_NAMESPACE=;K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=../../nodes;K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web?watch=1",
    ] {
        assert_eq!(pod(none), None, "{none}");
    }
}

#[test]
fn answers_of_an_api_server_are_read_whole_or_not_at_all() {
    let body = |text: &str| http::parse(text.as_bytes()).map(|answer| (answer.status, answer.body));
    let good = |status, text: &str| (status, text.as_bytes().to_vec());
    assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").expect("good"), good(200, "{}"));
    assert_eq!(body("HTTP/1.1 404 Not Found\r\n\r\n{}").expect("good"), good(404, "{}"));
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\nA;x=y\r\n\":12345678\r\n1\r\n}\r\n0\r\n\r\n";
    assert_eq!(body(chunked).expect("good"), good(200, "{\"a\":12345678}"));
    for cut in 0..chunked.len() - 5 {
        body(&chunked[..cut]).expect_err("cut off");
    }
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n",
        "nothing of the kind",
    ] {
        body(text).expect_err(text);
    }
}

#[test]
fn the_agents_list_knows_pods_and_namespaces() {
    let known = Known {
        pods: [("in".to_owned(), true), ("out".to_owned(), false)].into(),
        namespaces: [("shop".to_owned(), true), ("tools".to_owned(), false)].into(),
    };
    let pod = |namespace: &str, uid: Option<&str>| PodName {
        namespace: namespace.to_owned(),
        name: "web".to_owned(),
        uid: uid.map(str::to_owned),
    };
    let verdict = |pod| known::verdict(&known, &pod, false, true);
    assert_eq!(verdict(pod("tools", Some("in"))), Some(Verdict::Ask), "the pod itself goes before its namespace");
    assert_eq!(verdict(pod("shop", Some("out"))), Some(Verdict::Pass));
    assert_eq!(verdict(pod("shop", Some("new"))), Some(Verdict::Ask));
    assert_eq!(verdict(pod("tools", None)), Some(Verdict::Pass));
    assert_eq!(verdict(pod("elsewhere", Some("new"))), None);
}

#[test]
fn a_list_that_others_can_write_is_not_believed() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("known.json");
    fs::write(&path, "{\"namespaces\":{\"shop\":false}}").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    assert_eq!(Known::read(&path).expect("good").namespaces, [("shop".to_owned(), false)].into());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("changed");
    Known::read(&path).expect_err("others can write it");
    let known = Known { pods: [("a".to_owned(), true)].into(), ..Known::default() };
    known.write(&path).expect("in its place");
    assert_eq!(Known::read(&path).expect("good"), known);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing is left beside it");
}
