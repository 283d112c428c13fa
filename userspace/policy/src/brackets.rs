//! Names in brackets, as in `request.headers[X]` and `request.auth.claims[a][b]`.

/// The text is not `[NAME]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a name in brackets, as in [name]")]
pub struct NotInBrackets;

/// The text between the first and the last bracket: `[good]` gives `good`.
pub fn name_in_brackets(text: &str) -> Result<&str, NotInBrackets> {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(NotInBrackets)
}

/// The names of a row of brackets: `[a][b]` gives `a`, `b`. What is not such a row but begins and ends with a bracket
/// is one name, brackets and all: `[good]]` gives `good]`.
pub fn names_in_brackets(text: &str) -> Result<Vec<&str>, NotInBrackets> {
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        match first_of_row(rest) {
            Some((name, after)) => {
                names.push(name);
                rest = after;
            }
            None => return name_in_brackets(text).map(|name| vec![name]),
        }
    }
    Ok(names)
}

fn first_of_row(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(['[', ']'])?;
    (inner.as_bytes()[end] == b']').then(|| (&inner[..end], &inner[end + 1..]))
}
