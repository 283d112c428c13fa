//! The agent's last list: asked when the API server does not answer.

use culvert_handover::known::Known;

use crate::{call::PodName, decide::Verdict};

/// What the list says of a pod; nothing if it knows neither the pod nor its namespace. A pod that was `asked` for once is
/// the mesh's until the control plane says otherwise of itself. That its namespace is outside counts only while the API
/// server is `away`: otherwise its answer can be waited for.
pub fn verdict(known: &Known, pod: &PodName, asked: bool, away: bool) -> Option<Verdict> {
    let of_pod = pod.uid.as_ref().and_then(|uid| known.pods.get(uid)).copied();
    let of_namespace = known.namespaces.get(&pod.namespace).copied().filter(|enrolled| *enrolled || away);
    let enrolled = of_pod.or(asked.then_some(true)).or(of_namespace)?;
    Some(if enrolled { Verdict::Ask } else { Verdict::Pass })
}
