use super::*;
use crate::load::Outcome;
use crate::output::markdown;
use crate::pulse::Distance;
use crate::rig::Record;

fn raw(ours: u64) -> Raw {
    rounds(ours, 5)
}

fn rounds(ours: u64, rounds: u64) -> Raw {
    let record = |round: u64, contender: &str, operations| {
        let outcome = Outcome { seconds: 1.0, operations: operations + round, ..Outcome::default() };
        let (workload, contender) = ("c16".to_owned(), contender.to_owned());
        let round = usize::try_from(round).unwrap();
        Record { round, workload, contender, outcome, beside: None, cores: Distance::Far, moved: false }
    };
    let records = (1..=rounds).flat_map(|round| [record(round, "culvert", ours), record(round, "envoy", 20_000)]);
    Raw { records: records.collect(), ..Raw::default() }
}

#[test]
fn a_document_made_of_a_run_is_kept_by_that_run_and_broken_by_a_slower_one() {
    let file = std::env::temp_dir().join(format!("culvert-bench-{}.md", std::process::id()));
    std::fs::write(&file, format!("# Performance\n\n{}", markdown(&raw(30_000)))).unwrap();
    check(&raw(30_000), &file).unwrap();
    check(&raw(29_000), &file).unwrap();
    check(&raw(60_000), &file).unwrap();
    let told = check(&raw(25_000), &file).unwrap_err().to_string();
    assert!(told.contains("c16, per s, against envoy: x1.25"), "{told}");
    check(&rounds(26_000, 3), &file).unwrap();
    assert!(check(&rounds(25_000, 3), &file).is_err(), "few rounds see what is plain");
    std::fs::write(&file, "# Performance\n").unwrap();
    assert!(check(&raw(30_000), &file).is_err(), "nothing to compare with is no success");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn less_is_worse_only_where_more_is_better() {
    let ratio = |median: f64| Ratio { median, low: median * 0.99, high: median * 1.01 };
    assert!(is_worse(ratio(1.0), ratio(1.3), true, NOISE) && !is_worse(ratio(1.0), ratio(1.3), false, NOISE));
    assert!(is_worse(ratio(1.3), ratio(1.0), false, NOISE) && !is_worse(ratio(1.05), ratio(1.0), false, NOISE));
}
