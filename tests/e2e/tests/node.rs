//! What happens on a node around the agent: the CNI plugin, pods that run already, kubelet's probes, uninstalling.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, Programs, RunningPod, wait_until};
use culvert_e2e::streams::{Server, connect, echo, ping};
use culvert_lab::anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_lab::{Netns, Node, Process, in_sandbox};
use serde_json::{Value, json};

const PORT: u16 = 9000;
const PODS: [(&str, &str); 3] = [("client", "node1"), ("server", "node2"), ("spare", "node2")];
const PREVIOUS: &str = "{\"cniVersion\": \"1.0.0\",  \"interfaces\": [{\"name\":\"vethclient\"}], \"ips\": []}";

fn status(mesh: &Mesh, node: &str) -> Result<Value> {
    Ok(serde_json::from_str(&mesh.operator(node, &["status", "--json"])?)?)
}

/// Pods of a node that the kernel says are captured.
fn captured(mesh: &Mesh, node: &str) -> Result<Vec<String>> {
    let status = status(mesh, node)?;
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let captured = pods.iter().filter(|pod| pod["captured"] == true);
    let mut names: Vec<_> = captured.map(|pod| pod["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    Ok(names)
}

/// The culvert rules of a pod's namespace.
fn rules(pod: &RunningPod) -> Result<usize> {
    let rules = pod.pod.netns().ip("rule show")?;
    Ok(rules.lines().filter(|line| ["94:", "95:", "100:", "101:"].iter().any(|pref| line.starts_with(pref))).count())
}

/// Calls the plugin as a container runtime does.
struct Runtime<'a> {
    mesh: &'a Mesh,
    program: PathBuf,
}

impl<'a> Runtime<'a> {
    fn new(mesh: &'a Mesh) -> Result<Self> {
        Ok(Self { mesh, program: Programs::find()?.path("culvert-cni") })
    }

    /// Standard output, and whether it went well.
    fn call(&self, command: &str, pod: &RunningPod, netns: &Netns) -> Result<(bool, String)> {
        self.call_as(command, pod, &pod.spec.uid, netns)
    }

    /// The same of a pod with another UID.
    fn call_as(&self, command: &str, pod: &RunningPod, uid: &str, netns: &Netns) -> Result<(bool, String)> {
        let run_dir = &self.mesh.agents[pod.pod.node().name()].run_dir;
        let netconf = format!(
            "{{\"cniVersion\":\"1.0.0\",\"name\":\"lab\",\"type\":\"culvert-cni\",\"socket\":{:?},\"known\":{:?},\
             \"excludeNamespaces\":[\"kube-system\"],\"prevResult\":{PREVIOUS}}}",
            run_dir.join("enrol.sock"),
            run_dir.join("known.json")
        );
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID={}",
            pod.spec.namespace, pod.spec.name, uid
        );
        let mut child = pod
            .pod
            .node()
            .netns()
            .command(&self.program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns.path())
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(netconf.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    }

    fn expect(&self, command: &str, pod: &RunningPod, text: &str) -> Result<()> {
        let (good, said) = self.call(command, pod, pod.pod.netns())?;
        ensure!(good && said == text, "{command} {}: {said}", pod.spec.full_name());
        Ok(())
    }

    fn expect_wait(&self, command: &str, pod: &RunningPod, reason: &str) -> Result<()> {
        let (good, said) = self.call(command, pod, pod.pod.netns())?;
        let error: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let msg = error["msg"].as_str().unwrap_or_default();
        ensure!(!good && error["code"] == 11 && msg.ends_with(reason), "{command}, wanted {reason}: {said}");
        Ok(())
    }
}

#[test]
fn the_plugin_brings_a_pod_in_and_holds_back_only_those_of_the_mesh_while_the_agent_is_dead() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        {
            let runtime = Runtime::new(&mesh)?;
            let (client, stranger) = (mesh.pod("client.app")?, mesh.pod("stranger.outside")?);
            runtime.expect("CHECK", client, "")?;
            // The end of another sandbox of the same pod is not the pod's.
            let (good, said) = runtime.call("DEL", client, stranger.pod.netns())?;
            ensure!(good && said.is_empty(), "{said}");
            ensure!(captured(&mesh, "node1")? == ["client"], "the pod's next sandbox was let go with the former one");
            runtime.expect("DEL", client, "")?;
            ensure!(captured(&mesh, "node1")?.is_empty() && rules(client)? == 0, "something is left of the pod");
            runtime.expect("DEL", client, "")?;
            runtime.expect_wait("CHECK", client, "not_enrolled")?;
            runtime.expect("ADD", client, PREVIOUS)?;
            ensure!(captured(&mesh, "node1")? == ["client"], "the pod started outside of the mesh");
            runtime.expect("CHECK", client, "")?;
            runtime.expect("ADD", stranger, PREVIOUS)?;
            // A name that is another pod's: refused by the record.
            let mut other = client.spec.clone();
            other.name = "spare".to_owned();
            ensure!(captured(&mesh, "node1")? == ["client"], "a stranger was captured");
        }
        mesh.agents.get_mut("node1").unwrap().process.kill9()?;
        {
            let runtime = Runtime::new(&mesh)?;
            let (client, stranger) = (mesh.pod("client.app")?, mesh.pod("stranger.outside")?);
            runtime.expect_wait("ADD", client, "agent_unreachable")?;
            runtime.expect_wait("CHECK", client, "agent_unreachable")?;
            let begun = Instant::now();
            for command in ["ADD", "CHECK", "DEL"] {
                runtime.expect(command, stranger, if command == "ADD" { PREVIOUS } else { "" })?;
            }
            runtime.expect("DEL", client, "")?;
            // Of pods that nobody has heard of the list knows the namespace.
            for (pod, passes) in [(stranger, true), (client, false)] {
                let (good, said) = runtime.call_as("ADD", pod, "of-nobody", pod.pod.netns())?;
                ensure!(good == passes, "a new pod of {}: {said}", pod.spec.namespace);
            }
            ensure!(begun.elapsed() < Duration::from_secs(2), "a dead agent held others up for {:?}", begun.elapsed());
        }
        let node = mesh.lab.node(1).clone();
        mesh.start_agent(&node)?;
        let runtime = Runtime::new(&mesh)?;
        runtime.expect("ADD", mesh.pod("client.app")?, PREVIOUS)
    })
}

