use proptest::prelude::*;

use super::*;

/// Trust domain and path, or the fault.
type Parts<'a> = Result<(&'a str, &'a str), IdError>;

#[test]
fn a_spiffe_id_is_read_exactly_or_refused_for_its_first_fault() {
    let long_domain = format!("spiffe://{}/x", "a".repeat(256));
    let longest_domain = format!("spiffe://{}/x", "a".repeat(255));
    let too_long = format!("spiffe://td/{}", "a".repeat(2048 - "spiffe://td/".len() + 1));
    let longest = &too_long[..2048];
    let table: &[(&str, Parts<'_>)] = &[
        ("spiffe://td", Ok(("td", ""))),
        ("spiffe://cluster.local/ns/shop/sa/till", Ok(("cluster.local", "/ns/shop/sa/till"))),
        ("spiffe://1.2.3.4/x", Ok(("1.2.3.4", "/x"))),
        ("spiffe://-._/...", Ok(("-._", "/..."))),
        ("spiffe://td/.x/..x/x.", Ok(("td", "/.x/..x/x."))),
        ("spiffe://td/A_b-C.9", Ok(("td", "/A_b-C.9"))),
        ("", Err(IdError::Empty)),
        ("td/x", Err(IdError::Scheme)),
        ("spiffe:/td", Err(IdError::Scheme)),
        ("Spiffe://td", Err(IdError::Scheme)),
        ("https://td/x", Err(IdError::Scheme)),
        (" spiffe://td", Err(IdError::Scheme)),
        ("spiffe://", Err(IdError::NoTrustDomain)),
        ("spiffe:///x", Err(IdError::NoTrustDomain)),
        ("spiffe://Td/x", Err(IdError::TrustDomainChar)),
        ("spiffe://user@td/x", Err(IdError::TrustDomainChar)),
        ("spiffe://td:80/x", Err(IdError::TrustDomainChar)),
        ("spiffe://t%64/x", Err(IdError::TrustDomainChar)),
        ("spiffe://[::1]/x", Err(IdError::TrustDomainChar)),
        ("spiffe://td?q", Err(IdError::TrustDomainChar)),
        ("spiffe://td/", Err(IdError::TrailingSlash)),
        ("spiffe://td/x/", Err(IdError::TrailingSlash)),
        ("spiffe://td//x", Err(IdError::EmptySegment)),
        ("spiffe://td/./x", Err(IdError::DotSegment)),
        ("spiffe://td/x/..", Err(IdError::DotSegment)),
        ("spiffe://td/x%2fy", Err(IdError::PathChar)),
        ("spiffe://td/x y", Err(IdError::PathChar)),
        ("spiffe://td/x?q", Err(IdError::PathChar)),
        ("spiffe://td/x#f", Err(IdError::PathChar)),
        ("spiffe://td/ü", Err(IdError::PathChar)),
        ("spiffe://td/x\0", Err(IdError::PathChar)),
        (&long_domain, Err(IdError::TrustDomainTooLong)),
        (&longest_domain, Ok((&longest_domain["spiffe://".len()..longest_domain.len() - 2], "/x"))),
        (&too_long, Err(IdError::TooLong)),
        (longest, Ok(("td", &longest["spiffe://td".len()..]))),
    ];
    for (text, wanted) in table {
        let got = SpiffeId::parse(text);
        let parts = got.as_ref().map(|id| (id.trust_domain_str(), id.path())).map_err(|e| *e);
        assert_eq!(parts, *wanted, "{text:?}");
    }
}

#[test]
fn an_identity_is_recognised_without_being_made() {
    let names = ["a", "b", "ab", "a/sa/b", "", "x"];
    for domain in ["a", "a.b", "b"].map(|name| TrustDomain::parse(name).unwrap()) {
        for id in [
            "spiffe://a/ns/a/sa/b",
            "spiffe://a.b/ns/ab/sa/a",
            "spiffe://a/ns/a/sa/b/sa/x",
            "spiffe://a",
            "spiffe://a/b",
        ] {
            let id = SpiffeId::parse(id).unwrap();
            for (namespace, account) in names.iter().flat_map(|one| names.map(|other| (*one, other))) {
                let made = SpiffeId::of_service_account(&domain, namespace, account);
                let is = id.is_of_service_account(&domain, namespace, account);
                assert_eq!(is, made.as_ref() == Ok(&id), "{id} and {domain}, {namespace}, {account}");
            }
        }
    }
}

#[test]
fn a_service_account_is_known_only_by_the_exact_layout() {
    let account =
        |text| SpiffeId::parse(text).unwrap().service_account().map(|(ns, sa)| (ns.to_owned(), sa.to_owned()));
    assert_eq!(account("spiffe://td/ns/shop/sa/till"), Some(("shop".into(), "till".into())));
    for other in [
        "spiffe://td",
        "spiffe://td/ns/shop",
        "spiffe://td/ns/shop/sa",
        "spiffe://td/ns/shop/sa/till/more",
        "spiffe://td/x/ns/shop/sa/till",
        "spiffe://td/ns/shop/SA/till",
        "spiffe://td/culvert/node/one",
    ] {
        assert_eq!(account(other), None, "{other}");
    }
}

#[test]
fn nodes_and_the_control_plane_have_names_of_their_own() {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let node = SpiffeId::of_node(&domain, "node-1.example").unwrap();
    assert_eq!(node.as_str(), "spiffe://cluster.local/culvert/node/node-1.example");
    assert_eq!(node.node(), Some("node-1.example"));
    let control = SpiffeId::of_control(&domain);
    assert_eq!(control, SpiffeId::parse("spiffe://cluster.local/culvert/control").unwrap());
    assert_eq!(control.node(), None);
    for bad in ["", "a/b", "..", "a b", "/"] {
        assert!(SpiffeId::of_node(&domain, bad).is_err(), "{bad:?}");
    }
    for other in ["spiffe://td/culvert/node", "spiffe://td/culvert/node/a/b", "spiffe://td/ns/culvert/sa/node"] {
        assert_eq!(SpiffeId::parse(other).unwrap().node(), None, "{other}");
    }
}

fn segment() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._-]{1,12}".prop_filter("dots are no segment", |s| s != "." && s != "..")
}

