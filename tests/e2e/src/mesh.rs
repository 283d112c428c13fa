//! Control plane, agents and pods, started for real in a lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use culvert_lab::topology::FABRIC_IP4;
use culvert_lab::{Lab, Netns, Node, Pod, PodOptions, Process, report, sandbox};

use crate::access::Follower;
use crate::call::Target;
use crate::http::Seen;
use crate::world::{PodSpec, World};

/// Where the control plane listens.
const CONTROL_PORT: u16 = 15012;

/// Where each agent answers for metrics and readiness, in its node's namespace.
const METRICS_PORT: u16 = 15020;

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(15);

/// How long one call may take: longer than anything in the agents that holds a connection back.
pub const CALL: Duration = Duration::from_secs(8);

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// From `CULVERT_BIN_DIR`, else beside this program, else the tree's release programs.
    pub fn find() -> Result<Programs> {
        let beside = std::env::current_exe()?.parent().map(Path::to_path_buf);
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release");
        let given = std::env::var_os("CULVERT_BIN_DIR").map(PathBuf::from);
        let folder = given
            .into_iter()
            .chain(beside)
            .chain([tree])
            .find(|folder| folder.join("culvert-agent").exists())
            .context("the programs are not built: run this through `cargo xtask test` or `cargo xtask demo`")?;
        let programs = Programs { folder };
        for name in ["culvert-control", "culvert-agent", "culvert", "culvert-demo"] {
            ensure!(programs.path(name).exists(), "{} is not built", programs.path(name).display());
        }
        Ok(programs)
    }

    /// The file of one program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A pod with its server running.
#[derive(Debug)]
pub struct RunningPod {
    /// What the manifests say.
    pub spec: PodSpec,
    /// Where it is.
    pub pod: Pod,
    server: Option<Process>,
}

/// One node's agent.
#[derive(Debug)]
pub struct Agent {
    /// The process; it may be killed and started again.
    pub process: Process,
    /// Its folder, with `enrol.sock` and `admin.sock`.
    pub run_dir: PathBuf,
}

/// Everything that runs. Fields are dropped in order: agents, control plane, pods, link.
#[derive(Debug)]
pub struct Mesh {
    /// By node name.
    pub agents: BTreeMap<String, Agent>,
    /// The control plane, once started.
    pub control: Option<Process>,
    /// In the manifests' order.
    pub pods: Vec<RunningPod>,
    /// The nodes and the link.
    pub lab: Lab,
    /// What the manifests say.
    pub world: World,
    /// The control plane's own copy of the manifests: edit it here.
    pub manifests: PathBuf,
    programs: Programs,
}

impl Mesh {
    /// The lab with its pods and their servers; nothing of culvert runs yet.
    pub fn without_culvert(manifests: &Path) -> Result<Mesh> {
        let programs = Programs::find()?;
        let copy = PathBuf::from("/run/lab/manifests");
        copy_directory(manifests, &copy)?;
        let world = World::read(&copy)?;
        let mut lab = Lab::new()?;
        for node in &world.nodes {
            lab.add_node(node)?;
        }
        let mut pods = Vec::new();
        for (index, spec) in world.pods.iter().enumerate() {
            pods.push(start_pod(&lab, &world, &programs, index, spec)?);
        }
        Ok(Mesh { agents: BTreeMap::new(), control: None, pods, lab, world, manifests: copy, programs })
    }

    /// The same with control plane, agents and every pod of an enrolled namespace enrolled.
    pub fn start(manifests: &Path) -> Result<Mesh> {
        let mut mesh = Mesh::without_culvert(manifests)?;
        mesh.start_culvert()?;
        Ok(mesh)
    }

    /// Starts the control plane and the agents and enrols.
    pub fn start_culvert(&mut self) -> Result<()> {
        self.start_culvert_with(&[], &[])
    }

