//! Fields, negation, absence.

use serde_json::{Value, json};

use super::{World, authorization, from, from_id, object};

/// The answers of an ALLOW policy with one rule to a list of callers.
fn allows(rule: Value, callers: &[(&str, bool)]) {
    let world = World::new().with("it", json!({ "rules": [rule.clone()] }));
    for (caller, expected) in callers {
        let connection = if caller.starts_with("spiffe:") { from_id(caller) } else { from(caller) };
        assert_eq!(world.answer(&connection) == "allow", *expected, "{rule} for {caller:?}");
    }
}

fn source(source: Value) -> Value {
    json!({ "from": [{ "source": source }] })
}

#[test]
fn identity_fields_match_what_the_certificate_says() {
    let (web, other, nobody, foreign) = ("shop/web", "shop/other", "", "spiffe://foreign.test/ns/shop/sa/web");
    let odd = "spiffe://mesh.test/spire/agent";
    allows(
        source(json!({ "principals": ["mesh.test/ns/shop/sa/web"] })),
        &[(web, true), (other, false), (nobody, false), (foreign, false)],
    );
    allows(source(json!({ "principals": ["*"] })), &[(web, true), (foreign, true), (odd, true), (nobody, false)]);
    allows(source(json!({ "principals": ["*/sa/web"] })), &[(web, true), (foreign, true), (other, false)]);
    allows(source(json!({ "principals": ["mesh.test/*"] })), &[(web, true), (odd, true), (foreign, false)]);
    allows(source(json!({ "principals": ["spiffe://mesh.test/ns/shop/sa/web"] })), &[(web, false)]);
    allows(
        source(json!({ "namespaces": ["shop"] })),
        &[(web, true), ("pay/web", false), (odd, false), (nobody, false)],
    );
    allows(source(json!({ "namespaces": ["sh*"] })), &[(web, true), ("pay/web", false)]);
    allows(source(json!({ "namespaces": ["*"] })), &[(web, true), (odd, false), (nobody, false)]);
    allows(source(json!({ "serviceAccounts": ["shop/web"] })), &[(web, true), (foreign, true), (other, false)]);
    allows(source(json!({ "serviceAccounts": ["web"] })), &[(web, true), ("pay/web", false), (odd, false)]);
    allows(source(json!({ "trustDomains": ["mesh.test"] })), &[(web, true), (foreign, false), (nobody, false)]);
    allows(source(json!({ "trustDomains": ["*.test"] })), &[(web, true), (foreign, true), (nobody, false)]);
}

#[test]
fn a_negated_field_holds_when_no_value_matches_also_for_peers_without_identity() {
    let (web, other, nobody) = ("shop/web", "pay/other", "");
    for negated in [
        json!({ "notPrincipals": ["mesh.test/ns/shop/sa/web"] }),
        json!({ "notNamespaces": ["shop"] }),
        json!({ "notServiceAccounts": ["shop/web"] }),
    ] {
        allows(source(negated), &[(web, false), (other, true), (nobody, true)]);
    }
    let foreign = "spiffe://foreign.test/ns/shop/sa/web";
    allows(source(json!({ "notTrustDomains": ["mesh.test"] })), &[(web, false), (foreign, true), (nobody, true)]);
    allows(source(json!({ "notPrincipals": ["*"] })), &[(web, false), (nobody, true)]);
}

#[test]
fn fields_of_a_source_are_a_conjunction_and_entries_a_disjunction() {
    allows(
        source(json!({ "namespaces": ["shop"], "notPrincipals": ["*/sa/web"] })),
        &[("shop/web", false), ("shop/api", true), ("pay/api", false)],
    );
    allows(
        json!({ "from": [{ "source": { "namespaces": ["pay"] } }, { "source": { "serviceAccounts": ["web"] } }] }),
        &[("pay/api", true), ("shop/web", true), ("shop/api", false)],
    );
}

#[test]
fn conditions_are_a_conjunction_with_everything_else() {
    let rule = json!({
        "from": [{ "source": { "namespaces": ["shop"] } }],
        "when": [
            { "key": "source.principal", "values": ["*/sa/web", "*/sa/api"], "notValues": ["*/sa/api"] },
            { "key": "destination.port", "values": ["8080"] },
        ],
    });
    allows(rule, &[("shop/web", true), ("shop/api", false), ("pay/web", false)]);
    let world =
        World::new().with("it", json!({ "rules": [{ "when": [{ "key": "destination.port", "values": ["80"] }] }] }));
    assert_eq!(world.answer(&from("shop/web").port(80)), "allow");
    assert_eq!(world.answer(&from("shop/web").port(81)), "no_allow_matched");
}

#[test]
fn addresses_match_by_family_and_mapped_ipv4_is_ipv4() {
    let table = [
        ("10.1.2.3", "10.1.2.3", true),
        ("10.1.2.3", "10.1.2.4", false),
        ("10.1.2.3/8", "10.9.9.9", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "10.0.0.1", true),
        ("0.0.0.0/0", "fd00::1", false),
        ("::/0", "fd00::1", true),
        ("::/0", "10.0.0.1", false),
        ("::/0", "::ffff:10.0.0.1", false),
        ("fd00::/8", "fd12::1", true),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.0/104", "10.200.0.1", true),
        ("::ffff:10.0.0.1", "10.0.0.1", true),
        ("fe80::1%eth0", "fe80::1", false),
        ("fe80::1%eth0", "fe80::2", false),
    ];
    for (block, address, expected) in table {
        let world = World::new().with("it", json!({ "rules": [source(json!({ "ipBlocks": [block] }))] }));
        assert_eq!(world.answer(&from("").source(address)) == "allow", expected, "{address} in {block}");
    }
}

