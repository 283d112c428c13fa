//! Reading single fields strictly.

use std::{fmt, net::IpAddr, sync::Arc};

use culvert_identity::{IdError, TrustDomain};
use ipnet::IpNet;

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It must say something.
    #[error("is missing or empty")]
    Missing,
    /// An address is 4 or 16 bytes, and IPv4 is not written as IPv6.
    #[error("is not an address of 4 or 16 bytes")]
    Address,
    /// Not a CIDR.
    #[error("is not a CIDR")]
    Cidr,
    /// Ports are 1 to 65535.
    #[error("is not a port between 1 and 65535")]
    Port,
    /// A value of an enumeration that this version does not know.
    #[error("has a value that this version does not know")]
    UnknownValue,
    /// Not `namespace/name`.
    #[error("is not \"namespace/name\"")]
    Name,
    /// Not a trust domain.
    #[error("is not a trust domain: {0}")]
    TrustDomain(IdError),
    /// Not what an identity can be made of.
    #[error("does not fit in a SPIFFE ID: {0}")]
    Identity(IdError),
    /// The same entry twice.
    #[error("has the same entry twice")]
    Duplicate,
    /// An entry that would hold for everything.
    #[error("is empty, which would match everything")]
    MatchesAll,
    /// Fields that this version does not know, or not the encoding that a control plane sends.
    #[error("has fields that this version does not know")]
    UnknownFields,
}

impl Fault {
    /// The stable word for logs, metrics and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "field_missing",
            Self::Address => "bad_address",
            Self::Cidr => "bad_cidr",
            Self::Port => "bad_port",
            Self::UnknownValue => "unknown_value",
            Self::Name => "bad_name",
            Self::TrustDomain(_) => "bad_trust_domain",
            Self::Identity(_) => "bad_identity",
            Self::Duplicate => "duplicate_entry",
            Self::MatchesAll => "matches_all",
            Self::UnknownFields => "unknown_fields",
        }
    }
}

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {path} {fault}")]
pub struct FieldError {
    /// The field, as in `rules[0].from[1].principals[0]`.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, fault: Fault) -> Self {
        Self { path: path.into(), fault }
    }

    /// The same error seen from the message that holds the field.
    pub(crate) fn under(self, outer: impl fmt::Display) -> Self {
        Self { path: format!("{outer}.{}", self.path), fault: self.fault }
    }
}

pub(crate) type Read<T> = Result<T, FieldError>;

pub(crate) fn required(path: &str, text: &str) -> Read<Arc<str>> {
    if text.is_empty() { Err(FieldError::new(path, Fault::Missing)) } else { Ok(text.into()) }
}

pub(crate) fn trust_domain(path: &str, text: &str) -> Read<TrustDomain> {
    TrustDomain::parse(text).map_err(|error| FieldError::new(path, Fault::TrustDomain(error)))
}

pub(crate) fn port(path: &str, number: u32) -> Read<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| FieldError::new(path, Fault::Port))
}

/// Addresses in network order, each once.
pub(crate) fn addresses(path: &str, raw: &[Vec<u8>]) -> Read<Vec<IpAddr>> {
    let mut list = Vec::with_capacity(raw.len());
    for (index, bytes) in raw.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let address = address(bytes).ok_or_else(|| FieldError::new(path.as_str(), Fault::Address))?;
        if list.contains(&address) {
            return Err(FieldError::new(path, Fault::Duplicate));
        }
        list.push(address);
    }
    Ok(list)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    (address == address.to_canonical()).then_some(address)
}

pub(crate) fn address_bytes(address: &IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn cidrs(path: &str, raw: &[String]) -> Read<Vec<IpNet>> {
    let read = |(index, text): (usize, &String)| {
        text.parse().map_err(|_| FieldError::new(format!("{path}[{index}]"), Fault::Cidr))
    };
    raw.iter().enumerate().map(read).collect()
}

/// `namespace/name`, both there.
pub(crate) fn pair(path: &str, text: &str) -> Read<(String, String)> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(FieldError::new(path, Fault::Name)),
    }
}

/// Strings of which none is empty.
pub(crate) fn texts(path: &str, raw: Vec<String>) -> Read<Vec<String>> {
    match raw.iter().position(String::is_empty) {
        Some(index) => Err(FieldError::new(format!("{path}[{index}]"), Fault::Missing)),
        None => Ok(raw),
    }
}
