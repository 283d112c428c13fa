//! The attributes that rules speak of, and what their values may be.

use std::fmt;

use crate::{
    address::{AddressBlock, parse_port},
    brackets::{name_in_brackets, names_in_brackets},
};

/// An attribute of a connection or a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `source.principal`.
    SourcePrincipal,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.serviceAccount`.
    SourceServiceAccount,
    /// `source.trustDomain`.
    SourceTrustDomain,
    /// `source.ip`.
    SourceIp,
    /// `remote.ip`, from X-Forwarded-For or PROXY.
    RemoteIp,
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    Sni,
    /// `operation.hosts`.
    RequestHost,
    /// `operation.methods`.
    RequestMethod,
    /// `operation.paths`.
    RequestPath,
    /// `request.headers[NAME]`.
    RequestHeader(String),
    /// `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    RequestAudiences,
    /// `request.auth.presenter`.
    RequestPresenter,
    /// `request.auth.claims[a][b]`.
    RequestClaim(Vec<String>),
    /// `experimental.envoy.filters.X[k]`: accepted, unknown at every layer of culvert.
    EnvoyFilter(String),
    /// A key that nobody can evaluate: data that was never validated holds one, and `request.headers.X[k]`, which Istio's
    /// webhook admits and no proxy is ever given. Unknown at every layer.
    Other(String),
}

/// Why a `when` key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No attribute of this name.
    #[error("unknown attribute")]
    Unknown,
    /// An attribute of Istio's first alpha, with something else in its place.
    #[error("attribute is replaced by {0}")]
    Replaced(&'static str),
    /// An attribute of Istio's first alpha.
    #[error("deprecated attribute")]
    Deprecated,
    /// The name in brackets is missing or empty.
    #[error("should have format a[b]")]
    Brackets,
}

/// Why a value does not fit its attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// `""`.
    #[error("empty value not allowed")]
    Empty,
    /// Not an address or a block.
    #[error("{0}")]
    Address(#[from] crate::address::AddressError),
    /// More than one `*`.
    #[error("at most one wildcard is allowed")]
    ManyWildcards,
    /// A `*` that is neither first nor last.
    #[error("wildcard is only allowed at the start or end")]
    InnerWildcard,
    /// A `/` in a trust domain.
    #[error("trust domain must not contain '/'")]
    TrustDomainSlash,
    /// A `*` in a service account.
    #[error("wildcard not allowed")]
    AccountWildcard,
    /// Neither `ACCOUNT` nor `NAMESPACE/ACCOUNT`.
    #[error("expected format 'serviceAccount' or 'namespace/serviceAccount'")]
    AccountFormat,
    /// More than 320 bytes.
    #[error("value cannot exceed 320 characters")]
    AccountTooLong,
}

impl Attribute {
    /// Reads a `when` key.
    pub fn parse(key: &str) -> Result<Self, KeyError> {
        Ok(match key {
            "source.principal" => Self::SourcePrincipal,
            "source.namespace" => Self::SourceNamespace,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::RequestAudiences,
            "request.auth.presenter" => Self::RequestPresenter,
            "destination.namespace" => return Err(KeyError::Replaced("metadata.namespace")),
            "destination.name" | "destination.user" => return Err(KeyError::Deprecated),
            _ => return Self::parse_with_brackets(key),
        })
    }

    fn parse_with_brackets(key: &str) -> Result<Self, KeyError> {
        if ["request.headers", "request.auth.claims"].iter().any(|name| has_text_after(name, key)) {
            return Ok(Self::Other(key.to_owned()));
        }
        if let Some(rest) = key.strip_prefix("request.headers") {
            return Ok(Self::RequestHeader(bracketed(rest)?.to_owned()));
        }
        if let Some(rest) = key.strip_prefix("request.auth.claims") {
            bracketed(rest)?;
            let names = names_in_brackets(rest).map_err(|_| KeyError::Brackets)?;
            return Ok(Self::RequestClaim(names.into_iter().map(str::to_owned).collect()));
        }
        if let Some(rest) = key.strip_prefix("experimental.envoy.filters.") {
            bracketed(rest.find('[').map_or("", |open| &rest[open..]))?;
            return Ok(Self::EnvoyFilter(rest.to_owned()));
        }
        if key.starts_with("destination.labels") {
            return Err(KeyError::Replaced("the workload selector"));
        }
        Err(KeyError::Unknown)
    }

    /// Whether L4 sees it.
    pub fn known_at_l4(&self) -> bool {
        matches!(
            self,
            Self::SourcePrincipal
                | Self::SourceNamespace
                | Self::SourceServiceAccount
                | Self::SourceTrustDomain
                | Self::SourceIp
                | Self::DestinationIp
                | Self::DestinationPort
        )
    }

