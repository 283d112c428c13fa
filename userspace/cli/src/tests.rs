use serde_json::json;

use crate::{check, recent, status, why};

#[test]
fn status_says_in_words_what_is_wrong() {
    let text = status::text(&json!({
        "node": "node-1", "generation": null, "control_connected": false,
        "pods": [{
            "uid": "u", "namespace": "shop", "name": "web", "addresses": ["10.1.1.2", "fd00::2"], "identity": "spiffe://td/ns/shop/sa/web",
            "captured": false, "deviations": ["guard_missing: no program on veth1"], "connections": 3, "mtls": "strict",
        }],
        "closed": { "gone-uid": "no_record" },
        "identities": [
            { "identity": "spiffe://td/ns/shop/sa/web", "expires_in": 3599, "serial": "01ab", "last_failure": null },
            { "identity": "spiffe://td/ns/shop/sa/db", "expires_in": -5, "serial": "02", "last_failure": "ca_unreachable" },
        ],
        "tunnels": { "dialled": 1, "dialled_streams": 2, "served": 3, "served_streams": 4 },
        "open": "nothing",
    }));
    for word in [
        "AWAY",
        "nothing yet",
        "shop/web",
        "10.1.1.2,fd00::2",
        "NO: guard_missing: no program on veth1",
        "pod gone-uid is CLOSED: no_record",
        "59m59s",
        "EXPIRED",
        "ca_unreachable",
        "1 dialled (2 streams), 3 served (4 streams)",
        "open: nothing",
    ] {
        assert!(text.contains(word), "{word:?} is missing in\n{text}");
    }
}

#[test]
fn why_shows_the_near_misses() {
    let text = why::text(&json!({
        "source": { "asked": "shop/web", "address": "10.1.1.2", "pod": "shop/web", "identity": "spiffe://td/ns/shop/sa/web", "node": "n1" },
        "destination": { "asked": "10.9.9.9", "address": "10.9.9.9", "pod": null, "identity": null, "node": null },
        "port": 80, "transport": "hbone", "identity_from": "handshake", "allowed": false, "reason": "no_allow_matched",
        "policy": null, "rule": null, "notes": ["a note"],
        "explanation": { "near_misses": [{
            "policy": { "namespace": "shop", "name": "allow-web" }, "rule": 0,
            "field": "rules[0].to[0].operation.ports", "truth": "false", "wanted": ["8080", "9090"], "have": "80",
        }], "observed": { "audited": [], "would": [] } },
    }));
    assert!(text.starts_with("shop/web (10.1.1.2) -> 10.9.9.9 port 80: REFUSED (no_allow_matched)\n"), "{text}");
    assert!(text.contains("shop/allow-web rules[0].to[0].operation.ports: wants [8080, 9090], has 80"), "{text}");
    assert!(text.contains("a note"), "{text}");
}

#[test]
fn recent_names_the_port_that_was_meant() {
    let text = recent::outcomes(&json!([{
        "time": "2026-01-01T00:00:00.000Z", "direction": "inbound", "transport": "hbone", "outcome": "denied",
        "src": { "addr": "10.1.1.2:40000", "namespace": "shop", "workload": "web" },
        "dst": { "addr": "10.1.1.3:15008", "namespace": "shop", "workload": "db" },
        "hbone_addr": "10.1.1.3:5432", "reason": "policy_denied", "policy": "shop/no", "rule": 1,
        "from_client": 1, "to_client": 2, "duration_ms": 3,
    }]));
    assert!(text.contains("shop/db 10.1.1.3:5432"), "{text}");
    assert!(text.contains("policy_denied, shop/no rule 1"), "{text}");
    assert!(!text.contains("15008"), "{text}");
}

#[test]
fn a_machine_of_which_nothing_is_known_is_not_good() {
    assert!(!check::all_good(&json!([])));
    assert!(!check::all_good(&json!([{ "name": "btf", "ok": true }, { "name": "bpffs", "ok": false }])));
    assert!(check::all_good(&json!([{ "name": "btf", "ok": true }])));
    assert!(
        check::text(&json!([{ "name": "bpffs", "ok": false, "detail": "-", "remedy": "mount it" }]))
            .contains("mount it")
    );
}
