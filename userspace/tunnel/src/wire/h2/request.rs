//! CONNECT requests as header maps.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request};

use crate::{
    connect::{Authority, AuthorityError, Baggage, ConnectRequest, Forwarded, Traceparent},
    serve::Malformed,
};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");
/// Longest network name that is looked at, in bytes.
const MAX_NETWORK: usize = 253;

/// Reads a request of a peer. Only the method and the authority can be wrong.
pub(super) fn read(head: &request::Parts) -> Result<ConnectRequest, Malformed> {
    if head.method != Method::CONNECT || head.extensions.get::<h2::ext::Protocol>().is_some() {
        return Err(Malformed::NotConnect);
    }
    let authority = head.uri.authority().map_or("", |a| a.as_str());
    Ok(ConnectRequest {
        authority: Authority::parse(authority).map_err(Malformed::Authority)?,
        forwarded: text(&head.headers, &FORWARDED).map(Forwarded::parse).unwrap_or_default(),
        baggage: read_baggage(&head.headers),
        traceparent: text(&head.headers, &TRACEPARENT).and_then(Traceparent::parse),
        network: text(&head.headers, &NETWORK).filter(|n| !n.is_empty() && n.len() <= MAX_NETWORK).map(Box::from),
    })
}

/// Reads `baggage` of a request or an answer.
pub(super) fn read_baggage(headers: &HeaderMap) -> Baggage {
    Baggage::parse(headers.get_all(&BAGGAGE).iter().filter_map(|value| value.to_str().ok()))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Writes a request of ours: `:method` and `:authority`, and the headers that have something to say.
pub(super) fn write(connect: &ConnectRequest) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri(&connect.authority);
    let headers = request.headers_mut();
    put(headers, FORWARDED, connect.forwarded.to_header());
    put(headers, TRACEPARENT, connect.traceparent.map(|t| t.to_string()));
    put(headers, NETWORK, connect.network.as_ref().map(|n| n.to_string()));
    write_baggage(&connect.baggage, headers);
    request
}

/// Writes `baggage`, if there is any.
pub(super) fn write_baggage(baggage: &Baggage, headers: &mut HeaderMap) {
    put(headers, BAGGAGE, baggage.to_header());
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<String>) {
    // A value that HTTP cannot carry is left out: all of these headers are optional.
    if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(name, value);
    }
}

/// An [`Authority`] is always a valid URI authority; an empty one, which peers refuse, stands in if it were not.
fn uri(authority: &Authority) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.authority = authority.to_string().parse().ok();
    Uri::from_parts(parts).unwrap_or_default()
}

impl From<AuthorityError> for Malformed {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}
