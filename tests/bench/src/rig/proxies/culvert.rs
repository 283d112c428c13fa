//! culvert: control plane over files, one agent per node, real capture, its defaults.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_lab::topology::FABRIC_IP4;
use culvert_lab::{Netns, Node, Pod, Process, report, sandbox};

use crate::rig::contender::{Contender, Found, Stranger};
use crate::rig::counts::Callgrind;
use crate::rig::many::More;
use crate::rig::pair::Pair;
use crate::rig::{Arguments, template};

/// Longer than the control plane waits for the directory to be quiet.
const BETWEEN_CHANGES: Duration = Duration::from_millis(250);

const MANIFESTS: &str = include_str!("../../../rivals/culvert.yaml");

/// Its own folders and ports, so that two of them stand side by side.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    port: u16,
    programs: PathBuf,
    /// Words before the agent's own.
    prefix: Vec<String>,
    patience: Duration,
}

pub(crate) fn start(contender: Contender, pair: Pair, programs: &Path, wanted: &Arguments) -> Result<Found> {
    let place = Place::of(&pair, programs, wanted)?;
    place.write_manifests(&pair)?;
    let mut more = wanted.clone();
    if contender == Contender::Rotating {
        more.agent_args.push_str(" --svid-life 10s");
    }
    if contender == Contender::Crowded {
        place.write_crowd(wanted.crowd.unwrap_or_default())?;
    }
    let control = place.start_control()?;
    let mut processes = Vec::new();
    for node in [&pair.client_node, &pair.server_node] {
        processes.push(place.start_agent(node, &more)?);
    }
    for (pod, name) in pods(&pair) {
        place.enrol(pod, name)?;
    }
    place.wait_until_known(&pair)?;
    let version = Netns::own().run(&place.program("culvert-agent"), &["--version"])?;
    Ok(Found {
        contender,
        pair,
        processes,
        beside: vec![control],
        conversations: Vec::new(),
        version: format!("{}, {}", version.trim(), programs.display()),
        agreed: None,
        workers: wanted.workers,
        strangers: vec![Stranger::OtherPod, Stranger::Plaintext(15008), Stranger::Certificate(15008, None)],
    })
}

/// More pods of the mesh that runs, of the namespace of the others: the same policy concerns them.
pub(crate) fn add(pair: &Pair, more: &[&More], wanted: &Arguments) -> Result<()> {
    let place = Place::of(pair, &wanted.bin_dir, wanted)?;
    place.write_more(more)?;
    more.iter().try_for_each(|one| place.enrol(&one.pod, &one.name))?;
    more.iter().try_for_each(|one| place.wait_until_one_is_known(&one.pod, &one.name))
}

