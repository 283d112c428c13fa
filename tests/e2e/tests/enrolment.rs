//! What may happen while a pod is being enrolled, and what is left of pods that are gone.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, Programs, RunningPod, wait_until};
use culvert_e2e::streams::{Server, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{in_sandbox, sandbox};
use serde_json::Value;

const PORT: u16 = 9000;
const PODS: [(&str, &str); 3] = [("client", "node1"), ("server", "node2"), ("spare", "node2")];

/// The enrolment socket of a pod's node, by the agent's own command.
fn ask(mesh: &Mesh, pod: &RunningPod, word: &str) -> Result<Command> {
    let socket = mesh.agents[&pod.spec.node].run_dir.join("enrol.sock");
    let mut command = pod.pod.node().netns().command(Programs::find()?.path("culvert-agent"));
    command.arg(word).arg("--socket").arg(socket).args(["--uid", &pod.spec.uid]);
    if word == "enrol" {
        command.arg("--netns").arg(pod.pod.netns().path());
    }
    Ok(command)
}

/// Withdraws a pod and enrols it again up to the moment at which the agent writes it down: the pod is captured, and not
/// held yet. It goes on when the pipe is read.
struct Stuck {
    pipe: PathBuf,
    enrolling: std::process::Child,
}

impl Stuck {
    fn enrol(mesh: &Mesh, pod: &RunningPod) -> Result<Stuck> {
        ensure!(ask(mesh, pod, "withdraw")?.output()?.status.success(), "not withdrawn");
        let pipe = mesh.agents[&pod.spec.node].run_dir.join(format!("pods/{}.new", pod.spec.uid));
        ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "no pipe");
        let mut enrolling = ask(mesh, pod, "enrol")?.stdout(std::process::Stdio::piped()).spawn()?;
        wait_until("the pod is captured", Duration::from_secs(10), || Ok(pins_of(&pod.spec.uid).exists()))?;
        std::thread::sleep(Duration::from_millis(700));
        ensure!(enrolling.try_wait()?.is_none(), "the enrolment did not wait for the pipe");
        Ok(Stuck { pipe, enrolling })
    }

    fn go_on(mut self) -> Result<()> {
        let mut page = String::new();
        std::fs::File::open(&self.pipe)?.read_to_string(&mut page)?;
        ensure!(page.contains("netns_inode"), "{page:?}");
        std::fs::remove_file(self.pipe.with_extension("json"))?;
        ensure!(self.enrolling.wait()?.success(), "not enrolled after all");
        Ok(())
    }
}

fn pins_of(uid: &str) -> PathBuf {
    let found = Command::new("find").args([sandbox::BPFFS, "-name", uid]).output().unwrap().stdout;
    let found = String::from_utf8(found).unwrap();
    found.lines().next().map_or_else(|| Path::new(sandbox::BPFFS).join("nothing"), PathBuf::from)
}

/// Puts another text in place of a file of the manifests, in one step.
fn replace(mesh: &Mesh, name: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let (file, beside) = (mesh.manifests.join(name), mesh.manifests.join(format!(".{name}.new")));
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let after = change(&before);
    ensure!(before != after, "nothing changed in {name}");
    std::fs::write(&beside, after)?;
    Ok(std::fs::rename(beside, file)?)
}

fn allowed(mesh: &Mesh, node: &str, from: &str, to: &str) -> Result<bool> {
    let answer: Value = serde_json::from_str(&mesh.operator(node, &["why", from, to, "9000", "--json"])?)?;
    Ok(answer["allowed"] == true)
}

/// A label that changes between the agent's look at the record and the moment from which the pod is followed.
#[test]
fn a_change_while_a_pod_is_enrolled_reaches_it() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&PODS)?;
        std::fs::write(
            manifests.join("shut.yaml"),
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: shut, namespace: app}\n\
             spec:\n  selector: {matchLabels: {door: shut}}\n  action: DENY\n\
             \x20 rules: [{from: [{source: {namespaces: [app]}}]}]\n",
        )?;
        // An address that is written down: no report of it makes another state that would mend what was missed.
        fixture::address(&manifests, "server", "10.244.2.50")?;
        let mesh = Mesh::start(&manifests)?;
        let (client, server) = (mesh.pod("client.app")?, mesh.pod("server.app")?);
        let to = SocketAddr::from((Ipv4Addr::new(10, 244, 2, 50), PORT));
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        ping(&mut connect(client.pod.netns(), to)?, b"open")?;

        let stuck = Stuck::enrol(&mesh, server)?;
        replace(&mesh, "pods.yaml", |pods| pods.replace("labels: {app: server}", "labels: {app: server, door: shut}"))?;
        wait_until("the agent knows the label", Duration::from_secs(5), || {
            Ok(!allowed(&mesh, "node2", "app/client", "app/server")?)
        })?;
        stuck.go_on()?;
        let mut log = mesh.follow("node2")?;
        let answered = connect(client.pod.netns(), to).and_then(|mut stream| ping(&mut stream, b"shut"));
        ensure!(answered.is_err(), "judged by the label that it had before");
        log.demand(Duration::from_secs(3), "the refusal", |access| access.field("reason") == Some("policy_denied"))?;
        Ok(())
    })
}

