//! Trust domains, aliases and identities in Istio's layout.

use std::collections::BTreeSet;

use anyhow::Result;
use culvert_policy::{TrustDomains, domains};
use serde_json::json;

use super::{Run, accepted, same};
use crate::case::{texts, truthy};

pub(crate) fn of_principal(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got = domains::principal_trust_domain(case.text("principal")).unwrap_or_default();
        same(case.expected("out").as_str().unwrap_or_default(), got)
    })
}

pub(crate) fn is_named(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| same(truthy(case.expected("want")), domains::names_trust_domain(case.text("principal"))))
}

pub(crate) fn aliases(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let bundle = case.field("trustDomainBundle");
        let own = bundle["trustDomain"].as_str().unwrap_or_default().to_owned();
        let known = TrustDomains::new(own, texts(&bundle["aliases"]));
        same(texts(case.expected("expect")), known.expand_principals(&case.texts("principals")))
    })
}

pub(crate) fn replace(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got = domains::replace_trust_domain(case.text("trustDomainIn"), case.text("principal"));
        if truthy(case.field("expectedError")) {
            return accepted(false, &got);
        }
        same(Ok(case.expected("out").as_str().unwrap_or_default().to_owned()), got)
    })
}

pub(crate) fn expand(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let uris = case.texts("spiffeURI");
        let got = TrustDomains::expand_identities(uris.iter().map(String::as_str), &case.texts("trustDomains"));
        let wanted: BTreeSet<String> =
            case.expected("want").as_object().into_iter().flatten().map(|(uri, _)| uri.clone()).collect();
        same(wanted, got)
    })
}

pub(crate) fn generate(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got =
            domains::account_identity(case.text("trustDomain"), case.text("namespace"), case.text("serviceAccount"));
        if truthy(case.field("expectedError")) {
            return accepted(false, &got);
        }
        let wanted = case.expected("expectedURI").as_str().unwrap_or_default();
        same(Ok(wanted.to_owned()), got.map(|id| id.to_string()))
    })
}

/// Cases are `[uri, parts or null]`.
pub(crate) fn identity(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let uri = case.value[0].as_str().unwrap_or_default();
        let got = domains::parse_identity(uri).map(|(domain, namespace, account)| {
            json!({ "trustDomain": domain.as_str(), "namespace": namespace, "serviceAccount": account })
        });
        same(case.expected_at(1).clone(), got.unwrap_or_default())
    })
}