    /// The same with more settings of the control plane and of the agents.
    pub fn start_culvert_with(&mut self, control: &[&str], agent: &[&str]) -> Result<()> {
        self.start_control_with(control)?;
        for node in self.lab.nodes().to_vec() {
            self.join(&node, agent)?;
        }
        self.enrol_all()
    }

    /// Starts control plane and agents, with more settings for these, and enrols nobody.
    pub fn start_programs(&mut self, settings: &[&str]) -> Result<()> {
        self.start_control()?;
        for node in self.lab.nodes().to_vec() {
            self.join(&node, settings)?;
        }
        Ok(())
    }

    /// Starts the control plane and waits until it listens.
    pub fn start_control(&mut self) -> Result<()> {
        self.start_control_with(&[])
    }

    /// The same with more settings.
    pub fn start_control_with(&mut self, settings: &[&str]) -> Result<()> {
        let mut command = Command::new(self.programs.path("culvert-control"));
        command.arg("--manifests").arg(&self.manifests).arg("--state").arg(state());
        command.arg("--listen").arg(control_address().to_string());
        command.arg("--admin").arg("/run/lab/control-admin.sock").args(settings);
        let mut process = Process::start_command("culvert-control", command)?;
        wait_until("the control plane listens", START, || {
            if let Some(status) = process.try_wait()? {
                bail!("the control plane ended ({status}):\n{}", process.log());
            }
            Ok(TcpStream::connect_timeout(&control_address(), Duration::from_millis(200)).is_ok())
        })?;
        self.control = Some(process);
        Ok(())
    }

    /// Makes a join token for the node, and starts its agent with these settings more.
    pub fn join(&mut self, node: &Node, settings: &[&str]) -> Result<()> {
        let token = Netns::own().run(
            &self.programs.path("culvert-control").to_string_lossy(),
            &["token", node.name(), "--state", state()],
        )?;
        let file = token_file(node.name());
        write_private(&file, token.trim())?;
        self.start_agent_with(node, settings)
    }

    /// Starts (or starts again) the agent of a node and waits until it says that it is ready.
    pub fn start_agent(&mut self, node: &Node) -> Result<()> {
        self.start_agent_with(node, &[])
    }

    /// The same with more settings.
    pub fn start_agent_with(&mut self, node: &Node, settings: &[&str]) -> Result<()> {
        self.launch_agent_with(node, settings)?;
        let Some(Agent { process, run_dir }) = self.agents.get_mut(node.name()) else { bail!("no agent") };
        let socket = run_dir.join("enrol.sock");
        wait_until(&format!("the agent of {} is ready", node.name()), START, || {
            if let Some(status) = process.try_wait()? {
                bail!("the agent of {} ended ({status}):\n{}", node.name(), process.log());
            }
            Ok(socket.exists() && ready(node))
        })?;
        Ok(())
    }

    /// The same without waiting for it.
    pub fn launch_agent_with(&mut self, node: &Node, settings: &[&str]) -> Result<()> {
        let run_dir = run_dir(node.name());
        let mut command = node.netns().command(self.programs.path("culvert-agent"));
        command.args(["--node", node.name()]);
        if !settings.contains(&"--control") {
            command.arg("--control").arg(format!("https://{}", control_address()));
        }
        command.arg("--control-root").arg(Path::new(state()).join("root.pem"));
        command.arg("--join-token-file").arg(token_file(node.name()));
        command.arg("--run-dir").arg(&run_dir).args(["--bpffs", sandbox::BPFFS, "--log-format", "json"]);
        command.args(["--metrics", &format!("127.0.0.1:{METRICS_PORT}")]).args(settings);
        let process = Process::start_command(&format!("agent-{}", node.name()), command)?;
        let socket = run_dir.join("admin.sock").display().to_string();
        let operator = self.programs.path("culvert").display().to_string();
        report::add_view(&format!("culvert status on {}", node.name()), &[&operator, "status", "--socket", &socket]);
        self.agents.insert(node.name().to_owned(), Agent { process, run_dir });
        Ok(())
    }

