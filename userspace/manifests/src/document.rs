//! Files into documents, documents into values. Each document is parsed on its own, so that a broken one does not take
//! its neighbours down.

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
    /// As much of its identity as could be read off its lines.
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

/// The documents of a file that say anything.
pub(crate) fn documents(file: &str, text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split(text).into_iter().filter_map(|(line, text)| document(file, line, &text)).collect()
}

fn document(file: &str, line: u64, text: &str) -> Option<Document> {
    // A part of nothing but directives (`%YAML 1.2`) belongs to the next `---` and says nothing of its own.
    let blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%');
    let skipped = text.lines().take_while(blank).count() as u64;
    text.lines().find(|line| !blank(line))?;
    let origin = Origin { file: file.to_owned(), line: line + skipped };
    let content = match serde_saphyr::from_str::<Value>(text) {
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
    let value = |key: &str| text.lines().flat_map(|line| line.split(['{', '[', ','])).find_map(|part| entry(part, key));
    Broken { line, why, kind: value("kind"), namespace: value("namespace"), name: value("name") }
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
