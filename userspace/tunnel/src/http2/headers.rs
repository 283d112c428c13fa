//! CONNECT requests and their answers as header blocks.

use std::sync::Arc;

use super::{
    hpack::{self, Broken, Decoder},
    remembered::Heard,
};
use crate::{
    connect::{Authority, AuthorityError, Baggage, ConnectRequest, Forwarded, Traceparent},
    serve::Malformed,
};

/// Longest network name that is looked at, in bytes.
const MAX_NETWORK: usize = 253;
/// What each field counts besides its text (RFC 9113 section 6.5.2), in bytes.
const FIELD: usize = 32;

/// Entries of HPACK's static table.
mod known {
    pub(super) const AUTHORITY: u8 = 1;
    pub(super) const METHOD: u8 = 2;
    pub(super) const STATUS_200: u8 = 8;
}

/// What a header block says, as far as CONNECT is concerned. Of a field that may stand there once, the first is read.
#[derive(Debug, Default)]
pub(crate) struct Heading {
    /// Whether `:method` is CONNECT.
    connect: Option<bool>,
    authority: Option<Result<Authority, AuthorityError>>,
    status: Option<u16>,
    forwarded: Option<Forwarded>,
    traceparent: Option<Option<Traceparent>>,
    network: Option<Option<Box<str>>>,
    baggage: Vec<Vec<u8>>,
    /// `:scheme`, `:path` or `:protocol`: it is a request, but not a plain CONNECT.
    elsewhere: bool,
    /// The first field that is not a pseudo-header has come.
    fields: bool,
    /// The block breaks the rules of RFC 9113 section 8.
    malformed: bool,
    size: usize,
    limit: usize,
}

/// Why a block is not a request that can be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It breaks HTTP/2: the stream is reset as PROTOCOL_ERROR.
    Broken,
    /// It is larger than we said that we take: 431.
    TooLarge,
    /// It is a request that makes no sense here: 400.
    Malformed(Malformed),
}

impl Heading {
    /// Reads a block; fields beyond `limit` bytes are dropped, not remembered.
    pub(crate) fn read(decoder: &mut Decoder, block: &[u8], limit: usize) -> Result<Self, Broken> {
        let mut heading = Self { limit, ..Self::default() };
        decoder.read(block, |name, value| heading.field(name, value))?;
        Ok(heading)
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + FIELD;
        if self.size > self.limit {
            return;
        }
        // Bytes that end a line or a text elsewhere are malformed wherever they stand (RFC 9113 section 8.2.1).
        self.malformed |= any(value, |byte| matches!(byte, 0 | b'\r' | b'\n'));
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.fields = true;
        match name {
            b"baggage" => self.baggage.push(value.to_vec()),
            b"forwarded" => {
                self.forwarded.get_or_insert_with(|| text(value).map(Forwarded::parse).unwrap_or_default());
            }
            b"traceparent" => {
                self.traceparent.get_or_insert_with(|| text(value).and_then(Traceparent::parse));
            }
            b"x-forwarded-network" => {
                let fits = |name: &&str| !name.is_empty() && name.len() <= MAX_NETWORK;
                self.network.get_or_insert_with(|| text(value).filter(fits).map(Box::from));
            }
            // Fields of HTTP/1 connections (RFC 9113 section 8.2.2) and names in capitals must not occur.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                self.malformed = true;
            }
            _ => {
                self.malformed |=
                    name.is_empty() || any(name, |byte| !matches!(byte, b'!'..=b'9' | b';'..=b'@' | b'['..=b'~'));
            }
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) {
        // They come first, and once.
        self.malformed |= self.fields;
        match name {
            b":method" => {
                self.malformed |= self.connect.is_some();
                self.connect = Some(value == b"CONNECT");
            }
            b":authority" => {
                self.malformed |= self.authority.is_some();
                self.authority = Some(Authority::parse(text(value).unwrap_or_default()));
            }
            b":scheme" | b":path" | b":protocol" => self.elsewhere = true,
            b":status" => {
                let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.malformed |= self.status.is_some() || !matches!(status, Some(100..=999));
                self.status = status;
            }
            _ => self.malformed = true,
        }
    }

    /// The block as a request of a peer.
    pub(crate) fn request(self, heard: &mut Heard) -> Result<ConnectRequest, Unfit> {
        if self.size > self.limit {
            return Err(Unfit::TooLarge);
        }
        let Some(connect) = self.connect.filter(|_| !self.malformed && self.status.is_none()) else {
            return Err(Unfit::Broken);
        };
        if !connect || self.elsewhere {
            return Err(Unfit::Malformed(Malformed::NotConnect));
        }
        let authority = self.authority.unwrap_or(Err(AuthorityError::Missing));
        Ok(ConnectRequest {
            authority: authority.map_err(|e| Unfit::Malformed(Malformed::Authority(e)))?,
            forwarded: self.forwarded.unwrap_or_default(),
            baggage: heard.read(self.baggage),
            traceparent: self.traceparent.flatten(),
            network: self.network.flatten(),
        })
    }

