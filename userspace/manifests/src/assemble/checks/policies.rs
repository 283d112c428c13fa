//! Policies beside the roster: names that nobody has, selectors that select nobody, rules that change nothing. All of it
//! is worth a warning and none of it an error: the pod that is named may come tomorrow.

use std::collections::BTreeMap;

use culvert_policy::{How, MeshSettings, PolicyName, Selector, Subject, TrustDomains, shadows};
use culvert_workload::Workload;

use super::{
    super::{State, View},
    names,
};
use crate::{
    complaint::Severity,
    kinds::Object,
    object::{ObjectKey, ObjectKind},
};

/// Most pairs of rules that are compared when looking for shadowed ones.
const PAIRS: usize = 200_000;

pub(super) fn check(view: &mut View<'_>, state: &State) {
    let settings = settings(state);
    selectors(view, state, &settings);
    names::check(view, state, &settings);
    shadowed(view, state, &settings);
}

fn settings(state: &State) -> MeshSettings {
    let mesh = &state.mesh;
    let aliases = mesh.trust_domain_aliases.iter().map(|alias| alias.as_str());
    let mut settings = MeshSettings::new(TrustDomains::new(mesh.trust_domain.as_str(), aliases));
    settings.root_namespace = mesh.root_namespace.clone();
    settings
}

fn selectors(view: &mut View<'_>, state: &State, settings: &MeshSettings) {
    let mut pods: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
    for pod in state.workloads.values() {
        pods.entry(&pod.namespace).or_default().push(pod);
    }
    for (key, held) in view.catalog.objects() {
        let selector = match &held.object {
            Object::AuthorizationPolicy(policy) => &policy.selector,
            Object::PeerAuthentication(policy) => &policy.selector,
            _ => continue,
        };
        let Selector::Labels(_) = selector else {
            continue;
        };
        let selected = |pod: &&Workload| {
            settings.selects(&key.namespace, selector, Subject { namespace: &pod.namespace, labels: &pod.labels })
        };
        let somebody = if *settings.root_namespace == *key.namespace {
            pods.values().flatten().any(selected)
        } else {
            pods.get(key.namespace.as_str()).into_iter().flatten().any(selected)
        };
        if !somebody {
            let text = "no pod has these labels: the policy concerns nobody".to_owned();
            let remedy = "compare it with the pods' labels";
            let at = Some((key, held));
            view.complain(Severity::Warning, at, "spec.selector.matchLabels", "selects_nothing", text, remedy);
        }
    }
}

fn shadowed(view: &mut View<'_>, state: &State, settings: &MeshSettings) {
    let found = shadows(state.authorization.values(), settings, PAIRS);
    for shadowed in found.rules {
        let PolicyName { namespace, name } = &shadowed.rule.policy;
        let Some(held) = view.get(ObjectKind::AuthorizationPolicy, namespace, name) else {
            continue;
        };
        let key = ObjectKey {
            kind: ObjectKind::AuthorizationPolicy,
            namespace: namespace.to_string(),
            name: name.to_string(),
        };
        let other = if shadowed.by.policy == shadowed.rule.policy {
            format!("spec.rules[{}]", shadowed.by.rule)
        } else {
            format!("spec.rules[{}] of {}", shadowed.by.rule, shadowed.by.policy)
        };
        let (text, remedy) = match shadowed.how {
            How::Repeated => (format!("{other} says as much already: this rule changes nothing"), "remove one of them"),
            How::Refused => {
                (format!("{other} denies whatever this rule lets in: it lets nothing in"), "narrow one of them")
            }
        };
        let field = format!("spec.rules[{}]", shadowed.rule.rule);
        view.complain(Severity::Warning, Some((&key, held)), &field, "shadowed_rule", text, remedy);
    }
    if found.incomplete {
        let text = format!("there are more than {PAIRS} pairs of rules: not all were looked at for shadowed ones");
        view.complain(Severity::Info, None, "", "not_all_compared", text, "");
    }
}
