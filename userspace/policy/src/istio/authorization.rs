//! AuthorizationPolicy.

use serde_json::Value;

use super::{Complaint, condition, selector};
use crate::{
    address::{AddressBlock, parse_port},
    attribute::{MAX_ACCOUNTS, check_account, check_trust_domain},
    model::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source},
    path::check_path,
};

/// What may stand in a field of a source or an operation.
type ValueCheck = fn(&str) -> Result<(), String>;

/// The fields of a source, and whether L4 sees them.
const SOURCE_FIELDS: [(&str, bool, ValueCheck); 14] = [
    ("principals", true, not_empty),
    ("notPrincipals", true, not_empty),
    ("requestPrincipals", false, not_empty),
    ("notRequestPrincipals", false, not_empty),
    ("namespaces", true, not_empty),
    ("notNamespaces", true, not_empty),
    ("serviceAccounts", true, account),
    ("notServiceAccounts", true, account),
    ("trustDomains", true, trust_domain),
    ("notTrustDomains", true, trust_domain),
    ("ipBlocks", true, address),
    ("notIpBlocks", true, address),
    ("remoteIpBlocks", false, address),
    ("notRemoteIpBlocks", false, address),
];
/// The fields of an operation.
const OPERATION_FIELDS: [(&str, bool, ValueCheck); 8] = [
    ("hosts", false, not_empty),
    ("notHosts", false, not_empty),
    ("ports", true, port),
    ("notPorts", true, port),
    ("methods", false, not_empty),
    ("notMethods", false, not_empty),
    ("paths", false, path),
    ("notPaths", false, path),
];
/// What CUSTOM rules may not use: they are evaluated before identities and tokens are known.
const NOT_WITH_CUSTOM: [&str; 10] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
];
/// What the webhook has against an AuthorizationPolicy.
pub(super) fn check(spec: &Value, complaints: &mut Vec<Complaint>, warnings: &mut Vec<Complaint>) {
    let action = spec.get("action").and_then(Value::as_str).unwrap_or("ALLOW");
    let rules = selector::present(spec, "rules").and_then(Value::as_array);
    check_action(spec, action, rules.is_some_and(|rules| !rules.is_empty()), complaints);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let at = format!("spec.rules[{index}]");
        if rule.is_null() {
            complaints.push(missing(
                &at,
                "null_rule",
                "`rule` must not be nil",
                "write {} for a rule that matches everything",
            ));
            continue;
        }
        check_list(rule, &at, "from", "source", &SOURCE_FIELDS, complaints);
        check_list(rule, &at, "to", "operation", &OPERATION_FIELDS, complaints);
        check_sources(rule, &at, complaints);
        for (i, condition) in list(rule, "when").into_iter().flatten().enumerate() {
            condition::check(&format!("{at}.when[{i}]"), condition, complaints);
        }
        if action == "CUSTOM" {
            check_custom(rule, &at, complaints);
        }
        if action == "DENY" {
            warn_wide_deny(rule, &at, warnings);
        }
    }
}

fn check_action(spec: &Value, action: &str, has_rules: bool, complaints: &mut Vec<Complaint>) {
    if matches!(action, "DENY" | "CUSTOM") && !has_rules {
        complaints.push(Complaint::new(
            "spec.rules",
            "action_without_rules",
            format!("{action} action without `rules` is meaningless as it will never be triggered"),
            "add an empty rule `{}` if it should be triggered by everything",
        ));
    }
    let provider = selector::present(spec, "provider");
    if action == "CUSTOM" {
        let name = provider.and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or_default();
        if has_rules && name.is_empty() {
            let field = "spec.provider.name";
            complaints.push(missing(
                field,
                "provider_missing",
                "`provider.name` must not be empty",
                "name the provider",
            ));
        }
    } else if provider.is_some() {
        complaints.push(Complaint::new(
            "spec.provider",
            "provider_without_custom",
            format!("`provider` must not be with non CUSTOM action, found {action}"),
            "remove the provider or write `action: CUSTOM`",
        ));
    }
}