    /// Enrols every pod that belongs to the mesh, as a CNI plugin would.
    pub fn enrol_all(&self) -> Result<()> {
        self.pods.iter().filter(|pod| pod.spec.enrolled).try_for_each(|pod| self.enrol(pod))?;
        self.wait_until_known()
    }

    /// Waits until every agent knows every enrolled pod's address, which the control plane learns from enrolment or
    /// from the pod's status.
    pub fn wait_until_known(&self) -> Result<()> {
        for node in self.agents.keys() {
            for pod in self.pods.iter().filter(|pod| pod.spec.enrolled) {
                let (name, address) = (pod.spec.full_name(), pod.pod.ip4().to_string());
                wait_until(&format!("the agent of {node} knows where {name} is"), START, || {
                    let answer = self.operator(node, &["why", &name, &name, "1", "--json"]);
                    let answer: serde_json::Value =
                        serde_json::from_str(&answer.unwrap_or_default()).unwrap_or_default();
                    Ok(answer["source"]["address"] == address)
                })?;
            }
        }
        Ok(())
    }

    /// Enrols one pod through the agent's socket.
    pub fn enrol(&self, pod: &RunningPod) -> Result<()> {
        let agent = self.agents.get(&pod.spec.node).with_context(|| format!("{} has no agent", pod.spec.node))?;
        let netns = pod.pod.netns().path().display().to_string();
        let socket = agent.run_dir.join("enrol.sock").display().to_string();
        let program = self.programs.path("culvert-agent").display().to_string();
        let arguments = ["enrol", "--socket", &socket, "--uid", &pod.spec.uid, "--netns", &netns];
        pod.pod.node().netns().run(&program, &arguments).with_context(|| format!("enrol {}", pod.spec.full_name()))?;
        Ok(())
    }

    /// A running pod by `NAME.NAMESPACE`.
    pub fn pod(&self, name: &str) -> Result<&RunningPod> {
        self.pods
            .iter()
            .find(|pod| format!("{}.{}", pod.spec.name, pod.spec.namespace) == name)
            .with_context(|| format!("no pod {name}"))
    }

    /// The pod that has this address.
    pub fn pod_at(&self, address: IpAddr) -> Option<&RunningPod> {
        self.pods.iter().find(|pod| pod.pod.ips().contains(&address))
    }

    /// The address that a target means.
    pub fn address(&self, target: &Target) -> Result<IpAddr> {
        match target {
            Target::Service(name) => {
                self.world.services.get(name).copied().with_context(|| format!("no service {name} with a clusterIP"))
            }
            Target::Pod(name) => Ok(IpAddr::V4(self.pod(name)?.pod.ip4())),
            Target::Pod6(name) => {
                self.pod(name)?.pod.ip6().map(IpAddr::V6).with_context(|| format!("{name} has no IPv6 address"))
            }
        }
    }

    /// One HTTP call made by a process inside the pod.
    pub fn call(&self, from: &RunningPod, to: SocketAddr, marker: &str) -> Result<Seen> {
        let program = self.programs.path("culvert-demo").display().to_string();
        let seconds = CALL.as_secs().to_string();
        let arguments = ["call", "--to", &to.to_string(), "--marker", marker, "--seconds", &seconds];
        let printed = from.pod.netns().run(&program, &arguments)?;
        serde_json::from_str(&printed).with_context(|| format!("the caller printed {printed:?}"))
    }

    /// Follows the access log of a node's agent from now on.
    pub fn follow(&self, node: &str) -> Result<Follower> {
        let agent = self.agents.get(node).with_context(|| format!("{node} has no agent"))?;
        Ok(Follower::from_now(agent.process.log_path().to_path_buf()))
    }

