use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

fn certificate(is_ca: bool) -> Vec<u8> {
    let mut params = CertificateParams::default();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("td.test").unwrap()
}

fn parse(keys: &str) -> Result<Document, DocumentError> {
    Document::parse(domain(), format!(r#"{{"keys": [{keys}]}}"#).as_bytes())
}

fn reason(keys: &str) -> &'static str {
    parse(keys).map_or_else(|e| e.reason(), |_| "accepted")
}

fn x509_entry(certificates: &[Vec<u8>]) -> String {
    let x5c: Vec<_> = certificates.iter().map(|der| format!("{:?}", STANDARD.encode(der))).collect();
    format!(r#"{{"kty": "EC", "use": "x509-svid", "x5c": [{}]}}"#, x5c.join(","))
}

#[test]
fn a_bundle_is_the_same_from_pem_and_from_der() {
    let (one, two) = (certificate(true), certificate(true));
    let bundle = X509Bundle::from_der(domain(), &[&one, &two, &one]).unwrap();
    assert_eq!(bundle.authorities(), [one.clone(), two.clone()], "each authority once");
    assert_eq!(X509Bundle::parse_pem(domain(), bundle.to_pem()).unwrap(), bundle);
    assert_eq!(X509Bundle::parse_concatenated_der(domain(), &[one, two].concat()).unwrap(), bundle);
}

#[test]
fn what_cannot_be_an_authority_is_refused() {
    let good = certificate(true);
    let reason = |r: Result<X509Bundle, BundleError>| r.map_or_else(|e| e.reason(), |_| "accepted");
    assert_eq!(reason(X509Bundle::from_der::<Vec<u8>>(domain(), &[])), "accepted");
    assert_eq!(reason(X509Bundle::from_der(domain(), &[&good, &certificate(false)])), "authority_not_ca");
    assert_eq!(reason(X509Bundle::from_der(domain(), &[[good.clone(), vec![0]].concat()])), "not_der");
    assert_eq!(reason(X509Bundle::parse_pem(domain(), "")), "no_certificate");
    assert_eq!(
        reason(X509Bundle::parse_pem(domain(), "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----")),
        "not_pem"
    );
    assert_eq!(reason(X509Bundle::parse_concatenated_der(domain(), &[])), "no_certificate");
    assert_eq!(reason(X509Bundle::parse_concatenated_der(domain(), &[good, vec![9]].concat())), "not_der");
}

#[test]
fn a_document_gives_each_key_to_its_use_and_passes_over_what_it_does_not_know() {
    let authority = certificate(true);
    let keys = [
        x509_entry(std::slice::from_ref(&authority)),
        r#"{"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256"}"#.into(),
        r#"{"kty": "RSA", "use": "wit-svid", "kid": "a"}"#.into(),
        r#"{"kty": "EC", "use": "sig"}"#.into(),
        r#"{"kty": "oct", "use": "jwt-svid"}"#.into(),
        r#"{"kty": "EC", "use": "x509-svid"}"#.into(),
    ]
    .join(",");
    let text = format!(r#"{{"keys": [{keys}], "spiffe_sequence": 7, "spiffe_refresh_hint": 60, "more": 1}}"#);
    let document = Document::parse(domain(), text.as_bytes()).unwrap();
    assert_eq!(document.x509.authorities(), [authority]);
    assert_eq!(document.jwt.iter().map(|k| k.kid.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(document.jwt[0].jwk["crv"], "P-256");
    assert_eq!(document.wit.len(), 1);
    assert_eq!((document.sequence, document.refresh_hint.as_secs()), (Some(7), 60));
}

#[test]
fn an_empty_document_trusts_nobody_and_a_missing_list_is_an_error() {
    let empty = parse("").unwrap();
    assert!(empty.x509.authorities().is_empty() && empty.jwt.is_empty());
    assert_eq!(empty.refresh_hint, DEFAULT_REFRESH);
    assert_eq!(Document::parse(domain(), b"{}").unwrap_err(), DocumentError::NoKeys);
    assert_eq!(Document::parse(domain(), br#"{"keys": null}"#).unwrap_err(), DocumentError::NoKeys);
    assert_eq!(Document::parse(domain(), b"[]").unwrap_err().reason(), "not_json");
    assert_eq!(Document::parse(domain(), br#"{"keys": {}}"#).unwrap_err().reason(), "not_json");
}

#[test]
fn each_fault_of_an_entry_refuses_the_document_with_its_own_reason() {
    let (one, two) = (certificate(true), certificate(true));
    let with_kid = x509_entry(std::slice::from_ref(&one)).replace(r#""kty""#, r#""kid": "x", "kty""#);
    let jwt = r#"{"kty": "EC", "use": "jwt-svid", "kid": "a"}"#;
    let table = [
        (r#"{"use": "jwt-svid", "kid": "a"}"#.to_owned(), "entry_incomplete"),
        (r#"{"kty": "EC"}"#.to_owned(), "entry_incomplete"),
        (r#"{"kty": "EC", "use": "jwt-svid"}"#.to_owned(), "no_kid"),
        (r#"{"kty": "EC", "use": "wit-svid", "kid": ""}"#.to_owned(), "no_kid"),
        (format!("{jwt},{jwt}"), "repeated_kid"),
        (with_kid, "unexpected_kid"),
        (x509_entry(&[one, two]), "many_certificates"),
        (x509_entry(&[]), "bad_certificate"),
        (x509_entry(&[certificate(false)]), "bad_certificate"),
        (r#"{"kty": "EC", "use": "x509-svid", "x5c": ["?"]}"#.to_owned(), "bad_certificate"),
        (r#"{"kty": "EC", "use": "x509-svid", "x5c": "x"}"#.to_owned(), "bad_certificate"),
    ];
    for (keys, wanted) in table {
        assert_eq!(reason(&keys), wanted, "{keys}");
    }
}

#[test]
fn an_older_document_is_old_news() {
    let with = |sequence: &str| Document::parse(domain(), format!(r#"{{"keys": []{sequence}}}"#).as_bytes()).unwrap();
    let (third, none) = (with(r#", "spiffe_sequence": 3"#), with(""));
    assert!(third.supersedes(None) && third.supersedes(Some(2)) && third.supersedes(Some(3)));
    assert!(!third.supersedes(Some(4)) && !none.supersedes(Some(1)) && none.supersedes(None));
}

#[test]
fn a_map_of_bundles_keeps_trust_domains_apart_and_refuses_repeats() {
    let map = BundleMap::parse(br#"{"trust_domains": {"a": {"keys": []}, "b": {"keys": []}}}"#).unwrap();
    assert_eq!(map.trust_domains.len(), 2);
    assert_eq!(map.trust_domains[&TrustDomain::parse("b").unwrap()].x509.trust_domain().as_str(), "b");
    let reason = |text: &str| BundleMap::parse(text.as_bytes()).unwrap_err().reason();
    assert_eq!(reason(r#"{"trust_domains": {"a": {"keys": []}, "a": {"keys": []}}}"#), "repeated_trust_domain");
    assert_eq!(reason(r#"{"trust_domains": {"A": {"keys": []}}}"#), "bad_trust_domain");
    assert_eq!(reason(r#"{"trust_domains": {"a": {}}}"#), "no_keys");
    assert_eq!(reason(r#"{"keys": []}"#), "not_json");
}
