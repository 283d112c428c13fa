//! Names in policies that nobody has.

use std::collections::BTreeSet;

use culvert_policy::{
    AuthorizationPolicy, Condition, MeshSettings, Source, TrustDomains,
    domains::{LOCAL, parse_identity, principal_trust_domain},
    pattern::Pattern,
};

use super::{
    super::{State, View},
    MOST, NOT_ALL,
};
use crate::{complaint::Severity, fields::nearest, kinds::Object, object::ObjectKind};

/// Most comparisons of a value with a name that somebody has, over all policies.
const COMPARISONS: usize = 1_000_000;

pub(super) fn check(view: &mut View<'_>, state: &State, settings: &MeshSettings) {
    let known = Known::of(view, state, settings);
    let mut budget = Budget(COMPARISONS);
    for (key, held) in view.catalog.objects() {
        let Object::AuthorizationPolicy(policy) = &held.object else {
            continue;
        };
        let mut strange = Vec::new();
        let looked = known.strange_names(policy, &mut budget, &mut strange);
        for (field, Strange { reason, text, remedy }) in strange {
            view.complain(Severity::Warning, Some((key, held)), &field, reason, text, &remedy);
        }
        let Err(stopped) = looked else { continue };
        let (text, remedy) = stopped.said();
        view.complain(Severity::Info, Some((key, held)), "", NOT_ALL, text, remedy);
        if stopped == Stopped::Spent {
            return;
        }
    }
}

/// Why not all values were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// This policy has enough names that nobody has.
    Enough,
    /// There was too much to compare in all policies together.
    Spent,
}

impl Stopped {
    fn said(self) -> (String, &'static str) {
        match self {
            Self::Enough => {
                (format!("{MOST} of its values name nobody: the others were not looked at"), "mend these first")
            }
            Self::Spent => {
                let text = format!(
                    "more than {COMPARISONS} comparisons of names: the rest of this policy and the policies behind it \
                     were not looked at for names that nobody has"
                );
                (text, "")
            }
        }
    }
}

/// The comparisons that are left.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, comparisons: usize) -> Result<(), Stopped> {
        self.0 = self.0.checked_sub(comparisons).ok_or(Stopped::Spent)?;
        Ok(())
    }
}

/// A name that nobody has.
struct Strange {
    reason: &'static str,
    text: String,
    remedy: String,
}

