//! Trust domains, aliases and Istio's layout of identities.

use crate::domains::{
    AccountIdentityError, TrustDomains, account_identity, names_trust_domain, parse_identity, principal_trust_domain,
    replace_trust_domain,
};

fn expand(own: &str, aliases: &[&str], principal: &str) -> Vec<String> {
    let aliases = aliases.iter().map(|alias| (*alias).to_owned());
    TrustDomains::new(own.to_owned(), aliases).expand_principals(&[principal.to_owned()])
}

#[test]
fn a_principal_of_the_mesh_stands_for_itself_in_every_alias() {
    assert_eq!(expand("a", &["b"], "a/ns/x/sa/y"), ["a/ns/x/sa/y", "b/ns/x/sa/y"]);
    assert_eq!(expand("a", &["b"], "b/ns/x/sa/y"), ["a/ns/x/sa/y", "b/ns/x/sa/y"]);
    for unchanged in ["*", "*/ns/x/sa/y", "c/ns/x/sa/y", "a/other", "a", "spiffe://a/ns/x/sa/y", "/ns/x/sa/y"] {
        assert_eq!(expand("a", &["b"], unchanged), [unchanged]);
    }
}

#[test]
fn the_default_name_points_to_the_mesh_whatever_its_name() {
    assert_eq!(expand("a", &[], "cluster.local/ns/x/sa/y"), ["a/ns/x/sa/y"]);
    assert_eq!(expand("a", &["b"], "cluster.local/ns/x/sa/y"), ["a/ns/x/sa/y", "b/ns/x/sa/y"]);
    assert_eq!(expand("a", &["cluster.local"], "cluster.local/ns/x/sa/y"), ["a/ns/x/sa/y", "cluster.local/ns/x/sa/y"]);
    // Only as a whole name.
    for unchanged in ["cluster.local", "xcluster.local/ns/x/sa/y", "cluster.local/ns/x/*", "*local/ns/x/sa/y"] {
        assert_eq!(expand("a", &[], unchanged), [unchanged]);
    }
}

#[test]
fn a_trust_domain_of_the_mesh_stands_for_all_of_its_names() {
    let domains = TrustDomains::new("a", ["b", "c"]);
    let expand = |values: &[&str]| domains.expand_trust_domains(&values.iter().map(|&v| v.into()).collect::<Vec<_>>());
    assert_eq!(expand(&["b"]), ["a", "b", "c"]);
    assert_eq!(expand(&["x", "a", "c", "*b", "cluster.local"]), ["x", "a", "b", "c", "*b", "cluster.local"]);
}

#[test]
fn a_wildcard_domain_stays_for_what_it_matches_and_is_named_for_the_rest() {
    assert_eq!(expand("new-td", &["old-td"], "*-td/ns/x/sa/y"), ["*-td/ns/x/sa/y"]);
    assert_eq!(expand("a", &["old-td"], "*-td/ns/x/sa/y"), ["a/ns/x/sa/y", "*-td/ns/x/sa/y"]);
    assert_eq!(expand("a", &["b"], "*-td/ns/x/sa/y"), ["*-td/ns/x/sa/y"]);
}

#[test]
fn parts_of_principals() {
    assert_eq!(principal_trust_domain("a/ns/x/sa/y"), Ok("a"));
    assert!(principal_trust_domain("a/ns/x/sa").is_err() && principal_trust_domain("spiffe://a/ns/x/sa/y").is_err());
    assert!(names_trust_domain("*-td/ns/x/sa/y") && !names_trust_domain("*/ns/x/sa/y") && !names_trust_domain("sa/y"));
    assert_eq!(replace_trust_domain("b", "a/ns/x/sa/y").as_deref(), Ok("b/ns/x/sa/y"));
}

#[test]
fn identities_of_service_accounts() {
    let id = account_identity("p@x.test", "ns", "sa").map(|id| id.to_string());
    assert_eq!(id.as_deref(), Ok("spiffe://p.x.test/ns/ns/sa/sa"));
    assert_eq!(account_identity("a", "", "sa"), Err(AccountIdentityError::EmptyName));
    assert!(matches!(account_identity("a", "n s", "sa"), Err(AccountIdentityError::NotSpiffe(_))));
    let (domain, namespace, account) = parse_identity("spiffe://a/ns/x/sa/y").expect("in the layout");
    assert_eq!((domain.as_str(), namespace.as_str(), account.as_str()), ("a", "x", "y"));
    for other in
        ["spiffe://a/ns//sa/", "spiffe://a/ns/x/sa/y/z", "spiffe://a/k/v/ns/x/sa/y", "a/ns/x/sa/y", "spiffe://a"]
    {
        assert_eq!(parse_identity(other), None, "{other}");
    }
}
