//! Rows: namespace, pod, `istioLabels`, verdict. The control plane's own reading is in `culvert-manifests`.

use crate::decide::{
    Object,
    Verdict::{self, Ask, Pass},
    decide,
};

fn object(text: &str) -> Object {
    serde_json::from_str(text).expect("an object")
}

fn labelled(label: &str) -> String {
    match label.split_once('=') {
        Some((key, value)) => format!("{{\"metadata\":{{\"labels\":{{{key:?}:{value:?}}}}}}}"),
        None => "{\"metadata\":{}}".to_owned(),
    }
}

fn verdict(namespace: &str, pod: &str, istio: bool) -> Verdict {
    decide(&object(&labelled(namespace)), &object(&labelled(pod)), istio)
}

#[test]
fn labels_of_namespace_and_pod_decide() {
    let (yes, no) = ("culvert.dev/enroll=true", "culvert.dev/enroll=false");
    let (ambient, none) = ("istio.io/dataplane-mode=ambient", "istio.io/dataplane-mode=none");
    for (namespace, pod, istio, expected) in [
        ("", "", false, Pass),
        (yes, "", false, Ask),
        (no, "", false, Pass),
        (yes, no, false, Pass),
        (no, yes, false, Ask),
        ("", yes, false, Ask),
        // What cannot be read is the control plane's to judge.
        ("culvert.dev/enroll=yes", "", false, Ask),
        (yes, "culvert.dev/enroll=", false, Ask),
        // Istio's label counts only where it is told to; otherwise both claim the pod, and nobody enrols it.
        (ambient, "", false, Pass),
        (ambient, yes, false, Pass),
        (yes, ambient, false, Pass),
        (ambient, "", true, Ask),
        (ambient, none, true, Pass),
        ("", ambient, true, Ask),
        (yes, none, true, Pass),
        (yes, none, false, Ask),
        (ambient, no, true, Pass),
        (no, ambient, true, Ask),
        ("istio.io/dataplane-mode=else", "", true, Pass),
    ] {
        assert_eq!(verdict(namespace, pod, istio), expected, "{namespace:?} {pod:?} {istio}");
    }
}

#[test]
fn annotations_count_where_no_label_speaks() {
    let annotated =
        |value: &str| object(&format!("{{\"metadata\":{{\"annotations\":{{\"culvert.dev/enroll\":{value:?}}}}}}}"));
    let both = r#"{"metadata":{"labels":{"culvert.dev/enroll":"false"},"annotations":{"culvert.dev/enroll":"true"}}}"#;
    assert_eq!(decide(&annotated("true"), &object("{}"), false), Ask);
    assert_eq!(decide(&annotated("true"), &annotated("false"), false), Pass);
    assert_eq!(decide(&object("{}"), &object(both), false), Pass);
}

#[test]
fn a_pod_with_a_proxy_of_its_own_passes() {
    let namespace = object(&labelled("culvert.dev/enroll=true"));
    for pod in [
        r#"{"spec":{"containers":[{"name":"app"},{"name":"istio-proxy"}]}}"#,
        r#"{"spec":{"containers":[{"name":"app"}],"initContainers":[{"name":"istio-proxy"}]}}"#,
        r#"{"metadata":{"annotations":{"sidecar.istio.io/status":"{}"}}}"#,
    ] {
        assert_eq!(decide(&namespace, &object(pod), false), Pass, "{pod}");
    }
    assert_eq!(decide(&namespace, &object(r#"{"spec":{"containers":[{"name":"app"}]}}"#), false), Ask);
    // As the API server writes what is empty.
    assert_eq!(decide(&namespace, &object(r#"{"metadata":{"labels":null},"spec":{"containers":null}}"#), false), Ask);
}
