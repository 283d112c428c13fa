//! Values: patterns, ports, addresses, brackets, paths, keys.

use serde_json::json;

use super::{World, accepted, authorization, codes, from};
use crate::{
    address::{AddressBlock, AddressError, parse_port},
    attribute::{Attribute, ConditionError, KeyError, ValueError, check_account, check_condition, check_trust_domain},
    brackets::{name_in_brackets, names_in_brackets},
    path::{PathError, check_path, is_literal, is_template},
    pattern::Pattern,
};

#[test]
fn a_lone_star_comes_first_then_a_leading_then_a_trailing_one() {
    for (pattern, value, expected) in [
        ("*", "a", true),
        ("*", "", false),
        ("abc*", "abc", true),
        ("abc*", "abcd", true),
        ("abc*", "xabc", false),
        ("*abc", "abc", true),
        ("*abc", "xabc", true),
        ("*abc", "abcx", false),
        ("abc", "abc", true),
        ("abc", "ABC", false),
        ("*a*", "xa*", true),
        ("*a*", "xax", false),
        ("a*b", "a*b", true),
        ("a*b", "axb", false),
        ("**", "x*", true),
        ("**", "x", false),
        ("", "", true),
    ] {
        assert_eq!(Pattern::parse(pattern).matches(value), expected, "{pattern:?} {value:?}");
    }
}

#[test]
fn ports_are_decimal_numbers_up_to_65535() {
    for (text, port) in [("0", 0), ("80", 80), ("0080", 80), ("65535", 65535)] {
        assert_eq!(parse_port(text), Ok(port), "{text}");
    }
    for text in ["", "-1", "+1", "65536", "80-90", "http", " 80", "8_0", "99999999999999999999"] {
        assert_eq!(parse_port(text), Err(AddressError::Port), "{text}");
    }
}