    /// `culvert-control WORDS --state ...` on the control plane's own folder.
    pub fn control_tool(&self, words: &[&str]) -> Result<String> {
        let mut arguments = words.to_vec();
        arguments.extend(["--state", state()]);
        Netns::own().run(&self.programs.path("culvert-control").display().to_string(), &arguments)
    }

    /// What the control plane's admin socket says.
    pub fn control_status(&self) -> Result<serde_json::Value> {
        let mut stream = std::os::unix::net::UnixStream::connect("/run/lab/control-admin.sock")?;
        let request = b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        std::io::Write::write_all(&mut stream, request)?;
        let answer = std::io::read_to_string(&mut stream)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the control plane's admin socket said nothing")?;
        Ok(serde_json::from_str(body)?)
    }

    /// `culvert WORDS --socket ...` against a node's agent.
    pub fn operator(&self, node: &str, words: &[&str]) -> Result<String> {
        let agent = self.agents.get(node).with_context(|| format!("{node} has no agent"))?;
        let socket = agent.run_dir.join("admin.sock").display().to_string();
        let mut arguments = words.to_vec();
        arguments.extend(["--socket", &socket]);
        Netns::own().run(&self.programs.path("culvert").display().to_string(), &arguments)
    }
}

/// Where the control plane listens.
pub fn control_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(FABRIC_IP4), CONTROL_PORT)
}

/// The control plane's folder.
pub fn state() -> &'static str {
    "/run/lab/control"
}

fn token_file(node: &str) -> PathBuf {
    PathBuf::from(format!("/run/lab/token-{node}"))
}

fn run_dir(node: &str) -> PathBuf {
    PathBuf::from(format!("/run/culvert-{node}"))
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// The agent's own word for it.
fn ready(node: &Node) -> bool {
    let answer = node.netns().enter(|| {
        let address = SocketAddr::from(([127, 0, 0, 1], METRICS_PORT));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(300))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        std::io::Write::write_all(
            &mut stream,
            b"GET /healthz/ready HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n",
        )?;
        let mut answer = [0; 64];
        let length = std::io::Read::read(&mut stream, &mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    answer.is_ok_and(|answer| answer.contains(" 200 "))
}

/// Asks again every few milliseconds until it is so.
pub fn wait_until(what: &str, patience: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > patience {
            bail!("not within {patience:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(began.elapsed())
}

fn start_pod(lab: &Lab, world: &World, programs: &Programs, index: usize, spec: &PodSpec) -> Result<RunningPod> {
    let position = world.nodes.iter().position(|node| *node == spec.node).context("the pod's node is unknown")?;
    let node = &lab.nodes()[position];
    let unique = world.pods.iter().filter(|other| other.name == spec.name).count() == 1;
    let name = if unique && spec.name.len() <= 11 { spec.name.clone() } else { format!("pod{index}") };
    let number = spec.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()[3]),
        IpAddr::V6(_) => None,
    });
    let pod = node.pod(&name, &PodOptions { number, ..PodOptions::default() })?;
    for address in &spec.addresses {
        ensure!(
            pod.ips().contains(address),
            "{}: the lab gives pods of {} {}, not {address}: leave its status out or write an address of that range",
            spec.full_name(),
            spec.node,
            pod.ip4()
        );
    }
    let mut arguments = vec!["serve".to_owned(), "--name".to_owned(), spec.full_name()];
    for port in &spec.ports {
        arguments.extend(["--port".to_owned(), port.to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut server = Process::start(pod.netns(), &format!("pod-{name}"), programs.path("culvert-demo"), &arguments)?;
    server.wait_for_log("serving", START)?;
    Ok(RunningPod { spec: spec.clone(), pod, server: Some(server) })
}

impl RunningPod {
    /// Stops its server, for tests that bring one of their own.
    pub fn stop_server(&mut self) {
        self.server = None;
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().mode(0o700).create(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::write(to.join(path.file_name().unwrap_or_default()), std::fs::read(&path)?)?;
        }
    }
    Ok(())
}
