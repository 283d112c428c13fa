//! Path templates: `{*}` is one segment, `{**}` any number of them.

/// Why a path value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// An operator after `{**}`.
    #[error("{{**}} is not the last operator")]
    OperatorAfterAny,
    /// Braces that are not a whole segment `{*}` or `{**}`.
    #[error("contains '{{' or '}}' beyond a supported path template")]
    StrayBrace,
    /// A segment of a template holds a character that no path segment may hold, or nothing at all.
    #[error("contains segment {0:?} with invalid string literal")]
    Literal(String),
}

/// One segment of any text.
const ONE: &str = "{*}";
/// Any number of segments.
const ANY: &str = "{**}";

/// Whether the value is a template: it contains an operator.
pub fn is_template(path: &str) -> bool {
    path.contains(ONE) || path.contains(ANY)
}

/// Whether the segment may stand for itself in a template (`pchar` of RFC 3986 without `*`).
pub fn is_literal(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b))
}

/// Checks a value of `paths` or `notPaths`.
pub fn check_path(path: &str) -> Result<(), PathError> {
    let template = is_template(path);
    let mut any_seen = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            ONE | ANY if any_seen => return Err(PathError::OperatorAfterAny),
            ONE => {}
            ANY => any_seen = true,
            other if other.contains(['{', '}']) => return Err(PathError::StrayBrace),
            other if template && !is_literal(other) => return Err(PathError::Literal(other.to_owned())),
            _ => {}
        }
    }
    Ok(())
}
