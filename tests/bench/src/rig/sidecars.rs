//! The sidecar question: what a node full of pods costs with one agent, and with one Envoy in each pod.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use culvert_lab::{Lab, Process, sandbox};

use super::contender::Contender;
use super::many::More;
use super::pair::{self, Pair};
use super::proxies::{culvert, sidecar};
use super::{Arguments, checks};
use crate::meter::{Meter, Watch};

/// What a start leaves behind must be over before nothing is measured. Runtimes end the threads that it took after ten
/// seconds, and with a thread goes the time that it is known to have used.
const SETTLED: Duration = Duration::from_secs(13);

/// How full the node is, and how busy.
#[derive(Args, Debug)]
pub(crate) struct SidecarArguments {
    /// Folder with culvert-agent, culvert-control and culvert.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Envoy's program.
    #[arg(long)]
    envoy: PathBuf,
    /// Pods on the node; what does not fit into memory is computed and marked.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 110])]
    pods: Vec<usize>,
    /// With sidecars, no more than this many are started; the rest is computed.
    #[arg(long, default_value_t = usize::MAX)]
    most_sidecars: usize,
    /// Requests per second to all pods together, 1 KB each, over two kept connections to each pod.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Most of the free memory that sidecars may take, in percent.
    #[arg(long, default_value_t = 60)]
    share: u64,
}

/// What the proxies of one node take.
#[derive(Clone, Copy, Debug)]
struct Cost {
    pods: f64,
    /// Proportional set size, MB: what is shared between processes counts once.
    memory: f64,
    /// Cores with nothing to do.
    idle: f64,
    /// Cores at the rate.
    busy: f64,
    measured: bool,
}

/// Measures in a sandbox and prints a table.
pub(crate) fn run(wanted: &SidecarArguments) -> Result<bool> {
    if let Some(status) = sandbox::enter_or_reexec()? {
        return Ok(status.success());
    }
    super::raise_file_limit()?;
    let mut lab = Lab::new()?;
    let agents = agent(&mut lab, wanted).context("the agent's node")?;
    let sidecars = sidecars(&mut lab, wanted).context("the sidecars' node")?;
    println!("| pods | proxy | memory MB | cores, idle | cores at {:.0} requests/s | |", wanted.rate);
    println!("|---|---|---|---|---|---|");
    for (name, costs) in [("one agent", &agents), ("an Envoy each", &sidecars)] {
        for pods in &wanted.pods {
            let cost = at(costs, *pods).context("too few measurements to compute from")?;
            let how = if cost.measured { "measured" } else { "**computed**" };
            println!("| {pods} | {name} | {:.0} | {:.4} | {:.3} | {how} |", cost.memory, cost.idle, cost.busy);
        }
    }
    Ok(true)
}

/// Measured, or on the line through the first and the last measurement.
fn at(costs: &[Cost], pods: usize) -> Option<Cost> {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let pods = pods as f64;
    if let Some(cost) = costs.iter().find(|cost| cost.pods == pods) {
        return Some(*cost);
    }
    let (first, last) = (costs.first()?, costs.last()?);
    if first.pods == last.pods {
        return None;
    }
    let share = (pods - first.pods) / (last.pods - first.pods);
    let on = |of: fn(&Cost) -> f64| of(first) + share * (of(last) - of(first));
    let (memory, idle, busy) = (on(|cost| cost.memory), on(|cost| cost.idle), on(|cost| cost.busy));
    Some(Cost { pods, memory, idle, busy, measured: false })
}

fn agent(lab: &mut Lab, wanted: &SidecarArguments) -> Result<Vec<Cost>> {
    let with = Arguments::for_culvert(&wanted.bin_dir);
    let found = Contender::Culvert.start(lab, &with)?;
    let mut servers: Vec<More> = Vec::new();
    let mut costs = Vec::new();
    // The agents were started in the order of the nodes: the client's first.
    let agent = found.processes.last().context("no agent")?;
    for pods in &wanted.pods {
        // One server was there from the beginning.
        let more = (servers.len() + 1..*pods).map(|number| More::server(&found.pair, number));
        let more = more.collect::<Result<Vec<More>>>()?;
        culvert::add(&found.pair, &more.iter().collect::<Vec<_>>(), &with)?;
        servers.extend(more);
        costs.push(measure(&found.pair, &servers, &[agent], wanted)?);
    }
    Ok(costs)
}

