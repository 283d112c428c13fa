//! Figures out of records: the table, the raw file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::pulse::Distance;
use crate::rig::{Contender, Failure, Record, Workload};
use crate::stats::{Ratio, median, paired};

/// Everything that was measured, as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Raw {
    pub(crate) facts: crate::rig::Facts,
    pub(crate) records: Vec<Record>,
    #[serde(default)]
    pub(crate) failures: Vec<Failure>,
}

impl Raw {
    /// Several runs of the same comparison as one: each has rounds of its own.
    pub(crate) fn read(files: &[std::path::PathBuf]) -> Result<Raw> {
        let mut all = Raw::default();
        for file in files {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let one: Raw = serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
            let before = all.records.iter().map(|record| record.round).max().unwrap_or_default();
            all.records.extend(one.records.into_iter().map(|record| Record { round: record.round + before, ..record }));
            all.failures.extend(one.failures);
            all.facts.machine.extend(one.facts.machine);
            all.facts.versions.extend(one.facts.versions);
            all.facts.settings.extend(one.facts.settings);
        }
        Ok(all)
    }
}

/// What is read off a run. More is better, or less.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) more_is_better: bool,
    /// Has a chart of its own in the report.
    pub(crate) charted: bool,
    pub(crate) of: fn(&Record) -> Option<f64>,
}

const fn more(name: &'static str, of: fn(&Record) -> Option<f64>) -> Metric {
    Metric { name, more_is_better: true, charted: true, of }
}

const fn less(name: &'static str, charted: bool, of: fn(&Record) -> Option<f64>) -> Metric {
    Metric { name, more_is_better: false, charted, of }
}

/// All metrics; a run has those for which there is a figure.
pub(crate) const METRICS: &[Metric] = &[
    more("Gb/s", |record| gigabits(&record.outcome, &record.workload)),
    more("per s", rate),
    less("p50 µs", false, |record| Some(record.outcome.latency.as_ref()?.p50)),
    less("p99 µs", false, |record| Some(record.outcome.latency.as_ref()?.p99)),
    less("p99.9 µs", false, |record| {
        record.workload.starts_with("rate").then_some(record.outcome.latency.as_ref()?.p999)
    }),
    less("core-s/GB", true, |record| per_gigabyte(&record.outcome, &record.workload)),
    less("proxies' µs each", true, proxies_each),
    less("machine's µs each", false, machine_each),
    less("RSS MB", false, |record| resident(&record.outcome)),
    more("bulk beside Gb/s", |record| {
        record.beside.as_ref().filter(|_| record.workload == "mice").and_then(|beside| gigabits(beside, "bulk"))
    }),
    less("KiB per connection", true, each_held),
    less("RSS afterwards / before", true, afterwards),
    less("KiB taken per stalled stream", false, taken),
];

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn float(count: u64) -> f64 {
    count as f64
}

fn gigabits(outcome: &Outcome, workload: &str) -> Option<f64> {
    workload.starts_with("bulk").then(|| float(outcome.bytes) * 8.0 / 1e9 / outcome.seconds)
}

/// Connections that are only held have no rate.
fn counted(record: &Record) -> bool {
    record.outcome.operations > 0 && !record.workload.starts_with("idle") && !record.workload.starts_with("stall")
}

fn rate(record: &Record) -> Option<f64> {
    (counted(record) && !record.workload.starts_with("rate"))
        .then(|| float(record.outcome.operations) / record.outcome.seconds)
}

fn per_gigabyte(outcome: &Outcome, workload: &str) -> Option<f64> {
    (workload.starts_with("bulk") && outcome.bytes > 0).then(|| outcome.usage.machine / (float(outcome.bytes) / 1e9))
}

fn proxies_each(record: &Record) -> Option<f64> {
    let used = record.outcome.usage.processes.get("proxies")?;
    counted(record).then(|| used * 1e6 / float(record.outcome.operations))
}

fn machine_each(record: &Record) -> Option<f64> {
    counted(record).then(|| record.outcome.usage.machine * 1e6 / float(record.outcome.operations))
}

/// What each held connection adds to the proxies' resident memory, both together.
fn each_held(record: &Record) -> Option<f64> {
    let usage = &record.outcome.usage;
    let grown = float(*usage.resident.get("proxies")?) - float(*usage.resident_before.get("proxies")?);
    let held = record.workload.starts_with("idle") || record.workload.starts_with("stall");
    held.then(|| grown.max(0.0) / float(record.outcome.operations.max(1)))
}

fn afterwards(record: &Record) -> Option<f64> {
    let usage = &record.outcome.usage;
    Some(float(*usage.resident_after.get("proxies")?) / float(*usage.resident_before.get("proxies")?))
}

fn taken(record: &Record) -> Option<f64> {
    let stalled = record.workload.starts_with("stall");
    stalled.then(|| float(record.outcome.bytes) / 1024.0 / float(record.outcome.operations.max(1)))
}

fn resident(outcome: &Outcome) -> Option<f64> {
    Some(float(*outcome.usage.resident.get("proxies")?) / 1024.0)
}

/// The figures of one contender under one workload, by round.
pub(crate) fn figures(records: &[Record], workload: &str, contender: &str, metric: &Metric) -> BTreeMap<usize, f64> {
    records
        .iter()
        .filter(|record| record.workload == workload && record.contender == contender)
        .filter_map(|record| Some((record.round, (metric.of)(record)?)))
        .collect()
}

/// The runs of one workload on one placement of the cores.
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) workload: String,
    pub(crate) cores: Distance,
    pub(crate) rounds: usize,
    pub(crate) contenders: Vec<&'static str>,
    records: Vec<Record>,
}

