//! Addresses as text, for every connection several times.

use std::{io::Write as _, net::SocketAddr};

/// Room for every address: `[IPv6%SCOPE]:PORT` with an IPv4 tail.
const ROOM: usize = 72;

/// What `Display` gives, for IPv4 without its machinery for width and precision: an eighth of the instructions.
#[derive(Debug)]
pub struct AddressText {
    bytes: [u8; ROOM],
    len: usize,
}

impl AddressText {
    /// The text of an address.
    pub fn of(address: SocketAddr) -> Self {
        let mut text = Self { bytes: [0; ROOM], len: 0 };
        match address {
            SocketAddr::V4(v4) => text.digits(v4.ip().octets(), v4.port()),
            SocketAddr::V6(v6) => {
                let mut rest = text.bytes.as_mut_slice();
                let _ = write!(rest, "{v6}");
                text.len = ROOM - rest.len();
            }
        }
        text
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The same for who writes bytes: always ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn digits(&mut self, octets: [u8; 4], port: u16) {
        for (octet, after) in octets.into_iter().zip(*b"...:") {
            self.number(octet.into(), &[100, 10]);
            self.put(after);
        }
        self.number(port, &[10_000, 1000, 100, 10]);
    }

    /// A number whose digits but the last stand for these, without leading zeros.
    fn number(&mut self, number: u16, places: &[u16]) {
        for &place in places.iter().filter(|&&place| number >= place) {
            self.put(b'0' + (number / place % 10) as u8);
        }
        self.put(b'0' + (number % 10) as u8);
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_display_gives() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        let mapped = "[::ffff:255.255.255.255%4294967295]:65535";
        for address in
            ["0.0.0.0:0", "255.255.255.255:65535", "10.244.1.9:80", "[fd00::1]:443", "[fe80::1%3]:1", mapped, longest]
        {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(AddressText::of(address).as_str(), address.to_string());
        }
    }
}
