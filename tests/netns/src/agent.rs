//! An agent that a test drives by hand.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_lab::{Node, Pod, sandbox};
use culvert_redirect::{Config, Counter, EnrolError, PodRedirect, PodSettings, Redirect};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::relay::Relay;

/// How long a connection may take to arrive.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel side of one lab node, opened in the node's netns.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What is tested.
    pub redirect: Redirect,
    node: Node,
}

/// The usual settings of a node.
pub fn config(node: &Node) -> Config {
    Config {
        bpffs: PathBuf::from(sandbox::BPFFS),
        node: node.name().to_owned(),
        ebpf_log: false,
        kubelet_cgroup: None,
        dns: Vec::new(),
        hooks: culvert_redirect::HostHooks::Auto,
        proc: PathBuf::from("/proc"),
    }
}

/// A pod's netns as enrolment takes it.
pub fn netns_fd(pod: &Pod) -> Result<OwnedFd> {
    Ok(pod.netns().open()?.into())
}

impl Agent {
    /// Opens with the usual settings.
    pub fn start(node: &Node) -> Result<Agent> {
        Self::with(node, config(node))
    }

    /// Opens with others.
    pub fn with(node: &Node, config: Config) -> Result<Agent> {
        let redirect = node.netns().enter(|| Ok(Redirect::open(config)?))?;
        Ok(Agent { redirect, node: node.clone() })
    }

    /// Enrols a pod under its name.
    pub fn enrol(&self, pod: &Pod) -> Result<Taken> {
        self.enrol_with(pod, PodSettings::default())
    }

    /// Enrols a pod with settings.
    pub fn enrol_with(&self, pod: &Pod, settings: PodSettings) -> Result<Taken> {
        let taken = self.try_enrol(pod.name(), netns_fd(pod)?, settings)?;
        taken.with_context(|| format!("cannot enrol {}", pod.name()))
    }

    /// Enrols and returns the refusal as it is.
    pub fn try_enrol(&self, uid: &str, fd: OwnedFd, settings: PodSettings) -> Result<Result<Taken, EnrolError>> {
        let redirect = &self.redirect;
        let enrolled = self.node.netns().enter(move || Ok(redirect.enrol(uid, fd, settings)))?;
        Ok(enrolled.map(|pod| Taken { pod, node: self.node.clone() }))
    }

    /// Runs something in the node's netns, as the agent would.
    pub fn on_node<T: Send>(&self, work: impl FnOnce(&Redirect) -> Result<T> + Send) -> Result<T> {
        let redirect = &self.redirect;
        self.node.netns().enter(move || work(redirect))
    }

    /// A counter of a pod.
    pub fn count(&self, pod: &Pod, counter: Counter) -> Result<u64> {
        let counts = self.redirect.counters()?;
        let of_pod = counts.iter().find(|counts| counts.uid == pod.name());
        Ok(of_pod.with_context(|| format!("no counters for {}", pod.name()))?.values.get(counter))
    }

    /// Names of what differs from intent.
    pub fn deviations(&self, pod: &Pod) -> Result<Vec<&'static str>> {
        let name = pod.name().to_owned();
        self.on_node(move |redirect| Ok(redirect.verify(&name)?.iter().map(|deviation| deviation.name).collect()))
    }
}

/// An enrolled pod.
#[derive(Debug)]
pub struct Taken {
    /// What enrolment gave.
    pub pod: PodRedirect,
    node: Node,
}

/// One accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, blocking, with time-outs.
    pub stream: TcpStream,
    /// Where it was going.
    pub original: SocketAddr,
    /// Who opened it.
    pub client: SocketAddr,
}

/// Accepts one connection within a time.
pub fn accept(listener: &TcpListener, patience: Duration) -> Result<Accepted> {
    let deadline = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(Accepted { original: stream.local_addr()?, client, stream });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::try_from(left)?)? == 0 {
                    bail!("no connection arrived within {patience:?}");
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Taken {
    /// Accepts what a process of the pod opened.
    pub fn outbound(&self, v6: bool) -> Result<Accepted> {
        accept(self.outbound_listener(v6)?, PATIENCE)
    }

    /// Accepts what came from the wire.
    pub fn inbound(&self, v6: bool) -> Result<Accepted> {
        accept(self.inbound_listener(v6)?, PATIENCE)
    }

    /// The outbound listener of a family.
    pub fn outbound_listener(&self, v6: bool) -> Result<&TcpListener> {
        let listeners = &self.pod.listeners;
        if v6 { listeners.outbound_v6.as_ref().context("no IPv6 listener") } else { Ok(&listeners.outbound_v4) }
    }

    /// The inbound listener of a family.
    pub fn inbound_listener(&self, v6: bool) -> Result<&TcpListener> {
        let listeners = &self.pod.listeners;
        if v6 { listeners.inbound_v6.as_ref().context("no IPv6 listener") } else { Ok(&listeners.inbound_v4) }
    }

    /// Whether nothing arrives for a while.
    pub fn is_quiet(&self, listener: &TcpListener) -> bool {
        accept(listener, Duration::from_millis(300)).is_err()
    }

    /// Hands the pod to a relay.
    pub fn relay(self) -> Result<Relay> {
        Relay::start(&self.node, self.pod)
    }

    /// Runs a future on a runtime whose thread is in the node's netns, as the agent's workers are.
    pub fn block_on<T: Send>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.node
            .netns()
            .enter(move || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
    }

    /// A connection to the pod's app in the client's name, as a blocking stream with its protection.
    pub fn app_leg(
        &self,
        client: std::net::IpAddr,
        destination: SocketAddr,
    ) -> Result<(TcpStream, culvert_redirect::Leg)> {
        let netns = self.pod.netns.clone();
        self.block_on(async move {
            let leg = tokio::time::timeout(PATIENCE, netns.connect_app(client, destination)).await??;
            Ok((blocking(leg.stream)?, leg.leg))
        })
    }

    /// A connection to the wire.
    pub fn wire(&self, destination: SocketAddr) -> Result<TcpStream> {
        self.wire_within(destination, PATIENCE)
    }

    /// The same, in less time.
    pub fn wire_within(&self, destination: SocketAddr, patience: Duration) -> Result<TcpStream> {
        let netns = self.pod.netns.clone();
        self.block_on(async move { blocking(tokio::time::timeout(patience, netns.connect_wire(destination)).await??) })
    }
}

/// Makes a tokio stream a blocking one with time-outs.
pub fn blocking(stream: tokio::net::TcpStream) -> Result<TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
