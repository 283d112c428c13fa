//! Values that are legal but never match, or match something else than they seem to.

use std::collections::HashSet;

use ipnet::IpNet;

use super::super::Complaint;
use crate::{domains::principal_trust_domain, path::is_template};

/// What kind of value a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Text with a wildcard at either end.
    Text,
    /// Text whose wildcards admission has checked, or that has none.
    Name,
    /// `TD/ns/NS/sa/SA`.
    Principal,
    /// An address or a block.
    Address,
    /// A host.
    Host,
    /// An HTTP method.
    Method,
    /// A path or a path template.
    Path,
}

/// Checks the values of one field, which stands at `field`.
pub(super) fn check(field: &str, values: &[String], check: Check, warnings: &mut Vec<Complaint>) {
    let all: HashSet<&str> = values.iter().map(String::as_str).collect();
    let mut seen = HashSet::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let at = format!("{field}[{index}]");
        if !seen.insert(value) {
            let text = format!("{value:?} is there twice");
            warnings.push(Complaint::new(&at, "duplicate_value", text, "remove one"));
        }
        if let Some((code, text, remedy)) = hint(value, &all, check) {
            warnings.push(Complaint::new(at, code, text, remedy));
        }
    }
}

fn hint(value: &str, siblings: &HashSet<&str>, check: Check) -> Option<(&'static str, String, String)> {
    let own = match check {
        Check::Principal => principal(value),
        Check::Address => host_bits(value),
        Check::Host => host(value, siblings),
        Check::Method => method(value),
        Check::Path => path(value),
        Check::Text | Check::Name => None,
    };
    let wildcards = matches!(check, Check::Text | Check::Principal | Check::Host | Check::Method)
        || (check == Check::Path && !is_template(value));
    own.or_else(|| if wildcards { inner_wildcard(value) } else { None })
}

/// `*a*` is the suffix `a*`, `a*b` is those three characters.
fn inner_wildcard(value: &str) -> Option<(&'static str, String, String)> {
    let rest = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    rest.contains('*').then(|| {
        let text = format!("only one `*` at the start or the end of {value:?} is a wildcard, the others are literal");
        ("inner_wildcard", text, "list the values, or use one wildcard".to_owned())
    })
}

fn principal(value: &str) -> Option<(&'static str, String, String)> {
    if let Some((_, rest)) = value.split_once("spiffe://") {
        let text = format!("{value:?} never matches: a principal has no scheme");
        return Some(("principal_scheme", text, format!("write {rest:?}")));
    }
    let istio = principal_trust_domain(value).is_ok_and(|domain| {
        let parts: Vec<&str> = value[domain.len()..].split('/').collect();
        matches!(parts[..], ["", "ns", _, "sa", _])
    });
    (!istio && !value.contains('*')).then(|| {
        let text = format!("{value:?} is not of the form TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT");
        ("principal_form", text, "write the whole identity, or use serviceAccounts".to_owned())
    })
}

fn host_bits(value: &str) -> Option<(&'static str, String, String)> {
    let net: IpNet = value.parse().ok()?;
    (net.trunc() != net).then(|| {
        let text = format!("{value:?} has bits set beyond its prefix");
        ("host_bits", text, format!("write {:?}", net.trunc().to_string()))
    })
}

fn host(value: &str, siblings: &HashSet<&str>) -> Option<(&'static str, String, String)> {
    if value.contains("://") {
        let text = format!("{value:?} never matches: a host has no scheme");
        return Some(("host_scheme", text, "write the host alone".to_owned()));
    }
    let bare = !value.contains([':', '*']);
    (bare && !siblings.contains(format!("{value}:*").as_str())).then(|| {
        let text = format!("{value:?} does not match requests that name a port");
        ("host_port", text, format!("add \"{value}:*\""))
    })
}

fn method(value: &str) -> Option<(&'static str, String, String)> {
    let upper = value.to_ascii_uppercase();
    (upper != value).then(|| {
        ("method_case", format!("methods are upper case, {value:?} never matches"), format!("write {upper:?}"))
    })
}

fn path(value: &str) -> Option<(&'static str, String, String)> {
    (!value.starts_with(['/', '*', '{'])).then(|| {
        (
            "path_without_slash",
            format!("{value:?} never matches: a path begins with a slash"),
            format!("write \"/{value}\""),
        )
    })
}
