//! Who is compared, and how each is started.

use anyhow::{Result, ensure};
use culvert_lab::ztunnel::Conversation;
use culvert_lab::{Lab, Process};

use super::Arguments;
use super::pair::Pair;
use super::proxies::{culvert, floor, sidecar, ztunnel};
use super::{checks, handshake};
use crate::meter::Watch;

/// Everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Pod to pod.
    NoMesh,
    /// Our bare pair without TLS.
    FloorTcp,
    /// Our bare pair.
    Floor,
    /// The same with a TLS connection for each connection: for `--cold` only.
    FloorEach,
    /// The agents of `--bin-dir`.
    Culvert,
    /// The agents of `--bin-dir` in a mesh of many pods and policies.
    Crowded,
    /// The agents of `--bin-dir` while a policy of the server's changes four times a second.
    Churning,
    /// The agents of `--bin-dir` with certificates that live ten seconds and are renewed all the time.
    Rotating,
    /// The agents of `--before`.
    Before,
    /// A pair of sidecars.
    Envoy,
    /// A pair of node proxies.
    Ztunnel,
    /// A pair of sidecars.
    Haproxy,
    /// A pair of sidecars.
    Nginx,
    /// A pair of sidecars without TLS.
    TcpProxy,
}

/// A contender that runs.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) contender: Contender,
    pub(crate) pair: Pair,
    /// The proxies of both nodes, and by side.
    pub(crate) processes: Vec<Process>,
    /// What has to live as long, and is no proxy.
    #[expect(dead_code, reason = "dropping it ends it")]
    pub(crate) beside: Vec<Process>,
    /// What keeps a ztunnel's pods.
    #[expect(dead_code, reason = "dropping it ends it")]
    pub(crate) conversations: Vec<Conversation>,
    /// Its version.
    pub(crate) version: String,
    /// Cipher suite and key exchange of the tunnel.
    pub(crate) agreed: Option<String>,
    /// Threads of each of its proxies.
    pub(crate) workers: usize,
    /// Who must not get an answer, and how they ask.
    pub(crate) strangers: Vec<Stranger>,
}

/// Somebody who is to be refused.
#[derive(Clone, Debug)]
pub(crate) enum Stranger {
    /// The pod `other`, which has another identity or none.
    OtherPod,
    /// Plaintext to the proxy's TLS port, from the client's pod.
    Plaintext(u16),
    /// TLS to that port from the client's pod with the certificate of this name, or none.
    Certificate(u16, Option<&'static str>),
}

impl Stranger {
    /// Everybody whom a proxy must turn away at its TLS port.
    pub(crate) fn of_tls_port(port: u16) -> Vec<Stranger> {
        let certificates = [None, Some("foreign"), Some("other")].map(|name| Stranger::Certificate(port, name));
        [Stranger::Plaintext(port)].into_iter().chain(certificates).collect()
    }
}

impl Contender {
    pub(crate) const ALL: [Contender; 13] = [
        Contender::NoMesh,
        Contender::FloorTcp,
        Contender::Floor,
        Contender::TcpProxy,
        Contender::Culvert,
        Contender::Crowded,
        Contender::Churning,
        Contender::Rotating,
        Contender::Before,
        Contender::Envoy,
        Contender::Ztunnel,
        Contender::Haproxy,
        Contender::Nginx,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::NoMesh => "no-mesh",
            Contender::FloorTcp => "floor-tcp",
            Contender::Floor => "floor",
            Contender::FloorEach => "floor-each",
            Contender::Culvert => "culvert",
            Contender::Crowded => "crowded",
            Contender::Churning => "churning",
            Contender::Rotating => "rotating",
            Contender::Before => "before",
            Contender::Envoy => "envoy",
            Contender::Ztunnel => "ztunnel",
            Contender::Haproxy => "haproxy",
            Contender::Nginx => "nginx",
            Contender::TcpProxy => "tcp-proxy",
        }
    }

