//! Who takes part, with how many threads: a rival runs each workload with the better of two numbers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use culvert_lab::Lab;

use super::contender::{Contender, Found};
use super::workload::Workload;
use super::{Arguments, checks, rounds};

/// All contenders, each once or twice.
#[derive(Debug)]
pub(crate) struct Field {
    /// Each in the variants that it was started in.
    found: Vec<Vec<Found>>,
    /// Which variant runs a workload, where it is not the first: by contender and workload.
    second: BTreeMap<(&'static str, String), Choice>,
}

/// What two variants have done in the trial.
#[derive(Clone, Copy, Debug)]
struct Choice {
    is_second: bool,
    workers: usize,
}

impl Field {
    /// Starts and checks everybody.
    pub(crate) fn start(lab: &mut Lab, contenders: &[Contender], wanted: &Arguments) -> Result<Field> {
        let mut found = Vec::new();
        for contender in contenders {
            let other = wanted.other_workers.filter(|_| contender.is_rival());
            let mut variants = Vec::new();
            for workers in [Some(wanted.workers), other].into_iter().flatten() {
                let with = Arguments { workers, ..wanted.clone() };
                let started = contender.start(lab, &with).with_context(|| format!("starting {}", contender.name()))?;
                checks::all(lab, &started).with_context(|| format!("checking {}", contender.name()))?;
                println!("{:12} runs; {}", contender.name(), started.says());
                variants.push(started);
            }
            found.push(variants);
        }
        Ok(Field { found, second: BTreeMap::new() })
    }

    /// Lets the variants of each rival try each workload once.
    pub(crate) fn choose(&mut self, workloads: &[Workload], wanted: &Arguments) {
        for variants in &self.found {
            let [first, second] = variants.as_slice() else { continue };
            for workload in workloads.iter().filter(|workload| workload.is_timed()) {
                // One that fails is not chosen; if both do, the rounds will say so.
                let rate = |one: &Found| match rounds::measure(one, workload, wanted) {
                    Ok((outcome, _)) => outcome.rate(),
                    Err(error) => {
                        eprintln!(
                            "{}, {} threads, under {}, the trial: {error:#}",
                            one.name(),
                            one.workers,
                            workload.name
                        );
                        0.0
                    }
                };
                let is_second = rate(second) > rate(first);
                let workers = if is_second { second.workers } else { first.workers };
                self.second.insert((first.name(), workload.name.clone()), Choice { is_second, workers });
            }
        }
    }

    /// Who runs this workload.
    pub(crate) fn of(&self, workload: &Workload) -> Vec<&Found> {
        let variant = |variants: &'_ [Found]| {
            let name = variants.first()?.name();
            let second = self.second.get(&(name, workload.name.clone())).is_some_and(|choice| choice.is_second);
            Some(usize::from(second))
        };
        self.found.iter().filter_map(|variants| variants.get(variant(variants)?)).collect()
    }

    pub(crate) fn first(&self) -> Option<&Found> {
        self.found.first()?.first()
    }

    /// Version and what was negotiated, by contender.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let first = self.found.iter().filter_map(|variants| variants.first());
        let words = |one: &Found| match &one.agreed {
            Some(agreed) => format!("{}; {agreed}", one.version),
            None => one.version.clone(),
        };
        first.map(|one| (one.name().to_owned(), words(one))).collect()
    }

    /// What the trial has shown, for the record.
    pub(crate) fn choices(&self) -> Vec<(String, String)> {
        let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((name, workload), choice) in &self.second {
            by_name.entry(name).or_default().push(format!("{workload} {}", choice.workers));
        }
        by_name.into_iter().map(|(name, words)| (format!("threads of {name}"), words.join(", "))).collect()
    }
}
