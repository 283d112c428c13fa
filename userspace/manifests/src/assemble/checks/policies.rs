//! Policies beside the roster: names that nobody has, selectors that select nobody, rules that change nothing. All of it
//! is worth a warning and none of it an error: the pod that is named may come tomorrow.

use std::collections::BTreeMap;

use culvert_policy::{
    How, MeshSettings, PolicyName, Selector, Shadowed, Subject, TrustDomains, WhyIgnored, all_without_effect, shadows,
};
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
    overruled(view, state);
}

fn settings(state: &State) -> MeshSettings {
    let mesh = &state.mesh;
    let aliases = mesh.trust_domain_aliases.iter().map(|alias| alias.as_str());
    let mut settings = MeshSettings::new(TrustDomains::new(mesh.trust_domain.as_str(), aliases));
    settings.root_namespace = mesh.root_namespace.clone();
    settings
}

/// What is said of a policy that selects nobody: field, text and remedy.
type SelectsNothing = (&'static str, &'static str, &'static str);

const LABELS: SelectsNothing = (
    "spec.selector.matchLabels",
    "no pod has these labels: the policy concerns nobody",
    "compare it with the pods' labels",
);
const SERVICES: SelectsNothing = (
    "spec.targetRefs",
    "no pod is behind these services: the policy concerns nobody",
    "compare their names with the services of this namespace, and their selectors with the pods' labels",
);

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
        let (field, text, remedy) = match selector {
            Selector::Labels(_) => LABELS,
            Selector::Services(_) => SERVICES,
            Selector::Namespace | Selector::Waypoint => continue,
        };
        let selected = |pod: &&Workload| {
            let services = pod.own_services();
            let subject = Subject { namespace: &pod.namespace, labels: &pod.labels, services: &services };
            settings.selects(&key.namespace, selector, subject)
        };
        let somebody = if *settings.root_namespace == *key.namespace {
            pods.values().flatten().any(selected)
        } else {
            pods.get(key.namespace.as_str()).into_iter().flatten().any(selected)
        };
        if !somebody {
            view.complain(Severity::Warning, Some((key, held)), field, "selects_nothing", text.to_owned(), remedy);
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

/// Of one scope one PeerAuthentication holds. In files without `creationTimestamp` the first by its name.
fn overruled(view: &mut View<'_>, state: &State) {
    for (name, why) in all_without_effect(&state.mesh.root_namespace, state.authentication.values()) {
        let kind = ObjectKind::PeerAuthentication;
        let Some(held) = view.get(kind, &name.namespace, &name.name) else {
            continue;
        };
        let key = ObjectKey { kind, namespace: name.namespace.to_string(), name: name.name.to_string() };
        let (text, remedy) = match why {
            WhyIgnored::Older(winner) => (
                format!(
                    "{winner} is for the same pods and is older, or as old and before it by name: this one has no effect"
                ),
                "remove one of them",
            ),
            WhyIgnored::SelectorInRootNamespace => (
                "it selects labels in the root namespace, where only mesh-wide objects count: it has no effect"
                    .to_owned(),
                "move it into the namespace of the pods, or remove its selector",
            ),
        };
        view.complain(Severity::Warning, Some((&key, held)), "spec", "overruled", text, remedy);
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
