//! What the webhook accepts, refuses and warns of.

use anyhow::Result;
use culvert_policy::istio;
use serde_json::json;

use super::Run;
use crate::case::truthy;

/// `in` is the spec; `kind`, `annotations` and `configName` make it an object.
pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let name = case.text("configName");
        let object = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": case.text("kind"),
            "metadata": {
                "name": if name.is_empty() { "some-name" } else { name },
                "namespace": "some-namespace",
                "annotations": case.field("annotations"),
            },
            "spec": case.field("in"),
        });
        let wrong_kind = || ("a kind that is read".to_owned(), format!("kind {:?}", case.text("kind")));
        let review = istio::admit(&object).ok_or_else(wrong_kind)?;
        let list =
            |complaints: &[istio::Complaint]| complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let valid = truthy(case.expected("valid"));
        if valid != review.complaints.is_empty() {
            let wanted = if valid { "accepted" } else { "refused" };
            return Err((wanted.to_owned(), format!("complaints: [{}]", list(&review.complaints))));
        }
        if let Some(complaint) = review.complaints.iter().find(|c| c.code.is_empty() || c.field.is_empty()) {
            return Err(("a code and a field for each complaint".to_owned(), complaint.to_string()));
        }
        if truthy(case.field("warning")) && review.warnings.is_empty() {
            return Err(("at least one warning".to_owned(), "none".to_owned()));
        }
        Ok(())
    })
}
