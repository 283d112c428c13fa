//! Certificates as verifiers see them, and the life of the keys.

use culvert_identity::{bundle::X509Bundle, x509};
use culvert_mtls::{Role, TrustBundles, verify_chain};
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::*;
use crate::state_dir::StateDir;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::of_service_account(&domain(), "shop", "web").unwrap()
}

fn open(state: &StateDir, now: SystemTime) -> Result<Authority, CaError> {
    Authority::open(state.clone(), domain(), ISSUING_LIFE, now)
}

fn authority() -> (tempfile::TempDir, StateDir, Authority, SystemTime) {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let authority = open(&state, now).unwrap();
    (root, state, authority, now)
}

fn csr(change: impl FnOnce(&mut CertificateParams)) -> SigningRequest {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    change(&mut params);
    SigningRequest::from_pem(&params.serialize_request(&key).unwrap().pem().unwrap()).unwrap()
}

fn ders(chain: &[String]) -> Vec<CertificateDer<'static>> {
    chain.iter().flat_map(|pem| x509::certificates_of_pem(pem.as_bytes()).unwrap()).map(CertificateDer::from).collect()
}

fn verify(authority: &Authority, chain: &[String], now: SystemTime) -> Result<SpiffeId, &'static str> {
    let bundles = TrustBundles::new();
    bundles.set(X509Bundle::parse_pem(domain(), authority.roots().pem).unwrap()).unwrap();
    for role in [Role::Client, Role::Server] {
        verify_chain(&ders(chain), &bundles.snapshot(), role, now).map_err(|refusal| refusal.reason())?;
    }
    Ok(x509::check_chain(&ders(chain)).unwrap().id)
}

#[test]
fn a_leaf_is_what_verifiers_ask_for_in_both_roles() {
    let (_root, _, authority, now) = authority();
    let issued = authority.sign(&id(), &csr(|_| {}), HOUR, now).unwrap();
    assert_eq!(verify(&authority, &issued.chain, now), Ok(id()));
    assert_eq!(issued.not_after, now + HOUR);
    let der = ders(&issued.chain);
    let (_, leaf) = X509Certificate::from_der(&der[0]).unwrap();
    assert!(leaf.subject().iter().next().is_none(), "no subject");
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                assert!(extension.critical);
                assert_eq!(names.general_names.len(), 1);
            }
            ParsedExtension::KeyUsage(usage) => {
                assert!(extension.critical && usage.flags == 1, "digitalSignature and nothing else");
            }
            ParsedExtension::ExtendedKeyUsage(usage) => assert!(usage.server_auth && usage.client_auth && !usage.any),
            ParsedExtension::BasicConstraints(basic) => assert!(!basic.ca),
            _ => {}
        }
    }
    let held =
        leaf.extensions().iter().filter(|e| matches!(e.parsed_extension(), ParsedExtension::BasicConstraints(_)));
    assert_eq!(held.count(), 1, "CA:FALSE is written out");
    assert!(leaf.validity().not_before.timestamp() < 1_800_000_000);
}

#[test]
fn nothing_of_the_request_but_its_key_gets_into_the_leaf() {
    let (_root, _, authority, now) = authority();
    let greedy = csr(|params| {
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()),
            SanType::DnsName("control".try_into().unwrap()),
        ];
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let issued = authority.sign(&id(), &greedy, HOUR, now).unwrap();
    assert_eq!(verify(&authority, &issued.chain, now), Ok(id()));
    let der = ders(&issued.chain);
    let (_, leaf) = X509Certificate::from_der(&der[0]).unwrap();
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    assert!(!leaf.is_ca() && leaf.subject().iter().next().is_none());
}

#[test]
fn requests_without_proof_of_the_key_are_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = CertificateParams::default().serialize_request(&key).unwrap();
    let mut bytes = good.der().to_vec();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    let forged = pem_of(&bytes);
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ed25519 = CertificateParams::default().serialize_request(&other).unwrap().pem().unwrap();
    let table = [
        (forged, "csr_bad_signature"),
        (ed25519, "csr_key_type"),
        (String::new(), "csr_malformed"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".to_owned(), "csr_malformed"),
        ("x".repeat(20_000), "csr_too_long"),
    ];
    for (text, reason) in table {
        assert_eq!(SigningRequest::from_pem(&text).unwrap_err().reason(), reason);
    }
}

