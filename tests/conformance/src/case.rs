//! One case of a table: its input, and what is expected of it. A missing field has Go's zero value.

use serde_json::Value;

use crate::deviations::Deviations;

static NULL: Value = Value::Null;
/// Fields that can stand for a name where a case has none, in this order.
const NAMES: [&str; 14] = [
    "name",
    "key",
    "principal",
    "in",
    "s",
    "v",
    "path",
    "glob",
    "identity",
    "id",
    "input",
    "configName",
    "source",
    "serviceAccount",
];

/// One case.
pub(crate) struct Case<'a> {
    /// What deviations and messages call it.
    pub(crate) id: String,
    /// The case as it stands in the file.
    pub(crate) value: &'a Value,
    instead: Option<&'a Value>,
    /// The only mode it is for, where it is not the default one.
    pub(crate) mode: Option<&'a str>,
}

impl<'a> Case<'a> {
    /// A case of `file`; `index` names it where nothing else does.
    pub(crate) fn new(file: &str, index: usize, value: &'a Value, deviations: &'a Deviations) -> Self {
        let named = NAMES.iter().filter_map(|name| value.get(*name)).chain(value.get(0)).find_map(Value::as_str);
        let id = named.map_or_else(|| format!("#{index}"), str::to_owned);
        Self { instead: deviations.expected(file, &id), mode: deviations.mode(file, &id), id, value }
    }

    /// A field; `null` where it is missing.
    pub(crate) fn field(&self, name: &str) -> &'a Value {
        self.value.get(name).unwrap_or(&NULL)
    }

    /// A field that states what is expected; a deviation replaces it.
    pub(crate) fn expected(&self, name: &str) -> &'a Value {
        self.instead.unwrap_or_else(|| self.field(name))
    }

    /// What upstream expects, unless a deviation says otherwise.
    pub(crate) fn instead_or<'v>(&self, upstream: &'v Value) -> &'v Value
    where
        'a: 'v,
    {
        self.instead.unwrap_or(upstream)
    }

    /// The expectation of a case that is a list, at this place.
    pub(crate) fn expected_at(&self, index: usize) -> &'a Value {
        self.instead.unwrap_or_else(|| self.value.get(index).unwrap_or(&NULL))
    }

    /// A text; `""` where it is missing.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.field(name).as_str().unwrap_or_default()
    }

    /// A list of texts; empty where it is missing.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        texts(self.field(name))
    }

    /// The input in one line.
    pub(crate) fn input(&self) -> String {
        self.value.to_string()
    }
}

/// The texts of a list.
pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether an expectation says that there must be an error: `true`, a text, or 1; `false`, `""` and nothing say no.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Null => false,
        Value::Array(_) | Value::Object(_) => true,
    }
}
