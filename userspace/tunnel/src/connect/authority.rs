//! `:authority`: `ip:port`, `[ip6]:port` or `host.name:port`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::AddressText;

/// Longest host name, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The host part of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; never an IPv4-mapped IPv6 one.
    Ip(IpAddr),
    /// A DNS name in lower case, without a final dot.
    Name(Box<str>),
}

/// What a CONNECT request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Why a text is not an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Nothing there.
    #[error("authority is missing")]
    Missing,
    /// No `:port` at the end.
    #[error("authority has no port")]
    NoPort,
    /// The port is not a number from 1 to 65535.
    #[error("port of the authority is not a number from 1 to 65535")]
    BadPort,
    /// The host is neither an address nor a DNS name.
    #[error("host of the authority is neither an address nor a DNS name")]
    BadHost,
}

impl AuthorityError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "authority_missing",
            Self::NoPort => "authority_without_port",
            Self::BadPort => "authority_bad_port",
            Self::BadHost => "authority_bad_host",
        }
    }
}

impl Authority {
    /// Reads `ip:port`, `[ip6]:port` or `name:port`, strictly.
    ///
    /// An IPv4-mapped IPv6 address is refused: it is a second spelling of an address, and checks elsewhere compare
    /// spellings. User information, zone ids and numbers that look like a short IPv4 address are refused as well.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.is_empty() {
            return Err(AuthorityError::Missing);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
        let port = parse_port(port)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => parse_v6(rest.strip_suffix(']').ok_or(AuthorityError::BadHost)?)?,
            None => parse_v4_or_name(host)?,
        };
        Ok(Self { host, port })
    }

    /// The socket address, when the host is an address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(AuthorityError::BadPort),
    }
}

fn parse_v6(text: &str) -> Result<Host, AuthorityError> {
    let ip = Ipv6Addr::from_str(text).map_err(|_| AuthorityError::BadHost)?;
    match ip.to_ipv4_mapped() {
        Some(_) => Err(AuthorityError::BadHost),
        None => Ok(Host::Ip(ip.into())),
    }
}

fn parse_v4_or_name(text: &str) -> Result<Host, AuthorityError> {
    if let Ok(ip) = Ipv4Addr::from_str(text) {
        return Ok(Host::Ip(ip.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if is_name(name) { Ok(Host::Name(name.to_ascii_lowercase().into())) } else { Err(AuthorityError::BadHost) }
}

/// A DNS name whose last label is not a number (that would be a mistyped address).
pub(super) fn is_name(name: &str) -> bool {
    let numeric_end = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= MAX_NAME && !numeric_end && name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    !label.is_empty() && label.len() <= MAX_LABEL && inner && !label.starts_with('-') && !label.ends_with('-')
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl Authority {
    /// The value of `:authority`.
    pub(crate) fn to_header(&self) -> String {
        match &self.host {
            Host::Ip(ip) => AddressText::of(SocketAddr::new(*ip, self.port)).as_str().to_owned(),
            Host::Name(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}
