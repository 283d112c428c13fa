//! Documents that schema and webhook together must accept or refuse.

use anyhow::Result;
use culvert_policy::istio;
use serde_json::Value;

use super::Run;
use crate::case::truthy;

/// A document with `_err` must be refused, one without accepted. Documents of other kinds are skipped; a file of nothing
/// else is one skip.
pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    let documents = run.directory.yaml(run.file)?;
    let ours = documents.iter().filter(|document| istio::Kind::of(document).is_some()).count();
    if ours == 0 {
        run.table.skip("other kinds than AuthorizationPolicy and PeerAuthentication");
        return Ok(());
    }
    for (index, document) in documents.iter().enumerate() {
        if istio::Kind::of(document).is_none() {
            let kind = document.get("kind").and_then(Value::as_str).unwrap_or("no kind");
            run.table.skip(format!("document {index}: kind {kind}"));
            continue;
        }
        let name = document["metadata"]["name"].as_str().unwrap_or("no name").to_owned();
        let named = serde_json::json!({ "name": name, "document": document });
        run.judge(index, &named, |case| {
            let mut object = case.field("document").clone();
            let marked = object.as_object_mut().and_then(|members| members.remove("_err"));
            let refuse = truthy(case.instead_or(&marked.unwrap_or_default()));
            match (refuse, istio::read(&object)) {
                (true, Some(Err(_))) | (false, Some(Ok(_))) => Ok(()),
                (true, _) => Err(("refused".to_owned(), "accepted".to_owned())),
                (false, Some(Err(rejected))) => {
                    let complaints: Vec<_> = rejected.complaints.iter().map(ToString::to_string).collect();
                    Err(("accepted".to_owned(), complaints.join("; ")))
                }
                (false, None) => Err(("accepted".to_owned(), "not read".to_owned())),
            }
        });
    }
    Ok(())
}
