//! Policy routing inside the pod: every TCP connection of the pod is delivered locally over `lo`,
//! where steering hands it to the agent.
//!
//! ```text
//!  94 from all fwmark PROBE lookup main           replies to kubelet's probes
//!  95 from all fwmark AGENT goto 101              the agent's wire legs
//! 100 from all iif lo ipproto tcp lookup 100      what processes of the pod send
//! 101 from all nop
//! table 100: local default dev lo src POD
//! ```
//!
//! `iif lo` is what keeps reverse-path look-ups of packets from the wire away from rule 100.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use culvert_abi::{AGENT_MARK, PROBE_MARK};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::deviation::Family;
use crate::netlink::{Netlink, absent, exists};

const TABLE: u8 = 100;
const MAIN: u8 = 254;
/// One rule for each connection kept from before enrolment.
pub(crate) const PREF_KEPT: u32 = 93;
const PREF_PROBE: u32 = 94;
const PREF_AGENT: u32 = 95;
const PREF_CAPTURE: u32 = 100;
const PREF_GOTO: u32 = 101;
const LOOPBACK: u32 = 1;
/// `FRA_IP_PROTO` (linux/fib_rules.h): the type of its value is not exported by the library.
const FRA_IP_PROTO: u16 = 22;

/// What a rule says, as far as it matters to us. Comparable with what the kernel reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) pref: u32,
    pub(crate) action: RuleAction,
    pub(crate) table: u32,
    pub(crate) goto: Option<u32>,
    pub(crate) mark: Option<u32>,
    pub(crate) iif: Option<String>,
    pub(crate) protocol: Option<u8>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) source_port: Option<u16>,
    pub(crate) destination_port: Option<u16>,
    /// Selectors that none of ours has.
    pub(crate) more: bool,
}

impl Rule {
    fn new(pref: u32, action: RuleAction) -> Self {
        Self {
            pref,
            action,
            table: 0,
            goto: None,
            mark: None,
            iif: None,
            protocol: None,
            source: None,
            destination: None,
            source_port: None,
            destination_port: None,
            more: false,
        }
    }

    /// Keeps a connection that is older than the enrolment on the wire.
    pub(crate) fn kept(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            table: MAIN.into(),
            iif: Some("lo".to_owned()),
            protocol: Some(6),
            source: Some(local.ip()),
            destination: Some(remote.ip()),
            source_port: Some(local.port()),
            destination_port: Some(remote.port()),
            ..Self::new(PREF_KEPT, RuleAction::ToTable)
        }
    }

    fn parse(message: &RuleMessage) -> Self {
        let mut rule = Self::new(0, message.header.action);
        rule.table = message.header.table.into();
        rule.more = message.header.tos != 0 || message.header.flags.bits() & 2 != 0;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(pref) => rule.pref = *pref,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Goto(pref) => rule.goto = Some(*pref),
                RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
                RuleAttribute::FwMask(mask) => rule.more |= *mask != u32::MAX,
                RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
                RuleAttribute::IpProtocol(protocol) => rule.protocol = Some((*protocol).into()),
                RuleAttribute::Source(ip) => rule.source = Some(*ip),
                RuleAttribute::Destination(ip) => rule.destination = Some(*ip),
                RuleAttribute::SourcePortRange(range) => rule.source_port = Some(range.start),
                RuleAttribute::DestinationPortRange(range) => rule.destination_port = Some(range.start),
                RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) | RuleAttribute::TunId(_) => rule.more = true,
                _ => {}
            }
        }
        if rule.action != RuleAction::ToTable {
            rule.table = 0;
        }
        rule
    }

    fn message(&self, family: Family) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        message.header.action = self.action;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.pref));
        attributes.extend(self.goto.map(RuleAttribute::Goto));
        attributes.extend(self.mark.map(RuleAttribute::FwMark));
        attributes.extend(self.iif.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.protocol.map(|p| RuleAttribute::Other(DefaultNla::new(FRA_IP_PROTO, vec![p]))));
        attributes.extend(self.source.map(RuleAttribute::Source));
        attributes.extend(self.destination.map(RuleAttribute::Destination));
        let range = |port| RulePortRange { start: port, end: port };
        attributes.extend(self.source_port.map(|p| RuleAttribute::SourcePortRange(range(p))));
        attributes.extend(self.destination_port.map(|p| RuleAttribute::DestinationPortRange(range(p))));
        message.header.src_len = self.source.map_or(0, prefix);
        message.header.dst_len = self.destination.map_or(0, prefix);
        message
    }

    /// Whether it can be a rule of ours for a connection kept from before enrolment.
    pub(crate) fn is_kept(&self) -> bool {
        self.pref == PREF_KEPT && self.source_port.is_some() && self.destination_port.is_some()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!("pref {} {:?} table {}", self.pref, self.action, self.table)
    }
}

fn prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The four rules of every enrolled pod.
fn ours() -> [Rule; 4] {
    [
        Rule { mark: Some(PROBE_MARK), table: MAIN.into(), ..Rule::new(PREF_PROBE, RuleAction::ToTable) },
        Rule { mark: Some(AGENT_MARK), goto: Some(PREF_GOTO), ..Rule::new(PREF_AGENT, RuleAction::Goto) },
        Rule {
            iif: Some("lo".to_owned()),
            protocol: Some(6),
            table: TABLE.into(),
            ..Rule::new(PREF_CAPTURE, RuleAction::ToTable)
        },
        Rule::new(PREF_GOTO, RuleAction::Nop),
    ]
}

