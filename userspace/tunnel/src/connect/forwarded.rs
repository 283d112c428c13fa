//! `forwarded` (RFC 7239): on whose behalf a stream is opened.

use std::net::SocketAddr;

use super::{AddressText, authority::is_name};

/// More than this is not looked at, in bytes.
const MAX_TEXT: usize = 1024;

/// The two parts of `forwarded` that hbone uses. What cannot be read is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// `for`: the original client, according to the sender.
    pub client: Option<SocketAddr>,
    /// `host`: the service that the client meant, when it called one.
    pub host: Option<Box<str>>,
}

impl Forwarded {
    /// Reads the header's value: the first `for` and the first `host`, quotes optional.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return found;
        }
        let (mut seen_for, mut seen_host) = (false, false);
        for pair in text.split([';', ',']) {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let value = unquote(value.trim());
            match name.trim() {
                n if n.eq_ignore_ascii_case("for") && !seen_for => {
                    seen_for = true;
                    found.client = value.parse().ok();
                }
                n if n.eq_ignore_ascii_case("host") && !seen_host => {
                    seen_host = true;
                    found.host = is_name(value).then(|| value.to_ascii_lowercase().into());
                }
                _ => {}
            }
        }
        found
    }

    /// The header's value, or nothing when there is nothing to say.
    pub fn to_header(&self) -> Option<String> {
        let mut text = String::with_capacity(64);
        if let Some(client) = self.client {
            ["for=\"", AddressText::of(client).as_str(), "\""].into_iter().for_each(|part| text.push_str(part));
        }
        if let Some(host) = &self.host {
            let between = if text.is_empty() { "" } else { ";" };
            [between, "host=", host].into_iter().for_each(|part| text.push_str(part));
        }
        (!text.is_empty()).then_some(text)
    }
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}
