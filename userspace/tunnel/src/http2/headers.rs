//! CONNECT requests and their answers as header blocks.

use std::sync::Arc;

use super::{
    hpack::{self, Broken, Decoder},
    remembered::Heard,
};
use crate::{
    connect::{Authority, Baggage, ConnectRequest, Forwarded, Traceparent},
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

/// What a header block says, as far as CONNECT is concerned.
#[derive(Debug, Default)]
pub(crate) struct Heading {
    method: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    status: Option<u16>,
    forwarded: Option<Vec<u8>>,
    traceparent: Option<Vec<u8>>,
    network: Option<Vec<u8>>,
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
        self.malformed |= value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.fields = true;
        let slot = match name {
            b"baggage" => return self.baggage.push(value.to_vec()),
            b"forwarded" => &mut self.forwarded,
            b"traceparent" => &mut self.traceparent,
            b"x-forwarded-network" => &mut self.network,
            // Fields of HTTP/1 connections (RFC 9113 section 8.2.2) and names in capitals must not occur.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                self.malformed = true;
                return;
            }
            _ => {
                self.malformed |=
                    name.is_empty() || name.iter().any(|byte| !matches!(byte, b'!'..=b'9' | b';'..=b'@' | b'['..=b'~'));
                return;
            }
        };
        slot.get_or_insert_with(|| value.to_vec());
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) {
        // They come first, and once.
        self.malformed |= self.fields;
        let slot = match name {
            b":method" => &mut self.method,
            b":authority" => &mut self.authority,
            b":scheme" | b":path" | b":protocol" => {
                self.elsewhere = true;
                return;
            }
            b":status" => {
                let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.malformed |= self.status.is_some() || !matches!(status, Some(100..=999));
                self.status = status;
                return;
            }
            _ => {
                self.malformed = true;
                return;
            }
        };
        self.malformed |= slot.is_some();
        *slot = Some(value.to_vec());
    }

    /// The block as a request of a peer.
    pub(crate) fn request(self, heard: &mut Heard) -> Result<ConnectRequest, Unfit> {
        if self.size > self.limit {
            return Err(Unfit::TooLarge);
        }
        let Some(method) = self.method.as_deref().filter(|_| !self.malformed && self.status.is_none()) else {
            return Err(Unfit::Broken);
        };
        if method != b"CONNECT" || self.elsewhere {
            return Err(Unfit::Malformed(Malformed::NotConnect));
        }
        let authority = text(self.authority.as_deref()).unwrap_or_default();
        let authority = Authority::parse(authority).map_err(|e| Unfit::Malformed(Malformed::Authority(e)))?;
        Ok(ConnectRequest {
            authority,
            forwarded: text(self.forwarded.as_deref()).map(Forwarded::parse).unwrap_or_default(),
            baggage: heard.read(self.baggage),
            traceparent: text(self.traceparent.as_deref()).and_then(Traceparent::parse),
            network: text(self.network.as_deref())
                .filter(|name| !name.is_empty() && name.len() <= MAX_NETWORK)
                .map(Box::from),
        })
    }

    /// The block as an answer to a request of ours. The status is missing only from a broken one.
    pub(crate) fn answer(self, heard: &mut Heard) -> Result<(u16, Arc<Baggage>), Unfit> {
        if self.size > self.limit {
            return Err(Unfit::TooLarge);
        }
        match self.status {
            Some(status) if !self.malformed && self.method.is_none() => Ok((status, heard.read(self.baggage))),
            _ => Err(Unfit::Broken),
        }
    }
}

/// A value that is visible ASCII; other values are treated as absent.
pub(super) fn text(value: Option<&[u8]>) -> Option<&str> {
    let value = value?;
    let visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    if visible { std::str::from_utf8(value).ok() } else { None }
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
    if let Some(value) = value.filter(|value| text(Some(value)).is_some()) {
        hpack::put_new(block, name.as_bytes(), value);
    }
}