    /// Whether it comes from the peer's certificate.
    pub fn is_identity(&self) -> bool {
        matches!(
            self,
            Self::SourcePrincipal | Self::SourceNamespace | Self::SourceServiceAccount | Self::SourceTrustDomain
        )
    }

    /// Whether the values may stand together in a condition on this attribute.
    pub fn check_all(&self, values: &[String]) -> Result<(), ConditionError> {
        if *self == Self::SourceServiceAccount && values.len() > MAX_ACCOUNTS {
            return Err(ConditionError::TooManyAccounts);
        }
        let mut numbered = values.iter().enumerate();
        numbered.try_for_each(|(at, value)| self.check(value).map_err(|error| ConditionError::Value(at, error)))
    }

    /// Whether a value may stand in a condition on this attribute.
    pub fn check(&self, value: &str) -> Result<(), ValueError> {
        if value.is_empty() {
            return Err(ValueError::Empty);
        }
        match self {
            Self::SourceIp | Self::RemoteIp | Self::DestinationIp => {
                AddressBlock::parse(value)?;
                Ok(())
            }
            Self::DestinationPort => {
                parse_port(value)?;
                Ok(())
            }
            Self::SourceTrustDomain => check_wildcard(value),
            Self::SourceServiceAccount => check_account(value),
            _ => Ok(()),
        }
    }
}

/// Why a condition is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Value number `.0`.
    #[error("value {0}: {1}")]
    Value(usize, ValueError),
    /// More than [`MAX_ACCOUNTS`] service accounts.
    #[error("may not have more than {MAX_ACCOUNTS} values")]
    TooManyAccounts,
}

/// Most service accounts in one field.
pub const MAX_ACCOUNTS: usize = 16;

/// Checks a `when` key and its values.
pub fn check_condition(key: &str, values: &[String]) -> Result<(), ConditionError> {
    Attribute::parse(key)?.check_all(values)
}

/// Whether there is text between the name and the brackets of a key.
fn has_text_after(name: &str, key: &str) -> bool {
    let open = key.strip_prefix(name).and_then(|rest| rest.find('['));
    open.is_some_and(|open| open > 0 && key.ends_with(']') && name.len() + open + 2 < key.len())
}

/// The text in brackets, which must not be empty.
fn bracketed(text: &str) -> Result<&str, KeyError> {
    match name_in_brackets(text) {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => Err(KeyError::Brackets),
    }
}

/// A value with at most one wildcard, first or last.
pub fn check_wildcard(value: &str) -> Result<(), ValueError> {
    match value.matches('*').count() {
        _ if value.is_empty() => Err(ValueError::Empty),
        0 => Ok(()),
        1 if value.starts_with('*') || value.ends_with('*') => Ok(()),
        1 => Err(ValueError::InnerWildcard),
        _ => Err(ValueError::ManyWildcards),
    }
}

/// A value of `trustDomains`.
pub fn check_trust_domain(value: &str) -> Result<(), ValueError> {
    check_wildcard(value)?;
    if value.contains('/') { Err(ValueError::TrustDomainSlash) } else { Ok(()) }
}

/// A value of `serviceAccounts`.
pub fn check_account(value: &str) -> Result<(), ValueError> {
    if value.is_empty() {
        return Err(ValueError::Empty);
    }
    if value.contains('*') {
        return Err(ValueError::AccountWildcard);
    }
    if value.len() > 320 {
        return Err(ValueError::AccountTooLong);
    }
    match value.split_once('/') {
        None => Ok(()),
        Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() && !account.contains('/') => Ok(()),
        Some(_) => Err(ValueError::AccountFormat),
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourcePrincipal => "source.principal",
            Self::SourceNamespace => "source.namespace",
            Self::SourceServiceAccount => "source.serviceAccount",
            Self::SourceTrustDomain => "source.trustDomain",
            Self::SourceIp => "source.ip",
            Self::RemoteIp => "remote.ip",
            Self::DestinationIp => "destination.ip",
            Self::DestinationPort => "destination.port",
            Self::Sni => "connection.sni",
            Self::RequestHost => "request.host",
            Self::RequestMethod => "request.method",
            Self::RequestPath => "request.path",
            Self::RequestPrincipal => "request.auth.principal",
            Self::RequestAudiences => "request.auth.audiences",
            Self::RequestPresenter => "request.auth.presenter",
            Self::RequestHeader(name) => return write!(f, "request.headers[{name}]"),
            Self::RequestClaim(names) => return write!(f, "request.auth.claims[{}]", names.join("][")),
            Self::EnvoyFilter(rest) => return write!(f, "experimental.envoy.filters.{rest}"),
            Self::Other(key) => key,
        })
    }
}
