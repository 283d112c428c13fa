//! Two nodes on one link, and pods on them.
//!
//! ```text
//!  pod netns          node netns                sandbox netns              node netns          pod netns
//!  eth0 ---- v-NAME | routes, eth0 ---- n1 | bridge `fabric` | n2 ---- eth0, routes | v-NAME ---- eth0
//!  10.244.1.X         172.30.0.11            172.30.0.1         172.30.0.12           10.244.2.X
//!  fd00:10:244:1::X   fd00:172:30::11        fd00:172:30::1     fd00:172:30::12       fd00:10:244:2::X
//! ```
//!
//! Everything that passes between the nodes crosses `fabric`, where a capture sees it, and what listens on the sandbox's
//! own address (the control plane) is reachable from both nodes and, routed, from every pod.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::{Capture, Netns, sandbox};

/// The bridge between the nodes.
pub const FABRIC: &str = "fabric";

/// Where the control plane may listen: the sandbox's own IPv4 address on the link.
pub const FABRIC_IP4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// The sandbox's own IPv6 address on the link.
pub const FABRIC_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1);

/// The gateway of every pod, a link-local address on the host side of its veth.
pub const GATEWAY_IP4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_IP6: &str = "fe80::1";

/// The hardware address of the host side of each point-to-point veth.
pub const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The link, and the nodes on it.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
}

/// One node: a network namespace that forwards for its pods.
#[derive(Clone, Debug)]
pub struct Node {
    index: u8,
    name: String,
    netns: Netns,
    pods: Arc<Mutex<Pods>>,
}

#[derive(Debug, Default)]
struct Pods {
    names: HashSet<String>,
    last_routed: u8,
    last_bridged: u8,
    bridged: bool,
}

/// How a pod is joined to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodStyle {
    /// A /32 and a /128 with a route each on the host side and a link-local gateway (Calico, AWS, ptp).
    #[default]
    PointToPoint,
    /// A port of the node's bridge `cni0` in the upper half of the node's range (`10.244.N.128/25`,
    /// `fd00:10:244:N:1::/80`), as the bridge plugins make it.
    Bridge,
}

/// What may differ between pods.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Point to point, or a port of a bridge.
    pub style: PodStyle,
    /// `false` leaves the pod with `lo.disable_ipv6=1` and no IPv6 address.
    pub ipv6: bool,
    /// Fixes the last number of its addresses (2 to 127, bridged 130 to 254); otherwise the next free one.
    pub number: Option<u8>,
}

impl Default for PodOptions {
    fn default() -> Self {
        PodOptions { style: PodStyle::PointToPoint, ipv6: true, number: None }
    }
}

/// A pod: a network namespace with one veth to its node.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    node: Node,
    netns: Netns,
    ip4: Ipv4Addr,
    ip6: Option<Ipv6Addr>,
    host_veth: String,
}

impl Lab {
    /// Only the link. Must run inside a sandbox.
    pub fn new() -> Result<Lab> {
        if !sandbox::inside() {
            bail!("a lab is made inside a sandbox only: wrap the test in in_sandbox!");
        }
        let own = Netns::own();
        own.ip_batch(&format!(
            "link add {FABRIC} type bridge forward_delay 0 mcast_snooping 0\n\
             link set {FABRIC} up\n\
             addr add {FABRIC_IP4}/24 dev {FABRIC}\n\
             addr add {FABRIC_IP6}/64 dev {FABRIC} nodad\n"
        ))?;
        Ok(Lab { nodes: Vec::new() })
    }

    /// The link and the nodes `node1` and `node2`.
    pub fn two_nodes() -> Result<Lab> {
        let mut lab = Lab::new()?;
        lab.add_node("node1")?;
        lab.add_node("node2")?;
        Ok(lab)
    }

