//! Policies beside the roster: names that nobody has, selectors that select nobody, rules that change nothing. All of it
//! is worth a warning and none of it an error: the pod that is named may come tomorrow.

use std::collections::BTreeMap;

use culvert_policy::{How, MeshSettings, PolicyName, Selector, Shadowed, Subject, TrustDomains, shadows};
use culvert_workload::Workload;

use super::{
    super::{State, View},
    MOST, NOT_ALL, names,
};
use crate::{
    complaint::Severity,
    kinds::Object,
    object::{ObjectKey, ObjectKind},
};

/// Most values of rules that are compared when looking for shadowed ones.
const VALUES: usize = 2_000_000;

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
    let found = shadows(state.authorization.values(), settings, VALUES);
    let mut of_policies: BTreeMap<PolicyName, Vec<Shadowed>> = BTreeMap::new();
    for shadowed in found.rules {
        of_policies.entry(shadowed.rule.policy.clone()).or_default().push(shadowed);
    }
    for (name, rules) in of_policies {
        let kind = ObjectKind::AuthorizationPolicy;
        let Some(held) = view.get(kind, &name.namespace, &name.name) else {
            continue;
        };
        let key = ObjectKey { kind, namespace: name.namespace.to_string(), name: name.name.to_string() };
        let at = Some((&key, held));
        for shadowed in rules.iter().take(MOST) {
            let field = format!("spec.rules[{}]", shadowed.rule.rule);
            let (text, remedy) = said(shadowed);
            view.complain(Severity::Warning, at, &field, "shadowed_rule", text, remedy);
        }
        let more = rules.len().saturating_sub(MOST);
        if more > 0 {
            let text = format!("{more} more of its rules change nothing");
            view.complain(Severity::Info, at, "spec.rules", "and_more", text, "mend these first");
        }
    }
    if found.incomplete {
        let text = format!("more than {VALUES} values of rules to compare: not all were looked at for shadowed rules");
        view.complain(Severity::Info, None, "", NOT_ALL, text, "");
    }
}

fn said(shadowed: &Shadowed) -> (String, &'static str) {
    let other = if shadowed.by.policy == shadowed.rule.policy {
        format!("spec.rules[{}]", shadowed.by.rule)
    } else {
        format!("spec.rules[{}] of {}", shadowed.by.rule, shadowed.by.policy)
    };
    match shadowed.how {
        How::Repeated => (format!("{other} says as much already: this rule changes nothing"), "remove one of them"),
        How::Refused => {
            (format!("{other} denies whatever this rule lets in: it lets nothing in"), "narrow one of them")
        }
    }
}
