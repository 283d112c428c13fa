//! AuthorizationPolicy and PeerAuthentication.

use std::{collections::BTreeMap, sync::Arc};

use culvert_policy::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, PolicyName, Rule, Selector, Source,
};

use crate::{
    proto::culvert::{self as message, selector::Scope},
    read::{Fault, FieldError, Read, port, required, texts},
};

pub(super) fn authorization_message(policy: &AuthorizationPolicy) -> message::AuthorizationPolicy {
    let action = match policy.action {
        Action::Allow => message::Action::Allow,
        Action::Deny => message::Action::Deny,
        Action::Audit => message::Action::Audit,
        Action::Custom => message::Action::Custom,
    };
    message::AuthorizationPolicy {
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        selector: Some(selector_message(&policy.selector)),
        action: action.into(),
        dry_run: policy.dry_run,
        rules: policy.rules.iter().map(rule_message).collect(),
        invalid: policy.invalid.as_deref().unwrap_or_default().to_owned(),
    }
}

pub(super) fn read_authorization(raw: message::AuthorizationPolicy) -> Read<AuthorizationPolicy> {
    let action = match message::Action::try_from(raw.action) {
        Ok(message::Action::Allow) => Action::Allow,
        Ok(message::Action::Deny) => Action::Deny,
        Ok(message::Action::Audit) => Action::Audit,
        Ok(message::Action::Custom) => Action::Custom,
        Err(_) => return Err(FieldError::new("action", Fault::UnknownValue)),
    };
    Ok(AuthorizationPolicy {
        name: policy_name(&raw.namespace, &raw.name)?,
        selector: read_selector(raw.selector)?,
        action,
        dry_run: raw.dry_run,
        rules: numbered(raw.rules, "rules", read_rule)?,
        invalid: invalid(&raw.invalid),
    })
}

pub(super) fn authentication_message(policy: &PeerAuthentication) -> message::PeerAuthentication {
    message::PeerAuthentication {
        namespace: policy.name.namespace.to_string(),
        name: policy.name.name.to_string(),
        selector: Some(selector_message(&policy.selector)),
        mode: mode_message(policy.mode).into(),
        port_modes: policy
            .port_modes
            .iter()
            .map(|(port, mode)| (u32::from(*port), mode_message(*mode).into()))
            .collect(),
        created: policy.created,
        invalid: policy.invalid.as_deref().unwrap_or_default().to_owned(),
    }
}

pub(super) fn read_authentication(raw: message::PeerAuthentication) -> Read<PeerAuthentication> {
    let mut port_modes = BTreeMap::new();
    for (number, mode) in raw.port_modes {
        let path = format!("port_modes[{number}]");
        port_modes.insert(port(&path, number)?, read_mode(&path, mode)?);
    }
    Ok(PeerAuthentication {
        name: policy_name(&raw.namespace, &raw.name)?,
        selector: read_selector(raw.selector)?,
        mode: read_mode("mode", raw.mode)?,
        port_modes,
        created: raw.created,
        invalid: invalid(&raw.invalid),
    })
}

fn mode_message(mode: MtlsMode) -> message::MtlsMode {
    match mode {
        MtlsMode::Unset => message::MtlsMode::Unset,
        MtlsMode::Disable => message::MtlsMode::Disable,
        MtlsMode::Permissive => message::MtlsMode::Permissive,
        MtlsMode::Strict => message::MtlsMode::Strict,
    }
}

fn read_mode(path: &str, raw: i32) -> Read<MtlsMode> {
    match message::MtlsMode::try_from(raw) {
        Ok(message::MtlsMode::Unset) => Ok(MtlsMode::Unset),
        Ok(message::MtlsMode::Disable) => Ok(MtlsMode::Disable),
        Ok(message::MtlsMode::Permissive) => Ok(MtlsMode::Permissive),
        Ok(message::MtlsMode::Strict) => Ok(MtlsMode::Strict),
        Err(_) => Err(FieldError::new(path, Fault::UnknownValue)),
    }
}

fn policy_name(namespace: &str, name: &str) -> Read<PolicyName> {
    Ok(PolicyName { namespace: required("namespace", namespace)?, name: required("name", name)? })
}

fn invalid(raw: &str) -> Option<Arc<str>> {
    (!raw.is_empty()).then(|| raw.into())
}

