//! Figures out of records: the table, the raw file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::pulse::Distance;
use crate::rig::{Contender, Record, Workload};
use crate::stats::{median, paired};

/// Everything that was measured, as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Raw {
    pub(crate) facts: crate::rig::Facts,
    pub(crate) records: Vec<Record>,
}

/// What is read off a run. More is better, or less.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) more_is_better: bool,
    pub(crate) digits: usize,
    pub(crate) of: fn(&Record) -> Option<f64>,
}

/// All metrics; a run has those for which there is a figure.
pub(crate) const METRICS: &[Metric] = &[
    Metric { name: "Gb/s", more_is_better: true, digits: 2, of: |record| gigabits(&record.outcome, &record.workload) },
    Metric { name: "per s", more_is_better: true, digits: 0, of: |record| rate(&record.outcome) },
    Metric {
        name: "p50 µs",
        more_is_better: false,
        digits: 1,
        of: |record| Some(record.outcome.latency.as_ref()?.p50),
    },
    Metric {
        name: "p99 µs",
        more_is_better: false,
        digits: 1,
        of: |record| Some(record.outcome.latency.as_ref()?.p99),
    },
    Metric {
        name: "core-s/GB",
        more_is_better: false,
        digits: 3,
        of: |record| per_gigabyte(&record.outcome, &record.workload),
    },
    Metric { name: "proxies' µs each", more_is_better: false, digits: 1, of: |record| proxies_each(&record.outcome) },
    Metric { name: "machine's µs each", more_is_better: false, digits: 1, of: |record| machine_each(&record.outcome) },
    Metric { name: "RSS MB", more_is_better: false, digits: 1, of: |record| resident(&record.outcome) },
    Metric {
        name: "bulk beside Gb/s",
        more_is_better: true,
        digits: 2,
        of: |record| gigabits(record.beside.as_ref()?, "bulk"),
    },
];

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
fn float(count: u64) -> f64 {
    count as f64
}

fn gigabits(outcome: &Outcome, workload: &str) -> Option<f64> {
    workload.starts_with("bulk").then(|| float(outcome.bytes) * 8.0 / 1e9 / outcome.seconds)
}

fn rate(outcome: &Outcome) -> Option<f64> {
    (outcome.operations > 0).then(|| float(outcome.operations) / outcome.seconds)
}

fn per_gigabyte(outcome: &Outcome, workload: &str) -> Option<f64> {
    (workload.starts_with("bulk") && outcome.bytes > 0).then(|| outcome.usage.machine / (float(outcome.bytes) / 1e9))
}

fn proxies_each(outcome: &Outcome) -> Option<f64> {
    let used = outcome.usage.processes.get("proxies")?;
    (outcome.operations > 0).then(|| used * 1e6 / float(outcome.operations))
}

fn machine_each(outcome: &Outcome) -> Option<f64> {
    (outcome.operations > 0).then(|| outcome.usage.machine * 1e6 / float(outcome.operations))
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

/// Writes the raw file and prints the table.
pub(crate) fn write(raw: &Raw, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("raw.json");
    std::fs::write(&file, serde_json::to_string(raw)?).with_context(|| format!("cannot write {}", file.display()))?;
    println!("\n{}", table(raw));
    println!("raw figures: {}", file.display());
    Ok(())
}

/// Medians of each contender, and the ratio of culvert to each other with its interval: one block of lines for each
/// workload and each placement of the cores.
pub(crate) fn table(raw: &Raw) -> String {
    let mut text = String::new();
    let contenders: Vec<&str> = Contender::ALL
        .iter()
        .map(|contender| contender.name())
        .filter(|name| raw.records.iter().any(|record| record.contender == *name))
        .collect();
    for workload in Workload::all() {
        for cores in [Distance::Far, Distance::Near] {
            let counts = |record: &&Record| record.workload == workload.name && record.cores == cores && !record.moved;
            let records: Vec<Record> = raw.records.iter().filter(counts).cloned().collect();
            let rounds: BTreeSet<usize> = records.iter().map(|record| record.round).collect();
            if records.is_empty() {
                continue;
            }
            text.push_str(&format!(
                "{}: {} [{}, {} rounds]\n",
                workload.name,
                workload.title,
                cores.words(),
                rounds.len()
            ));
            for metric in METRICS {
                text.push_str(&rows(&records, &workload.name, &contenders, metric));
            }
            text.push('\n');
        }
    }
    let moved = raw.records.iter().filter(|record| record.moved).count();
    text.push_str(&format!("{moved} runs do not count, because the host moved the cores within their block\n"));
    text
}

fn rows(records: &[Record], workload: &str, contenders: &[&str], metric: &Metric) -> String {
    let mut line = String::new();
    let ours = figures(records, workload, Contender::Culvert.name(), metric);
    for contender in contenders {
        let theirs = figures(records, workload, contender, metric);
        let values: Vec<f64> = theirs.values().copied().collect();
        let Some(middle) = median(&values) else { continue };
        line.push_str(&format!("  {contender} {middle:.*}", metric.digits));
        let pairs: Vec<(f64, f64)> =
            ours.iter().filter_map(|(round, figure)| Some((*figure, *theirs.get(round)?))).collect();
        if *contender != Contender::Culvert.name()
            && let Some(ratio) = paired(&pairs)
        {
            line.push_str(&format!(" (x{:.2}, {:.2}-{:.2})", ratio.median, ratio.low, ratio.high));
        }
    }
    if line.is_empty() {
        return line;
    }
    let arrow = if metric.more_is_better { "more is better" } else { "less is better" };
    format!("  {:18}{line}   [{arrow}]\n", metric.name)
}
