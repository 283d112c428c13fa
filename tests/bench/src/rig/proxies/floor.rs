//! Our own bare pairs, which show what is reachable.

use anyhow::{Context as _, Result};
use culvert_lab::Process;

use super::redirect_to_sidecar;
use crate::rig::START;
use crate::rig::certificates::{self, CLIENT};
use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::pair::Pair;
use crate::rig::template::Side;
use crate::serve::PORTS;

/// Where the server's takes tunnels.
const TUNNEL: u16 = 18443;

pub(crate) fn start(contender: Contender, pair: Pair, workers: usize) -> Result<Found> {
    let processes = match contender {
        Contender::FloorTcp => vec![plain(&pair, Side::Server, workers)?, plain(&pair, Side::Client, workers)?],
        _ => tunnelled(&pair, workers, contender == Contender::FloorEach)?,
    };
    redirect_to_sidecar(&pair)?;
    let strangers = if contender.encrypts() { Stranger::of_tls_port(TUNNEL) } else { Vec::new() };
    let version = "ours, nothing but bytes".to_owned();
    let (beside, conversations) = (Vec::new(), Vec::new());
    Ok(Found { contender, pair, processes, beside, conversations, version, agreed: None, workers, strangers })
}

/// LISTEN=PORT for each port.
fn ports(side: Side, to: impl Fn(u16) -> u16) -> Vec<String> {
    PORTS.iter().map(|&port| format!("{}={}", side.listen(port), to(port))).collect()
}

fn plain(pair: &Pair, side: Side, workers: usize) -> Result<Process> {
    let (to, ports) = match side {
        Side::Client => (pair.server.ip4().to_string(), ports(side, |port| Side::Server.listen(port))),
        Side::Server => ("127.0.0.1".to_owned(), ports(side, |port| port)),
    };
    let mut arguments = vec!["--workers".to_owned(), workers.to_string(), "tcp".to_owned(), "--to".to_owned(), to];
    arguments.extend(ports);
    let mut process = start_program(pair, side, "floor-tcp", &arguments)?;
    process.wait_for_ports(pair.netns(side), &PORTS.map(|port| side.listen(port)), START)?;
    Ok(process)
}

fn tunnelled(pair: &Pair, workers: usize, each: bool) -> Result<Vec<Process>> {
    let each = if each { " --each" } else { "" };
    let folder = certificates::make(std::path::Path::new(certificates::FOLDER))?.display().to_string();
    let server =
        format!("--workers {workers} server --listen 0.0.0.0:{TUNNEL} --certificates {folder} --peer {CLIENT}{each}");
    let mut server = start_program(pair, Side::Server, "floor", &split(&server))?;
    server.wait_for_ports(pair.netns(Side::Server), &[TUNNEL], START)?;
    let to = format!("{}:{TUNNEL}", pair.server.ip4());
    let client = format!("--workers {workers} client --to {to} --certificates {folder}{each}");
    let client = [split(&client), ports(Side::Client, |port| port)].concat();
    let mut client = start_program(pair, Side::Client, "floor", &client)?;
    client.wait_for_log("tunnels", START)?;
    Ok(vec![server, client])
}

fn start_program(pair: &Pair, side: Side, name: &str, arguments: &[String]) -> Result<Process> {
    let program = std::env::current_exe()?.with_file_name("culvert-floor");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let name = format!("{name}-{}", side.word());
    Process::start(pair.netns(side), &name, &program, &arguments).context("culvert-floor")
}

fn split(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}
