//! What is said of a policy in its own status. Pure.

use std::collections::{BTreeSet, HashMap};

use culvert_manifests::{Held, Object, Standing, State};
use culvert_policy::{
    AuthorizationPolicy, Inexact, MeshSettings, PeerAuthentication, PolicyName, RuleSet, RuleVerdict, Selector,
    Subject, TrustDomains, WhyIgnored, without_effect,
};
use culvert_workload::{Phase, Protocol, Workload};
use serde_json::{Value, json};

/// One condition, without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// All that is said of one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) conditions: Vec<Condition>,
    /// Rules that L4 cannot evaluate as they are written.
    pub(super) ineffective: Vec<Value>,
}

/// Which nodes a policy concerns, and which of them enforce it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Nodes {
    /// Nodes with an enrolled pod that it selects.
    pub(super) concerned: BTreeSet<String>,
    /// Those of them that have said that they enforce it.
    pub(super) enforcing: BTreeSet<String>,
}

/// Judges an object. `errors`: why it is refused. `held`: what stands for it, if anything.
pub(super) fn judge(held: Option<&Held>, errors: &[String], nodes: &Nodes, state: &State) -> Said {
    let mut ineffective = Vec::new();
    let enforced = match held.map(|held| (&held.object, held.standing)) {
        None => no("Invalid", "it is left out: it has no last good version".to_owned()),
        Some((object, Standing::Invalid)) => no("Invalid", format!("{}; {}", progress(nodes), object.while_broken())),
        Some((_, Standing::LastGood)) => no("Invalid", "its last good version stays in force".to_owned()),
        Some((Object::RequestAuthentication, _)) => {
            no("NoL7Layer", "tokens are seen by a waypoint only, and there is none: nothing is enforced".to_owned())
        }
        Some((Object::AuthorizationPolicy(policy), _)) if policy.selector == Selector::Waypoint => waypoint(),
        Some((Object::PeerAuthentication(policy), _)) if policy.selector == Selector::Waypoint => waypoint(),
        Some((Object::AuthorizationPolicy(policy), _)) => {
            let inexact = inexact(policy, &settings(state));
            ineffective = inexact.iter().map(rule).collect();
            let dry_run = policy.dry_run.then_some("it is a dry run: evaluated and reported, never enforced");
            let unseen: Vec<String> = inexact.iter().map(sentence).collect();
            acknowledged(nodes, dry_run.into_iter().map(str::to_owned).chain(unseen))
        }
        Some((Object::PeerAuthentication(policy), _)) => match overruled(policy, state) {
            Some(why) => no("Overruled", why),
            None => acknowledged(nodes, std::iter::empty()),
        },
        Some(_) => acknowledged(nodes, std::iter::empty()),
    };
    Said { conditions: vec![accepted(errors), enforced], ineffective }
}

fn overruled(policy: &PeerAuthentication, state: &State) -> Option<String> {
    let namespace = &policy.name.namespace;
    let first = PolicyName::new(namespace, "");
    let neighbours = state.authentication.range(first..).take_while(|(name, _)| name.namespace == *namespace);
    let why = without_effect(&state.mesh.root_namespace, policy, neighbours.map(|(_, object)| object))?;
    Some(match why {
        WhyIgnored::Older(winner) => format!("{winner} is older: of one scope the oldest holds"),
        WhyIgnored::SelectorInRootNamespace => {
            "it selects labels in the root namespace, where only mesh-wide objects count".to_owned()
        }
    })
}

fn accepted(errors: &[String]) -> Condition {
    let (status, reason, message) = match errors {
        [] => ("True", "Valid", "understood as it is written".to_owned()),
        _ => ("False", "Invalid", errors.join("; ")),
    };
    Condition { kind: "Accepted", status, reason, message }
}

fn no(reason: &'static str, message: String) -> Condition {
    Condition { kind: "Enforced", status: "False", reason, message }
}

fn waypoint() -> Condition {
    no("NoL7Layer", "targetRefs are a waypoint's business, and there is none: no layer holds it".to_owned())
}

fn progress(nodes: &Nodes) -> String {
    format!("{}/{} nodes at L4", nodes.enforcing.len(), nodes.concerned.len())
}

/// `more`: what a reader should know although the policy is enforced.
fn acknowledged(nodes: &Nodes, more: impl Iterator<Item = String>) -> Condition {
    let more: Vec<String> = more.collect();
    let missing: Vec<&str> = nodes.concerned.difference(&nodes.enforcing).map(String::as_str).collect();
    let (status, reason) = match (nodes.concerned.is_empty(), missing.is_empty(), more.is_empty()) {
        (true, ..) => ("True", "NoWorkloads"),
        (false, false, _) => ("False", "NotAllNodes"),
        (false, true, true) => ("True", "Enforced"),
        (false, true, false) => ("True", "Inexact"),
    };
    let mut message = progress(nodes);
    if nodes.concerned.is_empty() {
        message.push_str(": it selects no enrolled pod");
    }
    if !missing.is_empty() {
        message.push_str(&format!(", waiting for {}", missing.into_iter().take(5).collect::<Vec<_>>().join(", ")));
    }
    for text in more {
        message.push_str("; ");
        message.push_str(&text);
    }
    Condition { kind: "Enforced", status, reason, message }
}

