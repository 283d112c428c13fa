use std::sync::Arc;

use culvert_identity::SpiffeId;
use culvert_policy::{Connection, Peer, PolicyName};
use culvert_workload::ServiceName;

use super::Judge;
use crate::samples::{allow, ip, pod, snapshot};

fn call_by(account: &str) -> Connection {
    let id = SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{account}")).expect("an identity");
    Connection {
        peer: Peer::Authenticated(id),
        source_ip: ip("10.0.0.1"),
        destination_ip: ip("10.0.0.2"),
        destination_port: 80,
    }
}

#[test]
fn a_pod_of_which_nothing_is_known_refuses_everything() {
    assert!(!Judge::closed().decide(&call_by("client")).is_allow());
}

#[test]
fn only_what_concerns_the_pod_makes_a_new_rule_set() {
    let web = pod("web", "10.0.0.2");
    let before = snapshot([web.clone()], [], [allow("a", &["client"])]);
    let judge = Judge::renew(&Judge::closed(), &before, &web).expect("the first rule set");
    assert!(judge.decide(&call_by("client")).is_allow());

    let mut elsewhere = allow("b", &["client"]);
    elsewhere.name = PolicyName::new("other", "b");
    let unrelated = snapshot([web.clone()], [], [allow("a", &["client"]), elsewhere]);
    assert!(Judge::renew(&judge, &unrelated, &web).is_none(), "a policy of another namespace");

    let mut rooted = allow("c", &["client"]);
    rooted.name = PolicyName::new("istio-system", "c");
    let related = snapshot([web.clone()], [], [allow("a", &["other"]), rooted]);
    let judge = Judge::renew(&judge, &related, &web).expect("the root namespace concerns everybody");
    assert!(judge.decide(&call_by("client")).is_allow());

    let gone = snapshot([web.clone()], [], [allow("a", &["other"])]);
    let judge = Judge::renew(&judge, &gone, &web).expect("a policy went");
    assert!(judge.objection(&call_by("client")).is_some());
}

#[test]
fn a_label_that_brings_a_policy_makes_a_new_rule_set() {
    let mut web = pod("web", "10.0.0.2");
    let mut policy = allow("a", &["client"]);
    policy.selector = culvert_policy::Selector::Labels([("tier".to_owned(), "front".to_owned())].into());
    let state = Arc::new(snapshot([web.clone()], [], [policy]));
    let judge = Judge::of(&state, &web);
    assert!(judge.objection(&call_by("client")).is_some(), "not selected: default deny");
    web.labels.insert("tier".to_owned(), "front".to_owned());
    let judge = Judge::renew(&judge, &state, &web).expect("now it is selected");
    assert!(judge.objection(&call_by("client")).is_none());
}

#[test]
fn a_policy_for_a_service_concerns_the_pods_behind_it_while_they_are() {
    let mut web = pod("web", "10.0.0.2");
    let mut policy = allow("a", &["client"]);
    policy.selector = culvert_policy::Selector::Services(["front".to_owned()].into());
    let state = Arc::new(snapshot([web.clone()], [], [policy]));
    let judge = Judge::of(&state, &web);
    assert!(judge.objection(&call_by("client")).is_some(), "not selected: default deny");
    let service = |namespace: &str| ServiceName { namespace: namespace.into(), name: "front".into() };
    web.services = vec![service("bank")];
    assert!(Judge::renew(&judge, &state, &web).is_none(), "another namespace's service");
    web.services.push(service(&web.namespace));
    let judge = Judge::renew(&judge, &state, &web).expect("now it is behind the service");
    assert!(judge.objection(&call_by("client")).is_none());
}

#[test]
fn a_policy_that_says_something_else_makes_a_new_rule_set() {
    let web = pod("web", "10.0.0.2");
    let judge = Judge::of(&snapshot([web.clone()], [], [allow("a", &["client"])]), &web);
    let equal = snapshot([web.clone()], [], [allow("a", &["client"])]);
    assert!(Judge::renew(&judge, &equal, &web).is_none(), "nothing has changed");
    let changed = snapshot([web.clone()], [], [allow("a", &["other"])]);
    let judge = Judge::renew(&judge, &changed, &web).expect("the same policy, another rule");
    assert!(judge.objection(&call_by("client")).is_some());
}

#[test]
fn other_settings_of_the_mesh_make_a_new_rule_set() {
    let web = pod("web", "10.0.0.2");
    let before = snapshot([web.clone()], [], []);
    let judge = Judge::of(&before, &web);
    assert!(judge.objection(&call_by("client")).is_some(), "default deny");
    let mut open = before;
    let mut settings = (*open.settings).clone();
    settings.default_action = culvert_policy::DefaultAction::Allow;
    open.settings = Arc::new(settings);
    let judge = Judge::renew(&judge, &open, &web).expect("the mesh's settings concern everybody");
    assert!(judge.objection(&call_by("client")).is_none());
}