/// One difference between the routing of the pod and ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// One of our rules is not there.
    RuleMissing(Rule),
    /// A rule that is not ours stands before rule 100, or has one of our numbers.
    RuleForeign(Rule),
    /// A rule looks at protocol or ports without `iif lo`: packets from the wire are dissected, and
    /// reverse-path look-ups then meet rule 100.
    RuleDissects(Rule),
    /// Our route is not there.
    RouteMissing,
    /// Another route is in our table.
    RouteForeign(String),
}

/// All rules of a family, in the calling thread's netns.
pub(crate) fn rules(netlink: &Netlink, family: Family) -> io::Result<Vec<Rule>> {
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    Ok(netlink
        .dump(RouteNetlinkMessage::GetRule(message))?
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) => Some(Rule::parse(rule)),
            _ => None,
        })
        .collect())
}

/// Whether rule 100 is in the calling thread's netns.
pub(crate) fn captures(netlink: &Netlink, family: Family) -> io::Result<bool> {
    Ok(rules(netlink, family)?.iter().any(|rule| rule.pref == PREF_CAPTURE && rule.table == u32::from(TABLE)))
}

/// Compares the calling thread's netns with what should be there.
pub(crate) fn gaps(netlink: &Netlink, family: Family, source: IpAddr) -> io::Result<Vec<Gap>> {
    let found = rules(netlink, family)?;
    let mut gaps = Vec::new();
    for rule in ours() {
        if !found.contains(&rule) {
            gaps.push(Gap::RuleMissing(rule));
        }
    }
    for rule in found {
        let own = ours().contains(&rule) || rule.is_kept();
        let local_table = rule.pref == 0 && rule.table == 255 && rule.mark.is_none();
        if !own && !local_table && (rule.pref <= PREF_CAPTURE || rule.pref == PREF_GOTO) {
            gaps.push(Gap::RuleForeign(rule.clone()));
        }
        let dissects = rule.protocol.is_some() || rule.source_port.is_some() || rule.destination_port.is_some();
        if dissects && rule.iif.as_deref() != Some("lo") {
            gaps.push(Gap::RuleDissects(rule));
        }
    }
    gaps.extend(route_gaps(netlink, family, source)?);
    Ok(gaps)
}

fn route_gaps(netlink: &Netlink, family: Family, source: IpAddr) -> io::Result<Vec<Gap>> {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    let mut missing = true;
    let mut gaps = Vec::new();
    for answer in netlink.dump(RouteNetlinkMessage::GetRoute(message))? {
        let RouteNetlinkMessage::NewRoute(route) = answer else { continue };
        if table(&route) != u32::from(TABLE) {
            continue;
        }
        let has = |attribute: &RouteAttribute| route.attributes.contains(attribute);
        if route.header.kind == RouteType::Local
            && route.header.destination_prefix_length == 0
            && has(&RouteAttribute::Oif(LOOPBACK))
            && has(&RouteAttribute::PrefSource(route_address(source)))
        {
            missing = false;
        } else {
            gaps.push(Gap::RouteForeign(format!("{:?} in table {TABLE}", route.header.kind)));
        }
    }
    if missing {
        gaps.push(Gap::RouteMissing);
    }
    Ok(gaps)
}

fn table(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(route.header.table.into())
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn route(family: Family, source: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(family),
        table: TABLE,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Oif(LOOPBACK));
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(route_address(ip))));
    message
}

/// Adds what is missing. The route comes first: rule 100 without it would send connections on.
pub(crate) fn fill(netlink: &Netlink, family: Family, source: IpAddr) -> io::Result<()> {
    netlink.replace(RouteNetlinkMessage::NewRoute(route(family, Some(source))))?;
    let found = rules(netlink, family)?;
    // The target of the goto first, capture last.
    for rule in [3, 0, 1, 2].map(|index| ours()[index].clone()) {
        if !found.contains(&rule) {
            add(netlink, family, &rule)?;
        }
    }
    Ok(())
}

/// Adds one rule; one that is there already is no error.
pub(crate) fn add(netlink: &Netlink, family: Family, rule: &Rule) -> io::Result<()> {
    match netlink.add(RouteNetlinkMessage::NewRule(rule.message(family))) {
        Err(error) if !exists(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Removes one rule; one that is not there is no error.
pub(crate) fn remove(netlink: &Netlink, family: Family, rule: &Rule) -> io::Result<()> {
    match netlink.delete(RouteNetlinkMessage::DelRule(rule.message(family))) {
        Err(error) if !absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Removes our rules and our route.
pub(crate) fn clear(netlink: &Netlink, family: Family) -> io::Result<()> {
    for rule in ours().iter().rev() {
        remove(netlink, family, rule)?;
    }
    for rule in rules(netlink, family)?.iter().filter(|rule| rule.is_kept()) {
        remove(netlink, family, rule)?;
    }
    match netlink.delete(RouteNetlinkMessage::DelRoute(route(family, None))) {
        Err(error) if !absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The address that table 100 gives as source, and whether the pod has this family at all.
pub(crate) fn source(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
    addresses.iter().filter(of_family).find(|ip| !crate::interface::is_link_local(**ip)).copied()
}

/// An address that nobody has (RFC 5737, RFC 3849), for the self-test.
pub(crate) fn documentation(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}
