//! Why a connection would be or not be: the roster's and the policy engine's answers, by the code of the data path.
//! Every agent knows all workloads and policies, so any agent can answer for any destination.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_policy::{Basis, Connection, Decision, Inexact, Peer, RuleVerdict, explain};
use culvert_workload::{Protocol, ServiceName, Workload};

use super::protocol::{End, Why};
use crate::{
    judge::Judge,
    outbound::{self, AttributeError, Leads},
    snapshot::Snapshot,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WhyError {
    /// No such pod, service or address.
    #[error("{0:?} is neither an address nor a pod or service as namespace/name")]
    Unknown(String),
    /// A pod without an address.
    #[error("{0} has no address yet")]
    NoAddress(String),
    /// A service that is headless, or a name for something else.
    #[error("the service {0} has no virtual address: ask for one of its pods, or for what its name stands for")]
    NoVirtualAddress(String),
}

impl WhyError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_end",
            Self::NoAddress(_) => "no_address",
            Self::NoVirtualAddress(_) => "no_virtual_address",
        }
    }
}

/// What an end of the question is.
struct Found {
    asked: String,
    address: IpAddr,
    workload: Option<Arc<Workload>>,
}

pub(super) fn why(snapshot: &Snapshot, source: &str, destination: &str, port: u16) -> Result<Why, WhyError> {
    let destination = find(snapshot, destination, None)?;
    let source = find(snapshot, source, Some(destination.address))?;
    let mut answer = blank(&source, &destination, port);
    let enrolled = source.workload.as_ref().is_some_and(|workload| workload.protocol == Protocol::Hbone);
    if !enrolled {
        answer.notes.push("the source is not enrolled: it calls in plaintext and has no identity".to_owned());
        arrive(
            snapshot,
            &mut answer,
            &source,
            destination.workload.as_ref(),
            SocketAddr::new(destination.address, port),
            false,
        );
        return Ok(answer);
    }
    let original = SocketAddr::new(destination.address, port);
    let node = source.workload.as_ref().map(|workload| workload.node.clone()).unwrap_or_default();
    match outbound::leads(snapshot, &node, original, |address| is_address_of(&source, address.ip())) {
        Err(error) => refuse(&mut answer, error),
        Ok(ways) => depart(snapshot, &mut answer, &source, ways),
    }
    Ok(answer)
}

/// The source's agent: by which way the connection leaves. Each endpoint of a service is explained like the first.
fn depart(snapshot: &Snapshot, answer: &mut Why, source: &Found, ways: Vec<Leads>) {
    let count = ways.len();
    let Some(way) = ways.into_iter().next() else {
        answer.reason = "no_identity".to_owned();
        answer
            .notes
            .push("the destination is enrolled but has no valid identity; it is never called in plaintext".to_owned());
        return;
    };
    if count > 1 {
        answer.notes.push(format!("{count} endpoints; this is the answer for {}", way.address));
    }
    answer.port = way.address.port();
    answer.destination.address = way.address.ip();
    if let Some(workload) = &way.workload {
        tell(&mut answer.destination, workload);
    }
    match way.transport {
        "hbone" => arrive(snapshot, answer, source, way.workload.as_ref(), way.address, true),
        "hairpin" => {
            allow(answer, "hairpin", "none: the pod calls itself");
            answer.notes.push("a pod may always call itself".to_owned());
        }
        _ => {
            allow(answer, "passthrough", "none: destination is not enrolled or outside of the cluster");
            answer.notes.push("plaintext: no policy of the mesh applies at the destination".to_owned());
        }
    }
}

/// The destination's agent: what its policies say.
fn arrive(
    snapshot: &Snapshot,
    answer: &mut Why,
    source: &Found,
    workload: Option<&Arc<Workload>>,
    address: SocketAddr,
    mutual: bool,
) {
    let Some(workload) = workload.filter(|workload| workload.protocol == Protocol::Hbone) else {
        allow(answer, "plaintext", "none: plaintext");
        answer.notes.push("the destination is not enrolled: culvert decides nothing about it".to_owned());
        return;
    };
    let identity = source.workload.as_ref().and_then(|source| source.identity()).filter(|_| mutual);
    answer.transport = if mutual { "hbone" } else { "plaintext" }.to_owned();
    answer.identity_from = match &identity {
        Some(_) => "handshake: the source proves it with its certificate".to_owned(),
        None => "none: plaintext".to_owned(),
    };
    let connection = Connection {
        peer: identity.map_or(Peer::Plaintext, Peer::Authenticated),
        source_ip: source.address,
        destination_ip: address.ip(),
        destination_port: address.port(),
    };
    let judge = Judge::of(snapshot, workload);
    let explanation = explain(judge.rules(), &connection);
    decision(answer, &explanation.decision);
    let (mode, from) = judge.rules().mtls().on(address.port());
    let from = from.map_or_else(|| "the mesh's defaultMode".to_owned(), |name| format!("PeerAuthentication {name}"));
    answer.notes.push(format!("mTLS of the destination's port: {} ({from})", super::answers::mode(mode)));
    answer.notes.extend(judge.rules().posture().inexact.iter().map(unseen));
    answer.notes.push(format!("decided by the agent of node {}; every agent holds the same policies", workload.node));
    answer.explanation = serde_json::to_value(&explanation).ok();
}