proptest! {
    #[test]
    fn what_is_built_from_parts_reads_back_as_those_parts(
        domain in "[a-z0-9._-]{1,40}",
        segments in prop::collection::vec(segment(), 0..6),
    ) {
        let path: String = segments.iter().map(|s| format!("/{s}")).collect();
        let text = format!("spiffe://{domain}{path}");
        let id = SpiffeId::parse(&text).unwrap();
        prop_assert_eq!(id.as_str(), &text);
        prop_assert_eq!(id.trust_domain_str(), &domain);
        prop_assert_eq!(id.path(), &path);
        prop_assert_eq!(id.principal(), &text["spiffe://".len()..]);
        prop_assert_eq!(id.trust_domain(), TrustDomain::parse(&domain).unwrap());
        prop_assert_eq!(&text.parse::<SpiffeId>().unwrap(), &id);
    }

    #[test]
    fn one_foreign_byte_anywhere_makes_it_no_id(
        at in 9_usize..30, byte in prop::sample::select(vec![b'%', b'@', b':', b'?', b'#', b' ', b'~', b'\\', 0x7f]),
    ) {
        let mut text = b"spiffe://domain.test/ns/a/sa/b".to_vec();
        text[at] = byte;
        prop_assert!(SpiffeId::parse(std::str::from_utf8(&text).unwrap()).is_err());
    }

    #[test]
    fn no_text_makes_the_reader_panic_and_what_it_accepts_it_gives_back(text in ".{0,60}") {
        for text in [text.clone(), format!("spiffe://{text}")] {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
            }
        }
    }
}
