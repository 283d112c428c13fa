//! IP addresses, CIDR blocks and ports as policies write them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::truth::Truth;

/// Why a text is not an address, a block or a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither an IPv4 nor an IPv6 address.
    #[error("bad IP address")]
    Address,
    /// Not `ADDRESS/BITS`.
    #[error("bad CIDR range")]
    Block,
    /// Not a decimal number from 0 to 65535.
    #[error("invalid port")]
    Port,
}

/// One value of an address field: `1.2.3.4`, `10.0.0.0/8`, `fd00::/8`. Bits beyond the prefix are ignored and
/// IPv4-mapped IPv6 counts as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressBlock {
    net: IpNet,
    /// `fe80::1%eth0` names an interface, which no connection tells us: where the address fits, the answer is unknown.
    zoned: bool,
}

impl AddressBlock {
    /// Reads an address (an IPv6 zone is accepted, as Istio does) or a CIDR block (no zone).
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| AddressError::Block)?;
            let net = IpNet::new(address, parse_bits(bits)?).map_err(|_| AddressError::Block)?;
            return Ok(Self { net: canonical(net), zoned: false });
        }
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| AddressError::Address)?;
        if zone.is_some_and(|zone| zone.is_empty() || address.is_ipv4()) {
            return Err(AddressError::Address);
        }
        Ok(Self { net: canonical(IpNet::from(address)), zoned: zone.is_some() })
    }

    /// Whether the address lies in it. IPv4 never lies in an IPv6 block nor the other way round.
    pub fn matches(&self, address: IpAddr) -> Truth {
        match (self.net.contains(&address.to_canonical()), self.zoned) {
            (false, _) => Truth::False,
            (true, true) => Truth::Unknown,
            (true, false) => Truth::True,
        }
    }

    /// Whether `narrow` lies in it.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        self.net.contains(&narrow.net) && !self.zoned && !narrow.zoned
    }
}

fn parse_bits(bits: &str) -> Result<u8, AddressError> {
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    if plain { bits.parse().map_err(|_| AddressError::Block) } else { Err(AddressError::Block) }
}

fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(bits) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, bits)
    {
        return IpNet::V4(v4.trunc());
    }
    net.trunc()
}

/// Reads a port: decimal, 0 to 65535, no sign, no range.
pub fn parse_port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::Port);
    }
    text.parse().map_err(|_| AddressError::Port)
}