    /// The block as an answer to a request of ours. The status is missing only from a broken one.
    pub(crate) fn answer(self, heard: &mut Heard) -> Result<(u16, Arc<Baggage>), Unfit> {
        if self.size > self.limit {
            return Err(Unfit::TooLarge);
        }
        match self.status {
            Some(status) if !self.malformed && self.connect.is_none() => Ok((status, heard.read(self.baggage))),
            _ => Err(Unfit::Broken),
        }
    }
}

/// A value that is visible ASCII; other values are treated as absent.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    let hidden = any(value, |byte| !matches!(byte, b'\t' | b' '..=b'~'));
    if hidden { None } else { std::str::from_utf8(value).ok() }
}

/// Whether a byte is so. It looks at all of them: without a way out in between, many are looked at at once.
fn any(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, byte| found | is(*byte))
}

/// Writes a request: `:method` and `:authority`, and the fields that have something to say; `baggage` is written already.
pub(crate) fn write_request(connect: &ConnectRequest, baggage: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(512);
    hpack::put_known(&mut block, known::METHOD, b"CONNECT");
    hpack::put_known(&mut block, known::AUTHORITY, connect.authority.to_header().as_bytes());
    put(&mut block, "forwarded", connect.forwarded.to_header().as_deref().map(str::as_bytes));
    put(&mut block, "traceparent", connect.traceparent.map(Traceparent::text).as_ref().map(<[u8; 55]>::as_slice));
    put(&mut block, "x-forwarded-network", connect.network.as_deref().map(str::as_bytes));
    block.extend_from_slice(baggage);
    block
}

/// Writes the answer 200, and what there is to say about the destination.
pub(crate) fn write_ok(baggage: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(256);
    hpack::put_indexed(&mut block, known::STATUS_200);
    block.extend_from_slice(baggage);
    block
}

/// Writes an answer of three digits.
pub(crate) fn write_status(status: u16) -> Vec<u8> {
    let mut block = Vec::with_capacity(8);
    hpack::put_known(&mut block, known::STATUS_200, status.to_string().as_bytes());
    block
}

fn put(block: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    // A value that HTTP cannot carry is left out: all of these fields are optional.
    if let Some(value) = value.filter(|value| text(value).is_some()) {
        hpack::put_new(block, name.as_bytes(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(value: &[u8]) -> Option<Box<str>> {
        let mut block = Vec::new();
        hpack::put_known(&mut block, known::METHOD, b"CONNECT");
        hpack::put_known(&mut block, known::AUTHORITY, b"10.0.0.1:80");
        hpack::put_new(&mut block, b"x-forwarded-network", value);
        let heading = Heading::read(&mut Decoder::default(), &block, 4096).unwrap();
        heading.request(&mut Heard::default()).unwrap().network
    }

    #[test]
    fn a_value_that_is_not_visible_is_absent() {
        assert_eq!(network(b"blue sky\t~").as_deref(), Some("blue sky\t~"));
        for hidden in [&b"\x01"[..], b"blue\x7f", b"\x1bblue", "bl\u{fc}".as_bytes(), b"", &[b'a'; MAX_NETWORK + 1]] {
            assert_eq!(network(hidden), None, "{hidden:?}");
        }
    }

    #[test]
    fn of_two_values_the_first_is_read_even_where_it_says_nothing() {
        let mut block = Vec::new();
        hpack::put_known(&mut block, known::METHOD, b"CONNECT");
        hpack::put_known(&mut block, known::AUTHORITY, b"10.0.0.1:80");
        for (name, first, second) in [
            ("forwarded", "for=nobody", "for=\"10.0.0.9:1\""),
            ("traceparent", "00-0", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-forwarded-network", "\u{1}", "blue"),
        ] {
            hpack::put_new(&mut block, name.as_bytes(), first.as_bytes());
            hpack::put_new(&mut block, name.as_bytes(), second.as_bytes());
        }
        let heading = Heading::read(&mut Decoder::default(), &block, 4096).unwrap();
        let request = heading.request(&mut Heard::default()).unwrap();
        assert_eq!((request.forwarded, request.traceparent, request.network), (Forwarded::default(), None, None));
    }
}
