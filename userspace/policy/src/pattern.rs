//! Matching of strings: exact, prefix, suffix, presence. Structure is compared; no pattern is ever built
//! from what a user wrote.

use crate::truth::Truth;

/// One value of a string field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The whole value.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`.
    Suffix(String),
    /// `*`: there and not empty.
    Present,
}

impl Pattern {
    /// Reads Istio's grammar: `*` first, then a leading, then a trailing wildcard, else exact. There is no
    /// escaping, so `*a*` is the suffix `a*`.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Exact(text.to_owned())
        }
    }

    /// Whether `value` matches, byte for byte.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(wanted) => value == wanted,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::Present => !value.is_empty(),
        }
    }
}

/// The values of one string field: OR. Exact values are looked up, not walked through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strings {
    exact: Vec<String>,
    others: Vec<Pattern>,
}

impl Strings {
    /// Whether any value matches; a value that is not there (`None`) matches nothing.
    pub fn matches(&self, value: Option<&str>) -> Truth {
        let Some(value) = value else { return Truth::False };
        let exact = self.exact.binary_search_by(|wanted| wanted.as_str().cmp(value)).is_ok();
        Truth::from(exact || self.others.iter().any(|pattern| pattern.matches(value)))
    }
}

impl FromIterator<Pattern> for Strings {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        let mut strings = Self::default();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(text) => strings.exact.push(text),
                other => strings.others.push(other),
            }
        }
        strings.exact.sort_unstable();
        strings.exact.dedup();
        strings
    }
}
