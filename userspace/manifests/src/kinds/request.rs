//! RequestAuthentication: checked as Istio's schema and webhook do; what it asks for only a waypoint could enforce.

use serde_json::Value;

use super::Object;
use crate::fields::Fields;

const SPEC: &[&str] = &["jwtRules", "selector", "targetRef", "targetRefs"];
const RULE: &[&str] = &[
    "audiences",
    "forwardOriginalToken",
    "fromCookies",
    "fromHeaders",
    "fromParams",
    "issuer",
    "jwks",
    "jwksUri",
    "jwks_uri",
    "outputClaimToHeaders",
    "outputPayloadToHeader",
    "presence",
    "spaceDelimitedClaims",
    "timeout",
];
/// Parts of keys that nobody should publish (RFC 7517 section 9.3).
const PRIVATE: [&str; 7] = ["d", "dp", "dq", "k", "oth", "p", "q"];
const TARGETS: [(&str, &str); 5] = [
    ("", "Service"),
    ("core", "Service"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.istio.io", "ServiceEntry"),
];

pub(super) fn read(object: &Fields<'_>) -> Object {
    let object = object.clone().known(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let dry_run = object.inner("metadata").text_map("annotations").contains_key("istio.io/dry-run");
    if dry_run {
        let text = "unsupported annotation istio.io/dry-run, please remove the annotation";
        object.notes().error("dry_run_unsupported", "metadata.annotations", text, "");
    }
    let spec = object.inner("spec");
    strict(&spec, SPEC);
    targeting(&spec);
    for rule in spec.inners("jwtRules") {
        strict(&rule, RULE);
        if !rule.present() {
            let text = "must be of type object, not null";
            rule.notes().error("bad_type", rule.at(""), text, "write a rule or remove it");
            continue;
        }
        keys(&rule);
        places(&rule);
        rest(&rule);
    }
    Object::RequestAuthentication
}

/// A part that nobody understands may be the one that matters.
fn strict(fields: &Fields<'_>, known: &[&str]) {
    for name in fields.names().filter(|name| !known.contains(name)) {
        let remedy = format!("known here: {}", known.join(", "));
        fields.notes().error("unknown_field", fields.at(name), format!("unknown field {name:?}"), &remedy);
    }
}

fn targeting(spec: &Fields<'_>) {
    let notes = spec.notes();
    let targets = spec.inners("targetRefs");
    let used = [spec.has("selector"), spec.has("targetRef"), !targets.is_empty()];
    if used.into_iter().filter(|used| *used).count() > 1 {
        let text = "only one of targetRefs or selector can be set";
        notes.error("one_target_only", "spec", text, "keep the one that is meant");
    }
    if targets.len() > 16 {
        notes.error("too_many", "spec.targetRefs", "must have at most 16 items", "spread them over several objects");
    }
    let single = spec.has("targetRef").then(|| spec.inner("targetRef"));
    for target in single.into_iter().chain(targets) {
        strict(&target, &["group", "kind", "name", "namespace"]);
        let text = |name: &str| target.text(name).unwrap_or_default();
        if text("name").is_empty() {
            notes.error("target_name", target.at("name"), "targetRef name must be set", "name the object");
        }
        if !text("namespace").is_empty() {
            let says = "cross namespace referencing is not currently supported";
            notes.error("target_namespace", target.at("namespace"), says, "put the object into its target's namespace");
        }
        if !TARGETS.contains(&(text("group"), text("kind"))) {
            let says = format!("targetRef must be to one of the known kinds, not {}/{}", text("group"), text("kind"));
            notes.error("target_kind", target.at("kind"), says, "write a Gateway, Service or ServiceEntry");
        }
    }
    for (key, value) in spec.inner("selector").text_map("matchLabels") {
        let field = format!("spec.selector.matchLabels[{key}]");
        if key.is_empty() {
            notes.error("empty_label_key", field.as_str(), "empty key is not supported in selector", "name the label");
        }
        if key.contains('*') || value.contains('*') {
            let text = "wildcard is not supported in selector";
            notes.error("wildcard_in_selector", field, text, "labels are compared whole; write the value");
        }
    }
}

/// Who signs, and with what.
fn keys(rule: &Fields<'_>) {
    let notes = rule.notes();
    let (issuer, jwks) = (rule.text("issuer").unwrap_or_default(), rule.text("jwks").unwrap_or_default());
    let uri = rule.text("jwksUri").or(rule.text("jwks_uri")).unwrap_or_default();
    if rule.has("issuer") && issuer.is_empty() {
        notes.error("too_short", rule.at("issuer"), "should be at least 1 chars long", "fill it or remove it");
    } else if issuer.is_empty() && uri.is_empty() {
        let text = "issuer or jwksUri must be non-empty string";
        notes.error("issuer_missing", rule.at("issuer"), text, "write whose tokens are meant");
    }
    if !uri.is_empty() && !jwks.is_empty() {
        let text = "only one of jwks or jwksUri can be set";
        notes.error("one_key_source", rule.at("jwks"), text, "keep one of them");
    }
    if rule.has("jwksUri") && rule.has("jwks_uri") {
        notes.error("one_key_source", rule.at("jwks_uri"), "only one of jwksUri or jwks_uri can be set", "keep one");
    }
    if uri.len() > 2048 {
        notes.error("too_long", rule.at("jwksUri"), "may not be longer than 2048 characters", "shorten it");
    }
    if !uri.is_empty() {
        check_uri(rule, uri);
    }
    if !jwks.is_empty() {
        check_jwks(rule, jwks);
    }
    if rule.list_is_empty("audiences") {
        let text = "any audience is accepted: a token for another service is as good";
        notes.warn("any_audience", rule.at("audiences"), text, "write the audiences that are meant");
    }
}

fn check_uri(rule: &Fields<'_>, uri: &str) {
    let notes = rule.notes();
    let parsed = uri.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    let Some((scheme, rest)) = parsed else {
        let text = "url must have scheme http:// or https://";
        notes.error("bad_uri", rule.at("jwksUri"), text, "write it as in https://example.com/keys");
        return;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    let bad_port = port.is_some_and(|port| port.parse::<u16>().is_err() || port == "0");
    if authority.is_empty() || bad_port || uri.contains(['\\', ' ']) {
        let text = format!("{uri:?} has no host, or its port is not a number");
        notes.error("bad_uri", rule.at("jwksUri"), text, "write it as in https://example.com/keys");
    }
    if scheme == "http" {
        let text = "keys that come in clear are whoever's who stands between";
        notes.warn("jwks_in_clear", rule.at("jwksUri"), text, "write https://");
    }
}

fn check_jwks(rule: &Fields<'_>, jwks: &str) {
    let notes = rule.notes();
    let parsed: Option<Value> = serde_json::from_str(jwks).ok();
    let keys = parsed.as_ref().and_then(|set| set["keys"].as_array());
    let Some(keys) = keys.filter(|keys| keys.iter().all(|key| key["kty"].is_string())) else {
        let text = "jwks parse error: it is not a JSON Web Key Set";
        notes.error("bad_jwks", rule.at("jwks"), text, "write {\"keys\": [...]} as in RFC 7517");
        return;
    };
    if keys.iter().any(|key| PRIVATE.iter().any(|part| !key[part].is_null())) {
        let text = "private key material is in it: whoever reads the object can sign tokens";
        notes.warn("private_key", rule.at("jwks"), text, "write the public parts only, and replace the key");
    }
}

/// Where tokens are looked for, and where claims go.
fn places(rule: &Fields<'_>) {
    let notes = rule.notes();
    for list in ["audiences", "fromParams", "fromCookies", "spaceDelimitedClaims"] {
        for (field, _) in rule.texts(list).into_iter().filter(|(_, text)| text.is_empty()) {
            notes.error("too_short", field, "should be at least 1 chars long", "fill it or remove it");
        }
    }
    for header in rule.inners("fromHeaders") {
        strict(&header, &["name", "prefix"]);
        if header.text("name").unwrap_or_default().is_empty() {
            notes.error("header_missing", header.at("name"), "Required value: the header has no name", "name it");
        }
    }
    for claim in rule.inners("outputClaimToHeaders") {
        strict(&claim, &["claim", "header"]);
        let (name, header) = (claim.text("claim").unwrap_or_default(), claim.text("header").unwrap_or_default());
        if name.is_empty() || header.is_empty() {
            let text = "outputClaimToHeaders needs both a claim and a header";
            notes.error("claim_to_header", claim.at("claim"), text, "fill both");
        } else if !header.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            let text = format!("{header:?} is not the name of a header");
            notes.error("bad_header", claim.at("header"), text, "use letters, digits, - and _");
        }
    }
}

fn rest(rule: &Fields<'_>) {
    let notes = rule.notes();
    rule.flag("forwardOriginalToken");
    rule.text("outputPayloadToHeader");
    if rule.list_len("spaceDelimitedClaims") > 64 {
        notes.error("too_many", rule.at("spaceDelimitedClaims"), "must have at most 64 items", "remove some");
    }
    match rule.text("presence") {
        None | Some("OPTIONAL" | "REQUIRED") => {}
        Some(other) => {
            let text = format!("Unsupported value: {other:?}");
            notes.error("unsupported_value", rule.at("presence"), text, "use one of OPTIONAL, REQUIRED");
        }
    }
    if let Some(text) = rule.text("timeout").filter(|text| !is_duration(text)) {
        let says = format!("{text:?}: must be a valid duration greater than 1ms");
        notes.error("bad_duration", rule.at("timeout"), says, "write it as in 5s or 250ms");
    }
}

/// Go's form: numbers with units, at least a millisecond in all and a whole number of them.
fn is_duration(text: &str) -> bool {
    let (mut rest, mut nanoseconds) = (text, 0_f64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let Ok(number) = rest[..end].parse::<f64>() else { return false };
        rest = &rest[end..];
        let units = [("ns", 1e0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let Some((unit, size)) = units.iter().find(|(unit, _)| rest.starts_with(unit)) else { return false };
        rest = &rest[unit.len()..];
        nanoseconds += number * size;
    }
    nanoseconds >= 1e6 && (nanoseconds / 1e6).fract() == 0.0
}