    /// Whether its program was given.
    pub(crate) fn at_hand(self, wanted: &Arguments) -> bool {
        match self {
            Contender::NoMesh | Contender::FloorTcp | Contender::Floor | Contender::Culvert => true,
            Contender::FloorEach => false,
            Contender::Crowded => wanted.crowd.is_some(),
            Contender::Churning => wanted.churn,
            Contender::Rotating => wanted.rotate,
            Contender::Before => wanted.before.is_some(),
            Contender::Envoy => wanted.envoy.is_some(),
            Contender::Ztunnel => wanted.ztunnel.is_some(),
            Contender::Haproxy | Contender::Nginx | Contender::TcpProxy => wanted.debian.is_some(),
        }
    }

    /// Whether nothing readable may cross the link.
    pub(crate) fn encrypts(self) -> bool {
        !matches!(self, Contender::NoMesh | Contender::FloorTcp | Contender::TcpProxy)
    }

    /// Whether it is a rival, who is tried with several numbers of threads.
    pub(crate) fn is_rival(self) -> bool {
        matches!(
            self,
            Contender::Envoy | Contender::Ztunnel | Contender::Haproxy | Contender::Nginx | Contender::TcpProxy
        )
    }

    /// Starts it and checks that it does its work, see [`checks`].
    pub(crate) fn start(self, lab: &mut Lab, wanted: &Arguments) -> Result<Found> {
        let pair = Pair::build(lab)?;
        let capture = lab.capture_link()?;
        let mut found = self.start_on(pair, wanted)?;
        checks::works(&found)?;
        let server = found.pair.server.ip4().into();
        found.agreed = handshake::agreed(&capture.stop()?, server);
        ensure!(
            found.agreed.is_some() == self.encrypts() || wanted.counting,
            "a handshake was {} on the link",
            if self.encrypts() { "not seen" } else { "seen" }
        );
        Ok(found)
    }

    fn start_on(self, pair: Pair, wanted: &Arguments) -> Result<Found> {
        let missing = || anyhow::anyhow!("no program was given");
        match self {
            Contender::NoMesh => Ok(Found {
                contender: self,
                pair,
                processes: Vec::new(),
                beside: Vec::new(),
                conversations: Vec::new(),
                version: "the kernel alone".to_owned(),
                agreed: None,
                workers: 0,
                strangers: Vec::new(),
            }),
            Contender::FloorTcp | Contender::Floor | Contender::FloorEach => floor::start(self, pair, wanted.workers),
            Contender::Culvert | Contender::Crowded | Contender::Churning | Contender::Rotating => {
                culvert::start(self, pair, &wanted.bin_dir, wanted)
            }
            Contender::Before => culvert::start(self, pair, wanted.before.as_ref().ok_or_else(missing)?, wanted),
            Contender::Envoy => {
                sidecar::start(&sidecar::envoy(wanted.envoy.as_ref().ok_or_else(missing)?), pair, wanted)
            }
            Contender::Haproxy | Contender::TcpProxy => {
                sidecar::start(&sidecar::haproxy(self, wanted.debian.as_ref().ok_or_else(missing)?), pair, wanted)
            }
            Contender::Nginx => {
                sidecar::start(&sidecar::nginx(wanted.debian.as_ref().ok_or_else(missing)?), pair, wanted)
            }
            Contender::Ztunnel => ztunnel::start(pair, wanted.ztunnel.as_ref().ok_or_else(missing)?, wanted),
        }
    }
}

impl Found {
    pub(crate) fn name(&self) -> &'static str {
        self.contender.name()
    }

    /// A line for the eye.
    pub(crate) fn says(&self) -> String {
        let agreed = self.agreed.as_deref().unwrap_or("no TLS");
        format!("{}; {agreed}; {} threads", self.version, self.workers)
    }

    /// What goes on while it is measured, to be ended with [`culvert::Churn::end`].
    pub(crate) fn disturb(&self, wanted: &Arguments) -> Result<Option<culvert::Churn>> {
        (self.contender == Contender::Churning).then(|| culvert::Churn::begin(&self.pair, wanted)).transpose()
    }

    /// The proxies with their children, to be watched together.
    pub(crate) fn watch(&self) -> Vec<Watch> {
        if self.processes.is_empty() {
            return Vec::new();
        }
        let pids = self.processes.iter().flat_map(|process| family(process.pid())).collect();
        vec![Watch { name: "proxies".to_owned(), pids }]
    }
}

/// A process and all its descendants.
fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
        all.extend(family(child));
    }
    all
}
