//! A stand-in for the API server: lists in pages, watches as lines of JSON, TokenReview, and a shelf for everything that
//! the control plane writes.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};

use crate::cluster::{Cluster, Pod, agent_uid};

/// How long a watch stays open in silence.
const QUIET: Duration = Duration::from_secs(50);
const PODS: &str = "/api/v1/pods";

/// The stand-in.
#[derive(Debug)]
pub(crate) struct Api {
    cluster: Arc<Cluster>,
    pods: Mutex<Vec<Pod>>,
    /// What has changed in pods, as lines of a watch, numbered.
    changes: broadcast::Sender<(u64, Bytes)>,
    /// The last of them, for watches that begin later.
    recent: Mutex<std::collections::VecDeque<(u64, Bytes)>>,
    version: Mutex<u64>,
    shelf: Mutex<HashMap<String, Value>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Api {
    /// Begins to serve on a port of its own.
    pub(crate) async fn start(cluster: Arc<Cluster>) -> Result<(Arc<Self>, SocketAddr)> {
        let pods = (0..cluster.size.pods).map(|number| Pod { number, life: 0, turn: 0, ready: true }).collect();
        let api = Arc::new(Self {
            cluster,
            pods: Mutex::new(pods),
            changes: broadcast::Sender::new(1 << 14),
            recent: Mutex::default(),
            version: Mutex::new(1),
            shelf: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let served = Arc::clone(&api);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = Arc::clone(&served);
                tokio::spawn(async move {
                    let answer = service_fn(move |request| {
                        let api = Arc::clone(&api);
                        async move { Ok::<_, Infallible>(api.answer(request).await) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok((api, address))
    }

    /// Changes one pod and tells the watches, once `first` has seen the pod before and after.
    pub(crate) fn change(
        &self,
        number: usize,
        edit: impl FnOnce(&mut Pod) -> &'static str,
        first: impl FnOnce(&Pod, &Pod),
    ) -> (Pod, Pod) {
        let (before, now, word) = {
            let mut pods = lock(&self.pods);
            let before = pods[number].clone();
            let word = edit(&mut pods[number]);
            (before, pods[number].clone(), word)
        };
        first(&before, &now);
        if word == "REPLACED" {
            self.tell("DELETED", self.cluster.pod(&before));
            self.tell("ADDED", self.cluster.pod(&now));
        } else {
            self.tell(word, self.cluster.pod(&now));
        }
        (before, now)
    }

    fn tell(&self, word: &str, mut object: Value) {
        let mut version = lock(&self.version);
        *version += 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let mut line = json!({"type": word, "object": object}).to_string();
        line.push('\n');
        let line = (*version, Bytes::from(line));
        let mut recent = lock(&self.recent);
        recent.push_back(line.clone());
        if recent.len() > 1 << 14 {
            recent.pop_front();
        }
        let _ = self.changes.send(line);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = query(parts.uri.query().unwrap_or_default());
        if parts.method == Method::GET && query.contains_key("watch") {
            return self.watch(&path, &query);
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = match parts.method {
            Method::GET => self.get(&path, &query),
            Method::POST if path.ends_with("/tokenreviews") => (StatusCode::CREATED, review(&body)),
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or("event").to_owned();
                lock(&self.shelf).insert(format!("{path}/{name}"), body.clone());
                (StatusCode::CREATED, body)
            }
            Method::PUT => {
                lock(&self.shelf).insert(path, body.clone());
                (StatusCode::OK, body)
            }
            // Status and the like: taken and not kept.
            _ => (StatusCode::OK, body),
        };
        respond(status, &answer)
    }

    fn get(&self, path: &str, query: &BTreeMap<String, String>) -> (StatusCode, Value) {
        if path == "/apis" {
            let versions = json!([{"groupVersion": "discovery.k8s.io/v1"}]);
            return (StatusCode::OK, json!({"groups": [{"name": "discovery.k8s.io", "versions": versions}]}));
        }
        if path.ends_with("authorizationpolicies.security.istio.io") {
            return (StatusCode::OK, json!({"spec": {"versions": [{"name": "v1", "served": true}]}}));
        }
        let version = lock(&self.version).to_string();
        if path == PODS {
            return (StatusCode::OK, self.page(query, &version));
        }
        if let Some(items) = self.cluster.listed(path) {
            return (StatusCode::OK, json!({"metadata": {"resourceVersion": version}, "items": items}));
        }
        match lock(&self.shelf).get(path) {
            Some(object) => (StatusCode::OK, object.clone()),
            None => (
                StatusCode::NOT_FOUND,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
                    "message": "not here"}),
            ),
        }
    }

    /// A page of pods, the agents' first.
    fn page(&self, query: &BTreeMap<String, String>, version: &str) -> Value {
        let agents = self.cluster.size.agents;
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let from = query.get("continue").and_then(|from| from.parse().ok()).unwrap_or(0);
        let pods = lock(&self.pods);
        let all = agents + pods.len();
        let to = all.min(from + limit);
        let one = |index: usize| match index.checked_sub(agents) {
            None => self.cluster.agent(index),
            Some(number) => self.cluster.pod(&pods[number]),
        };
        let items: Vec<Value> = (from..to).map(one).collect();
        let more = if to < all { to.to_string() } else { String::new() };
        json!({"metadata": {"resourceVersion": version, "continue": more}, "items": items})
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        if path != PODS {
            let silence = tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>();
            let life = silence.timeout(QUIET).map_while(Result::ok);
            return streamed(life);
        }
        let since = query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok()).unwrap_or(0);
        // Subscribed first, so that nothing falls between.
        let later = BroadcastStream::new(self.changes.subscribe());
        let missed: Vec<_> = lock(&self.recent).iter().filter(|(version, _)| *version > since).cloned().collect();
        let last = missed.last().map_or(since, |(version, _)| *version);
        let later = later.map_while(Result::ok).filter(move |(version, _)| *version > last);
        let lines = tokio_stream::iter(missed).chain(later).map(|(_, line)| Ok(Frame::data(line)));
        // A watch that says nothing for a while ends, as the API server ends each one.
        streamed(lines.timeout(QUIET).map_while(Result::ok))
    }
}

fn respond(status: StatusCode, answer: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(answer.to_string())).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn streamed(
    frames: impl tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
) -> Response<Body> {
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The token of an agent: what is signed of it, nobody here looks at.
pub(crate) fn token(agent: usize) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({"sub": "system:serviceaccount:culvert-system:culvert-agent", "aud": ["culvert-control"],
        "iat": now, "exp": now + 600, "kubernetes.io": {"pod": {"uid": agent_uid(agent)}}});
    format!("head.{}.{agent}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn review(body: &Value) -> Value {
    let agent = body["spec"]["token"].as_str().and_then(|token| token.rsplit('.').next()?.parse::<usize>().ok());
    let Some(agent) = agent else { return json!({"status": {"authenticated": false}}) };
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {
        "authenticated": true, "audiences": ["culvert-control"],
        "user": {"username": "system:serviceaccount:culvert-system:culvert-agent",
            "extra": {"authentication.kubernetes.io/pod-uid": [agent_uid(agent)]}}}})
}
