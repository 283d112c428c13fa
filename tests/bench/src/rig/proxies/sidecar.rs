//! Proxies that stand in the pods: one beside the client, one beside the server.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use culvert_lab::{Netns, Process};

use super::{nft, redirect_to_sidecar};
use crate::rig::Arguments;
use crate::rig::START;
use crate::rig::certificates::{self, CLIENT, SERVER};
use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::pair::Pair;
use crate::rig::template::{self, Side};
use crate::serve::{HTTP_PORT, PORTS};

/// What differs between them.
pub(crate) struct Kind {
    pub(crate) contender: Contender,
    pub(crate) program: PathBuf,
    /// What prints the version; its first line that is not empty is kept.
    pub(crate) version: &'static str,
    /// The committed text.
    pub(crate) configuration: &'static str,
    /// `FILE` and `WORKERS` stand for the configuration and the number of threads.
    pub(crate) arguments: Vec<String>,
    /// More words of the template.
    pub(crate) words: Vec<(&'static str, String)>,
    /// For libraries that were unpacked beside the program.
    pub(crate) libraries: Option<PathBuf>,
}

/// Starts the server's first, so that the client's finds it.
pub(crate) fn start(kind: &Kind, pair: Pair, wanted: &Arguments) -> Result<Found> {
    let mut processes = Vec::new();
    for side in [Side::Server, Side::Client] {
        processes.push(start_side(kind, &pair, side, wanted.workers).with_context(|| side.word())?);
    }
    redirect_to_sidecar(&pair)?;
    let contender = kind.contender;
    let strangers =
        if contender.encrypts() { Stranger::of_tls_port(Side::Server.listen(HTTP_PORT)) } else { Vec::new() };
    let version = version(kind)?;
    let (beside, conversations, workers) = (Vec::new(), Vec::new(), wanted.workers);
    Ok(Found { contender, pair, processes, beside, conversations, version, agreed: None, workers, strangers })
}

fn version(kind: &Kind) -> Result<String> {
    let mut command = std::process::Command::new(&kind.program);
    if let Some(folder) = &kind.libraries {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let done = command.arg(kind.version).output()?;
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Ok(line.rsplit("version: ").next().unwrap_or_default().trim().to_owned())
}

fn start_side(kind: &Kind, pair: &Pair, side: Side, workers: usize) -> Result<Process> {
    let name = format!("{}-{}-{}", kind.contender.name(), side.word(), pair.number());
    start_in(kind, pair.netns(side), pair.server.ip4(), side, &name, workers)
}

/// One in a server's pod.
pub(crate) fn start_beside(
    kind: &Kind,
    netns: &Netns,
    server: Ipv4Addr,
    name: &str,
    workers: usize,
) -> Result<Process> {
    start_in(kind, netns, server, Side::Server, &format!("{}-beside-{name}", kind.contender.name()), workers)
}

fn start_in(kind: &Kind, netns: &Netns, server: Ipv4Addr, side: Side, name: &str, workers: usize) -> Result<Process> {
    let folder = certificates::make(Path::new(certificates::FOLDER))?;
    let mut words = vec![
        ("folder", folder.display().to_string()),
        ("client_id", CLIENT.to_owned()),
        ("server_id", SERVER.to_owned()),
        ("workers", workers.to_string()),
        ("state", format!("/run/lab/{name}")),
    ];
    words.extend(kind.words.clone());
    let text = template::proxy(kind.configuration, side, server, &words)?;
    start_with(kind, netns, &text, name, workers, &PORTS.map(|port| side.listen(port)))
}

/// Starts it with a configuration and waits until it listens.
fn start_with(kind: &Kind, netns: &Netns, text: &str, name: &str, workers: usize, ports: &[u16]) -> Result<Process> {
    // Envoy goes by the ending.
    let ending = if kind.contender == Contender::Envoy { "yaml" } else { "conf" };
    let file = format!("/run/lab/{name}.{ending}");
    std::fs::write(&file, text)?;
    let mut command = netns.command(&kind.program);
    for argument in &kind.arguments {
        command.arg(argument.replace("FILE", &file).replace("WORKERS", &workers.to_string()));
    }
    if let Some(folder) = &kind.libraries {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let mut process = Process::start_command(name, command)?;
    process.wait_for_ports(netns, ports, START)?;
    Ok(process)
}

/// An Envoy in the client's pod that finds every server's sidecar.
pub(crate) fn start_for_many(kind: &Kind, pair: &Pair) -> Result<Process> {
    let folder = certificates::make(Path::new(certificates::FOLDER))?.display().to_string();
    let listen = Side::Server.listen(HTTP_PORT).to_string();
    let words = [("folder", folder), ("server_id", SERVER.to_owned()), ("listen", listen)];
    let text = template::fill(include_str!("../../../rivals/envoy-node.yaml"), &words)?;
    let process = start_with(kind, pair.client.netns(), &text, "envoy-many", 2, &[15001])?;
    let rules = format!(
        "table ip bench {{\n chain out {{\n  type nat hook output priority -100; policy accept;\n  tcp dport {HTTP_PORT} \
         redirect to :15001\n }}\n}}\n"
    );
    nft(pair.client.netns(), "many", &rules)?;
    Ok(process)
}

/// Envoy, as in Istio's sidecars.
pub(crate) fn envoy(program: &Path) -> Kind {
    Kind {
        contender: Contender::Envoy,
        program: program.to_path_buf(),
        version: "--version",
        configuration: include_str!("../../../rivals/envoy.yaml"),
        arguments: split("--config-path FILE --concurrency WORKERS --disable-hot-restart --log-level warning"),
        words: Vec::new(),
        libraries: None,
    }
}

/// HAProxy out of a folder with the distribution's packages, with TLS or without.
pub(crate) fn haproxy(contender: Contender, root: &Path) -> Kind {
    let configuration = match contender {
        Contender::TcpProxy => include_str!("../../../rivals/tcp-proxy.cfg"),
        _ => include_str!("../../../rivals/haproxy.cfg"),
    };
    Kind {
        contender,
        program: root.join("usr/sbin/haproxy"),
        version: "-v",
        configuration,
        arguments: split("-db -f FILE"),
        words: Vec::new(),
        libraries: Some(libraries(root)),
    }
}

/// nginx out of the same folder.
pub(crate) fn nginx(root: &Path) -> Kind {
    Kind {
        contender: Contender::Nginx,
        program: root.join("usr/sbin/nginx"),
        version: "-v",
        configuration: include_str!("../../../rivals/nginx.conf"),
        arguments: split("-e stderr -c FILE"),
        words: vec![("modules", root.join("usr/lib/nginx/modules").display().to_string())],
        libraries: Some(libraries(root)),
    }
}

fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

fn split(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}
