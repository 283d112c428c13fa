//! Which file is read by what.

mod crds;
mod domains;
mod peers;
mod spiffe;
mod tcp;
mod validation;
mod values;
mod ztunnel;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{case::Case, deviations::Deviations, directory::Directory, report::Table};

/// What a reader works with.
pub(crate) struct Run<'a> {
    /// Where the files are.
    pub(crate) directory: &'a Directory,
    /// Where culvert answers differently.
    pub(crate) deviations: &'a Deviations,
    /// The file to run.
    pub(crate) file: &'a str,
    /// Where results go.
    pub(crate) table: Table,
}

/// Runs all cases of a file.
pub(crate) type Reader = fn(&mut Run<'_>) -> Result<()>;
/// The result of a case: expected and got, where they differ.
pub(crate) type Judged = Result<(), (String, String)>;

/// The reader of a file, by its place in the directory.
pub(crate) fn reader_of(file: &str) -> Option<Reader> {
    Some(match file {
        "istio/tables/validate-authorizationpolicy.json" | "istio/tables/validate-peerauthentication.json" => {
            validation::run
        }
        "istio/tables/authn-composepeerauthentication.json" => peers::run,
        "istio/tables/security-validatecondition.json" => values::conditions,
        "istio/tables/security-checkvalidpathtemplate.json" => values::paths,
        "istio/tables/security-containspathtemplate.json" => values::templates,
        "istio/tables/security-isvalidliteral.json" => values::literals,
        "istio/tables/security-checkwildcardvalues.json" => values::wildcards,
        "istio/tables/security-checktrustdomainvalues.json" => values::trust_domains,
        "istio/tables/authz-util-converttoport.json" => values::ports,
        "istio/tables/authz-util-extractnameinbrackets.json" => values::brackets,
        "istio/tables/authz-util-extractnameinnestedbrackets.json" => values::nested_brackets,
        "istio/tables/trustdomain-gettrustdomainfromspiffeidentity.json" => domains::of_principal,
        "istio/tables/trustdomain-istrustdomainbeingenforced.json" => domains::is_named,
        "istio/tables/trustdomain-replacetrustdomainaliases.json" => domains::aliases,
        "istio/tables/trustdomain-replacetrustdomaininprincipal.json" => domains::replace,
        "istio/tables/spiffe-expandwithtrustdomains.json" => domains::expand,
        "istio/tables/spiffe-genspiffeuri.json" => domains::generate,
        "istio/tables/spiffe-identity.json" => domains::identity,
        "istio/authz-builder/index-tcp.json" => tcp::run,
        "ztunnel/tables/rbac.json" => ztunnel::run,
        "go-spiffe/tables/spiffe-id.json" => spiffe::ids,
        "go-spiffe/tables/svid-x509svid-svid-TestParse.json" => spiffe::svids,
        "go-spiffe/tables/bundle-x509bundle-bundle-TestParse.json" => spiffe::bundles,
        "go-spiffe/tables/bundle-x509bundle-bundle-TestParseRaw.json" => spiffe::raw_bundles,
        _ if file.starts_with("istio/crd-validation/") && file.ends_with(".yaml") => crds::run,
        _ => return None,
    })
}

/// What a file is called in the output: its path without the ending.
pub(crate) fn table_name(file: &str) -> String {
    let (stem, _) = file.rsplit_once('.').filter(|(stem, _)| !stem.ends_with('/')).unwrap_or((file, ""));
    stem.to_owned()
}

/// Runs a reader. A file that cannot be read is a failure.
pub(crate) fn run(reader: Reader, directory: &Directory, deviations: &Deviations, file: &str, name: String) -> Table {
    let mut run = Run { directory, deviations, file, table: Table::new(name) };
    if let Err(error) = reader(&mut run) {
        run.table.fail(file, "the file", "cases in the documented format", &format!("{error:#}"));
    }
    run.table
}

/// The result of a file without a reader: one skip. That it can be read at all is checked all the same.
pub(crate) fn skip(directory: &Directory, deviations: &Deviations, file: &str, name: String) -> Table {
    let mut table = Table::new(name);
    if let Err(error) = directory.bytes(file) {
        table.fail(file, "the file", "a readable file", &format!("{error:#}"));
        return table;
    }
    if let Some(mode) = deviations.mode(file, "*") {
        table.skip(format!("only in mode `{mode}`, which does not exist yet"));
        return table;
    }
    table.skip(match file {
        _ if file.ends_with("README.md") || file.ends_with("LICENSE") => "documentation, holds no case",
        _ if file.starts_with("istio/authz-builder/") => "HTTP: culvert has no L7 engine yet",
        _ if file.starts_with("istio/ambient-conversion/") => {
            "only in mode `compat: ztunnel`, which does not exist yet"
        }
        _ if file.starts_with("istio/crds/") => "a schema, holds no case",
        _ if file.starts_with("istio/tables/integration-") || file.starts_with("istio/integration-security/") => {
            "requests against a waypoint, which does not exist yet"
        }
        _ if file.starts_with("istio/jwt-common/") || file.contains("jw") || file.contains("requestauth") => {
            "request tokens are L7"
        }
        _ if file.contains("spiffebundle") => "JWT and WIT authorities of SPIFFE bundle documents are not used yet",
        _ if file.contains("workloadapi") || file.contains("JWT-SVID") => "no Workload API client, no JWT-SVIDs yet",
        _ if file.starts_with("istio/tables/authz-") => "shape of Envoy's matchers, or L7",
        _ if file.starts_with("gateway-api/") => "Gateway API is not part of L4",
        _ if file.starts_with("real-world/") => "a manifest without expectations",
        _ if file.starts_with("spire/") => "attestation of processes is not part of culvert",
        _ => "no reader for this file",
    });
    table
}

impl Run<'_> {
    /// Runs the cases in the member `cases` of a JSON table.
    pub(crate) fn each(&mut self, judge: impl Fn(&Case<'_>) -> Judged) -> Result<()> {
        let content = self.directory.json(self.file)?;
        let cases = content.get("cases").and_then(Value::as_array).context("no list `cases`")?;
        for (index, value) in cases.iter().enumerate() {
            self.judge(index, value, &judge);
        }
        Ok(())
    }

    /// Runs one case.
    pub(crate) fn judge(&mut self, index: usize, value: &Value, judge: impl FnOnce(&Case<'_>) -> Judged) {
        let case = Case::new(self.file, index, value, self.deviations);
        if let Some(mode) = case.mode {
            self.table.skip(format!("{}: only in mode `{mode}`", case.id));
            return;
        }
        match judge(&case) {
            Ok(()) => self.table.pass(),
            Err((expected, got)) => self.table.fail(&case.id, &case.input(), &expected, &got),
        }
    }
}

/// Compares what came out with what is expected.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(expected: T, got: T) -> Judged {
    if expected == got { Ok(()) } else { Err((format!("{expected:?}"), format!("{got:?}"))) }
}

/// Compares acceptance.
pub(crate) fn accepted<T, E: std::fmt::Display>(expected: bool, got: &Result<T, E>) -> Judged {
    match (expected, got) {
        (true, Ok(_)) | (false, Err(_)) => Ok(()),
        (true, Err(error)) => Err(("accepted".to_owned(), format!("refused: {error}"))),
        (false, Ok(_)) => Err(("refused".to_owned(), "accepted".to_owned())),
    }
}