/// A cgroup of the test's own in the machine's cgroup2 tree, removed at the end with what is below.
struct Cgroups(PathBuf);

impl Cgroups {
    fn new() -> Result<Cgroups> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).context("no cgroup2")?;
        let root = PathBuf::from(mount.split(' ').nth(1).context("mount point")?);
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net")?);
        let path = root.join(format!("culvert-e2e-{inode}"));
        remove_tree(&path);
        std::fs::create_dir(&path)?;
        Ok(Cgroups(path))
    }

    /// Puts a process of the pod into a cgroup that is named as kubelet names it.
    fn run(&self, pod: &RunningPod, folder: &str) -> Result<Process> {
        let name = format!("sleeper-{}", pod.spec.name);
        let process = Process::start(pod.pod.netns(), &name, "sleep", &["600"])?;
        let folder = self.0.join(folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("cgroup.procs"), process.pid().to_string())?;
        Ok(process)
    }
}

fn remove_tree(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    // A process that is ending may be in it for a moment.
    for _ in 0..50 {
        if std::fs::remove_dir(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

/// The fixture with the pods' addresses, as an API server knows those of running pods, and the namespace without label.
fn running(pods: &[(&str, &str, &str)]) -> Result<PathBuf> {
    let names: Vec<(&str, &str)> = pods.iter().map(|(name, node, _)| (*name, *node)).collect();
    let folder = fixture::manifests(&names)?;
    let file = folder.join("pods.yaml");
    let mut text = std::fs::read_to_string(&file)?;
    for (name, _, address) in pods {
        let begin = text.find(&format!("kind: Pod\nmetadata: {{name: {name},")).context("the pod")?;
        let end = text[begin..].find("---").map_or(text.len(), |end| begin + end);
        text.insert_str(end, &format!("status: {{podIP: {address}}}\n"));
    }
    std::fs::write(file, text)?;
    Ok(folder)
}

/// Makes a pod the image of a static one.
fn mirror(manifests: &Path, name: &str, of_kubelet: &str) -> Result<()> {
    let file = manifests.join("pods.yaml");
    let text = std::fs::read_to_string(&file)?;
    let head = format!("metadata: {{name: {name},");
    let marked = format!("{head} annotations: {{kubernetes.io/config.mirror: {of_kubelet:?}}},");
    ensure!(text.contains(&head), "no pod {name}");
    Ok(std::fs::write(file, text.replace(&head, &marked))?)
}

/// Labels the namespace of the running mesh, or takes the label away.
fn label(mesh: &Mesh, enroll: bool, mode: &str) -> Result<()> {
    let file = mesh.manifests.join("mesh.yaml");
    let (yes, no) = ("culvert.dev/enroll: \"true\"", "culvert.dev/enroll: \"false\"");
    let (from, to) = if enroll { (no, yes) } else { (yes, no) };
    let text = std::fs::read_to_string(&file)?.replace(from, to);
    let (strict, permissive) = ("defaultMode: STRICT", "defaultMode: PERMISSIVE");
    let text = if mode == "PERMISSIVE" { text.replace(strict, permissive) } else { text.replace(permissive, strict) };
    let beside = mesh.manifests.join(".mesh.new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, file)?)
}

#[test]
fn running_pods_are_taken_when_their_namespace_is_labelled_and_let_go_when_it_is_not() {
    in_sandbox!(|| {
        let pods = [
            ("client", "node1", "10.244.1.2"),
            ("static", "node1", "10.244.1.3"),
            ("server", "node2", "10.244.2.2"),
            ("lost", "node2", "10.244.2.3"),
        ];
        let manifests = running(&pods)?;
        let of_kubelet = "0123456789abcdef0123456789abcdef";
        mirror(&manifests, "static", of_kubelet)?;
        let mut mesh = Mesh::without_culvert(&manifests)?;
        label(&mesh, false, "PERMISSIVE")?;
        mesh.start_programs(&["--discover-pods"])?;
        let cgroups = Cgroups::new()?;
        let uid = |name: &str| Ok::<_, culvert_lab::anyhow::Error>(mesh.pod(&format!("{name}.app"))?.spec.uid.clone());
        let (client, server) = (uid("client")?, uid("server")?);
        // One as the cgroupfs driver names it, one as the systemd driver does; a third pod has only a process that says
        // it is another's, from inside of a cgroup that is not.
        let systemd = format!("kubepods.slice/kubepods-burstable-pod{}.slice/cri.scope", server.replace('-', "_"));
        let _processes = [
            cgroups.run(mesh.pod("client.app")?, &format!("kubepods/burstable/pod{client}/c1"))?,
            cgroups.run(mesh.pod("server.app")?, &systemd)?,
            cgroups.run(mesh.pod("static.app")?, &format!("kubepods/burstable/pod{of_kubelet}/c1"))?,
            cgroups.run(mesh.pod("lost.app")?, &format!("kubepods/pod{}/c1/pod{}", "0".repeat(32), uid("lost")?))?,
        ];
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let from = mesh.pod("client.app")?.pod.netns().clone();
        let mut before = connect(&from, to)?;
        ping(&mut before, b"before the label")?;
        ensure!(captured(&mesh, "node1")?.is_empty() && captured(&mesh, "node2")?.is_empty(), "taken without a label");

        label(&mesh, true, "PERMISSIVE")?;
        let all = || Ok(captured(&mesh, "node1")? == ["client", "static"] && captured(&mesh, "node2")? == ["server"]);
        let took = wait_until("the running pods are captured", Duration::from_secs(5), all)?;
        println!("captured {took:?} after the label");
        // What was open goes on outside of the mesh; what is new is in it.
        ping(&mut before, b"still outside")?;
        let capture = mesh.lab.capture_link()?;
        let mut log = mesh.follow("node2")?;
        let mut inside = connect(&from, to)?;
        ping(&mut inside, b"a secret of the mesh")?;
        ensure!(!capture.stop()?.contains(b"a secret of the mesh"), "a new connection went in the clear");
        drop(inside);
        let access = log.demand(Duration::from_secs(3), "the connection", |access| access.direction() == "inbound")?;
        ensure!(access.field("src.identity") == Some("spiffe://cluster.local/ns/app/sa/client"), "{}", access.text());
        let lost = || Ok(mesh.agents["node2"].process.log().contains("netns_not_found"));
        wait_until("the pod that is not found is reported", Duration::from_secs(5), lost)?;

        // Off again: drained, and nothing is left.
        let mut open = connect(&from, to)?;
        ping(&mut open, b"open")?;
        label(&mesh, false, "PERMISSIVE")?;
        std::thread::sleep(Duration::from_secs(1));
        ping(&mut open, b"may end by itself")?;
        drop(open);
        wait_until("the pods are let go", Duration::from_secs(15), || {
            Ok(captured(&mesh, "node1")?.is_empty() && captured(&mesh, "node2")?.is_empty())
        })?;
        for name in ["client.app", "server.app"] {
            let pod = mesh.pod(name)?;
            wait_until("its rules are gone", Duration::from_secs(5), || Ok(rules(pod)? == 0))?;
        }
        // Until the kernel's part is gone as well a pod that is no longer held takes no new connection.
        wait_until("both pods are withdrawn", Duration::from_secs(5), || {
            Ok(mesh.agents.values().all(|agent| agent.process.log().contains("pod withdrawn")))
        })?;
        let mut after = connect(&from, to)?;
        ping(&mut after, b"after the label")
    })
}

/// Calls again and again until it is stopped; gives the number of calls, and each failure with its moment.
struct Caller {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Failures)>,
}

/// Calls that failed, and how long they took together with the pauses behind them.
#[derive(Default)]
struct Failures {
    texts: Vec<String>,
    lasted: Duration,
}

impl Failures {
    fn add(&mut self, since: Instant, text: String) {
        self.lasted += since.elapsed();
        self.texts.push(text);
    }
}

impl Caller {
    fn start(from: &Netns, to: SocketAddr) -> Self {
        let (stop, from) = (Arc::new(AtomicBool::new(false)), from.clone());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (begun, mut calls, mut failures) = (Instant::now(), 0, Failures::default());
            while !stopped.load(Ordering::Relaxed) {
                let called = Instant::now();
                let outcome = connect(&from, to).and_then(|mut stream| ping(&mut stream, b"a call"));
                calls += 1;
                std::thread::sleep(Duration::from_millis(1));
                // What the guard holds back while a pod is being taken the kernel sends again after a second.
                let slow = called.elapsed() > Duration::from_millis(2500);
                if let Err(error) = outcome {
                    failures.add(called, format!("after {:?}: {error:#}", begun.elapsed()));
                } else if slow {
                    failures.add(called, format!("after {:?}: it took {:?}", begun.elapsed(), called.elapsed()));
                }
            }
            (calls, failures)
        });
        Self { stop, thread }
    }

    /// Ends calling. Calls may have failed for at most so long in all.
    fn stop(self, what: &str, bearable: Duration) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (calls, failures) = self.thread.join().map_err(|_| anyhow!("the caller panicked"))?;
        ensure!(calls > 50, "{what}: only {calls} calls");
        let Failures { texts, lasted } = failures;
        println!("{what}: {} of {calls} calls failed, in {lasted:?}", texts.len());
        ensure!(lasted <= bearable, "{what}: for {lasted:?}, {} of {calls} calls: {texts:#?}", texts.len());
        Ok(())
    }
}

