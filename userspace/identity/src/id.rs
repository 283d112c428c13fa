//! Trust domains and SPIFFE IDs: parsed once, valid ever after.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Longest SPIFFE ID that is accepted, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_LEN: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID section 2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;
const SCHEME: &str = "spiffe://";
const NODE_PATH: &str = "/culvert/node/";
const CONTROL_PATH: &str = "/culvert/control";

/// The name of a trust domain, such as `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID, `spiffe://TD/path`, compared byte for byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path (with its slash) begins; equals `text.len()` when there is none.
    path_at: usize,
}

/// Why a text is not a trust domain or a SPIFFE ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there at all.
    #[error("empty")]
    Empty,
    /// More than 2048 bytes.
    #[error("longer than 2048 bytes")]
    TooLong,
    /// It does not begin with `spiffe://`, in lower case.
    #[error("scheme is not \"spiffe://\"")]
    Scheme,
    /// No trust domain between scheme and path.
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// More than 255 bytes of trust domain.
    #[error("trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// A byte outside `[a-z0-9._-]`.
    #[error("trust domain has a character outside [a-z0-9._-]")]
    TrustDomainChar,
    /// `//` in the path.
    #[error("path has an empty segment")]
    EmptySegment,
    /// The path ends with `/`.
    #[error("path ends with a slash")]
    TrailingSlash,
    /// A segment that is `.` or `..`.
    #[error("path has a \".\" or \"..\" segment")]
    DotSegment,
    /// A byte outside `[A-Za-z0-9._-]` in a segment.
    #[error("path has a character outside [A-Za-z0-9._-]")]
    PathChar,
}

impl IdError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Scheme => "scheme",
            Self::NoTrustDomain => "no_trust_domain",
            Self::TrustDomainTooLong => "trust_domain_too_long",
            Self::TrustDomainChar => "trust_domain_char",
            Self::EmptySegment => "empty_segment",
            Self::TrailingSlash => "trailing_slash",
            Self::DotSegment => "dot_segment",
            Self::PathChar => "path_char",
        }
    }
}

impl TrustDomain {
    /// Reads the bare name of a trust domain (`cluster.local`, without scheme or path).
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Reads a SPIFFE ID exactly: no case folding, no escapes, no normalisation.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let td_len = rest.find('/').unwrap_or(rest.len());
        check_trust_domain(&rest[..td_len])?;
        check_path(&rest[td_len..])?;
        Ok(Self { text: text.into(), path_at: SCHEME.len() + td_len })
    }

    /// The identity of a Kubernetes service account in Istio's layout, `spiffe://TD/ns/NS/sa/SA`. Each name is one segment.
    pub fn of_service_account(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, IdError> {
        // Once for each connection: the trust domain is not looked at again, and the parts are put in a row as they are.
        check_segment(namespace)?;
        check_segment(account)?;
        let text: Arc<str> = [SCHEME, &domain.0, "/ns/", namespace, "/sa/", account].concat().into();
        if text.len() > MAX_ID_LEN {
            return Err(IdError::TooLong);
        }
        Ok(Self { text, path_at: SCHEME.len() + domain.0.len() })
    }

    /// Whether it is what [`SpiffeId::of_service_account`] gives for these names, without making that.
    pub fn is_of_service_account(&self, domain: &TrustDomain, namespace: &str, account: &str) -> bool {
        let rest = self.text.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(&*domain.0));
        let rest = rest.and_then(|rest| rest.strip_prefix("/ns/")).and_then(|rest| rest.strip_prefix(namespace));
        let rest = rest.and_then(|rest| rest.strip_prefix("/sa/"));
        rest == Some(account) && !namespace.contains('/') && !account.contains('/')
    }

    /// The identity of a node's agent towards the control plane, `spiffe://TD/culvert/node/NAME`.
    pub fn of_node(domain: &TrustDomain, node: &str) -> Result<Self, IdError> {
        if node.contains('/') {
            return Err(IdError::PathChar);
        }
        Self::parse(&format!("{SCHEME}{domain}{NODE_PATH}{node}"))
    }

    /// The identity of the control plane, `spiffe://TD/culvert/control`.
    pub fn of_control(domain: &TrustDomain) -> Self {
        let text = format!("{SCHEME}{domain}{CONTROL_PATH}");
        Self { text: text.into(), path_at: SCHEME.len() + domain.0.len() }
    }

    /// The node's name, present only when the path is exactly `/culvert/node/NAME`.
    pub fn node(&self) -> Option<&str> {
        self.path().strip_prefix(NODE_PATH).filter(|name| !name.is_empty() && !name.contains('/'))
    }

    /// The whole ID, `spiffe://TD/path`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared: for records of many connections.
    pub fn shared(&self) -> Arc<str> {
        self.text.clone()
    }

    /// The ID without `spiffe://`: what Istio calls a principal.
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// The trust domain's name.
    pub fn trust_domain_str(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }

    /// The path with its leading slash, or `""`.
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// Namespace and service account, present only when the path is exactly `/ns/NS/sa/SA`.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().strip_prefix("/ns/")?.split('/');
        match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
            (namespace, "sa", account, None) if !namespace.is_empty() && !account.is_empty() => {
                Some((namespace, account))
            }
            _ => None,
        }
    }
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::NoTrustDomain);
    }
    if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
        return Err(IdError::TrustDomainChar);
    }
    if name.len() > MAX_TRUST_DOMAIN_LEN {
        return Err(IdError::TrustDomainTooLong);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), IdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    if segments.is_empty() || segments.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        s if s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-')) => Ok(()),
        _ => Err(IdError::PathChar),
    }
}

/// Maps by trust domain can be asked with the bare name. Equality and hash of both are those of the text.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
