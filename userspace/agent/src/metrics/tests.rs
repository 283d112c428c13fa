use std::{net::SocketAddr, sync::Arc};

use super::{Kernel, Metrics, Own, tcp::NAMES};
use crate::outcome::{Decided, Direction, Ending, Outcome, Sink, Transport};

fn begin(metrics: &Arc<Metrics>, app: &str) -> Outcome {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let sink = Arc::new(Sink::new(metrics.clone()));
    let mut outcome = Outcome::begin(sink, Direction::Inbound, address("10.0.0.1:4000"), address("10.0.0.2:80"));
    outcome.note().src.workload = Some(app.into());
    outcome.note().transport = Transport::Hbone;
    outcome.note().service = Some("shop/web".into());
    outcome
}

fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

#[test]
fn names_and_labels_are_istios() {
    let metrics = Arc::new(Metrics::new(100));
    let mut outcome = begin(&metrics, "client");
    outcome.opened();
    let text = metrics.text();
    let opened = line(&text, "istio_tcp_connections_opened_total{");
    for name in NAMES {
        assert!(opened.contains(&format!("{name}=\"")), "label {name} is missing in {opened}");
    }
    for pair in [
        "reporter=\"destination\"",
        "source_workload=\"client\"",
        "source_principal=\"unknown\"",
        "destination_service=\"web.shop.svc\"",
        "destination_service_name=\"web\"",
        "destination_service_namespace=\"shop\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(opened.contains(pair), "{pair} is missing in {opened}");
    }
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"destination\"} 1"), "{text}");
    outcome.end(Ending::Closed);
    let text = metrics.text();
    assert!(line(&text, "istio_tcp_connections_closed_total{").ends_with(" 1"));
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"destination\"} 0"), "{text}");
}

#[test]
fn an_ended_connection_is_forgotten_without_a_scrape() {
    let metrics = Arc::new(Metrics::new(100));
    let mut open = begin(&metrics, "client");
    open.opened();
    for _ in 0..100 {
        let mut outcome = begin(&metrics, "client");
        outcome.opened();
        outcome.end(Ending::Closed);
    }
    assert_eq!(metrics.tcp.live(), 1);
    open.end(Ending::Closed);
    assert_eq!(metrics.tcp.live(), 0);
}

#[test]
fn a_refused_connection_was_never_open() {
    let metrics = Arc::new(Metrics::new(100));
    let decided = Decided { reason: "policy_denied", ..Decided::default() };
    begin(&metrics, "client").end(Ending::Denied(decided));
    let text = metrics.text();
    let failed = line(&text, "istio_tcp_connections_failed_total{");
    assert!(failed.contains("response_flags=\"DENY\""), "{failed}");
    assert!(!text.contains("istio_tcp_connections_opened_total{"), "{text}");
    assert!(text.contains("culvert_refusals_total{reason=\"policy_denied\"} 1"), "{text}");
}

#[test]
fn series_beyond_the_cap_are_counted_under_other() {
    let metrics = Arc::new(Metrics::new(2));
    for app in ["a", "b", "c", "d"] {
        begin(&metrics, app).deny("no_slot");
    }
    let text = metrics.text();
    let series: Vec<_> = text.lines().filter(|l| l.starts_with("istio_tcp_connections_failed_total{")).collect();
    assert_eq!(series.len(), 3, "{series:#?}");
    let other = series.iter().find(|l| l.contains("source_workload=\"other\"")).expect("the rest");
    assert!(other.ends_with(" 2"), "{other}");
}

#[test]
fn the_set_can_be_switched_off() {
    let metrics = Arc::new(Metrics::new(0));
    begin(&metrics, "a").deny("no_slot");
    assert!(!metrics.text().contains("istio_tcp_connections_failed_total{"));
}

#[test]
fn every_metric_is_on_its_page() {
    let metrics = Arc::new(Metrics::new(10));
    let own = &metrics.own;
    own.handshake("inbound", "ok");
    own.group(None);
    own.allowed();
    [&own.revoked, &own.rotation_failures].into_iter().for_each(|family| Own::word(family, "no_slot"));
    own.kernel.get_or_create(&Kernel { counter: "untagged_tcp" }).set(1);
    let mut whole = begin(&metrics, "a");
    whole.opened();
    whole.end(Ending::Closed);
    begin(&metrics, "a").deny("no_slot");
    let mut said: Vec<String> = Vec::new();
    for line in metrics.text().lines() {
        let Some(rest) = line.strip_prefix("# TYPE ") else { continue };
        let (name, kind) = rest.split_once(' ').expect("a name and a type");
        said.push(if kind == "counter" { format!("{name}_total") } else { name.to_owned() });
    }
    let page = include_str!("../../../../docs/operating/metrics.md");
    let mut documented: Vec<String> =
        page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect();
    said.sort();
    documented.sort();
    assert_eq!(said, documented);
}