#[test]
fn connections_are_refused_for_moments_only_while_running_pods_come_into_the_mesh_and_leave_it() {
    in_sandbox!(|| {
        let pods = [("client", "node1", "10.244.1.2"), ("server", "node2", "10.244.2.2")];
        let mut mesh = Mesh::without_culvert(&running(&pods)?)?;
        label(&mesh, false, "PERMISSIVE")?;
        mesh.start_programs(&["--discover-pods"])?;
        let cgroups = Cgroups::new()?;
        let mut processes = Vec::new();
        for name in ["client.app", "server.app"] {
            let pod = mesh.pod(name)?;
            processes.push(cgroups.run(pod, &format!("kubepods/pod{}/c1", pod.spec.uid))?);
        }
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let from = mesh.pod("client.app")?.pod.netns().clone();
        for turn in 1..=3 {
            // In the first turn a policy asks callers who they are. Where the caller's agent hears of the label some milliseconds
            // before the other one, or after it, the caller comes in plaintext meanwhile and is refused.
            let coming = Duration::from_millis(if turn == 1 { 200 } else { 0 });
            // And each of both pods is closed for the moment between the agent's end and the kernel's.
            let going = Duration::from_millis(400);
            let caller = Caller::start(&from, to);
            label(&mesh, true, "PERMISSIVE")?;
            wait_until("both pods are captured", Duration::from_secs(5), || {
                Ok(captured(&mesh, "node1")? == ["client"] && captured(&mesh, "node2")? == ["server"])
            })?;
            std::thread::sleep(Duration::from_secs(1));
            caller.stop(&format!("the label comes, turn {turn}"), coming)?;
            let caller = Caller::start(&from, to);
            label(&mesh, false, "PERMISSIVE")?;
            wait_until("both pods are withdrawn", Duration::from_secs(20), || {
                let gone =
                    |agent: &culvert_e2e::mesh::Agent| agent.process.log().matches("pod withdrawn").count() == turn;
                Ok(mesh.agents.values().all(gone))
            })?;
            std::thread::sleep(Duration::from_secs(1));
            caller.stop(&format!("the label goes, turn {turn}"), going)?;
            fixture::allow_anybody(&mesh.manifests)?;
        }
        Ok(())
    });
}

