//! Warnings beyond Istio's: what is legal but probably not what was meant.

mod layers;
mod values;

use std::collections::HashSet;

use serde_json::Value;

use super::{Complaint, authorization};
use crate::{
    attribute::Attribute,
    model::{AuthorizationPolicy, Condition, Operation, Source},
};

/// Collects the hints for an AuthorizationPolicy.
pub(super) fn collect(object: &Value, warnings: &mut Vec<Complaint>) {
    let policy = authorization::read(object);
    for (r, rule) in policy.rules.iter().enumerate() {
        let at = format!("spec.rules[{r}]");
        for (i, source) in rule.from.iter().enumerate() {
            for (pair, check) in source_fields(source) {
                pair.check(&format!("{at}.from[{i}].source"), check, warnings);
            }
        }
        for (i, operation) in rule.to.iter().enumerate() {
            for (pair, check) in operation_fields(operation) {
                pair.check(&format!("{at}.to[{i}].operation"), check, warnings);
            }
        }
        for (i, condition) in rule.when.iter().enumerate() {
            check_condition(&format!("{at}.when[{i}]"), condition, warnings);
        }
    }
    warn_of_ignored_lists(object, warnings);
    layers::check(&policy, warnings);
    warn_of_dead_policy(&policy, object, warnings);
}

/// A field and its `not` twin.
struct Pair<'a> {
    names: [&'static str; 2],
    values: [&'a [String]; 2],
}

impl Pair<'_> {
    fn check(&self, at: &str, check: values::Check, warnings: &mut Vec<Complaint>) {
        for (name, values) in self.names.iter().zip(self.values) {
            values::check(&format!("{at}.{name}"), values, check, warnings);
        }
        let refused: HashSet<&String> = self.values[1].iter().collect();
        for value in self.values[0].iter().filter(|value| refused.contains(value)) {
            warnings.push(Complaint::new(
                format!("{at}.{}", self.names[0]),
                "contradiction",
                format!("{value:?} is also in {}: it can never match", self.names[1]),
                "remove it from one of the two",
            ));
        }
    }
}

fn pair<'a>(
    names: [&'static str; 2],
    yes: &'a [String],
    no: &'a [String],
    check: values::Check,
) -> (Pair<'a>, values::Check) {
    (Pair { names, values: [yes, no] }, check)
}

fn source_fields(s: &Source) -> [(Pair<'_>, values::Check); 7] {
    use values::Check::{Address, Name, Principal, Text};
    [
        pair(["principals", "notPrincipals"], &s.principals, &s.not_principals, Principal),
        pair(["requestPrincipals", "notRequestPrincipals"], &s.request_principals, &s.not_request_principals, Text),
        pair(["namespaces", "notNamespaces"], &s.namespaces, &s.not_namespaces, Text),
        pair(["serviceAccounts", "notServiceAccounts"], &s.service_accounts, &s.not_service_accounts, Name),
        pair(["trustDomains", "notTrustDomains"], &s.trust_domains, &s.not_trust_domains, Name),
        pair(["ipBlocks", "notIpBlocks"], &s.ip_blocks, &s.not_ip_blocks, Address),
        pair(["remoteIpBlocks", "notRemoteIpBlocks"], &s.remote_ip_blocks, &s.not_remote_ip_blocks, Address),
    ]
}

fn operation_fields(o: &Operation) -> [(Pair<'_>, values::Check); 4] {
    use values::Check::{Host, Method, Name, Path};
    [
        pair(["hosts", "notHosts"], &o.hosts, &o.not_hosts, Host),
        pair(["ports", "notPorts"], &o.ports, &o.not_ports, Name),
        pair(["methods", "notMethods"], &o.methods, &o.not_methods, Method),
        pair(["paths", "notPaths"], &o.paths, &o.not_paths, Path),
    ]
}

fn check_condition(at: &str, condition: &Condition, warnings: &mut Vec<Complaint>) {
    let check = match condition.key.as_str() {
        "source.principal" => values::Check::Principal,
        "source.ip" | "destination.ip" | "remote.ip" => values::Check::Address,
        "source.serviceAccount" | "source.trustDomain" | "destination.port" => values::Check::Name,
        _ => values::Check::Text,
    };
    let (pair, check) = pair(["values", "notValues"], &condition.values, &condition.not_values, check);
    pair.check(at, check, warnings);
    if condition.key.starts_with("experimental.envoy.filters.") {
        warnings.push(Complaint::new(
            format!("{at}.key"),
            "envoy_filter_key",
            format!(
                "{} is unknown at every layer: an ALLOW rule never matches by it, a DENY rule always may",
                condition.key
            ),
            "say it with another attribute",
        ));
    }
    if let Ok(Attribute::Other(key)) = Attribute::parse(&condition.key) {
        warnings.push(Complaint::new(
            format!("{at}.key"),
            "unknown_key_form",
            format!(
                "{key} names nothing that any layer sees: an ALLOW rule never matches by it, a DENY rule always may"
            ),
            "write the name in brackets right after request.headers or request.auth.claims",
        ));
    }
    let numeric = ["exp", "iat", "nbf"].iter().any(|claim| condition.key == format!("request.auth.claims[{claim}]"));
    if numeric && condition.values.iter().chain(&condition.not_values).any(|value| value != "*") {
        warnings.push(Complaint::new(
            at,
            "numeric_claim",
            format!("{} is a number, and values are compared with texts only", condition.key),
            "use \"*\": the claim is there",
        ));
    }
}

/// `principals: []` reads as if it limited something.
fn warn_of_ignored_lists(object: &Value, warnings: &mut Vec<Complaint>) {
    let rules = object.get("spec").and_then(|spec| authorization::list(spec, "rules"));
    for (r, rule) in rules.into_iter().flatten().enumerate() {
        for (name, inner) in [("from", "source"), ("to", "operation")] {
            for (i, entry) in authorization::list(rule, name).into_iter().flatten().enumerate() {
                let fields = entry.get(inner).and_then(Value::as_object).into_iter().flatten();
                for (field, _) in fields.filter(|(_, values)| values.as_array().is_some_and(Vec::is_empty)) {
                    warnings.push(Complaint::new(
                        format!("spec.rules[{r}].{name}[{i}].{inner}.{field}"),
                        "empty_list",
                        "an empty list is the same as no list: it limits nothing",
                        "fill it or leave it out",
                    ));
                }
            }
        }
    }
}

/// An ALLOW policy without rules refuses everything; somebody may have meant the opposite.
fn warn_of_dead_policy(policy: &AuthorizationPolicy, object: &Value, warnings: &mut Vec<Complaint>) {
    let written = object.get("spec").is_some_and(|spec| spec.get("rules").is_some());
    if policy.rules.is_empty() && written && policy.action == crate::model::Action::Allow {
        warnings.push(Complaint::new(
            "spec.rules",
            "no_rules",
            "an ALLOW policy without rules lets nothing in",
            "write `rules: [{}]` to let everything in, or `spec: {}` to say that nothing may enter",
        ));
    }
}