    /// Joins one more node; its pods live in `10.244.N.0/24` and `fd00:10:244:N::/64`.
    pub fn add_node(&mut self, name: &str) -> Result<Node> {
        let index = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let node = Node::join(index, name)?;
        for other in &self.nodes {
            other.route_to(&node)?;
            node.route_to(other)?;
        }
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Node `number`, counted from 1.
    ///
    /// # Panics
    /// When there is no such node.
    #[expect(clippy::panic, reason = "a wrong number is a mistake in the test's own text")]
    pub fn node(&self, number: usize) -> &Node {
        match number.checked_sub(1).and_then(|index| self.nodes.get(index)) {
            Some(node) => node,
            None => panic!("the lab has no node {number}"),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts a capture of everything that passes between the nodes (and to the control plane).
    pub fn capture_link(&self) -> Result<Capture> {
        let ports: Vec<String> = self.nodes.iter().map(Node::fabric_port).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        Capture::start(&Netns::own(), &ports)
    }
}

impl Node {
    fn join(index: u8, name: &str) -> Result<Node> {
        let netns = Netns::create(name)?;
        let node = Node { index, name: name.to_owned(), netns, pods: Arc::default() };
        let (ip4, ip6, port) = (node.ip4(), node.ip6(), node.fabric_port());
        Netns::own().ip_batch(&format!(
            "link add {port} type veth peer name eth0 netns {name}\n\
             link set {port} master {FABRIC} up\n\
             route add 10.244.{index}.0/24 via {ip4}\n"
        ))?;
        node.netns.ip_batch(&format!(
            "link set eth0 up\n\
             addr add {ip4}/24 dev eth0\n\
             addr add {ip6}/64 dev eth0 nodad\n\
             route add default via {FABRIC_IP4}\n\
             route add ::/0 via {FABRIC_IP6}\n"
        ))?;
        Netns::own().ip(&format!("-6 route add fd00:10:244:{index}::/64 via {ip6}"))?;
        node.netns.sysctl("net.ipv4.ip_forward", "1")?;
        node.netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(node)
    }

    fn route_to(&self, other: &Node) -> Result<()> {
        let index = other.index;
        self.netns.ip_batch(&format!(
            "route add 10.244.{index}.0/24 via {}\nroute add fd00:10:244:{index}::/64 via {}\n",
            other.ip4(),
            other.ip6()
        ))
    }

    /// Its name, as in `spec.nodeName`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's network namespace: run the agent here.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its IPv4 address on the link.
    pub fn ip4(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 + self.index)
    }

    /// Its IPv6 address on the link.
    pub fn ip6(&self) -> Ipv6Addr {
        let host = u16::from_str_radix(&format!("1{}", self.index), 16).unwrap_or(u16::MAX);
        Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, host)
    }

    /// The port of the bridge `fabric` in the sandbox's namespace that this node hangs on.
    pub fn fabric_port(&self) -> String {
        format!("n{}", self.index)
    }

    /// Makes a pod on this node. Names are unique in the lab and at most 11 bytes long.
    pub fn pod(&self, name: &str, options: &PodOptions) -> Result<Pod> {
        if name.len() > 11 {
            bail!("pod name {name} is too long for an interface name: at most 11 bytes");
        }
        let number = self.take_number(name, options)?;
        let netns = Netns::create(name)?;
        let index = self.index;
        let half = u16::from(options.style == PodStyle::Bridge);
        let pod = Pod {
            name: name.to_owned(),
            node: self.clone(),
            netns,
            ip4: Ipv4Addr::new(10, 244, index, number),
            ip6: options.ipv6.then(|| Ipv6Addr::new(0xfd00, 0x10, 0x244, index.into(), half, 0, 0, number.into())),
            host_veth: format!("veth{name}"),
        };
        if !options.ipv6 {
            for scope in ["all", "default", "lo"] {
                pod.netns.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1")?;
            }
        }
        match options.style {
            PodStyle::PointToPoint => pod.join_point_to_point()?,
            PodStyle::Bridge => {
                self.make_bridge()?;
                pod.join_bridge()?;
            }
        }
        Ok(pod)
    }

    fn take_number(&self, name: &str, options: &PodOptions) -> Result<u8> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, range) = match options.style {
            PodStyle::PointToPoint => (&mut pods.last_routed, 2..=127),
            PodStyle::Bridge => (&mut pods.last_bridged, 130..=254),
        };
        let number = options.number.unwrap_or_else(|| last.saturating_add(1).max(*range.start()));
        if !range.contains(&number) {
            bail!("{} has no address {number} for such a pod: {range:?} are to be had", self.name);
        }
        *last = number.max(*last);
        if !pods.names.insert(name.to_owned()) {
            bail!("{} has a pod {name} already", self.name);
        }
        Ok(number)
    }

    fn make_bridge(&self) -> Result<()> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if !pods.bridged {
            let index = self.index;
            self.netns.ip_batch(&format!(
                "link add cni0 type bridge forward_delay 0 mcast_snooping 0\n\
                 link set cni0 up\n\
                 addr add 10.244.{index}.129/25 dev cni0\n\
                 addr add fd00:10:244:{index}:1::1/80 dev cni0 nodad\n"
            ))?;
            pods.bridged = true;
        }
        Ok(())
    }
}

