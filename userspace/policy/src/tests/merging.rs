//! PeerAuthentication: scopes, inheritance, ports, ties.

use serde_json::{Value, json};

use super::{World, accepted, from, object};
use crate::{EffectiveMtls, MtlsMode, PeerAuthentication, WhyIgnored, istio::Policy, without_effect};

fn peers(namespace: &str, name: &str, created: &str, spec: Value) -> PeerAuthentication {
    let mut object = object("PeerAuthentication", namespace, name, spec);
    object["metadata"]["creationTimestamp"] = json!(created);
    match accepted(&object).policy {
        Policy::Authentication(policy) => policy,
        Policy::Authorization(_) => panic!("a PeerAuthentication"),
    }
}

fn mode(mode: &str) -> Value {
    json!({ "mtls": { "mode": mode } })
}

fn labelled(mut spec: Value) -> Value {
    spec["selector"] = json!({ "matchLabels": { "app": "web" } });
    spec
}

const EARLY: &str = "2024-01-01T00:00:00Z";
const LATE: &str = "2024-01-01T00:00:01Z";

fn compose(objects: &[PeerAuthentication]) -> EffectiveMtls {
    EffectiveMtls::compose("istio-system", crate::DefaultMode::Permissive, objects)
}

#[test]
fn narrower_scopes_win_and_unset_inherits() {
    let mesh = peers("istio-system", "mesh", EARLY, mode("STRICT"));
    let namespace = peers("shop", "ns", EARLY, mode("PERMISSIVE"));
    let unset = peers("shop", "ns", EARLY, json!({}));
    let workload = peers("shop", "web", EARLY, labelled(mode("DISABLE")));
    assert_eq!(compose(&[]).mode, MtlsMode::Permissive);
    assert_eq!(compose(std::slice::from_ref(&mesh)).mode, MtlsMode::Strict);
    assert_eq!(compose(&[namespace.clone(), mesh.clone()]).mode, MtlsMode::Permissive);
    assert_eq!(compose(&[mesh.clone(), unset]).mode, MtlsMode::Strict);
    assert_eq!(compose(&[workload.clone(), namespace, mesh]).mode, MtlsMode::Disable);
}

#[test]
fn the_oldest_of_a_scope_wins_and_the_name_breaks_ties() {
    let old = peers("shop", "z-old", EARLY, mode("STRICT"));
    let new = peers("shop", "a-new", LATE, mode("PERMISSIVE"));
    let merged = compose(&[new.clone(), old.clone()]);
    assert_eq!(merged.mode, MtlsMode::Strict);
    assert_eq!(merged.ignored.len(), 1);
    assert_eq!(merged.ignored[0].name, new.name);
    assert_eq!(merged.ignored[0].why, WhyIgnored::Older(old.name));
    let tied = [peers("shop", "b", EARLY, mode("PERMISSIVE")), peers("shop", "a", EARLY, mode("STRICT"))];
    assert_eq!(compose(&tied).mode, MtlsMode::Strict);
}

#[test]
fn a_selector_in_the_root_namespace_is_ignored_and_reported() {
    let rooted = peers("istio-system", "web", EARLY, labelled(mode("STRICT")));
    let merged = compose(std::slice::from_ref(&rooted));
    assert_eq!(merged.mode, MtlsMode::Permissive);
    assert_eq!(merged.ignored[0].why, WhyIgnored::SelectorInRootNamespace);
    let empty = peers("istio-system", "all", EARLY, json!({ "selector": {}, "mtls": { "mode": "STRICT" } }));
    assert_eq!(compose(&[empty]).mode, MtlsMode::Strict);
}

#[test]
fn what_has_no_effect_anywhere_is_told_without_looking_at_workloads() {
    let old = peers("shop", "z-old", EARLY, mode("PERMISSIVE"));
    let new = peers("shop", "a-new", LATE, mode("STRICT"));
    let labelled_new = peers("shop", "web", LATE, labelled(mode("STRICT")));
    let labelled_old = peers("shop", "web-old", EARLY, labelled(mode("STRICT")));
    let mut api = peers("shop", "api", LATE, labelled(mode("STRICT")));
    api.selector = crate::Selector::Labels([("app".to_owned(), "api".to_owned())].into());
    let elsewhere = peers("bank", "a", EARLY, mode("STRICT"));
    let rooted = peers("istio-system", "web", EARLY, labelled(mode("STRICT")));
    let all = [&old, &new, &labelled_new, &labelled_old, &api, &elsewhere, &rooted];
    let why = |object| without_effect("istio-system", object, all.iter().copied());
    assert_eq!(why(&new), Some(WhyIgnored::Older(old.name.clone())));
    assert_eq!(why(&labelled_new), Some(WhyIgnored::Older(labelled_old.name.clone())));
    assert_eq!(why(&rooted), Some(WhyIgnored::SelectorInRootNamespace));
    for effective in [&old, &labelled_old, &api, &elsewhere] {
        assert_eq!(why(effective), None, "{}", effective.name);
    }
    let together = crate::all_without_effect("istio-system", all);
    let mut one_by_one: Vec<_> = all.iter().filter_map(|object| why(object).map(|why| (&object.name, why))).collect();
    one_by_one.sort_by_key(|(name, _)| *name);
    assert_eq!(together, one_by_one);
    let broken = crate::PeerAuthentication { invalid: Some("broken".into()), ..old.clone() };
    assert_eq!(without_effect("istio-system", &new, [&broken, &new]), None, "what is broken takes no part");
}

#[test]
fn ports_come_with_their_object_and_inherit_the_result() {
    let spec = json!({
        "mtls": { "mode": "STRICT" },
        "portLevelMtls": { "80": { "mode": "PERMISSIVE" }, "81": { "mode": "DISABLE" }, "82": { "mode": "UNSET" }, "83": {} },
    });
    let merged = compose(&[peers("shop", "web", EARLY, labelled(spec))]);
    let modes: Vec<_> = [80, 81, 82, 83, 84].into_iter().map(|port| merged.on(port).0).collect();
    use MtlsMode::{Disable, Permissive, Strict};
    assert_eq!(modes, [Permissive, Disable, Strict, Strict, Strict]);

    // A DISABLE port keeps its exception under a STRICT parent when the workload itself says nothing.
    let world = World::new()
        .with_peers("ns", mode("STRICT"))
        .with_peers("web", labelled(json!({ "portLevelMtls": { "81": { "mode": "DISABLE" } } })));
    assert_eq!(world.answer(&from("").port(81)), "allow");
    assert_eq!(world.answer(&from("").port(80)), "peer_unauthenticated");
    assert_eq!(world.answer(&from("shop/web").port(80)), "allow");
}

#[test]
fn strict_comes_before_policies_and_names_its_object() {
    let world = World::new().with_peers("strict", mode("STRICT")).with("all", json!({ "rules": [{}] }));
    let denial = world.decide(&from("")).denial().cloned().expect("denied");
    assert_eq!(denial.reason.as_str(), "peer_unauthenticated");
    assert_eq!(denial.policy.map(|name| name.to_string()), Some("shop/strict".to_owned()));
}

#[test]
fn a_broken_peer_authentication_refuses_what_it_selects() {
    let broken = super::rejected(&object("PeerAuthentication", "shop", "broken", mode("strict")));
    let Policy::Authentication(stand_in) = broken.stand_in else { panic!("a PeerAuthentication") };
    let mut world = World::new();
    world.authentications.push(stand_in);
    assert_eq!(world.answer(&from("shop/web")), "policy_invalid");
}