/// The enrolled pods that have a node, by namespace: a policy looks at those of its own, not at each of a large mesh.
pub(super) struct Enrolled<'s> {
    settings: MeshSettings,
    by_namespace: HashMap<&'s str, Vec<&'s Workload>>,
}

impl<'s> Enrolled<'s> {
    pub(super) fn of(state: &'s State) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&Workload>> = HashMap::new();
        for pod in state.workloads.values() {
            if pod.protocol == Protocol::Hbone && pod.phase != Phase::Ended && !pod.node.is_empty() {
                by_namespace.entry(&pod.namespace).or_default().push(pod);
            }
        }
        Self { settings: settings(state), by_namespace }
    }

    /// The nodes with a pod that the policy selects.
    pub(super) fn nodes(&self, namespace: &str, selector: &Selector) -> BTreeSet<String> {
        let selects = |pod: &&Workload| {
            let services = pod.own_services();
            let subject = Subject { namespace: &pod.namespace, labels: &pod.labels, services: &services };
            self.settings.selects(namespace, selector, subject)
        };
        let nodes = |pods: &[&Workload]| pods.iter().copied().filter(selects).map(|pod| pod.node.to_string()).collect();
        if namespace == &*self.settings.root_namespace {
            return self.by_namespace.values().flat_map(|pods| -> BTreeSet<String> { nodes(pods) }).collect();
        }
        self.by_namespace.get(namespace).map(|pods| nodes(pods)).unwrap_or_default()
    }
}

fn settings(state: &State) -> MeshSettings {
    let aliases = state.mesh.trust_domain_aliases.iter().map(culvert_identity::TrustDomain::as_str);
    let domains = TrustDomains::new(state.mesh.trust_domain.as_str(), aliases);
    MeshSettings { root_namespace: state.mesh.root_namespace.clone(), ..MeshSettings::new(domains) }
}

/// Rules that L4 takes for something else than is written: as the agents compile them.
fn inexact(policy: &AuthorizationPolicy, settings: &MeshSettings) -> Vec<Inexact> {
    let (mut labels, mut services) = (Default::default(), Vec::new());
    match &policy.selector {
        Selector::Labels(wanted) => labels = wanted.clone(),
        Selector::Services(names) => services.extend(names.iter().map(String::as_str)),
        Selector::Namespace | Selector::Waypoint => {}
    }
    let subject = Subject { namespace: &policy.name.namespace, labels: &labels, services: &services };
    RuleSet::compile(subject, settings, [policy], []).posture().inexact
}

fn word(verdict: RuleVerdict) -> &'static str {
    match verdict {
        RuleVerdict::Widened => "widened",
        RuleVerdict::Narrowed => "narrowed",
        RuleVerdict::Dead => "dead",
    }
}

fn rule(inexact: &Inexact) -> Value {
    json!({"rule": inexact.rule.rule, "layer": "L4", "verdict": word(inexact.verdict), "fields": inexact.fields})
}

fn sentence(inexact: &Inexact) -> String {
    let what = match inexact.verdict {
        RuleVerdict::Widened => "refuses more than is written",
        RuleVerdict::Narrowed => "lets in less than is written",
        RuleVerdict::Dead => "lets nothing in",
    };
    let (rule, verdict) = (inexact.rule.rule, word(inexact.verdict));
    format!("rules[{rule}] is {verdict} at L4, it {what}: unknown there are {}", inexact.fields.join(", "))
}

/// `namespace/name` and selector of a policy.
pub(super) fn selector(object: &Object) -> Option<(&PolicyName, &Selector)> {
    match object {
        Object::AuthorizationPolicy(policy) => Some((&policy.name, &policy.selector)),
        Object::PeerAuthentication(policy) => Some((&policy.name, &policy.selector)),
        _ => None,
    }
}

/// The status that says it, written over the one that is there: others' conditions stay, and so does the time of a
/// condition that has not changed. `None`: it is said already.
pub(super) fn status(said: &Said, before: &Value, generation: i64, now: &str) -> Option<Value> {
    let held = before["conditions"].as_array().cloned().unwrap_or_default();
    let ours = |condition: &Value| said.conditions.iter().any(|own| condition["type"] == own.kind);
    let mut conditions: Vec<Value> = held.iter().filter(|condition| !ours(condition)).cloned().collect();
    for own in &said.conditions {
        let old = held.iter().find(|condition| condition["type"] == own.kind);
        let since = old.filter(|old| old["status"] == own.status).map(|old| old["lastTransitionTime"].clone());
        conditions.push(json!({"type": own.kind, "status": own.status, "reason": own.reason, "message": own.message,
            "observedGeneration": generation, "lastTransitionTime": since.unwrap_or_else(|| now.into())}));
    }
    // A merge patch takes a field away by null.
    let ineffective = if said.ineffective.is_empty() { Value::Null } else { json!(said.ineffective) };
    let same = held == conditions
        && before["ineffectiveRules"] == ineffective
        && before["observedGeneration"].as_i64() == Some(generation);
    (!same)
        .then(|| json!({"conditions": conditions, "observedGeneration": generation, "ineffectiveRules": ineffective}))
}

#[cfg(test)]
mod tests;