fn sidecars(lab: &mut Lab, wanted: &SidecarArguments) -> Result<Vec<Cost>> {
    let pair = Pair::build(lab)?;
    // One thread each: a sidecar with more takes more memory.
    let kind = sidecar::envoy(&wanted.envoy);
    let _client = sidecar::start_for_many(&kind, &pair)?;
    let (mut servers, mut proxies): (Vec<More>, Vec<Process>) = (Vec::new(), Vec::new());
    let mut costs: Vec<Cost> = Vec::new();
    for pods in &wanted.pods {
        if *pods > wanted.most_sidecars || !fits(&costs, *pods, wanted.share)? {
            eprintln!("{pods} sidecars do not fit here: computed from those that do");
            break;
        }
        if proxies.is_empty() {
            proxies.push(sidecar::start_beside(&kind, pair.server.netns(), pair.server.ip4(), "server", 1)?);
        }
        for number in servers.len() + 1..*pods {
            let more = More::server(&pair, number)?;
            proxies.push(sidecar::start_beside(&kind, more.pod.netns(), more.pod.ip4(), &more.name, 1)?);
            servers.push(more);
        }
        let proxies: Vec<&Process> = proxies.iter().collect();
        costs.push(measure(&pair, &servers, &proxies, wanted)?);
    }
    Ok(costs)
}

/// Whether so many more would leave the rest of the machine alone.
fn fits(costs: &[Cost], pods: usize, share: u64) -> Result<bool> {
    let Some(last) = costs.last() else { return Ok(true) };
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    let free: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred, and megabytes")]
    let (pods, free) = (pods as f64, (free / 1024 * share / 100) as f64);
    Ok((pods - last.pods) * last.memory / last.pods < free)
}

fn measure(pair: &Pair, servers: &[More], proxies: &[&Process], wanted: &SidecarArguments) -> Result<Cost> {
    let addresses = || std::iter::once(pair.server.ip4()).chain(servers.iter().map(|server| server.pod.ip4()));
    addresses().try_for_each(|address: Ipv4Addr| checks::answers(pair, address))?;
    let pids: Vec<i32> = proxies.iter().map(|process| process.pid()).collect();
    let mut meter = Meter::new(vec![Watch { name: "proxies".to_owned(), pids: pids.clone() }]);
    std::thread::sleep(SETTLED);
    meter.begin()?;
    std::thread::sleep(Duration::from_secs_f64(wanted.seconds));
    let idle = meter.end()?;
    let addresses: Vec<String> = addresses().map(|address| address.to_string()).collect();
    let connections = (2 * addresses.len()).to_string();
    let words = ["requests", "--connections", &connections, "--rate", &wanted.rate.to_string()].map(str::to_owned);
    let watch = [Watch { name: "proxies".to_owned(), pids: pids.clone() }];
    let load = pair.load_from(&pair.client, &addresses, &watch, wanted.seconds, 2.0, &words)?;
    let busy = pair::finish(load)?;
    ensure!(busy.rate() > wanted.rate * 0.95, "only {:.0} requests/s of {}", busy.rate(), wanted.rate);
    let cores = |usage: &crate::meter::Usage| usage.processes.values().sum::<f64>() / usage.seconds;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred, and megabytes")]
    let cost = Cost {
        pods: addresses.len() as f64,
        memory: pids.iter().map(|pid| proportional(*pid)).sum::<Result<u64>>()? as f64 / 1024.0,
        idle: cores(&idle),
        busy: cores(&busy.usage),
        measured: true,
    };
    eprintln!("{cost:?}");
    Ok(cost)
}

/// KiB of a process, what it shares counted by its share.
fn proportional(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_lies_on_the_line_and_says_so() {
        let cost = |pods: f64| Cost { pods, memory: 5.0 + 3.0 * pods, idle: 0.1 * pods, busy: 0.5, measured: true };
        let costs = [cost(10.0), cost(30.0), cost(50.0)];
        assert!(at(&costs, 50).unwrap().measured);
        let computed = at(&costs, 110).unwrap();
        assert!(!computed.measured && (computed.memory - 335.0).abs() < 1e-9 && (computed.idle - 11.0).abs() < 1e-9);
        assert!(at(&costs[..1], 110).is_none(), "one point makes no line");
    }
}