#[test]
fn a_strict_pods_open_connections_end_at_once_when_it_leaves() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), PORT));
        let _server = Server::start(mesh.pod("server.app")?.pod.netns(), PORT, echo)?;
        let mut open = connect(mesh.pod("client.app")?.pod.netns(), to)?;
        ping(&mut open, b"open")?;
        label(&mesh, false, "STRICT")?;
        let begun = Instant::now();
        ensure!(open.read(&mut [0; 8]).is_err(), "it was not ended");
        ensure!(begun.elapsed() < Duration::from_secs(3), "ended only after {:?}", begun.elapsed());
        Ok(())
    })
}

/// A process of a cgroup on the node that calls and wants an answer; whether it got one.
fn call_from(cgroup: &Path, node: &Node, to: SocketAddr) -> Result<bool> {
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec nsenter --net={} timeout 2 bash -c \
         'exec 3<>/dev/tcp/{}/{} && echo hello >&3 && read -t 2 line <&3 && test \"$line\" = hello'",
        cgroup.display(),
        node.netns().path().display(),
        to.ip(),
        to.port()
    );
    Ok(Command::new("bash").args(["-c", &script]).stderr(Stdio::null()).status()?.success())
}

/// Something that is called kubelet, in the node's namespace and in this cgroup.
fn kubelet(node: &Node, cgroup: &Path) -> Result<Process> {
    let program = "/run/lab/kubelet";
    if !Path::new(program).exists() {
        std::fs::copy("/bin/sleep", program)?;
    }
    let process = Process::start(node.netns(), "kubelet", program, &["600"])?;
    std::fs::create_dir_all(cgroup)?;
    std::fs::write(cgroup.join("cgroup.procs"), process.pid().to_string())?;
    Ok(process)
}

