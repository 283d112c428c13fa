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

    /// Whether this matches whatever `narrow` matches.
    pub fn covers(&self, narrow: &Self) -> bool {
        match (self, narrow) {
            (_, Self::Exact(value)) => self.matches(value),
            (Self::Prefix(wide), Self::Prefix(narrow)) => narrow.starts_with(wide.as_str()),
            (Self::Suffix(wide), Self::Suffix(narrow)) => narrow.ends_with(wide.as_str()),
            (Self::Present, Self::Prefix(text) | Self::Suffix(text)) => !text.is_empty(),
            (Self::Present, Self::Present) => true,
            _ => false,
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

    /// Whether each pattern of `narrow` is covered by one of these.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        narrow.exact.iter().all(|value| self.matches(Some(value)).holds())
            && narrow.others.iter().all(|pattern| self.others.iter().any(|wide| wide.covers(pattern)))
    }

    /// All values, and those with a wildcard, which are walked through.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.exact.len() + self.others.len(), self.others.len())
    }

    /// Whether `*` is among them.
    pub(crate) fn has_present(&self) -> bool {
        self.others.contains(&Pattern::Present)
    }

    /// The values, where none has a wildcard.
    pub(crate) fn only_exact(&self) -> Option<&[String]> {
        self.others.is_empty().then_some(&self.exact)
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