/// One contender's figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) contender: &'static str,
    pub(crate) median: f64,
    /// Culvert's divided by it.
    pub(crate) ratio: Option<Ratio>,
}

/// In the order of workloads.
pub(crate) fn groups(raw: &Raw) -> Vec<Group> {
    let mut groups = Vec::new();
    for workload in Workload::all() {
        for cores in [Distance::Far, Distance::Near] {
            let counts = |record: &&Record| record.workload == workload.name && record.cores == cores && !record.moved;
            let records: Vec<Record> = raw.records.iter().filter(counts).cloned().collect();
            let rounds = records.iter().map(|record| record.round).collect::<BTreeSet<_>>().len();
            if rounds == 0 {
                continue;
            }
            let there = |name: &&str| records.iter().any(|record| record.contender == *name);
            let contenders = Contender::ALL.iter().map(|contender| contender.name()).filter(there).collect();
            let plural = if rounds == 1 { "" } else { "s" };
            let title = format!("{}: {} [{}, {rounds} round{plural}]", workload.name, workload.title, cores.words());
            groups.push(Group { title, workload: workload.name.clone(), cores, rounds, contenders, records });
        }
    }
    groups
}

/// The medians under one metric, and culvert's ratio to each other contender.
pub(crate) fn rows(group: &Group, metric: &Metric) -> Vec<Row> {
    let ours = figures(&group.records, &group.workload, Contender::Culvert.name(), metric);
    let mut rows = Vec::new();
    for contender in &group.contenders {
        let theirs = figures(&group.records, &group.workload, contender, metric);
        let values: Vec<f64> = theirs.values().copied().collect();
        let Some(middle) = median(&values) else { continue };
        let pairs: Vec<(f64, f64)> =
            ours.iter().filter_map(|(round, figure)| Some((*figure, *theirs.get(round)?))).collect();
        let ratio = if *contender == Contender::Culvert.name() { None } else { paired(&pairs) };
        rows.push(Row { contender, median: middle, ratio });
    }
    rows
}

/// Writes the raw file and the report, and prints the table.
pub(crate) fn write(raw: &Raw, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (figures, page) = (folder.join("raw.json"), folder.join("report.html"));
    std::fs::write(&figures, serde_json::to_string(raw)?)
        .with_context(|| format!("cannot write {}", figures.display()))?;
    std::fs::write(&page, crate::report::page(raw)?)?;
    std::fs::write(folder.join("table.md"), markdown(raw))?;
    println!("\n{}", table(raw));
    println!("{}, {}", page.display(), figures.display());
    Ok(())
}

/// For the eye, in a terminal.
pub(crate) fn table(raw: &Raw) -> String {
    let mut text = String::new();
    for group in groups(raw) {
        let _ = writeln!(text, "{}", group.title);
        for metric in METRICS {
            let rows = rows(&group, metric);
            if rows.is_empty() {
                continue;
            }
            let _ = write!(text, "  {:18}", metric.name);
            for row in rows {
                let _ = write!(text, "  {} {}", row.contender, short(row.median));
                if let Some(ratio) = row.ratio {
                    let _ = write!(text, " (x{:.2}, {:.2}-{:.2})", ratio.median, ratio.low, ratio.high);
                }
            }
            let _ = writeln!(text, "   [{}]", if metric.more_is_better { "more is better" } else { "less is better" });
        }
        text.push('\n');
    }
    let _ = writeln!(text, "{}", moved(raw));
    text
}

/// For a document: one table for each placement of the cores; what `--check` reads.
pub(crate) fn markdown(raw: &Raw) -> String {
    let mut text = String::new();
    for cores in [Distance::Far, Distance::Near] {
        let groups: Vec<Group> = groups(raw).into_iter().filter(|group| group.cores == cores).collect();
        if groups.is_empty() {
            continue;
        }
        let names: Vec<&str> = Contender::ALL
            .iter()
            .map(|contender| contender.name())
            .filter(|name| groups.iter().any(|group| group.contenders.contains(name)))
            .collect();
        let _ = writeln!(text, "### {}\n\n| workload | figure | {} |", cores.words(), names.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---|".repeat(names.len()));
        for group in &groups {
            for metric in METRICS {
                let rows = rows(group, metric);
                if rows.is_empty() {
                    continue;
                }
                let _ = write!(text, "| {} | {} |", group.workload, metric.name);
                for name in &names {
                    let _ = write!(
                        text,
                        " {} |",
                        rows.iter().find(|row| row.contender == *name).map(cell).unwrap_or_default()
                    );
                }
                text.push('\n');
            }
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row) -> String {
    match row.ratio {
        Some(ratio) => format!("{} (x{:.2}, {:.2}-{:.2})", short(row.median), ratio.median, ratio.low, ratio.high),
        None => format!("**{}**", short(row.median)),
    }
}

/// Three digits that count.
pub(crate) fn short(figure: f64) -> String {
    let digits = if figure.abs() >= 100.0 {
        0
    } else if figure.abs() >= 10.0 {
        1
    } else {
        3
    };
    format!("{figure:.digits$}")
}

/// The one rule that drops runs, and how many it has dropped; who could not do what.
pub(crate) fn moved(raw: &Raw) -> String {
    let moved = raw.records.iter().filter(|record| record.moved).count();
    let mut text = format!(
        "{moved} of {} runs do not count: within their block the host moved the cores or somebody else used them",
        raw.records.len()
    );
    for Failure { contender, workload, why } in &raw.failures {
        let _ = write!(text, "\n{contender} has no figure for {workload}, {why}");
    }
    text
}
