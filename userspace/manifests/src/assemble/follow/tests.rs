//! Following single objects gives what assembling everything gives.

use std::collections::BTreeMap;

use culvert_identity::TrustDomain;
use serde_json::{Value, json};

use super::*;
use crate::catalog::Live;

/// A sequence of numbers that is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

fn overrides() -> MeshOverrides {
    MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec!["10.0.0.0/8".parse().unwrap()],
    }
}

fn pod(dice: &mut Dice) -> Value {
    let (name, life, app) = (dice.roll(12), dice.roll(2), dice.roll(3));
    let namespace = dice.one(&["shop", "plain", "unseen"]);
    // Now and then two pods say that they are the same one.
    let uid = if dice.roll(40) == 0 { "twin".to_owned() } else { format!("{namespace}-{name}-{life}") };
    let status = match dice.roll(4) {
        0 => json!({"phase": "Pending"}),
        _ => json!({"phase": "Running", "podIP": format!("10.0.0.{}", dice.roll(20)),
            "conditions": [{"type": "Ready", "status": if dice.roll(2) == 0 { "True" } else { "False" }}]}),
    };
    // Most say nothing themselves.
    let labels = match dice.roll(5) {
        0 => json!({"app": format!("a{app}"), "culvert.dev/enroll": dice.one(&["true", "false"])}),
        _ => json!({"app": format!("a{app}")}),
    };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{name}"), "namespace": namespace, "uid": uid, "labels": labels},
        "spec": {"nodeName": format!("n{}", dice.roll(3)), "containers": [{"name": "c"}]}, "status": status})
}

fn policy(dice: &mut Dice) -> Value {
    let (kind, spec) = match dice.roll(2) {
        0 => ("AuthorizationPolicy", json!({"action": dice.one(&["ALLOW", "DENY"]), "rules": [{}]})),
        _ => ("PeerAuthentication", json!({"mtls": {"mode": dice.one(&["STRICT", "PERMISSIVE", "no mode"])}})),
    };
    json!({"apiVersion": "security.istio.io/v1", "kind": kind,
        "metadata": {"name": format!("q{}", dice.roll(3)), "namespace": "shop", "uid": "q"}, "spec": spec})
}

fn rest(dice: &mut Dice) -> Value {
    match dice.roll(3) {
        0 => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plain",
            "labels": {"culvert.dev/enroll": dice.one(&["true", "false"])}}}),
        1 => json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a", "namespace": "shop"}}),
        _ => {
            let app = dice.roll(3);
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{app}"), "namespace": "shop"},
                "spec": {"clusterIP": format!("10.96.0.{app}"), "selector": {"app": format!("a{app}")},
                    "ports": [{"port": 80 + dice.roll(2)}]}})
        }
    }
}

fn reported(catalog: &Catalog, dice: &mut Dice) -> BTreeMap<WorkloadUid, Vec<IpAddr>> {
    let pods = catalog.of_kind(ObjectKind::Pod);
    let address = IpAddr::from([10, 1, 0, u8::try_from(dice.roll(200)).unwrap()]);
    let addresses = pods.filter_map(|(_, held)| match &held.object {
        Object::Pod(pod) => Some((pod.uid.clone(), vec![address])),
        _ => None,
    });
    addresses.collect()
}

#[test]
fn what_is_followed_is_what_would_be_assembled() {
    let (mut followed, mut anew, mut turned) = (0, 0, 0);
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut catalog = Catalog::of_api_server(Live::default());
        for name in ["shop", "plain"] {
            catalog.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
                "labels": {"culvert.dev/enroll": if name == "shop" { "true" } else { "false" }}}}));
        }
        let mut known = BTreeMap::new();
        let (assembly, mut frame) = Frame::assemble(&catalog, &overrides(), &known);
        let mut state = assembly.state;
        for _ in 0..60 {
            let mut changed = Changed::new();
            for _ in 0..=dice.roll(4) {
                let object = match dice.roll(12) {
                    0 => rest(&mut dice),
                    1 | 2 => policy(&mut dice),
                    _ => pod(&mut dice),
                };
                let key = ObjectKey::of(&object).unwrap();
                let before = catalog.share(&key);
                match dice.roll(3) {
                    0 => drop(catalog.remove(&key)),
                    _ => drop(catalog.put(&object)),
                }
                changed.entry(key).or_insert(before);
            }
            // Reports count for the pods that changed; those of others stay as they were.
            for (uid, addresses) in reported(&catalog, &mut dice) {
                let of_others = catalog.of_kind(ObjectKind::Pod).any(|(key, held)| {
                    !changed.contains_key(key) && matches!(&held.object, Object::Pod(pod) if pod.uid == uid)
                });
                if !of_others {
                    known.insert(uid, addresses);
                }
            }
            let (expected, next_frame) = Frame::assemble(&catalog, &overrides(), &known);
            match frame.follow(&state, &catalog, &changed, &known) {
                Some(next) => {
                    followed += 1;
                    turned += u32::from(next.namespaces.told() != state.namespaces.told());
                    assert_eq!(next, expected.state, "seed {seed}, changed {:?}", changed.keys().collect::<Vec<_>>());
                    state = next;
                }
                None => {
                    anew += 1;
                    (state, frame) = (expected.state, next_frame);
                }
            }
        }
    }
    assert!(followed > 1000 && anew > 50, "{followed} followed, {anew} assembled anew");
    assert!(turned > 30, "a pod's own label turned what is said of its namespace {turned} times");
}

#[test]
fn records_that_do_not_change_stay_the_same_objects() {
    let mut catalog = Catalog::of_api_server(Live::default());
    catalog.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    let pod = |name: &str, node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]}})
    };
    catalog.put(&pod("a", "n1"));
    catalog.put(&pod("b", "n1"));
    let (assembly, frame) = Frame::assemble(&catalog, &overrides(), &BTreeMap::new());
    let key = ObjectKey::of(&pod("a", "n2")).unwrap();
    let before = catalog.share(&key);
    catalog.put(&pod("a", "n2"));
    let changed = Changed::from([(key, before)]);
    let next = frame.follow(&assembly.state, &catalog, &changed, &BTreeMap::new()).unwrap();
    let record = |state: &State, uid: &str| Arc::clone(&state.workloads[&WorkloadUid::new(uid)]);
    assert_eq!(&*record(&next, "a").node, "n2");
    assert!(Arc::ptr_eq(&record(&next, "b"), &record(&assembly.state, "b")));
    assert!(Arc::ptr_eq(&next.authorization, &assembly.state.authorization));
    assert!(Arc::ptr_eq(next.namespaces.told(), assembly.state.namespaces.told()));
}
