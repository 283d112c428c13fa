//! Configurations of contenders: committed texts with `{{words}}` in them.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use crate::serve::PORTS;

/// On which side a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// In the client's pod.
    Client,
    /// In the server's pod.
    Server,
}

impl Side {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }

    /// Where a proxy of this side listens for an application's port.
    pub(crate) fn listen(self, port: u16) -> u16 {
        match self {
            Side::Client => port + 12_000,
            Side::Server => port + 10_000,
        }
    }

    /// Where it goes for it.
    fn to_port(self, port: u16) -> u16 {
        match self {
            Side::Client => Side::Server.listen(port),
            Side::Server => port,
        }
    }
}

/// Fills `{{word}}`.
pub(crate) fn fill(text: &str, words: &[(&str, String)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (word, value) in words {
        filled = filled.replace(&format!("{{{{{word}}}}}"), value);
    }
    if let Some(at) = filled.find("{{") {
        bail!("a word of the template was left: {}", &filled[at..filled.len().min(at + 40)]);
    }
    Ok(filled)
}

/// The configuration of a proxy of one side: sections `{{#client}}` to `{{/client}}` and `{{#server}}` to `{{/server}}` are
/// left out for the other side and repeated for each port.
pub(crate) fn proxy(text: &str, side: Side, server: Ipv4Addr, words: &[(&str, String)]) -> Result<String> {
    let mut shown = String::new();
    let mut section: Option<(&str, String)> = None;
    for line in text.lines() {
        let mark = line.trim();
        if let Some(name) = mark.strip_prefix("{{#").and_then(|rest| rest.strip_suffix("}}")) {
            section = Some((name, String::new()));
        } else if mark.starts_with("{{/") {
            if let Some((name, body)) = section.take()
                && name == side.word()
            {
                shown.push_str(&repeated(&body, side));
            }
        } else {
            let place = section.as_mut().map_or(&mut shown, |(_, body)| body);
            place.push_str(line);
            place.push('\n');
        }
    }
    let mut all = words.to_vec();
    all.push(("to", server.to_string()));
    fill(&shown, &all)
}

fn repeated(body: &str, side: Side) -> String {
    PORTS
        .iter()
        .map(|&port| {
            body.replace("{{port}}", &port.to_string())
                .replace("{{listen}}", &side.listen(port).to_string())
                .replace("{{to_port}}", &side.to_port(port).to_string())
        })
        .collect()
}