/// A value's stranger, if it is one.
type Looked = Result<Option<Strange>, Stopped>;

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
    fn strange_names(
        &self,
        policy: &AuthorizationPolicy,
        budget: &mut Budget,
        strange: &mut Vec<(String, Strange)>,
    ) -> Result<(), Stopped> {
        let mut values = |at: &str, values: &[String], names| {
            for (index, value) in values.iter().enumerate() {
                if let Some(found) = self.value(value, names, policy, budget)? {
                    if strange.len() == MOST {
                        return Err(Stopped::Enough);
                    }
                    strange.push((format!("{at}[{index}]"), found));
                }
            }
            Ok(())
        };
        for (r, rule) in policy.rules.iter().enumerate() {
            for (i, source) in rule.from.iter().enumerate() {
                let at = format!("spec.rules[{r}].from[{i}].source");
                for (field, written, names) in fields_of(source) {
                    values(&format!("{at}.{field}"), written, names)?;
                }
            }
            for (i, condition) in rule.when.iter().enumerate() {
                let Some(names) = names_of(condition) else {
                    continue;
                };
                let at = format!("spec.rules[{r}].when[{i}]");
                values(&format!("{at}.values"), &condition.values, names)?;
                values(&format!("{at}.notValues"), &condition.not_values, names)?;
            }
        }
        Ok(())
    }

    fn value(&self, value: &str, names: Names, policy: &AuthorizationPolicy, budget: &mut Budget) -> Looked {
        match names {
            Names::Namespaces => self.namespace(value, budget),
            Names::Accounts => {
                let (namespace, account) = value.split_once('/').unwrap_or((&policy.name.namespace, value));
                self.account(namespace, account, budget)
            }
            Names::Principals => self.principal(value, budget),
            Names::Domains => self.domain(value, budget),
        }
    }

    fn namespace(&self, value: &str, budget: &mut Budget) -> Looked {
        let pattern = Pattern::parse(value);
        budget.spend(1)?;
        let known = match &pattern {
            Pattern::Exact(name) => self.namespaces.contains(name.as_str()),
            pattern => somebody(self.namespaces.iter(), budget, |name| pattern.matches(name))?,
        };
        if known {
            return Ok(None);
        }
        let names: Vec<&str> = self.namespaces.iter().copied().collect();
        Ok(Some(Strange {
            reason: "unknown_namespace",
            text: format!("there is no namespace {value:?}"),
            remedy: remedy(value, &names, "add the Namespace or mend the name", budget)?,
        }))
    }

    fn account(&self, namespace: &str, account: &str, budget: &mut Budget) -> Looked {
        if let Some(strange) = self.namespace(namespace, budget)? {
            return Ok(Some(strange));
        }
        if self.accounts.contains(&(namespace, account)) {
            return Ok(None);
        }
        let here = self.accounts.range((namespace, "")..).take_while(|(of, _)| *of == namespace);
        let here: Vec<&str> = here.map(|(_, name)| *name).collect();
        Ok(Some(Strange {
            reason: "unknown_service_account",
            text: format!("there is no service account {account:?} in namespace {namespace:?}"),
            remedy: remedy(account, &here, "add the ServiceAccount or mend the name", budget)?,
        }))
    }

    /// A principal of another form is warned of when the policy is read.
    fn principal(&self, value: &str, budget: &mut Budget) -> Looked {
        if let Ok(domain) = principal_trust_domain(value)
            && domain != LOCAL
            && let Some(strange) = self.domain(domain, budget)?
        {
            return Ok(Some(strange));
        }
        if !value.contains('*') {
            let Some((_, namespace, account)) = parse_identity(&format!("spiffe://{value}")) else { return Ok(None) };
            return self.account(&namespace, &account, budget);
        }
        let expanded = self.domains.expand_principals(&[value.to_owned()]);
        let patterns: Vec<_> = expanded.iter().map(|principal| Pattern::parse(principal)).collect();
        for domain in &self.own {
            let matches = |(namespace, account): &(&str, &str)| {
                let id = format!("{domain}/ns/{namespace}/sa/{account}");
                patterns.iter().any(|pattern| pattern.matches(&id))
            };
            if somebody(self.accounts.iter(), budget, matches)? {
                return Ok(None);
            }
        }
        Ok(Some(Strange {
            reason: "unknown_principal",
            text: format!("no service account has an identity like {value:?}"),
            remedy: "compare it with the service accounts".to_owned(),
        }))
    }

    /// There is one bundle, so nobody of another trust domain can prove who they are.
    fn domain(&self, value: &str, budget: &mut Budget) -> Looked {
        let pattern = Pattern::parse(value);
        if somebody(self.own.iter(), budget, |own| pattern.matches(own))? {
            return Ok(None);
        }
        Ok(Some(Strange {
            reason: "unknown_trust_domain",
            text: format!(
                "{value:?} is neither the trust domain of this mesh nor an alias of it: no peer can prove it"
            ),
            remedy: remedy(value, &self.own, "mend it, or add it to spec.trustDomainAliases of the Mesh", budget)?,
        }))
    }
}

/// Whether one of them is meant; each that is looked at is paid for.
fn somebody<T>(names: impl Iterator<Item = T>, budget: &mut Budget, is: impl Fn(T) -> bool) -> Result<bool, Stopped> {
    for name in names {
        budget.spend(1)?;
        if is(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remedy(value: &str, known: &[&str], otherwise: &str, budget: &mut Budget) -> Result<String, Stopped> {
    budget.spend(known.len())?;
    // Of a name of two letters every other one is near.
    let near = nearest(value, known).filter(|_| value.len() > 3);
    Ok(near.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean {name:?}?")))
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
