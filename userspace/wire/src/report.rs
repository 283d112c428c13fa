//! What an agent reports about its node: read with the same strictness as resources.

use std::{net::IpAddr, sync::Arc};

use culvert_workload::WorkloadUid;

use crate::{
    proto::culvert as message,
    read::{FieldError, Read, address_bytes, addresses, required},
};

/// The state of a node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// Generation up to which everything is enforced.
    pub enforced_generation: u64,
    /// The node's enrolled pods.
    pub pods: Vec<PodStatus>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Which one.
    pub uid: WorkloadUid,
    /// Is its traffic captured, as read from the kernel.
    pub captured: bool,
    /// Why not; empty when it is.
    pub reason: Arc<str>,
    /// Addresses read in the pod's network namespace.
    pub addresses: Vec<IpAddr>,
}

impl NodeStatus {
    /// The message.
    pub fn encode(&self) -> message::NodeReport {
        let pod = |pod: &PodStatus| message::PodReport {
            uid: pod.uid.to_string(),
            captured: pod.captured,
            reason: pod.reason.to_string(),
            addresses: pod.addresses.iter().map(address_bytes).collect(),
        };
        message::NodeReport { enforced_generation: self.enforced_generation, pods: self.pods.iter().map(pod).collect() }
    }

    /// Reads a report, whole or not at all.
    pub fn decode(raw: &message::NodeReport) -> Result<Self, FieldError> {
        let pod = |(index, pod): (usize, &message::PodReport)| {
            read_pod(pod).map_err(|error| error.under(format!("pods[{index}]")))
        };
        let pods = raw.pods.iter().enumerate().map(pod).collect::<Read<_>>()?;
        Ok(Self { enforced_generation: raw.enforced_generation, pods })
    }
}

fn read_pod(raw: &message::PodReport) -> Read<PodStatus> {
    Ok(PodStatus {
        uid: WorkloadUid(required("uid", &raw.uid)?),
        captured: raw.captured,
        reason: raw.reason.as_str().into(),
        addresses: addresses("addresses", &raw.addresses)?,
    })
}
