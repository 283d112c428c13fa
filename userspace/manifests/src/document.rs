//! Files into documents, documents into values. Each document is parsed on its own, so that a broken one does not take
//! its neighbours down.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::Value;

use crate::object::Origin;

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its first line with content.
    pub(crate) origin: Origin,
    /// What it says, or why that cannot be told.
    pub(crate) content: Result<Value, Broken>,
}

/// A document that is not YAML.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Where and why.
    pub(crate) line: u64,
    pub(crate) why: String,
    /// All that its lines call a kind, a namespace or a name, each once: what it is is among them, whatever stands around it
    /// (a list's other items, labels, owners).
    pub(crate) kinds: BTreeSet<String>,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) names: BTreeSet<String>,
}

/// Most nodes of one document: a list of some 35,000 policies. What aliases may grow to is bounded beside it.
const NODES: usize = 1_000_000;

/// The documents of a file that say anything.
pub(crate) fn documents(file: &str, text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // To YAML a carriage return alone ends a line as well.
    let text = match text.contains('\r') {
        true => Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Cow::Borrowed(text),
    };
    let parts =
        split(&text).into_iter().flat_map(|(line, text)| json_stream(&text, line).unwrap_or(vec![(line, text)]));
    parts.filter_map(|(line, text)| document(file, line, &text)).collect()
}

/// The objects of a part that holds several in JSON, one after the other, as `kubectl` takes them.
fn json_stream(text: &str, first_line: u64) -> Option<Vec<(u64, String)>> {
    let begins = text.find(|c: char| !c.is_whitespace()).filter(|at| text[*at..].starts_with('{'))?;
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let (mut parts, mut start) = (Vec::new(), begins);
    while let Some(value) = values.next() {
        value.ok()?;
        let end = values.byte_offset();
        let line = first_line + text[..start].matches('\n').count() as u64;
        parts.push((line, text[start..end].to_owned()));
        start = end + text[end..].find(|c: char| !c.is_whitespace()).unwrap_or(text.len() - end);
    }
    (parts.len() > 1).then_some(parts)
}

/// A policy list may be long; for the rest the parser's own bounds hold.
fn bounds() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: NODES, max_events: 2 * NODES },
    }
}

fn document(file: &str, line: u64, text: &str) -> Option<Document> {
    // A part of nothing but directives (`%YAML 1.2`) belongs to the next `---` and says nothing of its own.
    let blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%');
    let skipped = text.lines().take_while(blank).count() as u64;
    text.lines().find(|line| !blank(line))?;
    let origin = Origin { file: file.to_owned(), line: line + skipped };
    let content = match serde_saphyr::from_str_with_options::<Value>(text, bounds()) {
        Ok(Value::Null) => return None,
        Ok(value) => Ok(value),
        Err(error) => {
            let at = error.location().map_or(line + skipped, |at| line + at.line().saturating_sub(1));
            Err(broken(at, in_words(&error.without_snippet().to_string(), line), text))
        }
    };
    Some(Document { origin, content })
}

/// Cuts at lines that begin with `---` or `...`: YAML ends a document there whatever it is in the middle of.
/// Gives the number of each part's first line.
fn split(text: &str) -> Vec<(u64, String)> {
    let mut parts = vec![(1, String::new())];
    for (number, line) in (1..).zip(text.lines()) {
        let marker = |marker| line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        match (marker("---"), marker("...")) {
            (Some(rest), _) => parts.push((number, format!("{}\n", rest.trim_start()))),
            (None, Some(_)) => parts.push((number, "\n".to_owned())),
            (None, None) => {
                if let Some((_, part)) = parts.last_mut() {
                    part.push_str(line);
                    part.push('\n');
                }
            }
        }
    }
    parts
}

fn broken(line: u64, why: String, text: &str) -> Broken {
    let values = |key: &str| {
        text.lines().flat_map(|line| line.split(['{', '[', ','])).filter_map(|part| entry(part, key)).collect()
    };
    Broken { line, why, kinds: values("kind"), namespaces: values("namespace"), names: values("name") }
}

/// The value of `KEY: VALUE` or `"KEY": "VALUE"`, with whatever stands around it.
fn entry(part: &str, key: &str) -> Option<String> {
    let quotes = ['"', '\''];
    let part = part.trim_start_matches([' ', '\t', '-']);
    let (name, value) = part.split_once(':')?;
    let value = value.split(['#', '}', ']']).next()?.trim().trim_matches(quotes);
    (name.trim().trim_matches(quotes) == key && !value.is_empty()).then(|| value.to_owned())
}

/// What the parser says, with the lines of the file instead of those of the document, and without its own settings.
fn in_words(why: &str, first_line: u64) -> String {
    let why = why.lines().next().unwrap_or_default();
    if why.contains("budget breached: Nodes") || why.contains("budget breached: Events") {
        return format!("more than {NODES} values: split it");
    }
    let why = [", set DuplicateKeyPolicy", "; use from_str_multiple"].iter().fold(why.to_owned(), |why, hint| {
        let Some(start) = why.find(hint) else { return why };
        let end = why[start..].find(" at line ").map_or(why.len(), |end| start + end);
        format!("{}{}", &why[..start], &why[end..])
    });
    let mut parts = why.split("line ");
    let mut words = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let line = part[..digits].parse::<u64>().map(|line| (line + first_line - 1).to_string());
        words.push_str("line ");
        words.push_str(line.as_deref().unwrap_or(&part[..digits]));
        words.push_str(&part[digits..]);
    }
    words
}

#[cfg(test)]
mod tests;
