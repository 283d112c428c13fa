//! `--check`: this run's ratios against the committed ones.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::output::{METRICS, Raw, groups, rows};
use crate::stats::Ratio;

/// What a regression is measured by: few figures, those that ratios carry well between machines.
const JUDGED: &[&str] = &["Gb/s", "per s", "core-s/GB", "proxies' µs each"];

/// How far a ratio may be off before it counts, beside both intervals being clear of each other.
const NOISE: f64 = 0.10;

/// The same where there were fewer rounds than [`ENOUGH`]: the interval of three figures is narrower than what another
/// three would show.
const NOISE_OF_FEW: f64 = 0.15;

/// Rounds from which on an interval says how far figures scatter.
const ENOUGH: usize = 5;

/// Workload, figure, contender.
type Key = (String, String, String);

/// Fails when a ratio of this run is worse than the committed one, beyond both intervals and the noise.
pub(crate) fn check(raw: &Raw, document: &Path) -> Result<()> {
    let text = std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let mut compared = 0;
    let (mut worse, mut alone) = (Vec::new(), Vec::new());
    for group in groups(raw) {
        let committed = committed(&text, group.cores.words());
        for metric in METRICS.iter().filter(|metric| JUDGED.contains(&metric.name)) {
            for row in rows(&group, metric) {
                let key = (group.workload.clone(), metric.name.to_owned(), row.contender.to_owned());
                let Some(now) = row.ratio else { continue };
                let then = committed.get(&key);
                let (workload, figure, contender) = key;
                let Some(then) = then else {
                    alone.push(format!("{workload} {figure} {contender}"));
                    continue;
                };
                compared += 1;
                if is_worse(now, *then, metric.more_is_better, noise(group.rounds)) {
                    worse.push(format!(
                        "{workload}, {figure}, against {contender}: x{:.2} ({:.2}-{:.2}), was x{:.2} ({:.2}-{:.2})",
                        now.median, now.low, now.high, then.median, then.low, then.high
                    ));
                }
            }
        }
    }
    ensure!(compared > 0, "{} has no ratio to compare with for these workloads", document.display());
    println!("{compared} ratios compared with {}, {} worse", document.display(), worse.len());
    if !alone.is_empty() {
        println!("not compared, for there is no such ratio there: {}", alone.join(", "));
    }
    if !worse.is_empty() {
        bail!("regressions:\n{}", worse.join("\n"));
    }
    Ok(())
}

fn noise(rounds: usize) -> f64 {
    if rounds < ENOUGH { NOISE_OF_FEW } else { NOISE }
}

fn is_worse(now: Ratio, then: Ratio, more_is_better: bool, noise: f64) -> bool {
    if more_is_better {
        now.high < then.low && now.median < then.median * (1.0 - noise)
    } else {
        now.low > then.high && now.median > then.median * (1.0 + noise)
    }
}

/// The ratios of the tables under the heading `### WORDS`.
fn committed(text: &str, words: &str) -> BTreeMap<Key, Ratio> {
    let mut ratios = BTreeMap::new();
    let mut here = false;
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            here = line.strip_prefix("### ") == Some(words);
        }
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["workload", "figure", contenders @ ..] => names = contenders.to_vec(),
            [workload, figure, cells @ ..] if here => {
                for (name, cell) in names.iter().zip(cells) {
                    if let Some(ratio) = ratio(cell) {
                        ratios.insert(((*workload).to_owned(), (*figure).to_owned(), (*name).to_owned()), ratio);
                    }
                }
            }
            _ => {}
        }
    }
    ratios
}

/// Reads `FIGURE (xMEDIAN, LOW-HIGH)`.
fn ratio(cell: &str) -> Option<Ratio> {
    let (_, rest) = cell.split_once("(x")?;
    let (median, rest) = rest.split_once(", ")?;
    let (low, high) = rest.trim_end_matches(')').split_once('-')?;
    Some(Ratio { median: median.parse().ok()?, low: low.parse().ok()?, high: high.parse().ok()? })
}

#[cfg(test)]
mod tests;
