//! From what people write to normal form.

use std::sync::Arc;

use super::{Accounts, Blocks, Clause, Field, Match, NormalPolicy, NormalRule, Ports, Test};
use crate::{
    attribute::Attribute,
    domains::TrustDomains,
    model::{AuthorizationPolicy, Condition, Operation, Rule, Source},
    pattern::{Pattern, Strings},
};

/// What is needed to give values their meaning.
struct Context<'a> {
    namespace: &'a str,
    domains: &'a TrustDomains,
}

/// A field and its `not` twin, by name.
struct Pair<'f> {
    attribute: Attribute,
    named: [(&'static str, &'f [String]); 2],
}

impl NormalPolicy {
    /// Gives the values of a policy their meaning in a mesh of these trust domains.
    pub fn of(policy: &AuthorizationPolicy, domains: &TrustDomains) -> Self {
        let context = Context { namespace: &policy.name.namespace, domains };
        Self {
            name: policy.name.clone(),
            action: policy.action,
            dry_run: policy.dry_run,
            rules: policy.rules.iter().map(|rule| context.rule(rule)).collect(),
            invalid: policy.invalid.clone(),
        }
    }
}

impl Context<'_> {
    fn rule(&self, rule: &Rule) -> NormalRule {
        let mut clauses = Vec::new();
        if !rule.from.is_empty() {
            clauses.push(Clause { matches: numbered(&rule.from, |i, source| self.source(i, source)) });
        }
        if !rule.to.is_empty() {
            clauses.push(Clause { matches: numbered(&rule.to, |i, operation| self.operation(i, operation)) });
        }
        clauses.extend(numbered(&rule.when, |i, condition| Clause { matches: vec![self.condition(i, condition)] }));
        NormalRule { clauses }
    }

    fn source(&self, index: usize, s: &Source) -> Match {
        let pairs = [
            pair(Attribute::SourcePrincipal, ("principals", &s.principals), ("notPrincipals", &s.not_principals)),
            pair(
                Attribute::RequestPrincipal,
                ("requestPrincipals", &s.request_principals),
                ("notRequestPrincipals", &s.not_request_principals),
            ),
            pair(Attribute::SourceNamespace, ("namespaces", &s.namespaces), ("notNamespaces", &s.not_namespaces)),
            pair(
                Attribute::SourceServiceAccount,
                ("serviceAccounts", &s.service_accounts),
                ("notServiceAccounts", &s.not_service_accounts),
            ),
            pair(
                Attribute::SourceTrustDomain,
                ("trustDomains", &s.trust_domains),
                ("notTrustDomains", &s.not_trust_domains),
            ),
            pair(Attribute::SourceIp, ("ipBlocks", &s.ip_blocks), ("notIpBlocks", &s.not_ip_blocks)),
            pair(
                Attribute::RemoteIp,
                ("remoteIpBlocks", &s.remote_ip_blocks),
                ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
            ),
        ];
        self.fields(&format!("from[{index}].source"), pairs)
    }

    fn operation(&self, index: usize, o: &Operation) -> Match {
        let pairs = [
            pair(Attribute::DestinationPort, ("ports", &o.ports), ("notPorts", &o.not_ports)),
            pair(Attribute::RequestHost, ("hosts", &o.hosts), ("notHosts", &o.not_hosts)),
            pair(Attribute::RequestMethod, ("methods", &o.methods), ("notMethods", &o.not_methods)),
            pair(Attribute::RequestPath, ("paths", &o.paths), ("notPaths", &o.not_paths)),
        ];
        self.fields(&format!("to[{index}].operation"), pairs)
    }

    fn condition(&self, index: usize, c: &Condition) -> Match {
        // A key that nobody knows is refused when the policy is read. Should one get here, it is not ignored.
        let attribute = Attribute::parse(&c.key).unwrap_or_else(|_| Attribute::Other(c.key.clone()));
        let pairs = [pair(attribute, ("values", &c.values), ("notValues", &c.not_values))];
        self.fields(&format!("when[{index}]"), pairs)
    }

    fn fields<'f>(&self, at: &str, pairs: impl IntoIterator<Item = Pair<'f>>) -> Match {
        let mut fields = Vec::new();
        for Pair { attribute, named } in pairs {
            for (negated, (name, values)) in [false, true].into_iter().zip(named) {
                if !values.is_empty() {
                    fields.push(Field {
                        path: format!("{at}.{name}").into(),
                        wanted: Arc::from(values),
                        negated,
                        test: self.test(&attribute, values),
                    });
                }
            }
        }
        Match { fields }
    }

    fn test(&self, attribute: &Attribute, values: &[String]) -> Test {
        match attribute {
            Attribute::SourcePrincipal => Test::Principal(strings(&self.domains.expand_principals(values))),
            Attribute::SourceNamespace => Test::Namespace(strings(values)),
            Attribute::SourceServiceAccount => {
                Test::Account(values.iter().map(|v| self.account(v)).collect::<Accounts>())
            }
            Attribute::SourceTrustDomain => Test::TrustDomain(strings(&self.domains.expand_trust_domains(values))),
            Attribute::SourceIp => Test::SourceIp(Blocks::read(values.iter().map(String::as_str))),
            Attribute::DestinationIp => Test::DestinationIp(Blocks::read(values.iter().map(String::as_str))),
            Attribute::DestinationPort => Test::DestinationPort(Ports::read(values.iter().map(String::as_str))),
            other => Test::Unseen(other.to_string().into()),
        }
    }

    /// `ns/sa`, or `sa` in the policy's own namespace.
    fn account(&self, value: &str) -> (String, String) {
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        (namespace.to_owned(), account.to_owned())
    }
}

fn pair<'f>(
    attribute: Attribute,
    yes: (&'static str, &'f Vec<String>),
    no: (&'static str, &'f Vec<String>),
) -> Pair<'f> {
    Pair { attribute, named: [(yes.0, yes.1), (no.0, no.1)] }
}

fn strings(values: &[String]) -> Strings {
    values.iter().map(|value| Pattern::parse(value)).collect()
}

fn numbered<T, R>(items: &[T], mut each: impl FnMut(usize, &T) -> R) -> Vec<R> {
    items.iter().enumerate().map(|(index, item)| each(index, item)).collect()
}