#[test]
fn a_pod_that_cannot_be_enrolled_holds_up_nobody_elses_policy() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let (client, server, spare) = (mesh.pod("client.app")?, mesh.pod("server.app")?, mesh.pod("spare.app")?);
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        let mut open = connect(client.pod.netns(), SocketAddr::from((server.pod.ip4(), PORT)))?;
        ping(&mut open, b"open")?;
        let stuck = Stuck::enrol(&mesh, spare)?;
        let begun = Instant::now();
        fixture::deny(&mesh.manifests, "client")?;
        let end = open.read(&mut [0; 8]);
        let took = begun.elapsed();
        ensure!(end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
        ensure!(took < Duration::from_secs(2), "only after {took:?}");
        stuck.go_on()
    })
}

/// Nobody tells the agent that a network namespace has gone: it looks.
#[test]
fn pins_of_pods_that_are_gone_are_collected_while_the_agent_runs() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let uid = mesh.pod("spare.app")?.spec.uid.clone();
        let pins = pins_of(&uid);
        ensure!(pins.exists(), "no pins of an enrolled pod");
        // Its record goes first, so that it is closed and nobody holds its namespace; then its processes and namespace.
        replace(&mesh, "pods.yaml", |pods| {
            let without = pods.split("---\n").filter(|part| !part.contains("name: spare,"));
            without.collect::<Vec<_>>().join("---\n")
        })?;
        wait_until("it is closed", Duration::from_secs(10), || {
            let status: Value = serde_json::from_str(&mesh.operator("node2", &["status", "--json"])?)?;
            Ok(status["closed"][&uid] == "no_record")
        })?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(pins.exists(), "a closed pod lost its pins while it lives");
        let at = mesh.pods.iter().position(|pod| pod.spec.uid == uid).context("no such pod")?;
        let mut gone = mesh.pods.remove(at);
        gone.stop_server();
        gone.pod.delete()?;
        drop(gone);
        let took = wait_until("its pins are collected", Duration::from_secs(45), || Ok(!pins.exists()))?;
        println!("collected after {took:?}");
        let status: Value = serde_json::from_str(&mesh.operator("node2", &["status", "--json"])?)?;
        ensure!(status["closed"] == serde_json::json!({}), "{status}");
        Ok(())
    })
}

/// An agent that dies between the two halves of a withdrawal leaves a guard without steering. The pod is not the mesh's any
/// more, so that nobody would enrol it, and it would be closed for ever.
#[test]
fn a_withdrawal_that_was_cut_off_is_finished_by_the_next_agent() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let (uid, node) = (mesh.pod("spare.app")?.spec.uid.clone(), mesh.pod("spare.app")?.pod.node().clone());
        let to = SocketAddr::from((mesh.pod("spare.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("spare.app")?.pod.netns(), PORT, echo)?;
        let pins = pins_of(&uid);
        mesh.agents.get_mut("node2").context("no agent")?.process.kill9()?;
        std::fs::remove_file(pins.join("steer"))?;
        let stranger = mesh.pod("stranger.outside")?.pod.netns().clone();
        let call = || connect(&stranger, to).and_then(|mut stream| ping(&mut stream, b"hello"));
        ensure!(call().is_err(), "open before anybody said so");
        replace(&mesh, "pods.yaml", |pods| {
            pods.replace("labels: {app: spare}", "labels: {app: spare, culvert.dev/enroll: \"false\"}")
        })?;
        mesh.launch_agent_with(&node, &[])?;
        wait_until("its pins are gone", Duration::from_secs(20), || Ok(!pins.exists()))?;
        call()
    })
}
