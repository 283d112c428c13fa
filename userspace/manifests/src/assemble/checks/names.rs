//! Names in policies that nobody has.

use std::collections::BTreeSet;

use culvert_policy::{
    AuthorizationPolicy, Condition, MeshSettings, Source, TrustDomains,
    domains::{LOCAL, parse_identity, principal_trust_domain},
    pattern::Pattern,
};

use super::super::{State, View};
use crate::{complaint::Severity, fields::nearest, kinds::Object, object::ObjectKind};

pub(super) fn check(view: &mut View<'_>, state: &State, settings: &MeshSettings) {
    let known = Known::of(view, state, settings);
    for (key, held) in view.catalog.objects() {
        let Object::AuthorizationPolicy(policy) = &held.object else {
            continue;
        };
        for (field, strange) in known.strange_names(policy) {
            let Strange { reason, text, remedy } = strange;
            view.complain(Severity::Warning, Some((key, held)), &field, reason, text, &remedy);
        }
    }
}

/// A name that nobody has.
struct Strange {
    reason: &'static str,
    text: String,
    remedy: String,
}

/// What names can mean.
struct Known<'k> {
    namespaces: BTreeSet<&'k str>,
    /// Namespace and name. `default` exists in every namespace.
    accounts: BTreeSet<(&'k str, &'k str)>,
    domains: &'k TrustDomains,
    /// The mesh's trust domain and its aliases.
    own: Vec<&'k str>,
}

impl<'k> Known<'k> {
    fn of(view: &View<'k>, state: &'k State, settings: &'k MeshSettings) -> Self {
        let mut namespaces = view.names(ObjectKind::Namespace);
        let mut accounts = BTreeSet::new();
        for (key, _) in view.of_kind(ObjectKind::ServiceAccount) {
            accounts.insert((key.namespace.as_str(), key.name.as_str()));
        }
        for pod in state.workloads.values() {
            namespaces.insert(&pod.namespace);
            accounts.insert((&pod.namespace, &pod.service_account));
        }
        namespaces.extend(accounts.iter().map(|(namespace, _)| *namespace));
        accounts.extend(namespaces.iter().map(|namespace| (*namespace, "default")));
        let mesh = &state.mesh;
        let aliases = mesh.trust_domain_aliases.iter().map(|alias| alias.as_str());
        let own = std::iter::once(mesh.trust_domain.as_str()).chain(aliases).collect();
        Self { namespaces, accounts, domains: &settings.domains, own }
    }

    /// Each value of a policy that means nobody, with its field.
    fn strange_names(&self, policy: &AuthorizationPolicy) -> Vec<(String, Strange)> {
        let mut strange = Vec::new();
        for (r, rule) in policy.rules.iter().enumerate() {
            for (i, source) in rule.from.iter().enumerate() {
                let at = format!("spec.rules[{r}].from[{i}].source");
                for (field, values, read) in fields_of(source) {
                    self.values(&format!("{at}.{field}"), values, read, policy, &mut strange);
                }
            }
            for (i, condition) in rule.when.iter().enumerate() {
                let Some(read) = names_of(condition) else {
                    continue;
                };
                let at = format!("spec.rules[{r}].when[{i}]");
                self.values(&format!("{at}.values"), &condition.values, read, policy, &mut strange);
                self.values(&format!("{at}.notValues"), &condition.not_values, read, policy, &mut strange);
            }
        }
        strange
    }

    fn values(
        &self,
        field: &str,
        values: &[String],
        names: Names,
        policy: &AuthorizationPolicy,
        strange: &mut Vec<(String, Strange)>,
    ) {
        for (index, value) in values.iter().enumerate() {
            let found = match names {
                Names::Namespaces => self.namespace(value),
                Names::Accounts => {
                    let (namespace, account) = value.split_once('/').unwrap_or((&policy.name.namespace, value));
                    self.account(namespace, account)
                }
                Names::Principals => self.principal(value),
                Names::Domains => self.domain(value),
            };
            strange.extend(found.map(|strange| (format!("{field}[{index}]"), strange)));
        }
    }

