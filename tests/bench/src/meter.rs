//! Processor time and memory, of the whole machine and of chosen processes.
//!
//! The machine's is what `/proc/stat` does not count as idle, so that soft interrupts and kernel threads are in it. A
//! process's is the sum over its threads of `schedstat`'s first number, which is exact where `stat` counts ticks.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// `/proc/stat` counts in hundredths of a second on every Linux that culvert runs on.
const TICKS: f64 = 100.0;

/// A name and the processes that go by it.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) name: String,
    pub(crate) pids: Vec<i32>,
}

impl FromStr for Watch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Watch> {
        let (name, pids) = text.split_once('=').context("write NAME=PID[,PID...]")?;
        let pids = pids.split(',').map(str::parse).collect::<Result<_, _>>().context("a process id is a number")?;
        Ok(Watch { name: name.to_owned(), pids })
    }
}

impl Watch {
    /// As an argument.
    pub(crate) fn word(&self) -> String {
        let pids: Vec<String> = self.pids.iter().map(i32::to_string).collect();
        format!("{}={}", self.name, pids.join(","))
    }
}

/// What was used in a window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Core-seconds of the whole machine that were not idle.
    pub(crate) machine: f64,
    /// Core-seconds outside of interrupts that none of the watched processes and not the load itself used.
    #[serde(default)]
    pub(crate) foreign: f64,
    /// Core-seconds that the hypervisor gave to others.
    pub(crate) stolen: f64,
    /// Core-seconds by watched name.
    pub(crate) processes: BTreeMap<String, f64>,
    /// Resident memory by watched name at the end of the window, KiB.
    pub(crate) resident: BTreeMap<String, u64>,
    /// The same before the load began.
    #[serde(default)]
    pub(crate) resident_before: BTreeMap<String, u64>,
    /// The same some time after the load's connections were closed, where that was waited for.
    #[serde(default)]
    pub(crate) resident_after: BTreeMap<String, u64>,
    /// The window by the clock, s.
    pub(crate) seconds: f64,
}

/// Takes down usage between [`Meter::begin`] and [`Meter::end`].
#[derive(Debug)]
pub(crate) struct Meter {
    watched: Vec<Watch>,
    resident_before: BTreeMap<String, u64>,
    begun: Option<(Instant, Reading)>,
}

#[derive(Clone, Debug)]
struct Reading {
    busy: f64,
    interrupts: f64,
    stolen: f64,
    load: Threads,
    processes: Vec<Threads>,
}

/// Core-seconds of each thread, by its id.
type Threads = BTreeMap<u32, f64>;

impl Meter {
    pub(crate) fn new(watched: Vec<Watch>) -> Meter {
        let resident_before = all_resident(&watched);
        Meter { watched, resident_before, begun: None }
    }

    /// Resident memory now.
    pub(crate) fn resident(&self) -> BTreeMap<String, u64> {
        all_resident(&self.watched)
    }

    /// The window opens now, unless it is open.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.begun.is_none() {
            self.begun = Some((Instant::now(), self.read()?));
        }
        Ok(())
    }

    /// The window closes now.
    pub(crate) fn end(&self) -> Result<Usage> {
        let (since, before) = self.begun.as_ref().context("the window was never opened")?;
        let seconds = since.elapsed().as_secs_f64();
        let after = self.read()?;
        let used = before.processes.iter().zip(&after.processes).map(|(before, after)| between(before, after));
        let used: Vec<f64> = used.collect();
        let ours = used.iter().sum::<f64>() + between(&before.load, &after.load);
        let machine = after.busy - before.busy;
        let names = self.watched.iter().map(|watch| watch.name.clone());
        Ok(Usage {
            machine,
            foreign: (machine - (after.interrupts - before.interrupts) - ours).max(0.0),
            stolen: after.stolen - before.stolen,
            processes: names.zip(used).collect(),
            resident: self.resident(),
            resident_before: self.resident_before.clone(),
            resident_after: BTreeMap::new(),
            seconds,
        })
    }

    fn read(&self) -> Result<Reading> {
        let stat = read_to_string("/proc/stat")?;
        let (busy, interrupts, stolen) = machine(&stat).context("/proc/stat has no line for all processors")?;
        let processes = self.watched.iter().map(|watch| watch.pids.iter().flat_map(|pid| threads(*pid)).collect());
        let processes = processes.collect();
        let load = threads(i32::try_from(std::process::id())?);
        Ok(Reading { busy, interrupts, stolen, load, processes })
    }
}

/// Busy core-seconds since boot, those of them in interrupts, and stolen ones.
fn machine(stat: &str) -> Option<(f64, f64, f64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _waiting, irq, softirq, stolen, ..] = ticks.as_slice() else { return None };
    Some(((user + nice + system + irq + softirq) / TICKS, (irq + softirq) / TICKS, stolen / TICKS))
}

/// Core-seconds of the threads that a process has now.
fn threads(pid: i32) -> Threads {
    let live = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let one = |task: std::fs::DirEntry| {
        let used = read_to_string(task.path().join("schedstat")).ok()?;
        let nanos: f64 = used.split(' ').next()?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, nanos / 1e9))
    };
    live.filter_map(one).collect()
}

/// What was used between two readings. A thread that has ended in between takes what it used since the first with it, and
/// must not take away what it had used before.
fn between(before: &Threads, after: &Threads) -> f64 {
    after.iter().map(|(thread, used)| used - before.get(thread).copied().unwrap_or_default()).sum()
}

fn all_resident(watched: &[Watch]) -> BTreeMap<String, u64> {
    watched.iter().map(|watch| (watch.name.clone(), resident(&watch.pids))).collect()
}

/// Resident KiB of several processes, as `/proc` says it: memory that they share counts in each.
fn resident(pids: &[i32]) -> u64 {
    let one = |pid: &i32| {
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    };
    pids.iter().filter_map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy_time() {
        let stat = "cpu  100 10 200 5000 7 3 50 20 0 0\ncpu0 1 2 3\n";
        assert_eq!(machine(stat), Some((3.63, 0.53, 0.2)));
    }

    #[test]
    fn a_thread_that_ends_takes_nothing_away() {
        let (before, after) = (Threads::from([(1, 2.0), (2, 5.0)]), Threads::from([(1, 2.5), (3, 0.25)]));
        assert!((between(&before, &after) - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_busy_process_is_seen_as_busy() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut meter = Meter::new(vec![Watch { name: "me".to_owned(), pids: vec![pid] }]);
        meter.begin().unwrap();
        let since = Instant::now();
        while since.elapsed().as_millis() < 200 {
            std::hint::black_box(0);
        }
        let usage = meter.end().unwrap();
        assert!(usage.processes["me"] > 0.02, "{usage:?}");
        assert!(usage.resident["me"] > 100, "{usage:?}");
    }

    #[test]
    fn a_watch_reads_what_it_writes() {
        let watch: Watch = "proxies=12,13".parse().unwrap();
        assert_eq!((watch.word().as_str(), watch.pids.as_slice()), ("proxies=12,13", [12, 13].as_slice()));
        assert!("proxies".parse::<Watch>().is_err());
    }
}
