//! `ADD`, `CHECK`, `DEL`, `VERSION`, and since 1.1.0 `GC` and `STATUS`.

use std::{fs::File, os::fd::OwnedFd, path::Path, time::Duration};

use culvert_handover::{
    enrolment::{self, Answer, Claim, Request},
    known::{Asked, Known},
};
use serde::Deserialize;

use crate::{
    api::{ApiError, Client},
    call::{Environment, PodName},
    decide::{Verdict, decide},
    failure::{Failure, code},
    known,
    netconf::{NetConf, VERSIONS},
};

/// The agent waits up to 5 s for the pod's record and 15 s for its SVID.
const ENROL: Duration = Duration::from_secs(45);
/// Nobody waits for long when a pod ends.
const WITHDRAW: Duration = Duration::from_secs(5);

/// Carries out a call. Gives what belongs on standard output.
pub fn run(environment: &Environment, stdin: &[u8]) -> Result<Vec<u8>, Failure> {
    let command = environment.required("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(version(stdin));
    }
    let conf = match NetConf::parse(stdin) {
        // Whatever is wrong, it must not keep a pod from being taken down.
        Err(_) if command == "DEL" => return Ok(Vec::new()),
        parsed => parsed?,
    };
    let outcome = match command {
        "ADD" => add(environment, &conf),
        "CHECK" => check(environment, &conf),
        "DEL" => {
            del(environment, &conf);
            Ok(Vec::new())
        }
        // What is left behind by pods that are gone is the agent's to collect; without an agent other pods still pass.
        "GC" | "STATUS" => Ok(Vec::new()),
        other => Err(Failure::new(code::ENVIRONMENT, format!("culvert: CNI_COMMAND is {other:?}"), "")),
    };
    outcome.map_err(|failure| failure.in_version(&conf.cni_version))
}

fn version(stdin: &[u8]) -> Vec<u8> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: String,
    }
    let asked = serde_json::from_slice::<Asked>(stdin).map(|asked| asked.cni_version);
    let version = asked.unwrap_or_else(|_| "1.0.0".to_owned());
    serde_json::json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string().into_bytes()
}

fn add(environment: &Environment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    environment.required("CNI_CONTAINERID")?;
    environment.required("CNI_IFNAME")?;
    let netns = environment.required("CNI_NETNS")?;
    let result = conf.previous()?.get().as_bytes().to_vec();
    let Some(subject) = subject(environment, conf)? else { return Ok(result) };
    let netns = open(Path::new(netns))?;
    let claim = Claim {
        namespace: subject.pod.namespace.clone(),
        name: subject.pod.name.clone(),
        veths: conf.host_interfaces(),
    };
    let request = Request::Enrol { uid: subject.uid, pod: Some(claim) };
    granted(&subject.pod, enrolment::ask(&conf.socket, &request, Some(&netns), Some(ENROL)))?;
    Ok(result)
}

fn check(environment: &Environment, conf: &NetConf<'_>) -> Result<Vec<u8>, Failure> {
    if let Some(subject) = subject(environment, conf)? {
        let request = Request::Check { uid: subject.uid };
        granted(&subject.pod, enrolment::ask(&conf.socket, &request, None, Some(ENROL)))?;
    }
    Ok(Vec::new())
}

/// Lets the agent know; whether it hears it or not, the pod may go.
fn del(environment: &Environment, conf: &NetConf<'_>) {
    // A sandbox that was made anew has the same UID: without the namespace nobody knows which of the two goes.
    let netns = environment.netns().and_then(|path| open(&path).ok());
    let pod = environment.pod().filter(|pod| !conf.exclude_namespaces.contains(&pod.namespace));
    let uid = pod.and_then(|pod| pod.uid);
    if let (Some(netns), Some(uid)) = (netns, uid)
        && let Err(error) = enrolment::ask(&conf.socket, &Request::Withdraw { uid }, Some(&netns), Some(WITHDRAW))
    {
        eprintln!("culvert-cni: the agent was not told of the end of a pod: {error}");
    }
}

/// A pod that the agent has to take.
struct Subject {
    pod: PodName,
    uid: String,
}

fn subject(environment: &Environment, conf: &NetConf<'_>) -> Result<Option<Subject>, Failure> {
    // Not Kubernetes, or one of those that everything else depends on.
    let Some(pod) = environment.pod().filter(|pod| !conf.exclude_namespaces.contains(&pod.namespace)) else {
        return Ok(None);
    };
    match by_labels(&pod, conf) {
        Ok((Verdict::Pass, _)) => Ok(None),
        Ok((Verdict::Ask, uid)) => noted(Subject { pod, uid }, conf).map(Some),
        Err(Unknown::Wrong(failure)) => Err(failure),
        Err(Unknown::Silent(why)) => by_list(pod, conf, &why),
    }
}

