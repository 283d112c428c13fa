use std::{net::SocketAddr, sync::Arc};

use super::{Blame, Decided, Direction, Ending, Kind, Outcome, Record, Sink, Step};
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
    assert_eq!(recent.len(), 1024);
    assert_eq!(recent.last().and_then(|record| record.reason.as_deref()), Some("last"));
}