/// `from` or `to`: present means not empty, each entry has its record, the record has a field.
fn check_list(
    rule: &Value,
    at: &str,
    name: &str,
    inner: &str,
    fields: &[(&str, bool, ValueCheck)],
    complaints: &mut Vec<Complaint>,
) {
    let Some(entries) = list(rule, name) else { return };
    if entries.is_empty() {
        let text = format!("`{name}` must not be empty");
        complaints.push(missing(&format!("{at}.{name}"), "empty_list", &text, "leave it out or fill it"));
    }
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{at}.{name}[{index}]");
        let Some(record) = selector::present(entry, inner) else {
            let what = if entry.is_null() { name.to_owned() } else { format!("{name}.{inner}") };
            let text = format!("`{what}` must not be nil");
            complaints.push(missing(&format!("{at}.{inner}"), "null_entry", &text, "fill it or remove the entry"));
            continue;
        };
        let at = format!("{at}.{inner}");
        if fields.iter().all(|(field, ..)| list(record, field).is_none_or(|values| values.is_empty())) {
            let text = format!("`{name}.{inner}` must not be empty");
            complaints.push(missing(&at, "empty_entry", &text, "set at least one field or remove the entry"));
        }
        for (field, _, check) in fields {
            check_values(record, &at, field, *check, complaints);
        }
    }
}

fn check_values(record: &Value, at: &str, field: &str, check: ValueCheck, complaints: &mut Vec<Complaint>) {
    let values = list(record, field).map(Vec::as_slice).unwrap_or_default();
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value.as_str() else {
            let field = format!("{at}.{field}[{index}]");
            complaints.push(missing(&field, "wrong_type", "must be of type string", "write it in quotes"));
            continue;
        };
        if let Err(text) = check(value) {
            let field = format!("{at}.{field}[{index}]");
            let code = if value.is_empty() { "empty_value" } else { "bad_value" };
            complaints.push(Complaint::new(field, code, text, "correct or remove the value"));
        }
    }
}

/// Rules between the fields of one source.
fn check_sources(rule: &Value, at: &str, complaints: &mut Vec<Complaint>) {
    for (index, source) in records(rule, "from", "source") {
        let at = format!("{at}.from[{index}].source");
        let used = |names: &[&str]| names.iter().any(|name| list(source, name).is_some_and(|v| !v.is_empty()));
        if used(&["serviceAccounts", "notServiceAccounts"])
            && used(&["principals", "notPrincipals", "namespaces", "notNamespaces"])
        {
            complaints.push(Complaint::new(
                &at,
                "accounts_not_alone",
                "cannot set serviceAccounts with namespaces or principals",
                "write NAMESPACE/ACCOUNT in serviceAccounts, or move one of them to a `from` entry of its own",
            ));
        }
        for name in ["serviceAccounts", "notServiceAccounts"] {
            if list(source, name).is_some_and(|values| values.len() > MAX_ACCOUNTS) {
                let text = "may not have more than 16 values";
                let field = format!("{at}.{name}");
                complaints.push(missing(&field, "too_many", text, "spread them over several `from` entries"));
            }
        }
    }
}

fn check_custom(rule: &Value, at: &str, complaints: &mut Vec<Complaint>) {
    let mut refuse = |field: String, name: &str| {
        let text = format!("{name} is currently not supported with CUSTOM action");
        complaints.push(Complaint::new(field, "not_with_custom", text, "use it in a DENY or ALLOW policy instead"));
    };
    for (index, source) in records(rule, "from", "source") {
        for name in NOT_WITH_CUSTOM.iter().filter(|name| list(source, name).is_some_and(|v| !v.is_empty())) {
            refuse(format!("{at}.from[{index}].source.{name}"), name);
        }
    }
    for (index, condition) in list(rule, "when").into_iter().flatten().enumerate() {
        let key = condition.get("key").and_then(Value::as_str).unwrap_or_default();
        let identity = ["source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"];
        if identity.contains(&key) || key.starts_with("request.auth.") {
            refuse(format!("{at}.when[{index}].key"), key);
        }
    }
}

/// A DENY rule of L7 fields alone refuses every TCP connection: L4 cannot rule it out.
fn warn_wide_deny(rule: &Value, at: &str, warnings: &mut Vec<Complaint>) {
    let sees = |list_name, inner, fields: &[(&str, bool, ValueCheck)]| {
        let mut found = (false, false);
        for (_, record) in records(rule, list_name, inner) {
            found.0 = true;
            found.1 |= fields.iter().any(|(name, l4, _)| *l4 && list(record, name).is_some());
        }
        found
    };
    let (has_from, from_l4) = sees("from", "source", &SOURCE_FIELDS);
    let (has_to, to_l4) = sees("to", "operation", &OPERATION_FIELDS);
    if (has_from && !has_to && !from_l4) || (has_to && !to_l4) {
        warnings.push(Complaint::new(
            at,
            "deny_without_port",
            "will deny all traffic to TCP ports under its scope due to the use of only HTTP attributes in a DENY rule",
            "name the ports that speak HTTP",
        ));
    }
}

