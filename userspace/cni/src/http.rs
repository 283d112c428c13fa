//! As much of HTTP/1.1 as two `GET`s need: one request per connection, the whole answer in memory.

use std::io::{self, Read};

/// Longest answer: an object of Kubernetes is at most 1.5 MiB.
const MAX_ANSWER: u64 = 4 << 20;
const MAX_HEADERS: usize = 64;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// The bytes of a request that asks for one JSON object and ends the connection with the answer.
pub fn request(host: &str, path: &str, token: Option<&str>) -> Vec<u8> {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\nuser-agent: culvert-cni/{}\r\n\
         connection: close\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if let Some(token) = token {
        text.push_str("authorization: Bearer ");
        text.push_str(token);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Reads an answer to the end of the connection. One that was cut off is an error, not a shorter answer.
pub fn read(stream: impl Read) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == MAX_ANSWER {
        return Err(bad("it is too long"));
    }
    parse(&bytes)
}

/// Takes a whole answer apart: foreign bytes.
pub fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| bad(&error.to_string()))?;
    let httparse::Status::Complete(begin) = parsed else { return Err(bad("its head is cut off")) };
    let status = response.code.ok_or_else(|| bad("it has no status"))?;
    let body = bytes.get(begin..).unwrap_or_default();
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let body = match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => unchunked(body)?,
        (Some(_), _) => return Err(bad("its transfer coding is not chunked")),
        (None, Some(length)) => {
            let length: usize = length.parse().map_err(|_| bad("its length is no number"))?;
            body.get(..length).ok_or_else(|| bad("its body is cut off"))?.to_vec()
        }
        (None, None) => body.to_vec(),
    };
    Ok(Answer { status, body })
}

fn unchunked(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(bytes).map_err(|_| bad("a chunk has no size"))?;
        let httparse::Status::Complete((begin, length)) = size else { return Err(bad("its chunks are cut off")) };
        if length == 0 {
            return Ok(body);
        }
        let end = usize::try_from(length).ok().and_then(|length| begin.checked_add(length));
        let chunk = end.and_then(|end| bytes.get(begin..end)).ok_or_else(|| bad("a chunk is cut off"))?;
        body.extend_from_slice(chunk);
        let rest = bytes.get(begin + chunk.len()..).unwrap_or_default();
        bytes = rest.strip_prefix(b"\r\n").ok_or_else(|| bad("a chunk does not end"))?;
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the API server's answer cannot be read: {text}"))
}
