//! Values of fields: conditions, paths, wildcards, ports, brackets.

use std::fmt::Display;

use anyhow::Result;
use culvert_policy::{address, attribute, brackets, path};

use super::{Judged, Run, accepted, same};
use crate::case::{Case, texts, truthy};

pub(crate) fn conditions(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let check = |name| attribute::check_condition(case.text("key"), &case.texts(name));
        let result = check("values").and_then(|_| check("notValues"));
        accepted(!truthy(case.expected("wantError")), &result)
    })
}

pub(crate) fn paths(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| all_values(case, path::check_path))
}

pub(crate) fn wildcards(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| all_values(case, attribute::check_wildcard))
}

pub(crate) fn trust_domains(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| all_values(case, attribute::check_trust_domain))
}

pub(crate) fn templates(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| same(truthy(case.expected("isPathTemplate")), path::is_template(case.text("path"))))
}

pub(crate) fn literals(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| same(truthy(case.expected("expected")), path::is_literal(case.text("glob"))))
}

pub(crate) fn ports(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got = address::parse_port(case.text("v"));
        if truthy(case.field("err")) {
            return accepted(false, &got);
        }
        let wanted = case.expected("expect").as_u64().unwrap_or(0);
        same(Some(wanted), got.ok().map(u64::from))
    })
}

pub(crate) fn brackets(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got = brackets::name_in_brackets(case.text("s"));
        if truthy(case.field("err")) {
            return accepted(false, &got);
        }
        same(Ok(case.expected("want").as_str().unwrap_or_default()), got)
    })
}

pub(crate) fn nested_brackets(run: &mut Run<'_>) -> Result<()> {
    run.each(|case| {
        let got = brackets::names_in_brackets(case.text("s"));
        if truthy(case.field("err")) {
            return accepted(false, &got);
        }
        let got = got.map(|names| names.into_iter().map(str::to_owned).collect());
        same(Ok(texts(case.expected("want"))), got)
    })
}

fn all_values<E: Display>(case: &Case<'_>, check: impl Fn(&str) -> Result<(), E>) -> Judged {
    let result = case.texts("values").iter().try_for_each(|value| check(value));
    accepted(!truthy(case.expected("wantError")), &result)
}