impl Pod {
    fn join_point_to_point(&self) -> Result<()> {
        let Pod { name, ip4, host_veth, .. } = self;
        self.node.netns.ip_batch(&format!(
            "link add {host_veth} address {GATEWAY_MAC} type veth peer name eth0 netns {name}\n\
             link set {host_veth} up\n\
             addr add {GATEWAY_IP6}/64 dev {host_veth} nodad\n\
             route add {ip4}/32 dev {host_veth} scope link\n"
        ))?;
        self.netns.ip_batch(&format!(
            "link set eth0 up\n\
             addr add {ip4}/32 dev eth0\n\
             route add {GATEWAY_IP4} dev eth0 scope link\n\
             route add default via {GATEWAY_IP4} dev eth0\n\
             neigh replace {GATEWAY_IP4} lladdr {GATEWAY_MAC} dev eth0 nud permanent\n"
        ))?;
        if let Some(ip6) = self.ip6 {
            self.node.netns.ip(&format!("-6 route add {ip6}/128 dev {host_veth}"))?;
            self.netns.ip_batch(&format!(
                "addr add {ip6}/128 dev eth0 nodad\n\
                 route add ::/0 via {GATEWAY_IP6} dev eth0\n\
                 neigh replace {GATEWAY_IP6} lladdr {GATEWAY_MAC} dev eth0 nud permanent\n"
            ))?;
        }
        Ok(())
    }

    fn join_bridge(&self) -> Result<()> {
        let Pod { name, ip4, host_veth, .. } = self;
        let index = self.node.index;
        self.node.netns.ip_batch(&format!(
            "link add {host_veth} type veth peer name eth0 netns {name}\n\
             link set {host_veth} master cni0 up\n"
        ))?;
        self.netns.ip_batch(&format!(
            "link set eth0 up\naddr add {ip4}/25 dev eth0\nroute add default via 10.244.{index}.129\n"
        ))?;
        if let Some(ip6) = self.ip6 {
            self.netns.ip_batch(&format!(
                "addr add {ip6}/80 dev eth0 nodad\nroute add ::/0 via fd00:10:244:{index}:1::1\n"
            ))?;
        }
        Ok(())
    }

    /// Its name, which is its namespace's as well.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it lives on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its IPv4 address.
    pub fn ip4(&self) -> Ipv4Addr {
        self.ip4
    }

    /// Its IPv6 address, unless it was made without.
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.ip6
    }

    /// All its addresses, IPv4 first.
    pub fn ips(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.ip4)).chain(self.ip6.map(IpAddr::V6)).collect()
    }

    /// The host side of its veth, an interface of the node's namespace.
    pub fn host_veth(&self) -> &str {
        &self.host_veth
    }

    /// The interface index of the host side, in the node's namespace.
    pub fn host_ifindex(&self) -> Result<u32> {
        interface_number(&self.node.netns, &self.host_veth, "ifindex")
    }

    /// The hardware address of its `eth0`, as text.
    pub fn mac(&self) -> Result<String> {
        interface_field(&self.netns, "eth0", "address")
    }

    /// Starts a capture on the host side of its veth.
    pub fn capture_veth(&self) -> Result<Capture> {
        Capture::start(&self.node.netns, &[&self.host_veth])
    }

    /// Deletes the pod as the kubelet would: veth and namespace.
    pub fn delete(&self) -> Result<()> {
        self.node.netns.ip(&format!("link del {}", self.host_veth))?;
        self.node.pods.lock().unwrap_or_else(PoisonError::into_inner).names.remove(&self.name);
        self.netns.delete()
    }
}

fn interface(netns: &Netns, name: &str) -> Result<serde_json::Value> {
    let shown = netns.ip(&format!("-json link show dev {name}"))?;
    let mut list: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
    list.pop().with_context(|| format!("no interface {name} in {}", netns.name()))
}

fn interface_field(netns: &Netns, name: &str, field: &str) -> Result<String> {
    let value = interface(netns, name)?;
    Ok(value[field].as_str().with_context(|| format!("{name} has no {field}"))?.to_owned())
}

fn interface_number(netns: &Netns, name: &str, field: &str) -> Result<u32> {
    let value = interface(netns, name)?;
    let number = value[field].as_u64().with_context(|| format!("{name} has no {field}"))?;
    Ok(u32::try_from(number)?)
}
