//! A pod's interface: found in its netns, matched with its other end on the node.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::namespace::Namespace;
use crate::netlink::Netlink;

/// The pod's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodInterface {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
    /// Ifindex of the other end, in the netns of the other end.
    pub(crate) peer: u32,
    /// All its addresses, link-local ones last.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether `lo` is up.
    pub(crate) loopback_up: bool,
    /// Whether `lo` has `::1`.
    pub(crate) loopback_v6: bool,
    /// Names of further interfaces that are up.
    pub(crate) others: Vec<String>,
    /// IPv6 addresses that duplicate address detection has not settled yet.
    pub(crate) tentative: bool,
}

impl PodInterface {
    /// Leaves of each family that `known` names only what it names, beside what is link-local. If the two have nothing in
    /// common, this is not the interface that was meant, and it stays as it is: for the caller to see.
    pub(crate) fn keep_known(&mut self, known: &[IpAddr]) {
        let known: Vec<IpAddr> = known.iter().map(IpAddr::to_canonical).collect();
        if !self.addresses.iter().any(|ip| known.contains(ip)) {
            return;
        }
        let is_of_named_family = |ip: &IpAddr| known.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        let foreign = |ip: &IpAddr| !is_link_local(*ip) && is_of_named_family(ip) && !known.contains(ip);
        for ip in self.addresses.iter().filter(|ip| foreign(ip)) {
            tracing::warn!(interface = self.name, address = %ip, pod = ?known, "an address that is not known to be the pod's is not taken for its own");
        }
        self.addresses.retain(|ip| !foreign(ip));
    }
}

/// The node's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostVeth {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    /// A native XDP program hides the sender's socket from the guard.
    pub(crate) native_xdp: bool,
}

struct Link {
    name: String,
    ifindex: u32,
    up: bool,
    loopback: bool,
    veth: bool,
    mac: Option<[u8; 6]>,
    peer: Option<u32>,
    netns_id: Option<i32>,
    native_xdp: bool,
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        ifindex: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.link_layer_type == LinkLayerType::Loopback,
        veth: false,
        mac: None,
        peer: None,
        netns_id: None,
        native_xdp: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(id) => link.netns_id = Some(id),
            LinkAttribute::LinkInfo(infos) => link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            LinkAttribute::Xdp(xdp) => {
                link.native_xdp = xdp.iter().any(|part| {
                    matches!(
                        part,
                        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware | XdpAttached::Multiple)
                    )
                });
            }
            _ => {}
        }
    }
    link
}

fn links(netlink: &Netlink) -> io::Result<Vec<Link>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        })
        .collect())
}

struct Address {
    ifindex: u32,
    ip: IpAddr,
    tentative: bool,
}

fn addresses(netlink: &Netlink) -> io::Result<Vec<Address>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
        let local = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        let tentative = message.header.flags.contains(AddressHeaderFlags::Tentative)
            && !message.header.flags.contains(AddressHeaderFlags::Optimistic);
        if let Some(ip) = local.or(address) {
            found.push(Address { ifindex: message.header.index, ip, tentative });
        }
    }
    Ok(found)
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Reads the pod's interface in the calling thread's netns: `eth0`, else the only veth that is up.
/// `Err` with a text for people if there is none that will do.
pub(crate) fn read_pod() -> io::Result<Result<PodInterface, String>> {
    let netlink = Netlink::open()?;
    let links = links(&netlink)?;
    let addresses = addresses(&netlink)?;
    let loopback = links.iter().find(|link| link.loopback);
    let veths: Vec<&Link> = links.iter().filter(|link| link.veth && link.up).collect();
    let chosen = veths.iter().find(|link| link.name == "eth0").or(match &veths[..] {
        [only] => Some(only),
        _ => None,
    });
    let Some(chosen) = chosen else {
        return Ok(Err(format!("expected a veth named eth0 that is up, or only one veth, found {}", names(&links))));
    };
    let (Some(mac), Some(peer)) = (chosen.mac, chosen.peer) else {
        return Ok(Err(format!("{} has no MAC address or no other end", chosen.name)));
    };
    let mut own: Vec<&Address> = addresses.iter().filter(|address| address.ifindex == chosen.ifindex).collect();
    own.sort_by_key(|address| is_link_local(address.ip));
    Ok(Ok(PodInterface {
        name: chosen.name.clone(),
        ifindex: chosen.ifindex,
        mac,
        peer,
        addresses: own.iter().map(|address| address.ip).collect(),
        tentative: own.iter().any(|address| address.tentative),
        loopback_up: loopback.is_some_and(|lo| lo.up),
        loopback_v6: loopback.is_some_and(|lo| addresses.iter().any(|a| a.ifindex == lo.ifindex && a.ip.is_ipv6())),
        others: links
            .iter()
            .filter(|link| link.up && !link.loopback && link.ifindex != chosen.ifindex)
            .map(|link| link.name.clone())
            .collect(),
    }))
}

fn names(links: &[Link]) -> String {
    links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Finds the other end of a pod's interface in the calling thread's netns and checks that it is
/// really the other end: a veth whose peer index and peer netns are the pod's.
pub(crate) fn read_host(pod: &PodInterface, netns: &Namespace) -> io::Result<Result<HostVeth, String>> {
    let netlink = Netlink::open()?;
    let Some(host) = links(&netlink)?.into_iter().find(|link| link.ifindex == pod.peer) else {
        return Ok(Err(format!("the other end of {} is not in the node's netns", pod.name)));
    };
    let netns_id = netns_id(&netlink, netns)?;
    if !host.veth || host.peer != Some(pod.ifindex) || host.netns_id.is_none() || host.netns_id != netns_id {
        return Ok(Err(format!("{} of the node is not the other end of the pod's {}", host.name, pod.name)));
    }
    Ok(Ok(HostVeth { name: host.name, ifindex: host.ifindex, native_xdp: host.native_xdp }))
}

/// The id that the calling thread's netns has for another one.
fn netns_id(netlink: &Netlink, netns: &Namespace) -> io::Result<Option<i32>> {
    let fd = u32::try_from(netns.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(fd));
    for answer in netlink.get(RouteNetlinkMessage::GetNsId(message))? {
        if let RouteNetlinkMessage::NewNsId(message) = answer {
            return Ok(message.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            }));
        }
    }
    Ok(None)
}

/// Ifindexes of the calling thread's netns.
pub(crate) fn indexes() -> io::Result<Vec<u32>> {
    Ok(links(&Netlink::open()?)?.into_iter().map(|link| link.ifindex).collect())
}
