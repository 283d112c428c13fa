//! The agent's last list: asked when the API server does not answer.

use culvert_handover::known::Known;

use crate::{call::PodName, decide::Verdict};

/// What the list says of a pod; nothing if it knows neither the pod nor its namespace.
pub fn verdict(known: &Known, pod: &PodName) -> Option<Verdict> {
    let of_pod = pod.uid.as_ref().and_then(|uid| known.pods.get(uid));
    let enrolled = of_pod.or_else(|| known.namespaces.get(&pod.namespace))?;
    Some(if *enrolled { Verdict::Ask } else { Verdict::Pass })
}
