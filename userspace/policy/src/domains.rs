//! The mesh's trust domain and its aliases, and identities in Istio's layout.

use std::collections::BTreeSet;

use culvert_identity::{IdError, SpiffeId, TrustDomain};

/// In a principal this points to the mesh's own trust domain, whatever its name, as in Istio: policies written for the
/// default name hold in every mesh.
pub const LOCAL: &str = "cluster.local";

/// The names under which the mesh's trust domain is known: its own first, then the aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomains(Vec<String>);

/// The text does not have the five parts of `TD/ns/NS/sa/SA`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT")]
pub struct NotIstioIdentity(String);

/// Why an identity cannot be made for a service account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountIdentityError {
    /// One of the two names is empty.
    #[error("namespace or service account is empty")]
    EmptyName,
    /// The names do not fit in a SPIFFE ID.
    #[error("the names do not fit in a SPIFFE ID")]
    NotSpiffe(#[from] IdError),
}

impl AccountIdentityError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EmptyName => "account_name_empty",
            Self::NotSpiffe(_) => "account_name_not_spiffe",
        }
    }
}

impl TrustDomains {
    /// From the mesh's own trust domain and its aliases.
    pub fn new<S: Into<String>>(own: S, aliases: impl IntoIterator<Item = S>) -> Self {
        Self(std::iter::once(own).chain(aliases).map(Into::into).collect())
    }

    /// The values that a list of principals stands for: a principal of the mesh's domain, of an alias or of
    /// [`LOCAL`] stands for itself in each of the mesh's domains; `*`, `*/ns/..` and foreign domains stay as they are.
    pub fn expand_principals(&self, principals: &[String]) -> Vec<String> {
        let mut expanded = Vec::with_capacity(principals.len());
        for principal in principals {
            match principal_trust_domain(principal) {
                Ok(domain) if domain != "*" && (domain == LOCAL || self.overlaps(domain)) => {
                    self.expand_one(domain, principal, &mut expanded);
                }
                _ => expanded.push(principal.clone()),
            }
        }
        expanded
    }

    /// The values that a list of trust domains stands for: one of the mesh's own, written out, stands for each of them
    /// (Istio's `ExpandTrustDomainAliases`).
    pub fn expand_trust_domains(&self, values: &[String]) -> Vec<String> {
        let mut expanded: Vec<String> = Vec::with_capacity(values.len());
        for value in values {
            let stands_for = if self.0.contains(value) { self.0.as_slice() } else { std::slice::from_ref(value) };
            for domain in stands_for {
                if !expanded.contains(domain) {
                    expanded.push(domain.clone());
                }
            }
        }
        expanded
    }

    /// The SPIFFE IDs that a list of IDs stands for: each, and each of Istio's layout also in the aliases. What is not
    /// such an ID stays as it is.
    pub fn expand_identities<'a>(
        identities: impl IntoIterator<Item = &'a str>,
        aliases: &[String],
    ) -> BTreeSet<String> {
        let mut expanded = BTreeSet::new();
        for identity in identities {
            expanded.insert(identity.to_owned());
            let Some(principal) = identity.strip_prefix("spiffe://") else { continue };
            if parse_identity(identity).is_none() {
                continue;
            }
            expanded.extend(
                aliases
                    .iter()
                    .filter_map(|alias| replace_trust_domain(alias, principal).ok())
                    .map(|p| format!("spiffe://{p}")),
            );
        }
        expanded
    }

    /// Whether a domain of the list can be meant: either side may hold a wildcard.
    fn overlaps(&self, domain: &str) -> bool {
        self.0.iter().any(|own| wildcard_matches(own, domain) || wildcard_matches(domain, own))
    }

    fn expand_one(&self, domain: &str, principal: &str, out: &mut Vec<String>) {
        let start = out.len();
        for own in &self.0 {
            let named = if suffix_matches(domain, own) {
                principal.to_owned()
            } else {
                match replace_trust_domain(own, principal) {
                    Ok(named) => named,
                    Err(_) => continue,
                }
            };
            if !out[start..].contains(&named) {
                out.push(named);
            }
        }
    }
}

/// Unlike in [`crate::pattern`], a pattern with wildcards at both ends is tried as a prefix too.
fn wildcard_matches(pattern: &str, name: &str) -> bool {
    let prefix = pattern.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix));
    pattern == name || prefix || suffix_matches(pattern, name)
}

fn suffix_matches(pattern: &str, name: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix))
}

/// The trust domain of a principal of the form `TD/ns/NS/sa/SA`.
pub fn principal_trust_domain(principal: &str) -> Result<&str, NotIstioIdentity> {
    let mut parts = principal.split('/');
    match (parts.next(), parts.count()) {
        (Some(domain), 4) => Ok(domain),
        _ => Err(NotIstioIdentity(principal.to_owned())),
    }
}

/// Whether a principal names a trust domain (`*-td` does, `*` and values of another form do not).
pub fn names_trust_domain(principal: &str) -> bool {
    principal_trust_domain(principal).is_ok_and(|domain| domain != "*")
}

/// The same principal in another trust domain.
pub fn replace_trust_domain(domain: &str, principal: &str) -> Result<String, NotIstioIdentity> {
    let old = principal_trust_domain(principal)?;
    Ok(format!("{domain}{}", &principal[old.len()..]))
}

/// Trust domain, namespace and service account of a SPIFFE ID in Istio's layout; anything else has none.
pub fn parse_identity(uri: &str) -> Option<(TrustDomain, String, String)> {
    let id = SpiffeId::parse(uri).ok()?;
    let (namespace, account) = id.service_account()?;
    Some((id.trust_domain(), namespace.to_owned(), account.to_owned()))
}

/// The identity of a service account. `@` in a trust domain (as in the names of federated Google projects) becomes `.`,
/// since SPIFFE does not allow it.
pub fn account_identity(domain: &str, namespace: &str, account: &str) -> Result<SpiffeId, AccountIdentityError> {
    if namespace.is_empty() || account.is_empty() {
        return Err(AccountIdentityError::EmptyName);
    }
    let domain = TrustDomain::parse(&domain.replace('@', "."))?;
    Ok(SpiffeId::of_service_account(&domain, namespace, account)?)
}
