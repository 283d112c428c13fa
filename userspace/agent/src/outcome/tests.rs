use std::{net::SocketAddr, sync::Arc};

use super::{Blame, Decided, Direction, Ending, Kind, Level, Outcome, Record, Sink, Step};
use crate::metrics::Metrics;

fn sink() -> Arc<Sink> {
    Arc::new(Sink::new(Arc::new(Metrics::new(100))))
}

fn begin(sink: &Arc<Sink>, direction: Direction) -> Outcome {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Outcome::begin(sink.clone(), direction, address("10.0.0.1:4000"), address("10.0.0.2:80"))
}

fn only(sink: &Sink) -> Arc<Record> {
    let recent = sink.recent();
    assert_eq!(recent.len(), 1, "exactly one outcome");
    recent[0].clone()
}

#[test]
fn an_outcome_that_nobody_wrote_is_abandoned() {
    let sink = sink();
    drop(begin(&sink, Direction::Inbound));
    let record = only(&sink);
    assert_eq!(record.outcome, Kind::Abandoned);
    assert_eq!(record.reason.as_deref(), Some("abandoned"));
}

#[test]
fn an_outcome_is_written_once() {
    let sink = sink();
    begin(&sink, Direction::Inbound).end(Ending::Closed);
    assert_eq!(only(&sink).outcome, Kind::Closed);
    assert_eq!(only(&sink).reason, None);
}

#[test]
fn a_tunnel_is_no_connection_of_its_own() {
    let sink = sink();
    begin(&sink, Direction::Inbound).became_tunnel();
    assert!(sink.recent().is_empty());
}

#[test]
fn a_refusal_names_policy_and_rule() {
    let sink = sink();
    let decided =
        Decided { reason: "policy_denied", policy: Some("shop/no".into()), rule: Some(2), ..Decided::default() };
    begin(&sink, Direction::Inbound).end(Ending::Denied(decided));
    let record = only(&sink);
    assert_eq!((record.outcome, record.reason.as_deref()), (Kind::Denied, Some("policy_denied")));
    assert_eq!((record.policy.as_deref(), record.rule), (Some("shop/no"), Some(2)));
}

#[test]
fn a_failure_carries_step_blame_and_the_whole_chain() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);
    let sink = sink();
    let error = Outer(std::io::Error::other("inner"));
    begin(&sink, Direction::Outbound).fail(Step::Dial, Blame::Network, "connect_failed", &error);
    let record = only(&sink);
    assert_eq!((record.step, record.blame), (Some(Step::Dial), Some(Blame::Network)));
    assert_eq!(record.error.as_deref(), Some("outer: inner"));
}

#[test]
fn the_ring_keeps_the_newest() {
    let sink = sink();
    for _ in 0..2000 {
        begin(&sink, Direction::Inbound).deny("no_slot");
    }
    begin(&sink, Direction::Inbound).deny("last");
    let recent = sink.recent();
    assert_eq!(recent.len(), 512);
    assert_eq!(recent.last().and_then(|record| record.reason.as_deref()), Some("last"));
}

#[test]
fn a_line_for_people_reads_as_tracing_would_have_written_it() {
    let sink = sink();
    let mut outcome = begin(&sink, Direction::Inbound);
    outcome.note().src.namespace = Some("sh\"op\n".into());
    outcome.note().hbone_addr = Some("10.0.0.2:80".parse().unwrap());
    outcome.deny("policy_denied");
    let record = sink.recent()[0].clone();
    let mut text = Vec::new();
    super::line::put(&mut text, &record, Level::Info, "connection refused");
    let text = String::from_utf8(text).unwrap();
    let (time, rest) = text.split_once("  INFO access: connection refused ").unwrap();
    assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    assert_eq!(
        rest.replace(&format!("duration={}ms", record.duration_ms), "duration=?"),
        "direction=\"inbound\" transport=\"none\" outcome=\"denied\" reason=\"policy_denied\" \
         src.addr=10.0.0.1:4000 src.namespace=\"sh\\\"op\\n\" dst.addr=10.0.0.2:80 dst.hbone_addr=10.0.0.2:80 \
         identity_from=\"none: not asked\" bytes_sent=0 bytes_recv=0 duration=?\n"
    );
}
