//! Makes one call and puts together what was observed of it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{RECORD, row::Row, went_through};
use crate::access::{Access, Follower, is_inbound};
use crate::call::{Wanted, Way};
use crate::http::Seen;
use crate::mesh::{Mesh, RunningPod};

/// What there is to see of one call.
struct Observed {
    seen: Seen,
    outbound: Option<Access>,
    inbound: Option<Access>,
}

/// Makes the call that is `wanted` and says how it went.
pub(super) fn call(
    mesh: &Mesh,
    from: &RunningPod,
    wanted: Wanted,
    marker: impl Fn(&Wanted) -> &'static str,
) -> Result<Row> {
    let address = SocketAddr::new(mesh.address(&wanted.target)?, wanted.port);
    let mut followers = Followers::begin(mesh)?;
    let seen = mesh.call(from, address, marker(&wanted))?;
    let observed = followers.collect(mesh, from, address, seen)?;
    let mut row = describe(mesh, from, wanted, address, &observed);
    row.wrong = complaints(&row, &observed, from, marker(&row.wanted));
    Ok(row)
}

/// The logs of all agents, from before the call.
struct Followers(Vec<(String, Follower)>);

impl Followers {
    fn begin(mesh: &Mesh) -> Result<Followers> {
        let follow = |node: &String| Ok((node.clone(), mesh.follow(node)?));
        Ok(Followers(mesh.agents.keys().map(follow).collect::<Result<_>>()?))
    }

    fn of(&mut self, node: &str) -> Result<&mut Follower> {
        let found = self.0.iter_mut().find(|(name, _)| name == node);
        Ok(&mut found.with_context(|| format!("{node} has no agent"))?.1)
    }

    /// The caller's record, if the caller is enrolled, and the called pod's, if it is and the call got that far.
    fn collect(&mut self, mesh: &Mesh, from: &RunningPod, address: SocketAddr, seen: Seen) -> Result<Observed> {
        let mut outbound = None;
        if from.spec.enrolled {
            let fits = |access: &Access| access.direction() == "outbound" && is_from(access, from, &seen, address);
            outbound = self.of(&from.spec.node)?.wait_for(RECORD, fits)?;
        }
        let server = server_of(outbound.as_ref(), address);
        let mut inbound = None;
        if let Some(to) = mesh.pod_at(server.ip()).filter(|to| to.spec.enrolled) {
            let client =
                if server.is_ipv4() { from.pod.ip4().into() } else { from.pod.ip6().context("no IPv6")?.into() };
            inbound = self.of(&to.spec.node)?.wait_for(RECORD, |access| is_inbound(access, client, server))?;
        }
        Ok(Observed { seen, outbound, inbound })
    }
}

/// Whether a record is of this very call: by the client's own address and port, or, where the reset had taken those
/// away before the client could look, by who called what.
fn is_from(access: &Access, from: &RunningPod, seen: &Seen, address: SocketAddr) -> bool {
    let source = access.address("src.addr");
    match seen.local {
        Some(local) => source == Some(local),
        None => {
            let targets = ["dst.original", "dst.hbone_addr", "dst.addr"];
            source.is_some_and(|source| from.pod.ips().contains(&source.ip()))
                && targets.iter().any(|field| access.address(field) == Some(address))
        }
    }
}

/// Where the call really went: the endpoint that the agent chose, or the address itself.
fn server_of(outbound: Option<&Access>, address: SocketAddr) -> SocketAddr {
    outbound
        .and_then(|access| access.address("dst.hbone_addr").or_else(|| access.address("dst.addr")))
        .unwrap_or(address)
}

fn describe(mesh: &Mesh, from: &RunningPod, wanted: Wanted, address: SocketAddr, observed: &Observed) -> Row {
    let server = server_of(observed.outbound.as_ref(), address);
    let callee = mesh.pod_at(server.ip());
    let crosses = callee.is_some_and(|to| to.spec.node != from.spec.node);
    Row {
        caller: from.spec.full_name(),
        wanted,
        address,
        callee: callee.map(|to| to.spec.full_name()),
        way: way(observed),
        identities: identities(observed),
        why: why(observed),
        seen_as: observed.seen.answer.as_ref().map(|answer| {
            let own = from.pod.ips().contains(&answer.client);
            (answer.client.to_string(), own)
        }),
        crosses,
        wrong: Vec::new(),
        took_ms: observed.seen.took_ms,
    }
}

