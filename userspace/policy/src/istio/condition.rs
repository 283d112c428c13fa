//! `when`: a key, and values that fit it.

use serde_json::Value;

use super::{Complaint, authorization::list};
use crate::attribute::{Attribute, ConditionError, KeyError};

/// What the webhook has against one condition, which stands at `at`.
pub(super) fn check(at: &str, condition: &Value, complaints: &mut Vec<Complaint>) {
    let key = condition.get("key").and_then(Value::as_str).unwrap_or_default();
    if key.is_empty() {
        let field = format!("{at}.key");
        complaints.push(Complaint::new(field, "key_missing", "`key` must not be empty", "name an attribute"));
        return;
    }
    let attribute = match Attribute::parse(key) {
        Ok(attribute) => attribute,
        Err(error) => {
            complaints.push(bad_key(&format!("{at}.key"), key, error));
            return;
        }
    };
    if ["values", "notValues"].iter().all(|name| list(condition, name).is_none_or(|values| values.is_empty())) {
        complaints.push(Complaint::new(
            at,
            "values_missing",
            format!("at least one of `values` or `notValues` must be set for key {key}"),
            "add values or remove the condition",
        ));
    }
    for name in ["values", "notValues"] {
        check_values(at, name, key, &attribute, condition, complaints);
    }
}

fn check_values(
    at: &str,
    name: &str,
    key: &str,
    attribute: &Attribute,
    condition: &Value,
    complaints: &mut Vec<Complaint>,
) {
    let written: Vec<Option<&str>> = list(condition, name).into_iter().flatten().map(Value::as_str).collect();
    let values: Vec<String> = written.iter().map(|value| value.unwrap_or_default().to_owned()).collect();
    if let Err(error @ ConditionError::TooManyAccounts) = attribute.check_all(&values) {
        let field = format!("{at}.{name}");
        complaints.push(Complaint::new(field, "too_many", error.to_string(), "spread them over several rules"));
    }
    // What is no text is the schema's business.
    let texts = values.iter().enumerate().filter(|(index, _)| written[*index].is_some());
    for (index, value) in texts {
        if let Err(error) = attribute.check(value) {
            let field = format!("{at}.{name}[{index}]");
            let code = if value.is_empty() { "empty_value" } else { "bad_value" };
            let text = format!("invalid `{}` for `key` {key}: {error} ({value})", name.trim_end_matches('s'));
            complaints.push(Complaint::new(field, code, text, "correct or remove the value"));
        }
    }
}

fn bad_key(field: &str, key: &str, error: KeyError) -> Complaint {
    let (code, remedy) = match error {
        KeyError::Unknown => ("unknown_attribute", "see the list of keys; a key is never ignored"),
        KeyError::Brackets => ("bad_key", "name the header or claim in brackets"),
        KeyError::Replaced(_) => ("replaced_attribute", "say it there"),
        KeyError::Deprecated => ("deprecated_attribute", "select workloads by label and clients by identity"),
    };
    Complaint::new(field, code, format!("{error}: {key}"), remedy)
}
