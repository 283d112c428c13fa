use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SAN: &[u64] = &[2, 5, 29, 17];
const ID: &str = "spiffe://td.test/ns/shop/sa/till";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = moment(1_900_000_000).into();
    params.not_after = moment(1_900_003_600).into();
    params
}

fn ca() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn signed(params: &CertificateParams) -> Vec<u8> {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    params.signed_by(&key, &Issuer::new(ca(), ca_key)).unwrap().der().to_vec()
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = leaf();
    change(&mut params);
    signed(&params)
}

fn reason(chain: &[Vec<u8>]) -> &'static str {
    check_chain(chain).map_or_else(|e| e.reason(), |_| "accepted")
}

fn custom(oid: &[u64], critical: bool, der: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, der.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn a_good_leaf_says_who_it_is_and_how_long() {
    let der = with(|p| p.serial_number = Some(0x00ab_cdef_u64.into()));
    let svid = check_chain(&[&der]).unwrap();
    assert_eq!(svid.id.as_str(), ID);
    assert_eq!((svid.not_before, svid.not_after), (moment(1_900_000_000), moment(1_900_003_600)));
    assert_eq!(svid.serial.trim_start_matches('0'), "abcdef");
    assert_eq!(validity(&der).unwrap(), Validity { not_before: svid.not_before, not_after: svid.not_after });
    assert!(!svid.public_key.is_empty());
}

#[test]
fn each_fault_of_a_leaf_has_its_own_reason() {
    use KeyUsagePurpose::{ContentCommitment, CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let dns = || SanType::DnsName("till.shop".try_into().unwrap());
    let usages = |list: &[KeyUsagePurpose]| with(|p| p.key_usages = list.to_vec());
    let names = |list: Vec<SanType>| with(|p| p.subject_alt_names = list);
    let non_critical_usage = with(|p| {
        p.key_usages.clear();
        p.custom_extensions.push(custom(KEY_USAGE, false, &[3, 2, 7, 0x80]));
    });
    let table = [
        (names(vec![uri(ID), dns()]), "accepted"),
        (usages(&[DigitalSignature, KeyEncipherment, KeyAgreement]), "accepted"),
        (with(|p| p.is_ca = IsCa::NoCa), "accepted"),
        (names(vec![]), "no_uri_san"),
        (names(vec![dns()]), "no_uri_san"),
        (names(vec![uri(ID), uri("spiffe://td.test/other")]), "many_uri_sans"),
        (names(vec![uri(ID), uri(ID)]), "many_uri_sans"),
        (names(vec![uri("https://td.test/x"), uri(ID)]), "many_uri_sans"),
        (names(vec![uri("https://td.test/x")]), "not_a_spiffe_id"),
        (names(vec![uri("spiffe://TD.test/x")]), "not_a_spiffe_id"),
        (names(vec![uri("spiffe://td.test/x/")]), "not_a_spiffe_id"),
        (names(vec![uri("spiffe://td.test")]), "id_without_path"),
        (with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "leaf_is_ca"),
        (usages(&[]), "key_usage_missing"),
        (usages(&[KeyEncipherment, ContentCommitment]), "key_usage_no_digital_signature"),
        (usages(&[KeyCertSign, CrlSign]), "key_usage_no_digital_signature"),
        (usages(&[DigitalSignature, KeyCertSign]), "key_usage_cert_sign"),
        (usages(&[DigitalSignature, CrlSign]), "key_usage_crl_sign"),
        (non_critical_usage, "key_usage_not_critical"),
    ];
    for (at, (der, wanted)) in table.into_iter().enumerate() {
        assert_eq!(reason(&[der]), wanted, "row {at}");
    }
}

#[test]
fn a_second_extension_of_a_kind_is_no_way_to_be_somebody_else() {
    // A second SAN with another identity: [6] IA5String inside a SEQUENCE.
    let other = b"spiffe://td.test/ns/shop/sa/boss";
    let mut san = vec![0x30, u8::try_from(other.len() + 2).unwrap(), 0x86, u8::try_from(other.len()).unwrap()];
    san.extend_from_slice(other);
    assert_eq!(reason(&[with(|p| p.custom_extensions.push(custom(SAN, true, &san)))]), "bad_extension");
    let usage = custom(KEY_USAGE, true, &[3, 2, 7, 0x80]);
    assert_eq!(reason(&[with(|p| p.custom_extensions.push(usage))]), "bad_extension");
}

#[test]
fn a_uri_outside_of_ascii_counts_as_a_uri_and_a_broken_san_is_not_read_in_part() {
    let unreadable = |content: &[u8]| {
        with(|p| {
            p.subject_alt_names.clear();
            p.custom_extensions.push(custom(SAN, true, content));
        })
    };
    // A URI with a byte that IA5String does not have, alone and beside a good one.
    let mut both = vec![0x30, 0, 0x86, u8::try_from(ID.len()).unwrap()];
    both.extend_from_slice(ID.as_bytes());
    both.extend_from_slice(&[0x86, 2, 0xc3, 0xbc]);
    both[1] = u8::try_from(both.len() - 2).unwrap();
    assert_eq!(reason(&[unreadable(&both)]), "many_uri_sans");
    assert_eq!(reason(&[unreadable(&[0x30, 4, 0x86, 2, 0xc3, 0xbc])]), "not_a_spiffe_id");
    assert_eq!(reason(&[unreadable(&[0x30, 5, 0x86])]), "bad_extension");
    assert_eq!(reason(&[unreadable(&[0x30, 0])]), "no_uri_san");
}

#[test]
fn certificates_above_the_leaf_must_be_allowed_to_sign() {
    let good = signed(&leaf());
    let no_sign = |usages: Vec<KeyUsagePurpose>| {
        let mut params = ca();
        params.key_usages = usages;
        signed(&params)
    };
    assert_eq!(reason(&[good.clone(), signed(&ca())]), "accepted");
    assert_eq!(reason(&[good.clone(), signed(&leaf())]), "intermediate_not_ca");
    assert_eq!(reason(&[good.clone(), no_sign(vec![])]), "intermediate_key_usage");
    assert_eq!(
        reason(&[good.clone(), signed(&ca()), no_sign(vec![KeyUsagePurpose::CrlSign])]),
        "intermediate_key_usage"
    );
    let at = check_chain(&[good, signed(&ca()), signed(&leaf())]).unwrap_err();
    assert_eq!(at, ProfileError::IntermediateNotCa(2));
}

#[test]
fn the_first_fault_in_the_order_of_the_standard_is_the_one_reported() {
    let all_wrong = with(|p| {
        p.subject_alt_names = vec![uri("spiffe://td.test")];
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages.clear();
    });
    assert_eq!(reason(&[all_wrong.clone(), signed(&leaf())]), "id_without_path");
    // Encoding comes before everything, also that of the last certificate.
    assert_eq!(reason(&[all_wrong, vec![0x30]]), "not_der");
    let ca_leaf = with(|p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages.clear();
    });
    assert_eq!(reason(&[ca_leaf, signed(&leaf())]), "leaf_is_ca");
}

#[test]
fn what_is_not_exactly_one_certificate_per_element_is_refused() {
    let good = signed(&leaf());
    assert_eq!(reason(&[]), "empty_chain");
    assert_eq!(reason(&[vec![]]), "not_der");
    assert_eq!(reason(&[[good.clone(), vec![0]].concat()]), "not_der");
    assert_eq!(reason(&[[good.clone(), good.clone()].concat()]), "not_der");
    assert_eq!(reason(&[good[..good.len() - 1].to_vec()]), "not_der");
}

/// Our parser skips over some of what is wrong; other parsers do not, and then two sides see two certificates.
#[test]
fn what_no_strict_parser_reads_is_refused() {
    let named = |change: &dyn Fn(&mut Vec<u8>, usize)| {
        let mut der = with(|p| p.distinguished_name.push(rcgen::DnType::CommonName, "till"));
        let value = der.windows(4).position(|text| text == b"till").unwrap();
        change(&mut der, value);
        reason(&[der])
    };
    assert_eq!(named(&|_, _| ()), "accepted");
    assert_eq!(named(&|der, value| der[value] = b'b'), "accepted");
    // SET { SEQUENCE { OBJECT IDENTIFIER (5), UTF8String (4 and its header) } }: an empty set, then end of contents.
    assert_eq!(named(&|der, value| der[value - 10..value - 7].fill(0)), "not_der");
    // Well-formed, but no name: a SEQUENCE where the SET should be.
    assert_eq!(named(&|der, value| der[value - 11] = 0x30), "not_der");
    // The signed part names another algorithm than the signature is of.
    let mut der = signed(&leaf());
    let algorithm = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let inside = der.windows(8).position(|oid| oid == algorithm).unwrap();
    der[inside + 7] = 3;
    assert_eq!(reason(&[der]), "not_der");
}

#[test]
fn a_chain_is_loaded_from_pem_past_blocks_of_other_kinds() {
    let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
    let (good, signer) = (signed(&leaf()), signed(&ca()));
    let text = block("PRIVATE KEY", b"x") + &block("CERTIFICATE", &good) + &block("CERTIFICATE", &signer);
    let (chain, svid) = load_chain_pem(&text).unwrap();
    assert_eq!((chain, svid.id.as_str()), (vec![good, signer], ID));
    assert_eq!(load_chain_pem(block("PRIVATE KEY", b"x")).unwrap_err(), ProfileError::EmptyChain);
    assert_eq!(load_chain_pem("").unwrap_err(), ProfileError::EmptyChain);
    let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    assert_eq!(load_chain_pem(broken).unwrap_err(), ProfileError::NotPem);
}
