//! May this peer reach this pod on this port? Policy decides; its permit opens the way to the application.

use culvert_policy::{Basis, Permit, Verdict};
use culvert_tunnel::{Revocation, revocation};

use super::attribute::{Attributed, Client};
use crate::{
    live::{Ground, Listed, Live},
    outcome::{Decided, Ending},
    worker::Worker,
};

/// A connection with its permit. Only [`authorize`] makes one.
pub(super) struct Authorized {
    client: Client,
    permit: Permit,
    revocation: Revocation,
    listed: Listed,
}

impl Authorized {
    pub(super) fn into_parts(self) -> (Client, Permit, Revocation, Listed) {
        (self.client, self.permit, self.revocation, self.listed)
    }
}

/// Decides. The connection is listed first: a change of policy that comes between finds it in the list.
pub(super) fn authorize(worker: &Worker, attributed: Attributed) -> Option<Authorized> {
    let Attributed { mut client, connection } = attributed;
    let (revoker, revocation) = revocation();
    let pod = client.pod().clone();
    let outcome = client.outcome();
    let live = Live::new(Ground::Allowed(connection.clone()), outcome.record().clone(), outcome.flow(), revoker);
    let listed = pod.live.list(live);
    match pod.judge().decide(&connection) {
        Verdict::Allow(permit) => {
            worker.shared.metrics.own.allowed();
            if let Basis::Rule(rule) = permit.basis() {
                let record = outcome.note();
                record.policy = Some(rule.policy.shared());
                record.rule = Some(rule.rule);
            }
            Some(Authorized { client, permit, revocation, listed })
        }
        Verdict::Deny(denial) => {
            worker.shared.metrics.own.decided("open", "deny", denial.reason.as_str());
            let decided = Decided {
                reason: denial.reason.as_str(),
                policy: denial.policy.map(|name| name.shared()),
                rule: denial.rule,
                text: denial.uncertain.then(|| "the rule may match: it uses what L4 cannot see".to_owned()),
            };
            match client {
                Client::Socket(accepted) => accepted.deny(decided),
                Client::Stream(offered) => {
                    offered.offer.refuse(culvert_tunnel::Refusal::Denied);
                    offered.outcome.end(Ending::Denied(decided));
                }
            }
            None
        }
    }
}