#[test]
fn kubelets_probes_pass_by_the_cgroup_that_the_agent_finds_and_follow_it_when_kubelet_is_restarted() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&PODS)?;
        let file = manifests.join("pods.yaml");
        let probed = format!("image: i, readinessProbe: {{tcpSocket: {{port: {PORT}}}}}, ");
        std::fs::write(&file, std::fs::read_to_string(&file)?.replace("image: i, ", &probed))?;
        let mut mesh = Mesh::start(&manifests)?;
        let cgroups = Cgroups::new()?;
        let node = mesh.lab.node(2).clone();
        let (first, second, other) =
            (cgroups.0.join("kubelet.service"), cgroups.0.join("kubelet-2.service"), cgroups.0.join("other"));
        std::fs::create_dir(&other)?;
        // Of two that call themselves so, neither is believed; one in a pod's cgroup or elsewhere on the network is none.
        let pretender = kubelet(&node, &cgroups.0.join(format!("kubepods/pod{}/c1", "a".repeat(32))))?;
        let elsewhere = kubelet(mesh.lab.node(1), &cgroups.0.join("elsewhere"))?;
        let real = kubelet(&node, &first)?;
        mesh.agents.get_mut("node2").unwrap().process.kill9()?;
        mesh.start_agent_with(&node, &["--kubelet-cgroup", "auto"])?;
        let server = mesh.pod("server.app")?;
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        let to = SocketAddr::from((server.pod.ip4(), PORT));
        wait_until("kubelet's probe passes", Duration::from_secs(10), || call_from(&first, &node, to))?;
        ensure!(!call_from(&other, &node, to)?, "another process of the node came in by kubelet's way");
        drop(real);
        remove_tree(&first);
        let _again = kubelet(&node, &second)?;
        wait_until("the restarted kubelet's probe passes", Duration::from_secs(10), || call_from(&second, &node, to))?;
        ensure!(!call_from(&other, &node, to)?, "another process of the node came in by kubelet's way");
        drop((pretender, elsewhere));
        Ok(())
    })
}