/// Reads what passed the checks.
pub(super) fn read(object: &Value) -> AuthorizationPolicy {
    let spec = object.get("spec");
    let rules = spec.and_then(|s| s.get("rules")).and_then(Value::as_array);
    AuthorizationPolicy {
        name: selector::name_of(object),
        selector: selector::read(spec),
        action: match spec.and_then(|s| s.get("action")).and_then(Value::as_str) {
            Some("DENY") => Action::Deny,
            Some("AUDIT") => Action::Audit,
            Some("CUSTOM") => Action::Custom,
            _ => Action::Allow,
        },
        dry_run: false,
        rules: rules.into_iter().flatten().map(read_rule).collect(),
        invalid: None,
    }
}

fn read_rule(rule: &Value) -> Rule {
    Rule {
        from: records(rule, "from", "source").map(|(_, source)| read_source(source)).collect(),
        to: records(rule, "to", "operation").map(|(_, operation)| read_operation(operation)).collect(),
        when: list(rule, "when").into_iter().flatten().map(read_condition).collect(),
    }
}

fn read_source(s: &Value) -> Source {
    Source {
        principals: texts(s, "principals"),
        not_principals: texts(s, "notPrincipals"),
        request_principals: texts(s, "requestPrincipals"),
        not_request_principals: texts(s, "notRequestPrincipals"),
        namespaces: texts(s, "namespaces"),
        not_namespaces: texts(s, "notNamespaces"),
        service_accounts: texts(s, "serviceAccounts"),
        not_service_accounts: texts(s, "notServiceAccounts"),
        trust_domains: texts(s, "trustDomains"),
        not_trust_domains: texts(s, "notTrustDomains"),
        ip_blocks: texts(s, "ipBlocks"),
        not_ip_blocks: texts(s, "notIpBlocks"),
        remote_ip_blocks: texts(s, "remoteIpBlocks"),
        not_remote_ip_blocks: texts(s, "notRemoteIpBlocks"),
    }
}

fn read_operation(o: &Value) -> Operation {
    Operation {
        hosts: texts(o, "hosts"),
        not_hosts: texts(o, "notHosts"),
        ports: texts(o, "ports"),
        not_ports: texts(o, "notPorts"),
        methods: texts(o, "methods"),
        not_methods: texts(o, "notMethods"),
        paths: texts(o, "paths"),
        not_paths: texts(o, "notPaths"),
    }
}

fn read_condition(c: &Value) -> Condition {
    let key = c.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    Condition { key, values: texts(c, "values"), not_values: texts(c, "notValues") }
}

/// A list that is there and not null.
pub(super) fn list<'a>(parent: &'a Value, name: &str) -> Option<&'a Vec<Value>> {
    parent.get(name).and_then(Value::as_array)
}

/// The texts of a list.
pub(super) fn texts(parent: &Value, name: &str) -> Vec<String> {
    list(parent, name).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The records of `from` or `to`, numbered.
fn records<'a>(rule: &'a Value, name: &str, inner: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    let entries = list(rule, name).into_iter().flatten().enumerate();
    entries.filter_map(move |(index, entry)| Some((index, selector::present(entry, inner)?)))
}

fn missing(field: &str, code: &'static str, text: &str, remedy: &str) -> Complaint {
    Complaint::new(field, code, text, remedy)
}

fn not_empty(value: &str) -> Result<(), String> {
    if value.is_empty() { Err("empty value not allowed".to_owned()) } else { Ok(()) }
}

fn address(value: &str) -> Result<(), String> {
    not_empty(value)?;
    AddressBlock::parse(value).map(drop).map_err(|error| format!("{error} ({value})"))
}

fn port(value: &str) -> Result<(), String> {
    not_empty(value)?;
    parse_port(value).map(drop).map_err(|_| format!("bad port ({value})"))
}

fn path(value: &str) -> Result<(), String> {
    not_empty(value)?;
    check_path(value).map_err(|error| format!("invalid or unsupported path {value}: {error}"))
}

fn account(value: &str) -> Result<(), String> {
    check_account(value).map_err(|error| format!("{error}, found {value:?}"))
}

fn trust_domain(value: &str) -> Result<(), String> {
    check_trust_domain(value).map_err(|error| format!("{error}, found {value:?}"))
}