    fn namespace(&self, value: &str) -> Option<Strange> {
        let pattern = Pattern::parse(value);
        let known = match &pattern {
            Pattern::Exact(name) => self.namespaces.contains(name.as_str()),
            pattern => self.namespaces.iter().any(|name| pattern.matches(name)),
        };
        (!known).then(|| {
            let known: Vec<&str> = self.namespaces.iter().copied().collect();
            Strange {
                reason: "unknown_namespace",
                text: format!("there is no namespace {value:?}"),
                remedy: remedy(value, &known, "add the Namespace or mend the name"),
            }
        })
    }

    fn account(&self, namespace: &str, account: &str) -> Option<Strange> {
        if let Some(strange) = self.namespace(namespace) {
            return Some(strange);
        }
        (!self.accounts.contains(&(namespace, account))).then(|| {
            let here = self.accounts.iter().filter(|(of, _)| *of == namespace);
            let here: Vec<&str> = here.map(|(_, name)| *name).collect();
            Strange {
                reason: "unknown_service_account",
                text: format!("there is no service account {account:?} in namespace {namespace:?}"),
                remedy: remedy(account, &here, "add the ServiceAccount or mend the name"),
            }
        })
    }

    /// A principal of another form is warned of when the policy is read.
    fn principal(&self, value: &str) -> Option<Strange> {
        let domain = principal_trust_domain(value).ok();
        if let Some(strange) = domain.filter(|domain| *domain != LOCAL).and_then(|domain| self.domain(domain)) {
            return Some(strange);
        }
        if !value.contains('*') {
            let (_, namespace, account) = parse_identity(&format!("spiffe://{value}"))?;
            return self.account(&namespace, &account);
        }
        let expanded = self.domains.expand_principals(&[value.to_owned()]);
        let patterns: Vec<_> = expanded.iter().map(|principal| Pattern::parse(principal)).collect();
        let somebody = self.own.iter().any(|domain| {
            let identity = |(namespace, account): &(&str, &str)| format!("{domain}/ns/{namespace}/sa/{account}");
            self.accounts.iter().map(identity).any(|id| patterns.iter().any(|pattern| pattern.matches(&id)))
        });
        (!somebody).then(|| Strange {
            reason: "unknown_principal",
            text: format!("no service account has an identity like {value:?}"),
            remedy: "compare it with the service accounts".to_owned(),
        })
    }

    /// There is one bundle, so nobody of another trust domain can prove who they are.
    fn domain(&self, value: &str) -> Option<Strange> {
        let pattern = Pattern::parse(value);
        (!self.own.iter().any(|own| pattern.matches(own))).then(|| Strange {
            reason: "unknown_trust_domain",
            text: format!(
                "{value:?} is neither the trust domain of this mesh nor an alias of it: no peer can prove it"
            ),
            remedy: remedy(value, &self.own, "mend it, or add it to spec.trustDomainAliases of the Mesh"),
        })
    }
}

fn remedy(value: &str, known: &[&str], otherwise: &str) -> String {
    // Of a name of two letters every other one is near.
    let near = nearest(value, known).filter(|_| value.len() > 3);
    near.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean {name:?}?"))
}

/// What the values of a field name.
#[derive(Clone, Copy)]
enum Names {
    Principals,
    Namespaces,
    Accounts,
    Domains,
}

fn fields_of(s: &Source) -> [(&'static str, &[String], Names); 8] {
    [
        ("principals", &s.principals, Names::Principals),
        ("notPrincipals", &s.not_principals, Names::Principals),
        ("namespaces", &s.namespaces, Names::Namespaces),
        ("notNamespaces", &s.not_namespaces, Names::Namespaces),
        ("serviceAccounts", &s.service_accounts, Names::Accounts),
        ("notServiceAccounts", &s.not_service_accounts, Names::Accounts),
        ("trustDomains", &s.trust_domains, Names::Domains),
        ("notTrustDomains", &s.not_trust_domains, Names::Domains),
    ]
}

fn names_of(condition: &Condition) -> Option<Names> {
    Some(match condition.key.as_str() {
        "source.principal" => Names::Principals,
        "source.namespace" => Names::Namespaces,
        "source.serviceAccount" => Names::Accounts,
        "source.trustDomain" => Names::Domains,
        _ => return None,
    })
}
