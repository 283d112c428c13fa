//! ztunnel's tables: its rules are culvert's normal form, field by field.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use culvert_policy::{
    Action, Basis, Decision, DefaultAction, DefaultMode, EffectiveMtls, Facts, IdentityFacts, MeshSettings, PolicyName,
    Reason, RuleSet, Selector, Subject, TrustDomains,
    pattern::{Pattern, Strings},
    rule::{Accounts, Blocks, Clause, Field, Match, NormalPolicy, NormalRule, Ports, Test},
};
use serde_json::Value;

use super::{Judged, Run, same};
use crate::case::Case;

pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    let content = run.directory.json(run.file)?;
    let list = |name: &str| content.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, value) in list("match_cases").iter().enumerate() {
        run.judge(index, value, |case| matches(case, &content["connections"]).unwrap_or_else(unreadable));
    }
    for (index, value) in list("string_match").iter().enumerate() {
        run.judge(index, value, |case| string_match(case).unwrap_or_else(unreadable));
    }
    for group in list("decision") {
        let policies = items(&group["policies"]).map(policy).collect::<Result<Vec<_>>>()?;
        for (index, value) in items(&group["cases"]).enumerate() {
            run.judge(index, value, |case| decision(case, &policies).unwrap_or_else(unreadable));
        }
    }
    Ok(())
}

fn unreadable(error: anyhow::Error) -> Judged {
    Err(("the documented format".to_owned(), format!("{error:#}")))
}

/// A connection of the table. Its identity is put together from parts: one of them is no SPIFFE ID.
struct Peer {
    /// Trust domain and path, without the scheme.
    identity: Option<String>,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Peer {
    fn read(value: &Value) -> Result<Self> {
        let address = |name: &str, default: &str| {
            let text = value.get(name).and_then(Value::as_str).unwrap_or(default);
            text.parse().with_context(|| format!("{name} is not an address and port"))
        };
        let identity = value.get("identity").or_else(|| value.get("source")).and_then(Value::as_str);
        Ok(Self {
            identity: identity.map(|id| id.strip_prefix("spiffe://").unwrap_or(id).to_owned()),
            source: address("src", "127.0.0.1:1234")?,
            destination: address("dst", "127.0.0.2:8080")?,
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            identity: self.identity.as_deref().map(identity_facts),
            source_ip: self.source.ip(),
            destination_ip: self.destination.ip(),
            destination_port: self.destination.port(),
        }
    }
}

fn identity_facts(principal: &str) -> IdentityFacts<'_> {
    let mut parts = principal.split('/');
    let trust_domain = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let account = match rest[..] {
        ["ns", namespace, "sa", account] if !namespace.is_empty() && !account.is_empty() => Some((namespace, account)),
        _ => None,
    };
    IdentityFacts { principal, trust_domain, account }
}

fn matches(case: &Case<'_>, connections: &Value) -> Result<Judged> {
    let policy = NormalPolicy { rules: rules(case.field("rules"))?, ..named("case", "case") };
    let holds = |peer: &Peer| policy.rules.iter().any(|rule| rule.truth(&peer.facts()).holds());
    let expected = case.expected("expect");
    if let Some(by_name) = expected.as_object() {
        for (name, wanted) in by_name {
            let connection = connections.get(name).with_context(|| format!("no connection {name:?}"))?;
            let got = holds(&Peer::read(connection)?);
            if let Err((wanted, got)) = same(wanted == 1 || wanted == true, got) {
                return Ok(Err((format!("{name}: {wanted}"), format!("{name}: {got}"))));
            }
        }
        return Ok(Ok(()));
    }
    let peer = Peer::read(case.field("conn"))?;
    Ok(same(expected == 1 || expected == true, holds(&peer)))
}

/// `[kind, pattern, value, result]`.
fn string_match(case: &Case<'_>) -> Result<Judged> {
    let text = |at: usize| case.value[at].as_str().unwrap_or_default();
    let pattern = pattern_of(text(0), text(1))?;
    let expected = case.expected_at(3);
    Ok(same(expected == 1 || expected == true, pattern.matches(text(2))))
}

fn decision(case: &Case<'_>, policies: &[(Selector, NormalPolicy)]) -> Result<Judged> {
    let settings = MeshSettings::new(TrustDomains::new("cluster.local", []));
    let subject = Subject { namespace: case.text("destinationNamespace"), labels: &Default::default(), services: &[] };
    let selected = policies
        .iter()
        .filter(|(selector, policy)| settings.selects(&policy.name.namespace, selector, subject))
        .map(|(_, policy)| policy.clone())
        .collect();
    let mtls = EffectiveMtls::compose(&settings.root_namespace, DefaultMode::Permissive, []);
    let set = RuleSet::assemble(selected, mtls, DefaultAction::Allow);
    let explanation = set.explain(&Peer::read(case.value)?.facts());
    let expected = case.expected("expect").as_str().context("`expect` is not a text")?;
    let got = match &explanation.decision {
        Decision::Allow(Basis::NoPolicy) => "allow".to_owned(),
        Decision::Allow(Basis::Rule(rule)) => format!("allow: {rule}"),
        Decision::Deny(denial) if denial.reason == Reason::NoAllowMatched => "deny: no ALLOW policy matched".to_owned(),
        Decision::Deny(denial) => {
            format!("deny: {}", denial.policy.as_ref().map(ToString::to_string).unwrap_or_default())
        }
    };
    // What follows the colon is upstream's wording, except that either both or neither find no ALLOW rule.
    let verdict = |text: &str| (text.starts_with("allow"), text.contains("no ALLOW"));
    Ok(if verdict(expected) == verdict(&got) { Ok(()) } else { Err((expected.to_owned(), got)) })
}

fn policy(value: &Value) -> Result<(Selector, NormalPolicy)> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let action = match text("action") {
        "" | "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        other => bail!("action {other:?} is not read"),
    };
    Ok((
        Selector::Namespace,
        NormalPolicy {
            action,
            dry_run: value["dryRun"] == true,
            rules: rules(&value["rules"])?,
            ..named(text("namespace"), text("name"))
        },
    ))
}

