//! Cold connections: the first of a pair of pods, with the tunnel's handshake, against the handshakes that the machine can do
//! at all.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use culvert_lab::{Lab, sandbox};

use super::contender::Contender;
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

/// One client has called every server.
struct Turn {
    /// Connections per second.
    rate: f64,
    /// Handshakes per second, right after.
    limit: f64,
    /// Processor time of both agents for each connection, µs.
    each: f64,
    latency: Latency,
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
    let mut turns = Vec::new();
    for client in &clients {
        let addresses: Vec<String> = servers.iter().map(|server| server.pod.ip4().to_string()).collect();
        let words = ["cold".to_owned(), "--at-a-time".to_owned(), wanted.at_a_time.to_string()];
        let outcome = pair::finish(found.pair.load_from(&client.pod, &addresses, &found.watch(), 0.0, 0.0, &words)?)?;
        ensure!(outcome.operations == servers.len() as u64, "not every first connection was made");
        let latency = outcome.latency.clone().context("no latencies")?;
        let used = outcome.usage.processes.get("proxies").copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let each = used * 1e6 / outcome.operations as f64;
        turns.push(Turn { rate: outcome.rate(), limit: limit(&certificates)?, each, latency });
    }
    let ratio = paired(&turns.iter().map(|turn| (turn.rate, turn.limit)).collect::<Vec<_>>()).context("no turns")?;
    let middle = |of: fn(&Turn) -> f64| short(median(&turns.iter().map(of).collect::<Vec<_>>()).unwrap_or_default());
    println!(
        "cold connections, {} turns of {} at {} a time: {} per s, p50 {} µs, p99 {} µs, proxies' µs each {}; the \
         machine's handshakes: {} per s; x{:.2} ({:.2}-{:.2})",
        turns.len(),
        servers.len(),
        wanted.at_a_time,
        middle(|turn| turn.rate),
        middle(|turn| turn.latency.p50),
        middle(|turn| turn.latency.p99),
        middle(|turn| turn.each),
        middle(|turn| turn.limit),
        ratio.median,
        ratio.low,
        ratio.high
    );
    Ok(true)
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