fn pods(pair: &Pair) -> [(&Pod, &'static str); 3] {
    [(&pair.client, "client"), (&pair.other, "other"), (&pair.server, "server")]
}

impl Place {
    fn of(pair: &Pair, programs: &Path, wanted: &Arguments) -> Result<Place> {
        let folder = PathBuf::from(format!("/run/lab/culvert-{}", pair.number()));
        let port = 15100 + u16::try_from(pair.number())?;
        let prefix = if wanted.counting { Callgrind::prefix() } else { Vec::new() };
        Ok(Place { folder, port, programs: programs.to_path_buf(), prefix, patience: wanted.patience() })
    }

    /// A file for each, so that those of before stay.
    fn write_more(&self, more: &[&More]) -> Result<()> {
        more.iter().try_for_each(|one| {
            let (name, account, address) = (&one.name, one.account, one.pod.ip4());
            let text = format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bench, uid: bench-{name}, labels: {{app: {account}}}}}\n\
                 spec: {{nodeName: {}, serviceAccountName: {account}, containers: [{{name: c, image: i}}]}}\n\
                 status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}\n",
                one.pod.node().name()
            );
            Ok(std::fs::write(self.folder.join(format!("manifests/more-{name}.yaml")), text)?)
        })
    }

    fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    fn write_manifests(&self, pair: &Pair) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let words = [
            ("client_node", pair.client_node.name().to_owned()),
            ("server_node", pair.server_node.name().to_owned()),
            ("client_net", pair.client.ip4().octets()[2].to_string()),
            ("server_net", pair.server.ip4().octets()[2].to_string()),
        ];
        let manifests = self.folder.join("manifests");
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&manifests)?;
        Ok(std::fs::write(manifests.join("bench.yaml"), template::fill(MANIFESTS, &words)?)?)
    }

    /// More pods on another node, more policies, both spread over namespaces of a hundred each.
    fn write_crowd(&self, size: usize) -> Result<()> {
        let mut text = String::from(
            "apiVersion: v1\nkind: Node\nmetadata: {name: elsewhere}\nspec: {podCIDRs: [10.128.0.0/16]}\n",
        );
        for number in 0..size {
            let space = format!("crowd-{}", number / 100);
            if number % 100 == 0 {
                write!(
                    text,
                    "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {space}, labels: {{culvert.dev/enroll: \"true\"}}}}\n\
                     ---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: one, namespace: {space}}}\n"
                )?;
            }
            let address = format!("10.128.{}.{}", number / 250, number % 250 + 1);
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{number}, namespace: {space}, labels: {{app: app-{number}}}}}\n\
                 spec: {{nodeName: elsewhere, serviceAccountName: one, containers: [{{name: c, image: i}}]}}\n\
                 status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}\n\
                 ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: policy-{number}, namespace: {space}}}\n\
                 spec: {{selector: {{matchLabels: {{app: app-{number}}}}}, action: ALLOW, \
                 rules: [{{from: [{{source: {{principals: [cluster.local/ns/{space}/sa/one]}}}}]}}]}}\n"
            )?;
        }
        Ok(std::fs::write(self.folder.join("manifests/crowd.yaml"), text)?)
    }

    fn start_control(&self) -> Result<Process> {
        let address = SocketAddr::from((FABRIC_IP4, self.port));
        let mut command = Command::new(self.program("culvert-control"));
        command.arg("--manifests").arg(self.folder.join("manifests")).arg("--state").arg(self.folder.join("control"));
        command.arg("--listen").arg(address.to_string()).arg("--admin").arg(self.folder.join("control.sock"));
        let mut process = Process::start_command(&format!("control-{}", self.port), command)?;
        wait_until(&mut process, self.patience, || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        })?;
        Ok(process)
    }

    fn run_dir(&self, node: &str) -> PathBuf {
        PathBuf::from(format!("/run/culvert-{node}"))
    }

    fn start_agent(&self, node: &Node, wanted: &Arguments) -> Result<Process> {
        let state = self.folder.join("control").display().to_string();
        let token = Netns::own().run(&self.program("culvert-control"), &["token", node.name(), "--state", &state])?;
        let token_file = self.folder.join(format!("token-{}", node.name()));
        write_private(&token_file, token.trim())?;
        let run_dir = self.run_dir(node.name());
        let mut command = self.agent_on(node);
        command.args(["--node", node.name(), "--control", &format!("https://{FABRIC_IP4}:{}", self.port)]);
        command.arg("--control-root").arg(self.folder.join("control/root.pem"));
        command.arg("--join-token-file").arg(token_file).arg("--run-dir").arg(&run_dir);
        command.args(["--bpffs", sandbox::BPFFS, "--metrics", "127.0.0.1:15020"]);
        command.args(["--workers", &wanted.workers.to_string()]).args(wanted.agent_args.split_whitespace());
        let mut process = Process::start_command(&format!("agent-{}", node.name()), command)?;
        let socket = run_dir.join("enrol.sock");
        wait_until(&mut process, self.patience, || socket.exists())?;
        let title = format!("culvert status on {}", node.name());
        let admin = run_dir.join("admin.sock").display().to_string();
        report::add_view(&title, &[&self.program("culvert"), "status", "--socket", &admin]);
        Ok(process)
    }

    fn agent_on(&self, node: &Node) -> Command {
        let program = self.program("culvert-agent");
        let mut words = self.prefix.iter().chain([&program]);
        let mut command = node.netns().command(words.next().unwrap_or(&program));
        command.args(words);
        command
    }

    /// As a CNI plugin would, which asks again while the agent has no state yet.
    fn enrol(&self, pod: &Pod, name: &str) -> Result<()> {
        let netns = pod.netns().path().display().to_string();
        let socket = self.run_dir(pod.node().name()).join("enrol.sock").display().to_string();
        let uid = format!("bench-{name}");
        let deadline = Instant::now() + self.patience;
        loop {
            let arguments = ["enrol", "--socket", &socket, "--uid", &uid, "--netns", &netns];
            match pod.node().netns().run(&self.program("culvert-agent"), &arguments) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error).context(format!("enrolling {name}")),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Each pod's own agent must know it. In a large mesh the others learn of it when somebody calls.
    fn wait_until_known(&self, pair: &Pair) -> Result<()> {
        pods(pair).iter().try_for_each(|(pod, name)| self.wait_until_one_is_known(pod, name))
    }

    fn wait_until_one_is_known(&self, pod: &Pod, name: &str) -> Result<()> {
        let node = pod.node();
        let deadline = Instant::now() + self.patience;
        while !self.knows(node, pod, name) {
            if Instant::now() > deadline {
                bail!("the agent of {} does not know where {name} is", node.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The edition of the mesh that an agent goes by.
    fn generation(&self, node: &str) -> Result<u64> {
        let socket = self.run_dir(node).join("admin.sock").display().to_string();
        let answer = Netns::own().run(&self.program("culvert"), &["status", "--json", "--socket", &socket])?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        answer["generation"].as_u64().context("an agent that goes by no edition of the mesh")
    }

    fn knows(&self, node: &Node, pod: &Pod, name: &str) -> bool {
        let socket = self.run_dir(node.name()).join("admin.sock").display().to_string();
        let name = format!("bench/{name}");
        let arguments = ["why", &name, &name, "1", "--json", "--socket", &socket];
        let answer = Netns::own().run(&self.program("culvert"), &arguments).unwrap_or_default();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["source"]["address"] == pod.ip4().to_string()
    }
}

/// Changes a policy that concerns the server four times a second, until it is ended.
#[derive(Debug)]
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    place: Place,
    node: String,
    began_with: u64,
}

impl Churn {
    pub(crate) fn begin(pair: &Pair, wanted: &Arguments) -> Result<Churn> {
        let (place, node) = (Place::of(pair, &wanted.bin_dir, wanted)?, pair.server_node.name().to_owned());
        let began_with = place.generation(&node)?;
        let (stop, folder) = (Arc::new(AtomicBool::new(false)), place.folder.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("churn".to_owned()).spawn(move || {
            let mut edition = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                edition += 1;
                change_policy(&folder, edition)?;
                std::thread::sleep(BETWEEN_CHANGES);
            }
            Ok(())
        })?;
        Ok(Churn { stop, thread, place, node, began_with })
    }

    /// An error when the server's agent has seen no change.
    pub(crate) fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the changes of the policy panicked"))??;
        let now = self.place.generation(&self.node)?;
        ensure!(now > self.began_with, "the agent has seen no change of the policy");
        Ok(())
    }
}

/// One more policy for the server, which allows somebody else each time: everything open is judged again.
fn change_policy(folder: &Path, edition: u32) -> Result<()> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: churn, namespace: bench}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: ALLOW, \
         rules: [{{from: [{{source: {{principals: [cluster.local/ns/bench/sa/somebody-{edition}]}}}}]}}]}}\n"
    );
    let half = folder.join("churn.half");
    std::fs::write(&half, text)?;
    Ok(std::fs::rename(&half, folder.join("manifests/churn.yaml"))?)
}

fn wait_until(process: &mut Process, patience: Duration, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !is_so() {
        if let Some(status) = process.try_wait()? {
            bail!("{} ended ({status}):\n{}", process.name(), process.log());
        }
        if Instant::now() > deadline {
            bail!("{} is not ready:\n{}", process.name(), process.log());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(file.write_all(text.as_bytes())?)
}