fn selector_message(selector: &Selector) -> message::Selector {
    let mut message = message::Selector::default();
    let scope = match selector {
        Selector::Namespace => Scope::Namespace,
        Selector::Labels(labels) => {
            message.labels.clone_from(labels);
            Scope::Labels
        }
        Selector::Services(names) => {
            message.services = names.iter().cloned().collect();
            Scope::Services
        }
        Selector::Waypoint => Scope::Waypoint,
    };
    message.set_scope(scope);
    message
}

/// A selector must be there: without one, nobody could tell "all" from "lost on the way".
fn read_selector(raw: Option<message::Selector>) -> Read<Selector> {
    let raw = raw.ok_or_else(|| FieldError::new("selector", Fault::Missing))?;
    let scope = Scope::try_from(raw.scope).map_err(|_| FieldError::new("selector.scope", Fault::UnknownValue))?;
    let too_much = |field| Err(FieldError::new(field, Fault::UnknownValue));
    match (scope, raw.labels.is_empty(), raw.services.is_empty()) {
        (Scope::Namespace, true, true) => Ok(Selector::Namespace),
        (Scope::Waypoint, true, true) => Ok(Selector::Waypoint),
        (Scope::Labels, false, true) => Ok(Selector::Labels(raw.labels)),
        (Scope::Services, true, false) => Ok(Selector::Services(raw.services.into_iter().collect())),
        (Scope::Labels, true, _) => Err(FieldError::new("selector.labels", Fault::MatchesAll)),
        (Scope::Services, true, true) => Err(FieldError::new("selector.services", Fault::Missing)),
        (_, false, _) => too_much("selector.labels"),
        (_, true, false) => too_much("selector.services"),
    }
}

fn numbered<R, T>(raw: Vec<R>, path: &str, read: impl Fn(R) -> Read<T>) -> Read<Vec<T>> {
    let read = |(index, entry)| read(entry).map_err(|error| error.under(format!("{path}[{index}]")));
    raw.into_iter().enumerate().map(read).collect()
}

fn rule_message(rule: &Rule) -> message::Rule {
    message::Rule {
        from: rule.from.iter().map(source_message).collect(),
        to: rule.to.iter().map(operation_message).collect(),
        when: rule.when.iter().map(condition_message).collect(),
    }
}

/// A rule without parts is legal (`rules: [{}]` matches everything); a part without fields is not.
fn read_rule(raw: message::Rule) -> Read<Rule> {
    Ok(Rule {
        from: numbered(raw.from, "from", read_source)?,
        to: numbered(raw.to, "to", read_operation)?,
        when: numbered(raw.when, "when", read_condition)?,
    })
}

/// The way between two structs whose fields are all lists of strings of the same names.
macro_rules! string_lists {
    ($domain:ident, $to:ident, $read:ident, $($field:ident),+) => {
        fn $to(from: &$domain) -> message::$domain {
            message::$domain { $($field: from.$field.clone()),+ }
        }

        fn $read(raw: message::$domain) -> Read<$domain> {
            let read = $domain { $($field: texts(stringify!($field), raw.$field)?),+ };
            if read == $domain::default() {
                return Err(FieldError::new(concat!("(", stringify!($domain), ")"), Fault::MatchesAll));
            }
            Ok(read)
        }
    };
}

string_lists!(
    Source,
    source_message,
    read_source,
    principals,
    not_principals,
    request_principals,
    not_request_principals,
    namespaces,
    not_namespaces,
    service_accounts,
    not_service_accounts,
    trust_domains,
    not_trust_domains,
    ip_blocks,
    not_ip_blocks,
    remote_ip_blocks,
    not_remote_ip_blocks
);
string_lists!(
    Operation,
    operation_message,
    read_operation,
    hosts,
    not_hosts,
    ports,
    not_ports,
    methods,
    not_methods,
    paths,
    not_paths
);

fn condition_message(condition: &Condition) -> message::Condition {
    message::Condition {
        key: condition.key.clone(),
        values: condition.values.clone(),
        not_values: condition.not_values.clone(),
    }
}

fn read_condition(raw: message::Condition) -> Read<Condition> {
    required("key", &raw.key)?;
    let read = Condition {
        key: raw.key,
        values: texts("values", raw.values)?,
        not_values: texts("not_values", raw.not_values)?,
    };
    if read.values.is_empty() && read.not_values.is_empty() {
        return Err(FieldError::new("values", Fault::MatchesAll));
    }
    Ok(read)
}
