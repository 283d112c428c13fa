//! Connections worth trying: each value that a policy speaks of, its neighbours, and something else.

use std::{collections::BTreeSet, net::IpAddr};

use culvert_identity::SpiffeId;
use culvert_policy::{AuthorizationPolicy, Connection, Peer};
use ipnet::IpNet;

/// What to try for each attribute.
#[derive(Default)]
struct Values {
    principals: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    accounts: BTreeSet<String>,
    domains: BTreeSet<String>,
    source_ips: BTreeSet<IpAddr>,
    destination_ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// All combinations of values around those of the policies.
pub(super) fn around(policies: &[AuthorizationPolicy], own_domain: &str) -> Vec<Connection> {
    let values = Values::of(policies, own_domain);
    let mut connections = Vec::new();
    for peer in values.peers() {
        for source_ip in &values.source_ips {
            for destination_ip in &values.destination_ips {
                for port in &values.ports {
                    connections.push(connection(&peer, *source_ip, *destination_ip, *port));
                }
            }
        }
    }
    connections
}

/// The same values, one attribute at a time: enough for a condition on one attribute.
pub(super) fn one_by_one(policies: &[AuthorizationPolicy], own_domain: &str) -> Vec<Connection> {
    let values = Values::of(policies, own_domain);
    let (source, destination, port) = (IpAddr::from([203, 0, 113, 9]), IpAddr::from([203, 0, 113, 7]), 4999);
    let nobody = Peer::Plaintext;
    let peers = values.peers();
    let peers = peers.iter().map(|peer| connection(peer, source, destination, port));
    let sources = values.source_ips.iter().map(|source| connection(&nobody, *source, destination, port));
    let destinations = values.destination_ips.iter().map(|destination| connection(&nobody, source, *destination, port));
    let ports = values.ports.iter().map(|port| connection(&nobody, source, destination, *port));
    peers.chain(sources).chain(destinations).chain(ports).collect()
}

fn connection(peer: &Peer, source_ip: IpAddr, destination_ip: IpAddr, destination_port: u16) -> Connection {
    Connection { peer: peer.clone(), source_ip, destination_ip, destination_port }
}

impl Values {
    fn of(policies: &[AuthorizationPolicy], own_domain: &str) -> Self {
        let mut values = Self::default();
        values.domains.extend([own_domain.to_owned(), "elsewhere.test".to_owned()]);
        values.namespaces.insert("unlisted".to_owned());
        values.accounts.insert("unlisted".to_owned());
        values.source_ips.insert(IpAddr::from([203, 0, 113, 9]));
        values.destination_ips.insert(IpAddr::from([203, 0, 113, 7]));
        values.ports.insert(4999);
        for rule in policies.iter().flat_map(|policy| &policy.rules) {
            values.collect(rule);
        }
        values
    }

    fn collect(&mut self, rule: &culvert_policy::Rule) {
        for source in &rule.from {
            self.principals(source.principals.iter().chain(&source.not_principals));
            extend(&mut self.namespaces, source.namespaces.iter().chain(&source.not_namespaces));
            self.accounts(source.service_accounts.iter().chain(&source.not_service_accounts));
            extend(&mut self.domains, source.trust_domains.iter().chain(&source.not_trust_domains));
            addresses(&mut self.source_ips, source.ip_blocks.iter().chain(&source.not_ip_blocks));
        }
        for operation in &rule.to {
            ports(&mut self.ports, operation.ports.iter().chain(&operation.not_ports));
        }
        for condition in &rule.when {
            let values = || condition.values.iter().chain(&condition.not_values);
            match condition.key.as_str() {
                "source.principal" => self.principals(values()),
                "source.namespace" => extend(&mut self.namespaces, values()),
                "source.serviceAccount" => self.accounts(values()),
                "source.trustDomain" => extend(&mut self.domains, values()),
                "source.ip" => addresses(&mut self.source_ips, values()),
                "destination.ip" => addresses(&mut self.destination_ips, values()),
                "destination.port" => ports(&mut self.ports, values()),
                _ => {}
            }
        }
    }

    fn principals<'a>(&mut self, patterns: impl Iterator<Item = &'a String>) {
        for pattern in patterns {
            let bare = pattern.trim_matches('*');
            match bare.split('/').collect::<Vec<_>>()[..] {
                [domain, "ns", namespace, "sa", account] => {
                    let domain = if domain.is_empty() { "any.test" } else { domain };
                    self.principals.insert(format!("{domain}/ns/{namespace}/sa/{account}"));
                }
                // A prefix begins a trust domain, a suffix ends an account.
                _ if pattern.ends_with('*') => extend(&mut self.domains, [pattern].into_iter()),
                _ => extend(&mut self.accounts, [pattern].into_iter()),
            }
        }
    }

    fn accounts<'a>(&mut self, values: impl Iterator<Item = &'a String>) {
        for value in values {
            let (namespace, account) = value.split_once('/').unwrap_or(("foo", value));
            self.namespaces.insert(namespace.to_owned());
            self.accounts.insert(account.to_owned());
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let mut principals = self.principals.clone();
        for domain in &self.domains {
            for namespace in &self.namespaces {
                principals.extend(self.accounts.iter().map(|account| format!("{domain}/ns/{namespace}/sa/{account}")));
            }
        }
        // Only what is a SPIFFE ID can have been authenticated, and upstream's expressions assume Istio's layout.
        let ids = principals.iter().filter_map(|principal| SpiffeId::parse(&format!("spiffe://{principal}")).ok());
        let ids = ids.filter(|id| id.service_account().is_some());
        std::iter::once(Peer::Plaintext).chain(ids.map(Peer::Authenticated)).collect()
    }
}

/// A value that the pattern matches, and the text of the pattern itself.
fn extend<'a>(into: &mut BTreeSet<String>, patterns: impl Iterator<Item = &'a String>) {
    for pattern in patterns {
        let bare = pattern.trim_matches('*');
        if !bare.is_empty() {
            into.insert(bare.to_owned());
            let filled = pattern.replace('*', "x");
            into.insert(filled);
        }
    }
}

/// First and last address of each block, and its neighbours outside.
fn addresses<'a>(into: &mut BTreeSet<IpAddr>, blocks: impl Iterator<Item = &'a String>) {
    for block in blocks {
        let net = block.parse::<IpNet>().ok().or_else(|| block.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(net) = net else { continue };
        into.extend([net.network(), net.broadcast()]);
        into.extend(next(net.broadcast()));
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

fn ports<'a>(into: &mut BTreeSet<u16>, values: impl Iterator<Item = &'a String>) {
    into.extend(values.filter_map(|value| value.parse::<u16>().ok()));
}
