//! A call that is wanted, and what is expected of it.

use std::fmt;

use anyhow::{Context as _, Result, bail};

/// How a call is expected to go, or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It went through, in mutual TLS.
    Mtls,
    /// It went through, in the clear.
    Plaintext,
    /// It did not go through.
    Refused,
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service's virtual address: `NAME.NAMESPACE`.
    Service(String),
    /// A pod's own IPv4 address: `pod/NAME.NAMESPACE`.
    Pod(String),
    /// A pod's own IPv6 address: `pod6/NAME.NAMESPACE`.
    Pod6(String),
}

/// One line of the annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whom to call.
    pub target: Target,
    /// The port there (a service's own port for a service).
    pub port: u16,
    /// How it must go.
    pub way: Way,
    /// The policy or the reason that must have decided, where it is said.
    pub by: Option<String>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Way::Mtls => "mTLS",
            Way::Plaintext => "plaintext",
            Way::Refused => "refused",
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Target::Service(name) | Target::Pod(name) | Target::Pod6(name)) = &self.target;
        let kind = match &self.target {
            Target::Service(_) => "",
            Target::Pod(_) => "pod/",
            Target::Pod6(_) => "pod6/",
        };
        f.pad(&format!("{kind}{name}:{}", self.port))
    }
}

impl Wanted {
    /// Reads `TARGET EXPECTED [DECIDED-BY]`, one a line; `#` begins a comment.
    pub fn read_all(text: &str) -> Result<Vec<Wanted>> {
        text.lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim())
            .filter(|line| !line.is_empty())
            .map(|line| Wanted::read(line).with_context(|| format!("in the line {line:?}")))
            .collect()
    }

    fn read(line: &str) -> Result<Wanted> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (target, way, by) = match words.as_slice() {
            [target, way] => (target, way, None),
            [target, way, by] => (target, way, Some((*by).to_owned())),
            _ => bail!("a call is written TARGET EXPECTED [DECIDED-BY]"),
        };
        let (name, port) = target.rsplit_once(':').context("the target has no port")?;
        let target = match name.split_once('/') {
            None => Target::Service(name.to_owned()),
            Some(("pod", pod)) => Target::Pod(pod.to_owned()),
            Some(("pod6", pod)) => Target::Pod6(pod.to_owned()),
            Some((other, _)) => bail!("{other:?} is neither pod nor pod6"),
        };
        let way = match *way {
            "mtls" => Way::Mtls,
            "plaintext" => Way::Plaintext,
            "refused" => Way::Refused,
            other => bail!("{other:?} is none of mtls, plaintext, refused"),
        };
        Ok(Wanted { target, port: port.parse().context("the port is no number")?, way, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_what_decides() {
        let calls = Wanted::read_all("# none\norders.shop:80 mtls shop/x\n\npod6/a.b:8080 refused # why\n").unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].by.as_deref(), Some("shop/x"));
        assert_eq!(calls[1].target, Target::Pod6("a.b".to_owned()));
        assert_eq!(calls[1].to_string(), "pod6/a.b:8080");
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused_with_the_line() {
        for bad in ["orders.shop mtls", "orders.shop:80", "host/a.b:1 mtls", "a.b:1 maybe", "a.b:70000 mtls", "a b c d"]
        {
            let error = Wanted::read_all(bad).unwrap_err();
            assert!(format!("{error:#}").contains(bad), "{error:#}");
        }
    }
}