/// Over what it went, in the words of those who carried it.
fn way(observed: &Observed) -> Way {
    if observed.seen.answer.is_none() {
        return Way::Refused;
    }
    let transport =
        |access: &Option<Access>| access.as_ref().and_then(|access| access.field("transport").map(str::to_owned));
    match (transport(&observed.outbound).as_deref(), transport(&observed.inbound).as_deref()) {
        (Some("hbone"), Some("hbone")) => Way::Mtls,
        _ => Way::Plaintext,
    }
}

/// Both SPIFFE IDs as the called side's certificate check, or else the caller's, has them.
fn identities(observed: &Observed) -> Option<(String, String)> {
    let of =
        |access: &Access| Some((access.field("src.identity")?.to_owned(), access.field("dst.identity")?.to_owned()));
    observed.inbound.as_ref().and_then(of).or_else(|| observed.outbound.as_ref().and_then(of))
}

/// The record of the side that decided: the called one where there is one.
fn deciding(observed: &Observed) -> Option<&Access> {
    observed.inbound.as_ref().or(observed.outbound.as_ref())
}

fn why(observed: &Observed) -> String {
    let Some(access) = deciding(observed) else {
        return observed.seen.error.clone().unwrap_or_else(|| "no agent was asked".to_owned());
    };
    let verb = match access.outcome() {
        "closed" => "allowed",
        other => other,
    };
    let decider = match (access.policy(), access.field("reason")) {
        (Some(policy), Some(reason)) => format!("{policy} ({reason})"),
        (Some(policy), None) => policy,
        (None, Some(reason)) => reason.to_owned(),
        (None, None) => access.field("identity_from").unwrap_or_default().to_owned(),
    };
    format!("{verb} by {decider}")
}

fn complaints(row: &Row, observed: &Observed, from: &RunningPod, marker: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if row.way != row.wanted.way {
        let how = observed.seen.error.as_deref().unwrap_or("answered");
        wrong.push(format!("it is {}, the caller saw: {how}", row.way));
    }
    if let Some(by) = &row.wanted.by {
        let decider = deciding(observed);
        let policy = decider.and_then(|access| access.field("policy"));
        let reason = decider.and_then(|access| access.field("reason"));
        if policy != Some(by) && reason != Some(by) {
            wrong.push(format!("it should have been decided by {by}"));
        }
    }
    if let Some(answer) = &observed.seen.answer {
        if row.callee.as_ref() != Some(&answer.server) {
            wrong.push(format!("{} answered", answer.server));
        }
        if !row.seen_as.as_ref().is_some_and(|(_, own)| *own) {
            wrong.push(format!("the application saw {} as the client's address", answer.client));
        }
        if answer.echo != marker {
            wrong.push(format!("the marker came back as {:?}", answer.echo));
        }
    }
    if row.way == Way::Mtls && row.identities.is_none() {
        wrong.push("the records name no two identities".to_owned());
    }
    if from.spec.enrolled && observed.outbound.is_none() {
        wrong.push("the caller's agent has no record of it".to_owned());
    }
    if went_through(row.way) && observed.seen.error.is_some() {
        wrong.push("it was answered and failed".to_owned());
    }
    wrong
}

/// What `culvert why` says will happen, asked of the called pod's agent, which decides. A pod that is not enrolled is
/// judged by nobody.
pub(super) fn foretold(mesh: &Mesh, from: &RunningPod, to: &RunningPod, port: u16) -> Result<(Way, Option<String>)> {
    if !to.spec.enrolled {
        return Ok((Way::Plaintext, None));
    }
    let words = ["why", &from.spec.full_name(), &to.spec.full_name(), &port.to_string(), "--json"];
    let printed = mesh.operator(&to.spec.node, &words)?;
    let answer: Value = serde_json::from_str(&printed).with_context(|| format!("culvert why printed {printed}"))?;
    let by = ["policy", "reason"].iter().find_map(|key| answer[*key].as_str().filter(|by| *by != "allowed"));
    let by = by.map(str::to_owned);
    let way = match (answer["allowed"].as_bool(), answer["transport"].as_str()) {
        (Some(true), Some("hbone")) => Way::Mtls,
        (Some(true), Some(_)) => Way::Plaintext,
        (Some(false), _) => Way::Refused,
        _ => bail!("culvert why printed {printed}"),
    };
    Ok((way, by))
}
