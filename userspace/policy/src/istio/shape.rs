//! The form of an object: a small schema language and its checker.

use serde_json::{Map, Value};

use super::Complaint;

/// The form that a value must have.
pub(super) enum Shape {
    /// A record with these fields and no others; the second list are the required ones.
    Record(&'static [(&'static str, &'static Shape)], &'static [&'static str]),
    /// A dictionary with values of one form and between `min` and `max` entries.
    Table { value: &'static Shape, min: usize, max: usize },
    /// A list with at most this many items.
    List(&'static Shape, usize),
    /// A text with a length in characters and a condition on its content.
    Text { min: usize, max: usize, fits: fn(&str) -> bool },
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// Any text.
pub(super) const TEXT: Shape = Shape::Text { min: 0, max: usize::MAX, fits: |_| true };
/// Any number of texts.
pub(super) const TEXTS: Shape = Shape::List(&TEXT, usize::MAX);

impl Shape {
    /// Collects what is wrong with `value`, which stands at `field`.
    pub(super) fn check(&self, field: &str, value: &Value, out: &mut Vec<Complaint>) {
        match (self, value) {
            (Self::Record(fields, required), Value::Object(members)) => {
                check_record(fields, required, field, members, out);
            }
            (Self::Table { value, min, max }, Value::Object(members)) => {
                check_count(field, "properties", members.len(), *min, *max, out);
                for (key, member) in members {
                    value.check(&format!("{field}[{key}]"), member, out);
                }
            }
            (Self::List(item, max), Value::Array(items)) => {
                check_count(field, "items", items.len(), 0, *max, out);
                for (index, member) in items.iter().enumerate() {
                    item.check(&format!("{field}[{index}]"), member, out);
                }
            }
            (Self::Text { min, max, fits }, Value::String(text)) => {
                check_text(field, text, (*min, *max), *fits, out);
            }
            (Self::Choice(words), Value::String(text)) => check_choice(field, words, text, out),
            (_, other) => out.push(Complaint::new(
                field,
                "wrong_type",
                format!("must be of type {}, not {}", self.type_name(), type_name(other)),
                if other.is_null() { "leave the field out instead of writing null" } else { "write it in that type" },
            )),
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::Record(..) | Self::Table { .. } => "object",
            Self::List(..) => "array",
            Self::Text { .. } | Self::Choice(_) => "string",
        }
    }
}

fn check_record(
    fields: &[(&str, &Shape)],
    required: &[&str],
    field: &str,
    members: &Map<String, Value>,
    out: &mut Vec<Complaint>,
) {
    for (name, member) in members {
        match fields.iter().find(|(known, _)| known == name) {
            Some((_, shape)) => shape.check(&format!("{field}.{name}"), member, out),
            None => out.push(Complaint::new(
                format!("{field}.{name}"),
                "unknown_field",
                format!("unknown field {name:?}"),
                remedy_for_unknown(name, fields),
            )),
        }
    }
    for name in required.iter().filter(|name| !members.contains_key(**name)) {
        out.push(Complaint::new(format!("{field}.{name}"), "required", "Required value", "set it"));
    }
}

/// A field that differs only in case, in an ending or in two letters is probably the one that was meant.
fn remedy_for_unknown(name: &str, fields: &[(&str, &Shape)]) -> String {
    let near = fields.iter().map(|(known, _)| *known).min_by_key(|known| distance(name, known));
    match near {
        Some(known) if distance(name, known) <= 2 => format!("did you mean {known:?}?"),
        _ => {
            let known: Vec<_> = fields.iter().map(|(known, _)| *known).collect();
            format!("remove it; known here: {}", known.join(", "))
        }
    }
}

/// Edit distance, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn check_count(field: &str, what: &str, count: usize, min: usize, max: usize, out: &mut Vec<Complaint>) {
    if count < min {
        let text = format!("should have at least {min} {what}");
        out.push(Complaint::new(field, "too_few", text, "leave the field out or fill it"));
    }
    if count > max {
        let text = format!("must have at most {max} {what}, has {count}");
        out.push(Complaint::new(field, "too_many", text, "spread them over several policies"));
    }
}

fn check_text(field: &str, text: &str, (min, max): (usize, usize), fits: fn(&str) -> bool, out: &mut Vec<Complaint>) {
    let length = text.chars().count();
    if length < min {
        out.push(Complaint::new(field, "too_short", format!("should be at least {min} chars long"), "fill it"));
    } else if length > max {
        out.push(Complaint::new(field, "too_long", format!("may not be longer than {max} characters"), "shorten it"));
    } else if !fits(text) {
        out.push(Complaint::new(field, "bad_characters", format!("{text:?} is not a name of this kind"), "correct it"));
    }
}

fn check_choice(field: &str, words: &[&str], text: &str, out: &mut Vec<Complaint>) {
    if !words.contains(&text) {
        let supported = words.join(", ");
        out.push(Complaint::new(
            field,
            "unsupported_value",
            format!("Unsupported value: {text:?}"),
            format!("use one of {supported}"),
        ));
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
