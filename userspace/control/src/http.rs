//! Plain HTTP: metrics and readiness on TCP, everything else on a Unix socket.

use std::{
    convert::Infallible,
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use culvert_guests::Guests;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    audit::rfc3339,
    ca::Authority,
    index::Published,
    metrics::{Metrics, Severity, Type},
    server::NodeBook,
};

/// Connections to the TCP port at once, and of them from one address: anybody can reach it.
const AT_ONCE: usize = 64;
const FROM_ONE: usize = 16;
/// Longest life of one: a reader that does not read holds what waits for it no longer than that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is shown.
#[derive(Debug)]
pub struct View {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What is known now.
    pub published: watch::Receiver<Published>,
    /// Nodes that have called.
    pub nodes: Arc<NodeBook>,
    /// The authority.
    pub authority: Arc<Authority>,
}

/// Serves `/metrics`, `/healthz` and `/readyz`. Whoever gets an answer sees a process that serves: it begins to listen
/// only with a state to serve.
pub async fn serve_tcp(listener: TcpListener, view: Arc<View>) {
    let mut guests = Guests::new(AT_ONCE, FROM_ONE);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let served = tokio::spawn(timeout(PATIENCE, one(stream, Arc::clone(&view), public)));
                guests.take_in(peer.ip(), served.abort_handle());
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Serves `/status` and `/complaints` as well.
pub async fn serve_unix(listener: UnixListener, view: Arc<View>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(one(stream, Arc::clone(&view), private))),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Makes a Unix socket that only its owner can connect to; a socket that an earlier run left is replaced.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else than a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    bound
}

type Answer = fn(&View, &str) -> Option<(&'static str, String)>;

async fn one(stream: impl AsyncRead + AsyncWrite + Unpin, view: Arc<View>, answer: Answer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&view, answer, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

fn respond(view: &View, answer: Answer, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (method, answer(view, path)) {
        (&Method::GET, Some((kind, text))) => (StatusCode::OK, kind, text),
        (_, Some(_)) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
        (_, None) => (StatusCode::NOT_FOUND, "text/plain", "nothing here\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn public(view: &View, path: &str) -> Option<(&'static str, String)> {
    match path {
        "/metrics" => {
            view.refresh();
            Some(("application/openmetrics-text; version=1.0.0; charset=utf-8", view.metrics.text()))
        }
        "/healthz" | "/readyz" => Some(("text/plain", "ok\n".to_owned())),
        _ => None,
    }
}

fn private(view: &View, path: &str) -> Option<(&'static str, String)> {
    match path {
        "/status" => Some(("application/json", format!("{:#}\n", view.status()))),
        "/complaints" => Some(("text/plain; charset=utf-8", view.complaints())),
        _ => public(view, path),
    }
}

impl View {
    fn refresh(&self) {
        let published = self.published.borrow().clone();
        self.metrics.generation.set(published.snapshot.generation);
        self.metrics.manifests_unusable.set(published.unread.is_some().into());
        self.metrics.state_unkept.set(published.unkept.is_some().into());
        for kind in culvert_wire::Kind::ALL {
            let count = i64::try_from(published.snapshot.table(kind).len()).unwrap_or(i64::MAX);
            self.metrics.resources.get_or_create(&Type { r#type: kind.label() }).set(count);
        }
        use culvert_manifests::Severity::{Error, Info, Warning};
        for severity in [Error, Warning, Info] {
            let count = published.complaints.iter().filter(|complaint| complaint.severity == severity).count();
            let label = Severity { severity: severity.as_str() };
            self.metrics.complaints.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn complaints(&self) -> String {
        let published = self.published.borrow().clone();
        let unread = published.unread.as_deref().map(|why| format!("error: {why}; the last good state is served\n"));
        let unkept =
            published.unkept.as_deref().map(|why| format!("error: {why}; nothing new is served until it can\n"));
        let lines = published.complaints.iter().map(|complaint| format!("{complaint}\n"));
        unread.into_iter().chain(unkept).chain(lines).collect()
    }

    fn status(&self) -> Value {
        let published = self.published.borrow().clone();
        json!({
            "trustDomain": self.authority.trust_domain().as_str(),
            "generation": published.snapshot.generation,
            "manifestsUnusable": published.unread,
            "stateNotKept": published.unkept,
            "roots": self.authority.roots().ders.len(),
            "issuingKeyEnds": rfc3339(self.authority.issuing_not_after()),
            "workloads": published.state.workloads.len(),
            "services": published.state.services.len(),
            "authorizationPolicies": published.state.authorization.len(),
            "peerAuthentications": published.state.authentication.len(),
            "nodes": self.nodes.all().iter().map(|(name, entry)| (name.clone(), node(entry))).collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn node(entry: &crate::server::NodeEntry) -> Value {
    let refused: serde_json::Map<String, Value> =
        entry.refused.iter().map(|(kind, why)| (kind.label().to_owned(), why.clone().into())).collect();
    let mut shown = json!({
        "streams": entry.streams,
        "answeredGeneration": entry.answered_generation,
        "refused": refused,
    });
    if let Some((at, report)) = &entry.report {
        let age = SystemTime::now().duration_since(*at).unwrap_or_default().as_secs();
        let pod = |pod: &culvert_wire::report::PodStatus| json!({ "uid": pod.uid.as_str(), "captured": pod.captured, "reason": &*pod.reason, "addresses": pod.addresses });
        shown["enforcedGeneration"] = report.enforced_generation.into();
        shown["reportAgeSeconds"] = age.into();
        shown["pods"] = report.pods.iter().map(pod).collect();
    }
    shown
}
