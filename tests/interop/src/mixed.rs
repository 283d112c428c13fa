//! One mesh of two nodes: culvert's agent has the pods of node1, a ztunnel those of node2. One control plane's keys sign
//! for both; each has its policies in its own words.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, control_address, state};
use culvert_lab::Netns;
use culvert_lab::ztunnel::{Member, Ztunnel};

use crate::ca::{self, Ca};

/// Where the ztunnel under test is: the environment's word for `cargo xtask test --ztunnel`.
const PROGRAM: &str = "CULVERT_ZTUNNEL";

/// On node1, in culvert's care.
const OURS: [&str; 3] = ["client", "other", "server1"];
/// On node2, in ztunnel's.
const THEIRS: [&str; 3] = ["caller", "thief", "server2"];

const DOMAIN: &str = "cluster.local";

/// Fields are dropped in order: ztunnel first.
#[derive(Debug)]
pub struct Mixed {
    /// node2's.
    pub ztunnel: Ztunnel,
    /// Control plane, node1's agent and all pods.
    pub mesh: Mesh,
    _ca: Ca,
    program: PathBuf,
}

impl Mixed {
    /// Everything that runs. `client` (node1) and `caller` (node2) may call both servers; `other` (node1) and `thief`
    /// (node2) have identities of the mesh and may not.
    pub fn start(agent: &[&str]) -> Result<Mixed> {
        let program = std::env::var_os(PROGRAM)
            .map(PathBuf::from)
            .context("no ztunnel was given: cargo xtask test --ztunnel PATH")?;
        let pods: Vec<(&str, &str)> =
            OURS.map(|name| (name, "node1")).into_iter().chain(THEIRS.map(|name| (name, "node2"))).collect();
        let mut mesh = Mesh::without_culvert(&fixture::manifests(&pods)?)?;
        for refused in ["other", "thief"] {
            fixture::deny(&mesh.manifests, refused)?;
        }
        for name in THEIRS {
            let address = mesh.pod(&format!("{name}.app"))?.pod.ip4().to_string();
            fixture::address(&mesh.manifests, name, &address)?;
        }
        mesh.start_control()?;
        let ours = mesh.lab.node(1).clone();
        mesh.join(&ours, agent)?;
        for name in OURS {
            mesh.enrol(mesh.pod(&format!("{name}.app"))?)?;
        }
        let ca = Ca::start(Path::new(state()), DOMAIN, SocketAddr::new(control_address().ip(), 15013))?;
        let ztunnel = start_ztunnel(&mesh, &program)?;
        let mut mixed = Mixed { ztunnel, mesh, _ca: ca, program };
        mixed.hand_over(true)?;
        mixed.mesh.wait_until_known()?;
        Ok(mixed)
    }

    /// Gives node2 a new ztunnel, after the one before has ended.
    pub fn restart_ztunnel(&mut self) -> Result<()> {
        self.ztunnel = start_ztunnel(&self.mesh, &self.program)?;
        self.hand_over(false)
    }

    fn hand_over(&mut self, first: bool) -> Result<()> {
        for name in THEIRS {
            let pod = &self.mesh.pod(&format!("{name}.app"))?.pod;
            let member = Member { namespace: "app", name, account: name };
            if first {
                self.ztunnel.take(pod, member)?;
            } else {
                self.ztunnel.take_again(pod, member)?;
            }
        }
        Ok(())
    }

    /// The network namespace of a pod of `app`.
    pub fn netns(&self, name: &str) -> Result<&Netns> {
        Ok(self.mesh.pod(&format!("{name}.app"))?.pod.netns())
    }

    /// That pod's address and this port.
    pub fn at(&self, name: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.mesh.pod(&format!("{name}.app"))?.pod.ip4(), port)))
    }
}

fn start_ztunnel(mesh: &Mesh, program: &Path) -> Result<Ztunnel> {
    let file = PathBuf::from("/run/lab/ztunnel.yaml");
    std::fs::write(&file, configuration(mesh)?)?;
    let address = format!("https://{}", SocketAddr::new(control_address().ip(), 15013));
    let root = Path::new(state()).join("root.pem").display().to_string();
    let settings = [
        ("CA_ADDRESS", address.as_str()),
        ("CA_ROOT_CA", &root),
        ("ALT_CA_HOSTNAME", ca::NAME),
        ("AUTH_TOKEN", "nobody looks at it"),
        ("RUST_LOG", "info"),
    ];
    Ztunnel::start(mesh.lab.node(2), program, &file, &settings)
}

/// What istiod would send a ztunnel of this mesh: who is where, and the same policies.
fn configuration(mesh: &Mesh) -> Result<String> {
    let mut text = "workloads:\n".to_owned();
    for (name, node) in OURS.map(|name| (name, "node1")).into_iter().chain(THEIRS.map(|name| (name, "node2"))) {
        let address = mesh.pod(&format!("{name}.app"))?.pod.ip4();
        writeln!(
            text,
            "- {{uid: app/{name}, name: {name}, namespace: app, serviceAccount: {name}, trustDomain: {DOMAIN}, \
             workloadIps: [\"{address}\"], protocol: HBONE, node: {node}, network: \"\", services: {{}}, \
             authorizationPolicies: [app/friends]}}"
        )?;
    }
    text.push_str(
        "policies:\n- name: friends\n  namespace: app\n  scope: WorkloadSelector\n  action: Allow\n  dryRun: false\n  \
         rules:\n  - - - principals: [",
    );
    let friends = ["client", "caller", "server1", "server2"];
    let principals = friends.map(|name| format!("!Exact \"{DOMAIN}/ns/app/sa/{name}\""));
    writeln!(text, "{}]", principals.join(", "))?;
    Ok(text)
}