#[test]
fn facts_have_ipv4_in_its_own_form_and_blocks_do_not_depend_on_it() {
    let mapped = from("").source("::ffff:10.0.0.1");
    assert_eq!(mapped.facts().source_ip, super::ip("10.0.0.1"));
    let block = crate::address::AddressBlock::parse("10.0.0.0/8").expect("a block");
    assert!(block.matches(mapped.source_ip).holds());
}

#[test]
fn an_address_of_one_interface_refuses_what_may_be_it() {
    let deny = json!({ "action": "DENY", "rules": [source(json!({ "ipBlocks": ["fe80::1%eth0"] }))] });
    let world = World::new().with("it", deny);
    assert_eq!(world.answer(&from("").source("fe80::1")), "policy_denied");
    assert_eq!(world.answer(&from("").source("fe80::2")), "allow");
    let allow = World::new().with("it", json!({ "rules": [source(json!({ "notIpBlocks": ["fe80::1%eth0"] }))] }));
    assert_eq!(allow.answer(&from("").source("fe80::1")), "no_allow_matched");
}

#[test]
fn ports_and_their_negation() {
    let to = |operation: Value| json!({ "rules": [{ "to": [{ "operation": operation }] }] });
    for (operation, port, expected) in [
        (json!({ "ports": ["80", "8080"] }), 8080, "allow"),
        (json!({ "ports": ["80", "8080"] }), 81, "no_allow_matched"),
        (json!({ "notPorts": ["80"] }), 81, "allow"),
        (json!({ "notPorts": ["80"] }), 80, "no_allow_matched"),
        (json!({ "ports": ["0080"] }), 80, "allow"),
    ] {
        let world = World::new().with("it", to(operation.clone()));
        assert_eq!(world.answer(&from("").port(port)), expected, "{operation} {port}");
    }
}

#[test]
fn principals_and_trust_domains_of_the_mesh_match_under_every_alias() {
    let (new, old) = ("spiffe://mesh.test/ns/shop/sa/web", "spiffe://old.test/ns/shop/sa/web");
    for principal in ["mesh.test/ns/shop/sa/web", "old.test/ns/shop/sa/web", "*/ns/shop/sa/web"] {
        allows(source(json!({ "principals": [principal] })), &[(new, true), (old, true)]);
    }
    let condition = json!({ "when": [{ "key": "source.principal", "values": ["old.test/ns/shop/sa/web"] }] });
    allows(condition, &[(new, true), (old, true)]);
    for domain in ["mesh.test", "old.test"] {
        allows(source(json!({ "trustDomains": [domain] })), &[(new, true), (old, true)]);
        allows(source(json!({ "notTrustDomains": [domain] })), &[(new, false), (old, false)]);
    }
    allows(source(json!({ "trustDomains": ["old*"] })), &[(new, false), (old, true)]);
    let condition = json!({ "when": [{ "key": "source.trustDomain", "values": ["old.test"] }] });
    allows(condition, &[(new, true), (old, true)]);
    let deny = json!({ "action": "DENY", "rules": [source(json!({ "principals": ["old.test/ns/shop/sa/web"] }))] });
    assert_eq!(World::new().with("it", deny).answer(&from_id(new)), "policy_denied");
}

#[test]
fn a_policy_concerns_its_namespace_its_labels_and_the_root_namespace_everybody() {
    let nothing = |labels: Value| json!({ "selector": { "matchLabels": labels } });
    let root = |spec: Value| object("AuthorizationPolicy", "istio-system", "root", spec);
    // The pod is behind the service `web`.
    let service = |name: &str| json!({ "kind": "Service", "name": name });
    let gateway = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web" });
    for (object, concerned) in [
        (authorization("it", json!({})), true),
        (authorization("it", json!({ "selector": {} })), true),
        (authorization("it", nothing(json!({ "app": "web" }))), true),
        (authorization("it", nothing(json!({ "app": "web", "version": "v1" }))), false),
        (authorization("it", nothing(json!({ "app": "api" }))), false),
        (object("AuthorizationPolicy", "pay", "it", json!({})), false),
        (object("AuthorizationPolicy", "pay", "it", nothing(json!({ "app": "web" }))), false),
        (root(json!({})), true),
        (root(nothing(json!({ "app": "web" }))), true),
        (root(nothing(json!({ "app": "api" }))), false),
        (authorization("it", json!({ "targetRefs": [service("web")] })), true),
        (authorization("it", json!({ "targetRefs": [service("api")] })), false),
        (authorization("it", json!({ "targetRefs": [gateway, service("api"), service("web")] })), true),
        (authorization("it", json!({ "targetRefs": [gateway] })), false),
        (object("AuthorizationPolicy", "pay", "it", json!({ "targetRefs": [service("web")] })), false),
        (root(json!({ "targetRefs": [service("web")] })), false),
    ] {
        let world = World::new().with_object(object.clone());
        let expected = if concerned { "no_allow_matched" } else { "allow" };
        assert_eq!(world.answer(&from("shop/web")), expected, "{object}");
    }
}
