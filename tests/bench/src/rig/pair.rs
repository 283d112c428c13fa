//! A client's pod on one node and a server's pod on another, alike for every contender.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_lab::{Lab, Netns, Node, Pod, PodOptions, Process};

use super::START;
use super::template::Side;
use crate::load::Outcome;
use crate::meter::Watch;

/// Settings of every pod, whoever carries its traffic: a storm of connections must find ports and places in queues.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_local_port_range", "1024 65000"),
    ("net.ipv4.tcp_tw_reuse", "1"),
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.tcp_max_syn_backlog", "4096"),
];

/// Two nodes, three pods, one server.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client_node: Node,
    pub(crate) server_node: Node,
    pub(crate) client: Pod,
    /// On the client's node, and not allowed to call.
    pub(crate) other: Pod,
    pub(crate) server: Pod,
    pub(crate) application: Process,
    number: usize,
}

impl Pair {
    pub(crate) fn build(lab: &mut Lab) -> Result<Pair> {
        let number = lab.nodes().len() / 2 + 1;
        let client_node = lab.add_node(&format!("c{number}-node"))?;
        let server_node = lab.add_node(&format!("s{number}-node"))?;
        let pod = |node: &Node, word: &str| -> Result<Pod> {
            let pod = node.pod(&format!("{word}{number}"), &PodOptions { ipv6: true, ..PodOptions::default() })?;
            SYSCTLS.iter().try_for_each(|(key, value)| pod.netns().sysctl(key, value))?;
            Ok(pod)
        };
        let (client, other, server) =
            (pod(&client_node, "client")?, pod(&client_node, "other")?, pod(&server_node, "server")?);
        let program = std::env::current_exe()?;
        let mut application = Process::start(server.netns(), &format!("app-{number}"), program, &["serve"])?;
        application.wait_for_log("serving", START)?;
        Ok(Pair { client_node, server_node, client, other, server, application, number })
    }

    /// Tells pairs apart in names of files and processes.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The pod's namespace of one side.
    pub(crate) fn netns(&self, side: Side) -> &Netns {
        match side {
            Side::Client => self.client.netns(),
            Side::Server => self.server.netns(),
        }
    }

    /// The command of a load in the client's pod.
    pub(crate) fn load(&self, watch: &[Watch], seconds: f64, warmup: f64, words: &[String]) -> Result<Command> {
        self.load_from(&self.client, &[self.server.ip4().to_string()], watch, seconds, warmup, words)
    }

    /// The command of a load in any pod, to any servers.
    pub(crate) fn load_from(
        &self,
        client: &Pod,
        to: &[String],
        watch: &[Watch],
        seconds: f64,
        warmup: f64,
        words: &[String],
    ) -> Result<Command> {
        let mut command = client.netns().command(std::env::current_exe()?);
        command.args(["load", "--to", &to.join(",")]);
        command.args(["--seconds", &seconds.to_string(), "--warmup", &warmup.to_string()]);
        let application = Watch { name: "server".to_owned(), pids: vec![self.application.pid()] };
        for watch in watch.iter().chain([&application]) {
            command.args(["--watch", &watch.word()]);
        }
        command.args(words);
        Ok(command)
    }
}

/// Runs a load to its end.
pub(crate) fn finish(mut command: Command) -> Result<Outcome> {
    let done = command.output()?;
    parse(&done)
}

/// Reads what a load printed.
pub(crate) fn parse(done: &std::process::Output) -> Result<Outcome> {
    if done.status.signal() == Some(nix::libc::SIGALRM) {
        bail!("the load did not come to its end: nothing moved any more");
    }
    if !done.status.success() {
        bail!("the load failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    let printed = String::from_utf8_lossy(&done.stdout);
    let outcome: Outcome = serde_json::from_str(printed.trim()).context("the load printed something else")?;
    ensure!(outcome.seconds > 0.0, "the load measured nothing");
    Ok(outcome)
}
