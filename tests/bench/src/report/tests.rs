use std::collections::BTreeMap;

use super::*;
use crate::load::Outcome;
use crate::meter::Usage;
use crate::pulse::Distance;
use crate::rig::Record;

fn record(round: usize, contender: &str, operations: u64) -> Record {
    let usage = Usage { machine: 3.0, processes: BTreeMap::from([("proxies".to_owned(), 1.0)]), ..Usage::default() };
    let outcome = Outcome { seconds: 2.0, operations, usage, ..Outcome::default() };
    let (workload, contender) = ("c16".to_owned(), contender.to_owned());
    Record { round, workload, contender, outcome, beside: None, cores: Distance::Far, moved: false }
}

fn raw() -> Raw {
    let records = (1..=5).flat_map(|round| [record(round, "culvert", 30_000), record(round, "envoy", 20_000)]);
    let mut raw = Raw { records: records.collect(), ..Raw::default() };
    raw.facts.versions.insert("envoy".to_owned(), "<script>".to_owned());
    raw
}

#[test]
fn the_page_is_whole_and_asks_for_nothing_else() {
    let page = page(&raw()).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
    assert!(page.contains("<svg") && page.contains("×1.50 (1.50–1.50)") && page.contains("class=\"won\""));
    for word in ["<script", "<link", "src=", "url(http"] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn a_figure_of_another_placement_of_the_cores_is_not_mixed_in() {
    let mut raw = raw();
    raw.records.push(Record { cores: Distance::Near, ..record(6, "culvert", 300_000) });
    raw.records.push(Record { moved: true, ..record(7, "culvert", 900_000) });
    let titles: Vec<String> = groups(&raw).into_iter().map(|group| group.title).collect();
    assert_eq!(titles.len(), 2, "{titles:?}");
    assert!(titles[0].contains("far apart, 5 rounds") && titles[1].contains("near, 1 round"), "{titles:?}");
}
