//! The comparisons that L4 can make.

use crate::{address::AddressBlock, connection::Facts, pattern::Strings, truth::Truth};

/// What a field compares. An attribute that is visible but not there matches nothing; one that L4 cannot see, or a value
/// that could not be read, is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// `source.principal`.
    Principal(Strings),
    /// `source.namespace`.
    Namespace(Strings),
    /// `source.serviceAccount`.
    Account(Accounts),
    /// `source.trustDomain`.
    TrustDomain(Strings),
    /// `source.ip`.
    SourceIp(Blocks),
    /// `destination.ip`.
    DestinationIp(Blocks),
    /// `destination.port`.
    DestinationPort(Ports),
    /// An attribute of another layer, by name.
    Unseen(Box<str>),
}

/// `namespace` and `account` pairs; the trust domain does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts(Vec<(String, String)>);

/// Address blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocks {
    blocks: Vec<AddressBlock>,
    /// Some value is not an address.
    unreadable: bool,
}

/// Ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    ports: Vec<u16>,
    /// Some value is not a port.
    unreadable: bool,
}

impl Test {
    /// Whether any value matches.
    pub fn truth(&self, facts: &Facts<'_>) -> Truth {
        let identity = facts.identity;
        let account = identity.and_then(|id| id.account);
        match self {
            Self::Principal(values) => values.matches(identity.map(|id| id.principal)),
            Self::Namespace(values) => values.matches(account.map(|(namespace, _)| namespace)),
            Self::Account(accounts) => accounts.matches(account),
            Self::TrustDomain(values) => values.matches(identity.map(|id| id.trust_domain)),
            Self::SourceIp(blocks) => blocks.matches(facts.source_ip),
            Self::DestinationIp(blocks) => blocks.matches(facts.destination_ip),
            Self::DestinationPort(ports) => ports.matches(facts.destination_port),
            Self::Unseen(_) => Truth::Unknown,
        }
    }

    /// How many values it has, and how many of them are walked through, one after the other, when one is looked for.
    /// `written`: how many were written.
    pub(crate) fn size(&self, written: usize) -> (usize, usize) {
        match self {
            Self::Principal(values) | Self::Namespace(values) | Self::TrustDomain(values) => values.size(),
            Self::Account(accounts) => (accounts.0.len(), 0),
            Self::SourceIp(blocks) | Self::DestinationIp(blocks) => (blocks.blocks.len(), blocks.blocks.len()),
            Self::DestinationPort(ports) => (ports.ports.len(), 0),
            Self::Unseen(_) => (written, written),
        }
    }

    /// Whether a positive match needs an authenticated identity.
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::Principal(_) | Self::Namespace(_) | Self::Account(_) | Self::TrustDomain(_))
    }
}

impl Accounts {
    /// Whether one of the pairs is this one.
    pub fn matches(&self, account: Option<(&str, &str)>) -> Truth {
        let Some((namespace, name)) = account else { return Truth::False };
        let at = self.0.binary_search_by(|(ns, sa)| (ns.as_str(), sa.as_str()).cmp(&(namespace, name)));
        Truth::from(at.is_ok())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(namespace, account)| (namespace.as_str(), account.as_str()))
    }
}

impl FromIterator<(String, String)> for Accounts {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        Self(pairs)
    }
}

impl Blocks {
    /// Reads the values.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut read = Self::default();
        for value in values {
            match AddressBlock::parse(value) {
                Ok(block) => read.blocks.push(block),
                Err(_) => read.unreadable = true,
            }
        }
        read
    }

    /// Whether the address lies in one of them.
    pub fn matches(&self, address: std::net::IpAddr) -> Truth {
        let known = Truth::any(self.blocks.iter().map(|block| block.matches(address)));
        if self.unreadable { known.max(Truth::Unknown) } else { known }
    }

    /// Whether each block of `narrow` lies in one of these.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        !narrow.unreadable && narrow.blocks.iter().all(|block| self.blocks.iter().any(|wide| wide.covers(block)))
    }
}

impl Ports {
    /// Reads the values.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut read = Self::default();
        for value in values {
            match crate::address::parse_port(value) {
                Ok(port) => read.ports.push(port),
                Err(_) => read.unreadable = true,
            }
        }
        read.ports.sort_unstable();
        read
    }

    /// Whether the port is one of them.
    pub fn matches(&self, port: u16) -> Truth {
        let known = Truth::from(self.ports.binary_search(&port).is_ok());
        if self.unreadable { known.max(Truth::Unknown) } else { known }
    }

    /// Whether each port of `narrow` is one of these.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        !narrow.unreadable && narrow.ports.iter().all(|port| self.ports.binary_search(port).is_ok())
    }
}
