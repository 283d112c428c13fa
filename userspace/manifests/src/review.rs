//! One object on its way into a cluster: what an admission webhook answers.

use serde_json::Value;

use crate::{
    catalog::{Catalog, Live},
    complaint::Severity,
};

/// What is to be said about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Why it is refused; empty: it is not.
    pub errors: Vec<String>,
    /// What is legal but probably not meant.
    pub warnings: Vec<String>,
}

/// Reads an object as the sources do. An object that is none of the kinds that are read is refused: nobody asked.
pub fn review(object: &Value) -> Review {
    let Some((_, complaints)) = Catalog::of_api_server(Live::default()).put(object) else {
        let errors = vec!["not an object of a kind and version that culvert reads [unknown_version]".to_owned()];
        return Review { errors, warnings: Vec::new() };
    };
    let said = |severity: Severity| {
        let those = complaints.iter().filter(move |complaint| complaint.severity == severity);
        those.map(|complaint| {
            let field = if complaint.field.is_empty() { "" } else { ": " };
            let remedy = if complaint.remedy.is_empty() { String::new() } else { format!("; {}", complaint.remedy) };
            format!("{}{field}{}{remedy} [{}]", complaint.field, complaint.text, complaint.reason)
        })
    };
    Review { errors: said(Severity::Error).collect(), warnings: said(Severity::Warning).collect() }
}
