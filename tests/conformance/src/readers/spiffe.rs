//! SPIFFE IDs, X509-SVIDs and bundles.

use anyhow::{Context, Result};
use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle};
use culvert_mtls::Credentials;
use serde_json::Value;

use super::{Run, accepted, same};
use crate::{case::truthy, directory::Directory};

/// `valid` are `[id, trust domain, path]`, `invalid` are `[id, upstream's error]`.
pub(crate) fn ids(run: &mut Run<'_>) -> Result<()> {
    let content = run.directory.json(run.file)?;
    let rows = |name: &str| content.get(name).and_then(Value::as_array).with_context(|| format!("no list `{name}`"));
    for (index, row) in rows("valid")?.iter().enumerate() {
        run.judge(index, row, |case| {
            let text = |at: usize| case.value[at].as_str().unwrap_or_default();
            let got = SpiffeId::parse(text(0));
            let parts = got.as_ref().map(|id| (id.as_str(), id.trust_domain_str(), id.path()));
            same(Ok((text(0), text(1), text(2))), parts)
        });
    }
    for (index, row) in rows("invalid")?.iter().enumerate() {
        run.judge(index, row, |case| accepted(false, &SpiffeId::parse(case.value[0].as_str().unwrap_or_default())));
    }
    Ok(())
}

/// What upstream's texts say of a chain and its key, and culvert's word for it. The first that fits counts.
const REASONS: [(&str, &[&str]); 14] = [
    ("no certificates found", &["empty_chain", "not_pem"]),
    ("no URI SAN", &["no_uri_san"]),
    ("more than one URI SAN", &["many_uri_sans"]),
    // An authority's own ID has no path, which is seen before its CA flag.
    ("must not have CA flag", &["leaf_is_ca", "id_without_path"]),
    ("signing certificate must have CA flag", &["intermediate_not_ca"]),
    ("'digitalSignature'", &["key_usage_no_digital_signature", "key_usage_missing"]),
    ("must not have 'keyCertSign'", &["key_usage_cert_sign"]),
    ("must not have 'cRLSign'", &["key_usage_crl_sign"]),
    ("signing certificate must have 'keyCertSign'", &["intermediate_key_usage"]),
    ("cannot get leaf certificate SPIFFE ID", &["not_a_spiffe_id", "id_without_path", "no_uri_san", "many_uri_sans"]),
    ("does not match private key", &["key_mismatch"]),
    ("private key", &["no_key", "bad_key"]),
    ("cannot parse certificate", &["not_pem", "not_der"]),
    ("cannot parse PEM", &["not_pem", "not_der", "empty_chain"]),
];

/// A chain and its key; a relative path is below the package's folder.
pub(crate) fn svids(run: &mut Run<'_>) -> Result<()> {
    let directory = run.directory;
    run.each(|case| {
        let file = |name: &str| read(directory, "go-spiffe/svid/x509svid", case.text(name));
        let got = Credentials::from_pem(file("certsPath")?, file("keyPath")?);
        let wanted = case.expected("expErrContains").as_str().unwrap_or_default();
        if !wanted.is_empty() {
            let Err(error) = &got else { return Err((format!("refused: {wanted}"), "accepted".to_owned())) };
            let words = REASONS.iter().find(|(text, _)| wanted.contains(text)).map(|(_, words)| *words);
            let fits = words.is_none_or(|words| words.contains(&error.reason()));
            return if fits { Ok(()) } else { Err((wanted.to_owned(), error.reason().to_owned())) };
        }
        let count = case.field("expNumCerts").as_u64();
        let found = got.as_ref().map(|c| (c.id().to_string(), count.map(|_| c.chain().len() as u64)));
        let wanted = (case.expected("expID").as_str().unwrap_or_default().to_owned(), count);
        same(Ok(wanted), found)
    })
}

/// A PEM bundle.
pub(crate) fn bundles(run: &mut Run<'_>) -> Result<()> {
    bundles_by(run, |domain, text| X509Bundle::parse_pem(domain, text).map_err(|error| error.to_string()))
}

/// The DER blocks of a PEM bundle, one after the other.
pub(crate) fn raw_bundles(run: &mut Run<'_>) -> Result<()> {
    bundles_by(run, |domain, text| {
        let blocks = pem::parse_many(text).map_err(|error| error.to_string())?;
        let der: Vec<u8> = blocks.into_iter().flat_map(pem::Pem::into_contents).collect();
        X509Bundle::parse_concatenated_der(domain, &der).map_err(|error| error.to_string())
    })
}

fn bundles_by(run: &mut Run<'_>, parse: impl Fn(TrustDomain, &[u8]) -> Result<X509Bundle, String>) -> Result<()> {
    let domain = TrustDomain::parse("domain.test").context("a fixed trust domain")?;
    let directory = run.directory;
    run.each(|case| {
        let text = read(directory, "go-spiffe/bundle/x509bundle", case.text("path"))?;
        let got = parse(domain.clone(), &text);
        if truthy(case.field("expErrContains")) {
            return accepted(false, &got);
        }
        let wanted = case.expected("expNumAuthorities").as_u64().unwrap_or(0);
        same(Ok(wanted), got.map(|bundle| bundle.authorities().len() as u64))
    })
}

fn read(directory: &Directory, folder: &str, path: &str) -> Result<Vec<u8>, (String, String)> {
    let file = format!("{folder}/{path}");
    directory.bytes(&file).map_err(|error| (format!("a file {file}"), format!("{error:#}")))
}