#[test]
fn addresses_and_blocks() {
    for text in
        ["1.2.3.4", "::1", "fe80::1%eth0", "10.0.0.0/8", "10.1.2.3/8", "::/0", "0.0.0.0/0", "::ffff:1.2.3.4/128"]
    {
        assert!(AddressBlock::parse(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "a.b.c.d",
        "1.2.3.4%eth0",
        "fe80::1%",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "/8",
        "fe80::1%eth0/64",
        "10.0.0.0/8/8",
        "10.0.0.0/-1",
    ] {
        assert!(AddressBlock::parse(text).is_err(), "{text}");
    }
}

#[test]
fn names_in_brackets_one_and_several() {
    assert_eq!(name_in_brackets("[a][b]"), Ok("a][b"));
    assert!(name_in_brackets("a]").is_err() && name_in_brackets("[a").is_err() && name_in_brackets("").is_err());
    for (text, names) in
        [("[a]", vec!["a"]), ("[a][b]", vec!["a", "b"]), ("[]", vec![""]), ("[a]]", vec!["a]"]), ("[[a]]", vec!["[a]"])]
    {
        assert_eq!(names_in_brackets(text), Ok(names), "{text}");
    }
    assert!(names_in_brackets("x[a]").is_err() && names_in_brackets("[a]x").is_err());
    assert_eq!(name_in_brackets("["), Err(crate::brackets::NotInBrackets));
}

#[test]
fn path_templates() {
    assert!(is_template("/a/{*}") && is_template("/{**}") && !is_template("/a/{x}") && !is_template("/a/*"));
    for path in ["/a", "/a/", "/*", "*", "/{*}", "/a/{*}/b/{**}/c", "/a//b", "{*}/x", "/a/{*}/"] {
        assert_eq!(check_path(path), Ok(()), "{path}");
    }
    for path in ["/a/{**}/b/{*}", "/{**}/{**}"] {
        assert_eq!(check_path(path), Err(PathError::OperatorAfterAny), "{path}");
    }
    for path in ["/a/{x}", "/a{b", "/{*}x", "/{**}.txt", "/{*=a}", "}"] {
        assert_eq!(check_path(path), Err(PathError::StrayBrace), "{path}");
    }
    for path in ["/{*}/a*", "/{*}//a", "/{*}/ä", "/{*}/a b", "/{*}/*"] {
        assert!(matches!(check_path(path), Err(PathError::Literal(_))), "{path}");
    }
    assert!(is_literal("aZ09-._~%!$&'()+,;:@=") && !is_literal("") && !is_literal("a*") && !is_literal("a/b"));
}

#[test]
fn keys_are_known_or_refused() {
    assert_eq!(
        Attribute::parse("request.auth.claims[a][b]"),
        Ok(Attribute::RequestClaim(vec!["a".into(), "b".into()]))
    );
    assert_eq!(Attribute::parse("request.headers[X]"), Ok(Attribute::RequestHeader("X".into())));
    for (key, error) in [
        ("source.user", KeyError::Unknown),
        ("", KeyError::Unknown),
        ("Source.ip", KeyError::Unknown),
        ("request.headers", KeyError::Brackets),
        ("request.headers[]", KeyError::Brackets),
        ("request.auth.claims[", KeyError::Brackets),
        ("experimental.envoy.filters.a.b", KeyError::Brackets),
        ("destination.labels[app]", KeyError::Replaced("the workload selector")),
        ("destination.user", KeyError::Deprecated),
    ] {
        assert_eq!(Attribute::parse(key), Err(error), "{key}");
    }
}

/// Istio's webhook looks for brackets anywhere behind the name. Such a key is let in, and nobody can tell what it means.
#[test]
fn a_key_with_text_before_its_brackets_is_let_in_and_unknown() {
    for key in ["request.headers.x[y]", "request.headersx[y]", "request.headers [y]", "request.auth.claims.a[b]"] {
        assert_eq!(Attribute::parse(key), Ok(Attribute::Other(key.into())), "{key}");
        assert!(!Attribute::Other(key.into()).known_at_l4());
    }
    for key in ["request.headers.x[]", "request.headers.x[y", "request.headers.x", "request.auth.claimsx[y]z"] {
        assert_eq!(Attribute::parse(key), Err(KeyError::Brackets), "{key}");
    }
    let condition = json!({ "key": "request.headers.x[y]", "values": ["*"] });
    let allow = World::new().with("p", json!({ "rules": [{ "when": [condition] }] }));
    assert_eq!(allow.answer(&from("a/b")), "no_allow_matched");
    let deny = World::new().with("p", json!({ "action": "DENY", "rules": [{ "when": [condition] }] }));
    assert_eq!(deny.answer(&from("a/b")), "policy_denied");
    let codes = codes(&accepted(&authorization("p", json!({ "rules": [{ "when": [condition] }] }))).warnings)
        .into_iter()
        .map(|(_, code)| code.to_owned())
        .collect::<Vec<_>>();
    assert!(codes.contains(&"unknown_key_form".to_owned()), "{codes:?}");
}

#[test]
fn values_fit_their_key() {
    let one = |key: &str, value: &str| check_condition(key, &[value.to_owned()]);
    assert_eq!(one("source.ip", "10.0.0.0/8"), Ok(()));
    assert_eq!(one("source.ip", "x"), Err(ConditionError::Value(0, ValueError::Address(AddressError::Address))));
    assert_eq!(one("source.namespace", ""), Err(ConditionError::Value(0, ValueError::Empty)));
    assert_eq!(one("source.trustDomain", "a*b"), Err(ConditionError::Value(0, ValueError::InnerWildcard)));
    assert_eq!(one("source.trustDomain", "*a*"), Err(ConditionError::Value(0, ValueError::ManyWildcards)));
    let many = vec!["sa".to_owned(); 17];
    assert_eq!(check_condition("source.serviceAccount", &many), Err(ConditionError::TooManyAccounts));
    for (account, expected) in [
        ("sa", Ok(())),
        ("ns/sa", Ok(())),
        ("", Err(ValueError::Empty)),
        ("ns/", Err(ValueError::AccountFormat)),
        ("/sa", Err(ValueError::AccountFormat)),
        ("a/b/c", Err(ValueError::AccountFormat)),
        ("sa*", Err(ValueError::AccountWildcard)),
    ] {
        assert_eq!(check_account(account), expected, "{account}");
    }
    assert_eq!(check_account(&"a".repeat(321)), Err(ValueError::AccountTooLong));
    assert_eq!(
        (check_account(&"ä".repeat(160)), check_account(&"ä".repeat(161))),
        (Ok(()), Err(ValueError::AccountTooLong))
    );
    assert_eq!(check_trust_domain("a/b"), Err(ValueError::TrustDomainSlash));
}