fn pem_of(der: &[u8]) -> String {
    // The library writes PEM only of what it has made itself.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let lines: Vec<&str> = pem.lines().collect();
    let body = base64(der);
    format!("{}\n{body}\n{}\n", lines[0], lines[lines.len() - 1])
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * index) & 63) as usize] as char;
            text.push(if index <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

#[test]
fn no_leaf_lives_longer_than_a_day_or_than_its_issuer() {
    let (_root, _, authority, now) = authority();
    assert_eq!(authority.sign(&id(), &csr(|_| {}), 1000 * HOUR, now).unwrap().not_after, now + MAX_LEAF_LIFE);
    let late = now + ISSUING_LIFE - HOUR;
    assert_eq!(authority.sign(&id(), &csr(|_| {}), DAY, late).unwrap().not_after, now + ISSUING_LIFE);
    let ended = now + ISSUING_LIFE;
    assert_eq!(authority.sign(&id(), &csr(|_| {}), DAY, ended).unwrap_err().reason(), "issuing_ended");
}

#[test]
fn the_issuing_key_is_replaced_in_time_and_old_leaves_stay_good() {
    let (_root, state, authority, now) = authority();
    let old = authority.sign(&id(), &csr(|_| {}), DAY, now + 19 * DAY).unwrap();
    assert!(!authority.rotate_if_due(now + 19 * DAY).unwrap());
    let later = now + 20 * DAY;
    assert!(authority.rotate_if_due(later).unwrap());
    assert_eq!(authority.issuing_not_after(), later + ISSUING_LIFE);
    assert_eq!(verify(&authority, &old.chain, now + 19 * DAY + HOUR), Ok(id()));
    let new = authority.sign(&id(), &csr(|_| {}), DAY, later).unwrap();
    assert_eq!(verify(&authority, &new.chain, later), Ok(id()));
    assert_ne!(old.chain[1], new.chain[1]);
    assert_eq!(open(&state, later).unwrap().issuing_not_after(), later + ISSUING_LIFE, "the new one was kept");
}

#[test]
fn the_root_key_may_be_away_until_it_is_needed() {
    let (_root, state, authority, now) = authority();
    let away = state.path("root.key");
    let elsewhere = state.path("elsewhere");
    std::fs::rename(&away, &elsewhere).unwrap();
    drop(authority);
    let authority = open(&state, now + DAY).unwrap();
    authority.sign(&id(), &csr(|_| {}), HOUR, now + DAY).unwrap();
    let later = now + 25 * DAY;
    assert_eq!(authority.rotate_if_due(later).unwrap_err().reason(), "root_key_away");
    authority.sign(&id(), &csr(|_| {}), HOUR, later).unwrap();
    open(&state, later).unwrap().sign(&id(), &csr(|_| {}), HOUR, later).unwrap();
    assert_eq!(open(&state, now + ISSUING_LIFE).unwrap_err().reason(), "root_key_away");
    std::fs::rename(&elsewhere, &away).unwrap();
    assert!(authority.rotate_if_due(later).unwrap());
}

#[test]
fn a_restart_keeps_root_and_issuing_key_and_another_trust_domain_is_refused() {
    let (_root, state, authority, now) = authority();
    let again = open(&state, now).unwrap();
    assert_eq!(again.roots().pem, authority.roots().pem);
    assert_eq!(again.issuing_not_after(), authority.issuing_not_after());
    assert_eq!(Authority::trust_domain_of(&state).unwrap(), Some(domain()));
    let other = TrustDomain::parse("other.local").unwrap();
    let refused = Authority::open(state, other, ISSUING_LIFE, now).unwrap_err();
    assert_eq!(refused.reason(), "ca_other_trust_domain");
}

#[test]
fn halves_that_do_not_belong_together_are_not_used() {
    let (_root, state, authority, now) = authority();
    let before = state.read("issuing.pem").unwrap();
    assert!(authority.rotate_if_due(now + 25 * DAY).unwrap());
    state.write("issuing.pem", &before).unwrap();
    let mended = open(&state, now + 2 * HOUR).unwrap();
    let issued = mended.sign(&id(), &csr(|_| {}), HOUR, now + 2 * HOUR).unwrap();
    assert_eq!(verify(&mended, &issued.chain, now + 2 * HOUR), Ok(id()));
    let stranger = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    state.write("root.key", stranger.serialize_pem().as_bytes()).unwrap();
    assert_eq!(mended.rotate_if_due(now + 25 * DAY).unwrap_err().reason(), "ca_broken");
}

#[test]
fn a_key_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let (_root, state, authority, now) = authority();
    drop(authority);
    std::fs::set_permissions(state.path("issuing.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(open(&state, now).unwrap_err().reason(), "state_mode");
}

#[test]
fn issuing_and_root_certificates_are_cas_of_the_right_length() {
    let (_root, _, authority, now) = authority();
    let issued = authority.sign(&id(), &csr(|_| {}), HOUR, now).unwrap();
    let chain = ders(&issued.chain);
    for (der, length) in [(authority.roots().ders[0].as_slice(), 1), (chain[1].as_ref(), 0)] {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let basic = certificate.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca);
        assert_eq!(basic.value.path_len_constraint, Some(length));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    }
}