/// kubelet tries again for as long as the agent does not take the pod: no later call may let it through because the API
/// server does not answer that one.
fn noted(subject: Subject, conf: &NetConf<'_>) -> Result<Subject, Failure> {
    let asked = Asked::beside(&conf.known);
    // By the UID of the runtime, which is all that a later call has.
    match asked.note(subject.pod.uid.as_deref().unwrap_or(&subject.uid)) {
        Ok(()) => Ok(subject),
        Err(error) => {
            let details = format!("it cannot be noted that {} belongs to the mesh: {error}", subject.pod.name);
            Err(Failure::wait("not_noted", details))
        }
    }
}

/// Why labels did not settle it.
enum Unknown {
    /// They are there, and do not fit this call.
    Wrong(Failure),
    /// They could not be read.
    Silent(Silence),
}

/// Why the API server did not tell.
struct Silence {
    text: String,
    /// Nobody answered, or there is nobody to ask. (Who answers and refuses is there, and must not make others start by what
    /// was known before.)
    away: bool,
}

fn by_labels(pod: &PodName, conf: &NetConf<'_>) -> Result<(Verdict, String), Unknown> {
    let path = conf
        .kubeconfig
        .as_deref()
        .ok_or_else(|| Unknown::Silent(Silence { text: "no kubeconfig is configured".to_owned(), away: true }))?;
    let looked = Client::open(path).and_then(|client| client.look(pod));
    let (namespace, object) = looked.map_err(|error| match error {
        ApiError::Status { status: 404, path } => {
            let details = format!("the API server has no {path}");
            Unknown::Wrong(Failure::wait("pod_unknown", details))
        }
        other => Unknown::Silent(Silence { text: chain(&other), away: other.is_away() }),
    })?;
    let own = object.metadata.uid.as_str();
    match pod.uid.as_deref() {
        Some(uid) if uid != own && object.mirrored_uid() != Some(uid) => {
            let details = format!("the runtime makes pod {uid}, the API server has {own} under this name");
            Err(Unknown::Wrong(Failure::wait("pod_replaced", details)))
        }
        _ => Ok((decide(&namespace, &object, conf.istio_labels), own.to_owned())),
    }
}

fn by_list(pod: PodName, conf: &NetConf<'_>, why: &Silence) -> Result<Option<Subject>, Failure> {
    let list = Known::read(&conf.known);
    let asked = pod.uid.as_ref().is_none_or(|uid| Asked::beside(&conf.known).has(uid));
    let verdict = list.as_ref().ok().and_then(|list| known::verdict(list, &pod, asked, why.away));
    let why = &why.text;
    match (verdict, pod.uid.clone()) {
        (Some(Verdict::Pass), _) => Ok(None),
        (Some(Verdict::Ask), Some(uid)) => Ok(Some(Subject { pod, uid })),
        _ => {
            let list = list.err().map_or_else(|| "does not know it".to_owned(), |error| error.to_string());
            let details = format!(
                "whether namespace {} is in the mesh is not known: {why}; the agent's list {}: {list}",
                pod.namespace,
                conf.known.display()
            );
            Err(Failure::wait("namespace_unknown", details))
        }
    }
}

fn granted(pod: &PodName, answer: Result<Answer, enrolment::ProtocolError>) -> Result<(), Failure> {
    let name = format!("{}/{}", pod.namespace, pod.name);
    match answer {
        Ok(Answer { ok: true, .. }) => Ok(()),
        Ok(Answer { reason, message, .. }) => {
            let reason = reason.unwrap_or_else(|| "refused".to_owned());
            Err(Failure::wait(&reason, format!("{name}: {}", message.unwrap_or_default())))
        }
        Err(error) => {
            let details = format!("{name} belongs to the mesh, and the agent of this node does not answer: {error}");
            Err(Failure::wait("agent_unreachable", with_source(details, &error)))
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let file = File::open(path);
    Ok(file.map_err(|error| Failure::io(&format!("culvert: {}", path.display()), &error))?.into())
}

fn with_source(text: String, error: &dyn std::error::Error) -> String {
    error.source().map_or(text.clone(), |source| format!("{text}: {source}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
