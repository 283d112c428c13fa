use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::patch;

fn node(taints: Value) -> Value {
    json!({"metadata": {"name": "n1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:10Z"},
        "spec": {"taints": taints}})
}

#[test]
fn only_the_start_up_taint_goes() {
    let ours = json!({"key": "culvert.dev/agent-not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_611);
    let patch_of = |taints: Value| patch(&node(taints), later);
    assert_eq!(
        patch_of(json!([ours, other])),
        Some(json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}}))
    );
    assert_eq!(patch_of(json!([ours])).map(|patch| patch["spec"]["taints"].clone()), Some(Value::Null));
    assert_eq!(patch_of(json!([other])), None);
    assert_eq!(patch_of(Value::Null), None);
    assert_eq!(patch(&node(json!([ours])), later - Duration::from_secs(2)), None, "the report is of a former node");
}
