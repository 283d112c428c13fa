//! Cold connections: the first of a pair of pods, with the tunnel's handshake, against the handshakes that the machine can do
//! at all, and against a bare pair of proxies that does one for each connection.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use culvert_lab::{Lab, Pod, sandbox};

use super::contender::{Contender, Found};
use super::many::More;
use super::pair;
use super::proxies::culvert;
use super::{Arguments, certificates};
use crate::load::Latency;
use crate::output::short;
use crate::stats::{median, paired};

/// How many pods call how many.
#[derive(Args, Debug)]
pub(crate) struct ColdArguments {
    /// Folder with culvert-agent, culvert-control and culvert.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Pods that call, one after the other.
    #[arg(long, default_value_t = 9)]
    clients: usize,
    /// Pods that each of them calls for the first time.
    #[arg(long, default_value_t = 60)]
    servers: usize,
    /// Connections at a time.
    #[arg(long, default_value_t = 16)]
    at_a_time: usize,
}

/// Every server has been called once.
struct Calls {
    /// Connections per second.
    rate: f64,
    /// Processor time of both proxies for each connection, µs.
    each: f64,
    /// Of the whole machine, µs. Ticks are coarse: only the mean of many turns says something.
    machine: f64,
    latency: Latency,
}

/// One client has called every server.
struct Turn {
    culvert: Calls,
    floor: Calls,
    /// Handshakes per second, right after.
    limit: f64,
}

/// Measures in a sandbox and prints.
pub(crate) fn run(wanted: &ColdArguments) -> Result<bool> {
    if let Some(status) = sandbox::enter_or_reexec()? {
        return Ok(status.success());
    }
    super::raise_file_limit()?;
    let mut lab = Lab::new()?;
    let with = Arguments::for_culvert(&wanted.bin_dir);
    let found = Contender::Culvert.start(&mut lab, &with)?;
    let make = |count: usize, one: fn(&pair::Pair, usize) -> Result<More>| -> Result<Vec<More>> {
        (1..=count).map(|number| one(&found.pair, number)).collect()
    };
    let (servers, clients) = (make(wanted.servers, More::server)?, make(wanted.clients, More::client)?);
    let everybody: Vec<&More> = servers.iter().chain(&clients).collect();
    culvert::add(&found.pair, &everybody, &with)?;
    let certificates = certificates::make(Path::new(certificates::FOLDER))?;
    let floor = Contender::FloorEach.start(&mut lab, &with)?;
    let addresses: Vec<String> = servers.iter().map(|server| server.pod.ip4().to_string()).collect();
    // For the floor every connection is a first one.
    let same = vec![floor.pair.server.ip4().to_string(); servers.len()];
    let mut turns = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let culvert = || calls(&found, &client.pod, &addresses, wanted.at_a_time);
        let floor = || calls(&floor, &floor.pair.client, &same, wanted.at_a_time);
        let (culvert, floor) = if number % 2 == 0 {
            (culvert()?, floor()?)
        } else {
            let floor = floor()?;
            (culvert()?, floor)
        };
        turns.push(Turn { culvert, floor, limit: limit(&certificates)? });
    }
    print(&turns, wanted)?;
    Ok(true)
}

fn calls(found: &Found, client: &Pod, servers: &[String], at_a_time: usize) -> Result<Calls> {
    let words = ["cold".to_owned(), "--at-a-time".to_owned(), at_a_time.to_string()];
    let outcome = pair::finish(found.pair.load_from(client, servers, &found.watch(), 0.0, 0.0, &words)?)?;
    ensure!(outcome.operations == servers.len() as u64, "not every first connection was made");
    let latency = outcome.latency.clone().context("no latencies")?;
    let used = outcome.usage.processes.get("proxies").copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let each = |seconds: f64| seconds * 1e6 / outcome.operations as f64;
    Ok(Calls { rate: outcome.rate(), each: each(used), machine: each(outcome.usage.machine), latency })
}

fn print(turns: &[Turn], wanted: &ColdArguments) -> Result<()> {
    let middle = |of: fn(&Turn) -> f64| short(median(&turns.iter().map(of).collect::<Vec<_>>()).unwrap_or_default());
    let ratio = |of: fn(&Turn) -> (f64, f64)| -> Result<String> {
        let ratio = paired(&turns.iter().map(of).collect::<Vec<_>>()).context("no turns")?;
        Ok(format!("x{:.2} ({:.2}-{:.2})", ratio.median, ratio.low, ratio.high))
    };
    println!("cold connections, {} turns of {} at {} a time", turns.len(), wanted.servers, wanted.at_a_time);
    println!("the machine's handshakes: {} per s", middle(|turn| turn.limit));
    let of_handshakes = (ratio(|turn| (turn.culvert.rate, turn.limit))?, ratio(|turn| (turn.floor.rate, turn.limit))?);
    println!(
        "culvert: {}; {} of the handshakes, {} of the floor",
        calls_say(turns, |turn| &turn.culvert),
        of_handshakes.0,
        ratio(|turn| (turn.culvert.rate, turn.floor.rate))?,
    );
    println!("floor: {}; {} of the handshakes", calls_say(turns, |turn| &turn.floor), of_handshakes.1);
    Ok(())
}

fn calls_say(turns: &[Turn], whose: fn(&Turn) -> &Calls) -> String {
    let all = |of: fn(&Calls) -> f64| turns.iter().map(|turn| of(whose(turn))).collect::<Vec<_>>();
    let middle = |of| short(median(&all(of)).unwrap_or_default());
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let machine = all(|calls| calls.machine).iter().sum::<f64>() / turns.len() as f64;
    format!(
        "{} per s, p50 {} µs, p99 {} µs, proxies' µs each {}, machine's {}",
        middle(|calls| calls.rate),
        middle(|calls| calls.latency.p50),
        middle(|calls| calls.latency.p99),
        middle(|calls| calls.each),
        short(machine),
    )
}

/// Handshakes per second on all cores.
fn limit(certificates: &Path) -> Result<f64> {
    let mut floor = Command::new(std::env::current_exe()?.with_file_name("culvert-floor"));
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    floor.args(["--workers", &cores.to_string(), "handshakes", "--seconds", "0.5", "--certificates"]).arg(certificates);
    let done = floor.output().context("culvert-floor")?;
    ensure!(done.status.success(), "culvert-floor: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).trim().parse()?)
}