#[test]
fn uninstalling_leaves_a_node_as_it_was_whether_its_agent_lives_or_not() {
    in_sandbox!(|| {
        let mut mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let programs = Programs::find()?;
        for (node, alive) in mesh.lab.nodes().to_vec().iter().zip([true, false]) {
            let (bin, conf) = (format!("/run/lab/bin-{}", node.name()), format!("/run/lab/conf-{}", node.name()));
            for folder in [&bin, &conf] {
                std::fs::create_dir(folder)?;
            }
            let other = json!({"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "ptp"}]}).to_string();
            std::fs::write(format!("{conf}/10-lab.conflist"), other)?;
            let plugin = programs.path("culvert-cni").display().to_string();
            mesh.agents.get_mut(node.name()).unwrap().process.kill9()?;
            mesh.start_agent_with(node, &["--cni-bin-dir", &bin, "--cni-conf-dir", &conf, "--cni-plugin", &plugin])?;
            let ours = format!("{conf}/0-culvert.conflist");
            let installed = || Ok(Path::new(&ours).exists());
            wait_until("the configuration is in place", Duration::from_secs(10), installed)?;
            let mode = std::fs::metadata(format!("{bin}/culvert-cni"))?.permissions().mode();
            ensure!(mode & 0o777 == 0o755, "{mode:o}");
            std::fs::remove_file(&ours)?;
            wait_until("the configuration is put back", Duration::from_secs(10), installed)?;
            // An agent's end takes nothing away.
            if !alive {
                mesh.agents.get_mut(node.name()).unwrap().process.terminate(Duration::from_secs(15))?;
                ensure!(Path::new(&ours).exists(), "an agent's exit took the configuration away");
            }
            let run_dir = mesh.agents[node.name()].run_dir.display().to_string();
            let agent = programs.path("culvert-agent").display().to_string();
            let words = ["uninstall", "--node", node.name(), "--run-dir", &run_dir, "--bpffs", "/run/bpf"];
            let words = [&words[..], &["--cni-bin-dir", &bin, "--cni-conf-dir", &conf]].concat();
            node.netns().run(&agent, &words)?;
            let left = |folder: &str| {
                Ok::<_, culvert_lab::anyhow::Error>(Command::new("ls").args(["-A", folder]).output()?.stdout)
            };
            ensure!(left(&bin)?.is_empty(), "the plugin is still there");
            ensure!(left(&conf)? == b"10-lab.conflist\n", "the configuration is still there");
            ensure!(!Path::new(&run_dir).exists(), "the run directory is still there");
            ensure!(!Path::new("/run/bpf/culvert/v1").join(node.name()).exists(), "pins are still there");
            for pod in mesh.pods.iter().filter(|pod| pod.spec.node == node.name()) {
                ensure!(rules(pod)? == 0, "{} still has rules", pod.spec.full_name());
            }
        }
        ensure!(!Path::new("/run/bpf/culvert").exists(), "the folder of pins is still there");
        // All traffic is its own again.
        let server = mesh.pod("server.app")?;
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        let to = SocketAddr::new(IpAddr::V4(server.pod.ip4()), PORT);
        let mut stream = connect(mesh.pod("client.app")?.pod.netns(), to)?;
        if ping(&mut stream, b"free").is_err() {
            bail!("a pod is not free");
        }
        Ok(())
    })
}
