//! What is wrong with an object, for the person who wrote it.

use std::{collections::HashSet, fmt};

/// One thing that is wrong, or probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Complaint {
    /// Where: `spec.rules[1].from[0].source.principals[2]`.
    pub field: String,
    /// A stable snake_case word for this kind of complaint.
    pub code: &'static str,
    /// What is wrong. Texts keep the words of Istio's webhook, so that tooling which looks for them works.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

impl Complaint {
    pub(super) fn new(
        field: impl Into<String>,
        code: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), code, text: text.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}); {}", self.field, self.text, self.code, self.remedy)
    }
}

/// Both layers may complain about one field: the first complaint about it says enough.
pub(super) fn merge(complaints: &mut Vec<Complaint>) {
    let mut seen = HashSet::with_capacity(complaints.len());
    complaints.retain(|complaint| seen.insert((complaint.field.clone(), complaint.code)));
}

/// Most complaints of one sort that are told of one object.
const MOST: usize = 100;

/// Whoever has written something wrong a hundred thousand times is not told so a hundred thousand times.
pub(super) fn shorten(complaints: &mut Vec<Complaint>) {
    if complaints.len() > MOST {
        *complaints = shortened(complaints);
    }
}

/// The first of them, and how many more there are.
pub(super) fn shortened(complaints: &[Complaint]) -> Vec<Complaint> {
    let mut told: Vec<Complaint> = complaints.iter().take(MOST).cloned().collect();
    let more = complaints.len() - told.len();
    if more > 0 {
        told.push(Complaint::new("", "and_more", format!("{more} more of this kind"), "mend these first"));
    }
    told
}
