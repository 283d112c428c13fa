//! A pair of Envoys, one in each pod.

use std::path::Path;

use anyhow::{Context as _, Result};
use culvert_lab::Process;

use super::{redirect_to_sidecar, wait_for_ports};
use crate::rig::Arguments;
use crate::rig::certificates::{self, CLIENT, SERVER};
use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::pair::Pair;
use crate::rig::template::{self, Side};
use crate::serve::{HTTP_PORT, PORTS};

const CONFIGURATION: &str = include_str!("../../../rivals/envoy.yaml");

pub(crate) fn start(pair: Pair, program: &Path, wanted: &Arguments) -> Result<Found> {
    let processes = vec![
        start_side(&pair, program, Side::Server, wanted.workers)?,
        start_side(&pair, program, Side::Client, wanted.workers)?,
    ];
    redirect_to_sidecar(&pair)?;
    let version = pair.client.netns().run(&program.to_string_lossy(), &["--version"])?;
    let port = Side::Server.listen(HTTP_PORT);
    Ok(Found {
        contender: Contender::Envoy,
        pair,
        processes,
        beside: Vec::new(),
        conversations: Vec::new(),
        version: version.trim().rsplit(": ").next().unwrap_or_default().to_owned(),
        strangers: Stranger::of_tls_port(port),
    })
}

fn start_side(pair: &Pair, program: &Path, side: Side, workers: usize) -> Result<Process> {
    let folder = certificates::make(Path::new(certificates::FOLDER))?;
    let words =
        [("folder", folder.display().to_string()), ("client_id", CLIENT.to_owned()), ("server_id", SERVER.to_owned())];
    let text = template::proxy(CONFIGURATION, side, pair.server.ip4(), &words)?;
    let file = format!("/run/lab/envoy-{}-{}.yaml", pair.number(), side.word());
    std::fs::write(&file, text)?;
    let netns = pair.netns(side);
    let concurrency = workers.to_string();
    let arguments =
        ["--config-path", &file, "--concurrency", &concurrency, "--disable-hot-restart", "--log-level", "warning"];
    let mut process = Process::start(netns, &format!("envoy-{}-{}", pair.number(), side.word()), program, &arguments)?;
    wait_for_ports(&mut process, netns, &PORTS.map(|port| side.listen(port))).context("Envoy")?;
    Ok(process)
}