fn named(namespace: &str, name: &str) -> NormalPolicy {
    NormalPolicy {
        name: PolicyName::new(namespace, name),
        action: Action::Allow,
        dry_run: false,
        rules: Vec::new(),
        invalid: None,
    }
}

fn rules(value: &Value) -> Result<Vec<NormalRule>> {
    items(value).map(|rule| Ok(NormalRule { clauses: items(rule).map(clause).collect::<Result<_>>()? })).collect()
}

fn clause(value: &Value) -> Result<Clause> {
    Ok(Clause { matches: items(value).map(one_match).collect::<Result<_>>()? })
}

/// A match without fields never holds there. culvert is never given one and takes it for unknown, so it is written as what
/// it means: one of no ports.
fn one_match(value: &Value) -> Result<Match> {
    let members = value.as_object().context("a match is not an object")?;
    let fields = members.iter().filter(|(_, values)| items(values).next().is_some());
    let mut fields = fields.map(|(name, values)| field(name, values)).collect::<Result<Vec<_>>>()?;
    if fields.is_empty() {
        fields.push(field("destinationPorts", &Value::Null)?);
    }
    Ok(Match { fields })
}

fn field(name: &str, values: &Value) -> Result<Field> {
    let (attribute, negated) = match name.strip_prefix("not") {
        Some(rest) => (rest.to_ascii_lowercase(), true),
        None => (name.to_ascii_lowercase(), false),
    };
    let test = match attribute.as_str() {
        "principals" => Test::Principal(strings(values)?),
        "namespaces" => Test::Namespace(strings(values)?),
        "serviceaccounts" => Test::Account(items(values).map(account).collect::<Accounts>()),
        "sourceips" => Test::SourceIp(Blocks::read(items(values).filter_map(Value::as_str))),
        "destinationips" => Test::DestinationIp(Blocks::read(items(values).filter_map(Value::as_str))),
        "destinationports" => {
            let ports: Vec<String> = items(values).map(ToString::to_string).collect();
            Test::DestinationPort(Ports::read(ports.iter().map(String::as_str)))
        }
        _ => bail!("field {name:?} is not read"),
    };
    Ok(Field { path: name.into(), wanted: [values.to_string()].into(), negated, test })
}

fn account(value: &Value) -> (String, String) {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("namespace"), text("serviceAccount"))
}

fn strings(values: &Value) -> Result<Strings> {
    items(values)
        .map(|value| {
            let (kind, pattern) = value.as_object().and_then(|m| m.iter().next()).context("an empty string match")?;
            pattern_of(kind, pattern.as_str().unwrap_or_default())
        })
        .collect()
}

fn pattern_of(kind: &str, text: &str) -> Result<Pattern> {
    Ok(match kind {
        "exact" => Pattern::Exact(text.to_owned()),
        "prefix" => Pattern::Prefix(text.to_owned()),
        "suffix" => Pattern::Suffix(text.to_owned()),
        "presence" => Pattern::Present,
        other => bail!("string match {other:?} is not read"),
    })
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