/// A rule that L4 takes for something else than is written, and by which fields.
fn unseen(inexact: &Inexact) -> String {
    let verdict = match inexact.verdict {
        RuleVerdict::Dead => "lets nothing in",
        RuleVerdict::Narrowed => "lets in less than is written",
        RuleVerdict::Widened => "refuses more than is written",
    };
    let (policy, rule, fields) = (&inexact.rule.policy, inexact.rule.rule, inexact.fields.join(", "));
    format!("{policy} rules[{rule}] {verdict}: not visible at L4 are {fields}")
}

fn decision(answer: &mut Why, decision: &Decision) {
    match decision {
        Decision::Allow(Basis::Rule(rule)) => {
            answer.policy = Some(rule.policy.to_string());
            answer.rule = Some(rule.rule);
            allow_as(answer, "allowed");
        }
        Decision::Allow(Basis::NoPolicy) => {
            allow_as(answer, "allowed");
            answer
                .notes
                .push("no ALLOW policy selects the destination and the mesh's defaultAction is ALLOW".to_owned());
        }
        Decision::Deny(denial) => {
            answer.reason = denial.reason.as_str().to_owned();
            answer.policy = denial.policy.as_ref().map(ToString::to_string);
            answer.rule = denial.rule;
            if denial.uncertain {
                answer.notes.push("the rule may match: it uses what L4 cannot see".to_owned());
            }
        }
    }
}

fn refuse(answer: &mut Why, error: AttributeError) {
    answer.reason = error.reason().to_owned();
    answer.notes.push(match error {
        AttributeError::UnknownDestination => {
            format!("{error}: held for 5 s in case it becomes known, then reset; never sent in plaintext")
        }
        other => other.to_string(),
    });
}

fn allow(answer: &mut Why, transport: &str, identity_from: &str) {
    answer.transport = transport.to_owned();
    answer.identity_from = identity_from.to_owned();
    allow_as(answer, "allowed");
}

fn allow_as(answer: &mut Why, reason: &str) {
    answer.allowed = true;
    answer.reason = reason.to_owned();
}

fn blank(source: &Found, destination: &Found, port: u16) -> Why {
    Why {
        source: end(source),
        destination: end(destination),
        port,
        transport: "none".to_owned(),
        identity_from: "none: not asked".to_owned(),
        allowed: false,
        reason: String::new(),
        policy: None,
        rule: None,
        explanation: None,
        notes: Vec::new(),
    }
}

fn end(found: &Found) -> End {
    let mut end = End { asked: found.asked.clone(), address: found.address, pod: None, identity: None, node: None };
    if let Some(workload) = &found.workload {
        tell(&mut end, workload);
    }
    end
}

fn tell(end: &mut End, workload: &Workload) {
    end.pod = Some(format!("{}/{}", workload.namespace, workload.name));
    end.node = Some(workload.node.to_string());
    let enrolled = workload.protocol == Protocol::Hbone;
    end.identity = workload.identity().filter(|_| enrolled).map(|id| id.to_string());
}

fn is_address_of(found: &Found, address: IpAddr) -> bool {
    found.workload.as_ref().is_some_and(|workload| workload.addresses.contains(&address))
}

/// An address, a pod or a service. Of a pod with several addresses the one of the same family as `like`.
fn find(snapshot: &Snapshot, asked: &str, like: Option<IpAddr>) -> Result<Found, WhyError> {
    if let Ok(address) = asked.parse::<IpAddr>() {
        let address = address.to_canonical();
        let workload = snapshot.holder(address).cloned();
        return Ok(Found { asked: asked.to_owned(), address, workload });
    }
    let unknown = || WhyError::Unknown(asked.to_owned());
    let (namespace, name) = asked.split_once('/').ok_or_else(unknown)?;
    let mut pods = snapshot.roster.workloads();
    let pod = pods.find(|pod| &*pod.namespace == namespace && &*pod.name == name);
    let (addresses, workload) = match pod {
        Some(pod) => (pod.addresses.clone(), Some(pod.clone())),
        None => {
            let service = snapshot.roster.service(&ServiceName::new(namespace, name)).ok_or_else(unknown)?;
            (service.vips.clone(), None)
        }
    };
    let family = |address: &&IpAddr| like.is_none_or(|like| like.is_ipv4() == address.is_ipv4());
    let address = addresses.iter().find(family).or(addresses.first()).copied();
    let address = address.ok_or_else(|| match &workload {
        Some(_) => WhyError::NoAddress(asked.to_owned()),
        None => WhyError::NoVirtualAddress(asked.to_owned()),
    })?;
    Ok(Found { asked: asked.to_owned(), address, workload })
}
