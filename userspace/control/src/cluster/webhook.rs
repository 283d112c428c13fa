//! The admission webhook: says no to objects that would be refused later, while their author still looks.
//!
//! It is a courtesy, not a guard: `failurePolicy: Ignore`, and what slips in is judged again by the source. Its
//! certificate is signed by the CA for the Service's name, kept in memory and renewed at half of its life.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use culvert_guests::Guests;
use culvert_manifests::{Review, review};
use http::Method;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    api::{Api, ApiError, Body},
    ca::{Authority, CaError, SigningRequest},
    metrics::{Metrics, Reason},
};

/// Where the API server asks.
pub(super) const PATH: &str = "/validate";
/// Life of the certificate; renewed at half of it.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Largest question, in bytes: etcd takes no larger object.
const LARGEST: usize = 3 << 20;
/// Longest time for one question. The API server waits 5 s.
const ANSWER: Duration = Duration::from_secs(5);
/// Connections at once, and of them from one address: anybody can reach the port.
const AT_ONCE: usize = 128;
const FROM_ONE: usize = 32;
/// Questions that are read at once, so many times [`LARGEST`] bytes. They are looked at one after the other.
const BODIES: usize = 8;
/// Most objects within an object that is looked at here: parsed, each takes some hundred bytes. What has more is judged by the
/// source only.
const MOST_PARTS: usize = 50_000;
/// Most warnings of one answer, and longest text of one, as Kubernetes asks for.
const WARNINGS: (usize, usize) = (10, 250);
const LOOK: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The key, or what was signed.
    #[error("the webhook's certificate cannot be used: {0}")]
    Unusable(String),
}

/// What questions may take at once, whoever asks them.
#[derive(Debug)]
struct Bounds {
    bodies: Semaphore,
    looks: Semaphore,
}

/// The webhook's server side.
#[derive(Debug)]
pub(super) struct Webhook {
    authority: Arc<Authority>,
    names: Vec<String>,
    metrics: Arc<Metrics>,
    config: watch::Sender<Arc<ServerConfig>>,
    renew_at: SystemTime,
}

impl Webhook {
    /// `names`: what the API server calls the Service by.
    pub(super) fn new(
        authority: Arc<Authority>,
        names: Vec<String>,
        metrics: Arc<Metrics>,
        now: SystemTime,
    ) -> Result<Self, WebhookError> {
        let config = watch::Sender::new(Arc::new(certificate(&authority, &names, now)?));
        Ok(Self { authority, names, metrics, config, renew_at: now + LIFE / 2 })
    }

    /// Serves for ever.
    pub(super) async fn run(mut self, listener: TcpListener) {
        let mut guests = Guests::new(AT_ONCE, FROM_ONE);
        let bounds = Arc::new(Bounds { bodies: Semaphore::new(BODIES), looks: Semaphore::new(1) });
        loop {
            self.renew(SystemTime::now());
            let (stream, peer) = match time::timeout(LOOK, listener.accept()).await {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(_) => continue,
            };
            let (config, metrics) = (Arc::clone(&self.config.borrow()), Arc::clone(&self.metrics));
            let bounds = Arc::clone(&bounds);
            let served = tokio::spawn(async move {
                if let Err(error) = serve(stream, config, metrics, bounds).await {
                    tracing::debug!(%error, "a question to the webhook ended early");
                }
            });
            guests.take_in(peer.ip(), served.abort_handle());
        }
    }

    fn renew(&mut self, now: SystemTime) {
        if now < self.renew_at {
            return;
        }
        match certificate(&self.authority, &self.names, now) {
            Ok(config) => {
                self.config.send_replace(Arc::new(config));
                self.renew_at = now + LIFE / 2;
            }
            Err(error) => tracing::error!(%error, "the webhook's certificate could not be renewed"),
        }
    }
}

fn certificate(authority: &Authority, names: &[String], now: SystemTime) -> Result<ServerConfig, WebhookError> {
    let unusable = |error: &dyn std::fmt::Display| WebhookError::Unusable(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| unusable(&error))?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
    let request = SigningRequest::from_pem(&request.map_err(|error| unusable(&error))?);
    let issued = authority.sign_server(names, &request.map_err(|error| unusable(&error))?, LIFE, now)?;
    let mut chain = Vec::new();
    for text in &issued.chain {
        let ders = culvert_identity::x509::certificates_of_pem(text.as_bytes()).map_err(|error| unusable(&error))?;
        chain.extend(ders.into_iter().map(CertificateDer::from));
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(|error| unusable(&error))
}

async fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
    bounds: Arc<Bounds>,
) -> io::Result<()> {
    let stream = time::timeout(ANSWER, TlsAcceptor::from(config).accept(stream)).await??;
    let service = service_fn(move |request: Request<Incoming>| {
        let (metrics, bounds) = (Arc::clone(&metrics), Arc::clone(&bounds));
        async move { Ok::<_, Infallible>(respond(request, &metrics, &bounds).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(io::Error::other)
}

async fn respond(request: Request<Incoming>, metrics: &Metrics, bounds: &Bounds) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH || request.method() != Method::POST {
        return plain(StatusCode::NOT_FOUND, "nothing here\n");
    }
    let Ok(Ok(_place)) = time::timeout(ANSWER, bounds.bodies.acquire()).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many questions\n");
    };
    let body = time::timeout(ANSWER, Limited::new(request.into_body(), LARGEST).collect()).await;
    let Ok(Ok(body)) = body else {
        return plain(StatusCode::BAD_REQUEST, "the question cannot be read\n");
    };
    let _turn = bounds.looks.acquire().await;
    match answer(&body.to_bytes(), metrics) {
        Ok(answer) => {
            let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
            response
        }
        Err((status, text)) => plain(status, text),
    }
}

/// An AdmissionReview, as far as it is looked at.
#[derive(Deserialize)]
struct Question<'q> {
    #[serde(borrow)]
    request: Asked<'q>,
}

#[derive(Deserialize)]
struct Asked<'q> {
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(borrow, default)]
    object: Option<&'q RawValue>,
}

impl Asked<'_> {
    /// The object, if it is not so made up that it would cost too much to look at.
    fn object(&self) -> Result<Value, (StatusCode, &'static str)> {
        let text = self.object.map_or("null", RawValue::get);
        if text.bytes().filter(|byte| *byte == b'{').count() > MOST_PARTS {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "too many parts to look at here\n"));
        }
        serde_json::from_str(text).map_err(|_| UNREADABLE)
    }
}

const UNREADABLE: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "not an AdmissionReview\n");

/// AdmissionReview in, AdmissionReview out (admission.k8s.io/v1).
fn answer(body: &[u8], metrics: &Metrics) -> Result<Value, (StatusCode, &'static str)> {
    let Question { request } = serde_json::from_slice(body).map_err(|_| UNREADABLE)?;
    let Review { errors, warnings } = match &*request.operation {
        "CREATE" | "UPDATE" => review(&request.object()?),
        _ => Review { errors: Vec::new(), warnings: Vec::new() },
    };
    let verdict = if errors.is_empty() { "admitted" } else { "refused" };
    metrics.reviews.get_or_create(&Reason { reason: verdict }).inc();
    let mut response = json!({"uid": request.uid, "allowed": errors.is_empty()});
    if !errors.is_empty() {
        // Not 422: kubectl prints "The request is invalid" for it and leaves the message out.
        response["status"] = json!({"code": 400, "reason": "BadRequest", "message": errors.join("; ")});
    }
    if !warnings.is_empty() {
        response["warnings"] = warnings.into_iter().take(WARNINGS.0).map(cut).collect();
    }
    Ok(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

fn cut(mut text: String) -> Value {
    text.truncate(text.floor_char_boundary(WARNINGS.1));
    text.into()
}

/// Keeps the configuration's `caBundle` equal to the roots, while this process leads.
pub(super) async fn follow_roots(api: Api, name: String, authority: Arc<Authority>, leads: watch::Receiver<bool>) {
    loop {
        if *leads.borrow()
            && let Err(error) = set_bundle(&api, &name, &authority.roots().pem).await
        {
            // Without the configuration there is no webhook to look after.
            let level_down = error.is(404);
            match level_down {
                true => tracing::debug!(name, "there is no webhook configuration of this name"),
                false => {
                    tracing::warn!(reason = error.reason(), %error, "the webhook's roots cannot be written");
                }
            }
        }
        time::sleep(LOOK).await;
    }
}

async fn set_bundle(api: &Api, name: &str, roots: &str) -> Result<(), ApiError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{name}");
    let mut held = api.get(&path).await?;
    let wanted = Value::from(BASE64_STANDARD.encode(roots));
    let Some(webhooks) = held["webhooks"].as_array_mut() else {
        return Ok(());
    };
    if webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == wanted) {
        return Ok(());
    }
    webhooks.iter_mut().for_each(|webhook| webhook["clientConfig"]["caBundle"] = wanted.clone());
    let change =
        json!({"metadata": {"resourceVersion": held["metadata"]["resourceVersion"]}, "webhooks": held["webhooks"]});
    api.send(Method::PATCH, &path, Body::Merge, &change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(operation: &str, object: &Value) -> Value {
        let question = json!({"request": {"uid": "u", "operation": operation, "object": object}});
        answer(question.to_string().as_bytes(), &Metrics::new()).unwrap()["response"].clone()
    }

    fn policy(spec: Value) -> Value {
        json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
    }

    #[test]
    fn a_bad_object_is_refused_with_field_and_word_and_a_good_one_is_not() {
        let bad = asked("CREATE", &policy(json!({"action": "DENY"})));
        assert_eq!((&bad["allowed"], &bad["status"]["code"]), (&json!(false), &json!(400)));
        let text = bad["status"]["message"].as_str().unwrap();
        assert!(text.contains("spec") && text.contains('['), "{text}");
        assert_eq!(asked("UPDATE", &policy(json!({"rules": [{}]})))["allowed"], true);
        assert_eq!(asked("DELETE", &Value::Null)["allowed"], true);
        assert_eq!(asked("CREATE", &json!({"kind": "Unknown"}))["allowed"], false);
    }

    #[test]
    fn what_is_probably_not_meant_is_a_warning() {
        let odd = policy(json!({"selector": {}, "rules": [{}]}));
        let answer = asked("CREATE", &odd);
        assert_eq!(answer["allowed"], true);
        assert!(!answer["warnings"].as_array().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        for body in ["", "[]", "{}", r#"{"request": {}}"#] {
            assert_eq!(answer(body.as_bytes(), &Metrics::new()), Err(UNREADABLE), "{body}");
        }
    }

    #[test]
    fn an_object_of_too_many_parts_is_not_looked_at() {
        let made_up =
            json!({"request": {"uid": "u", "operation": "CREATE", "object": vec![json!({"": 0}); MOST_PARTS + 1]}});
        let refused = answer(made_up.to_string().as_bytes(), &Metrics::new()).unwrap_err();
        assert_eq!(refused.0, StatusCode::PAYLOAD_TOO_LARGE);
        let elsewhere = json!({"request": {"uid": "u", "operation": "DELETE", "oldObject": made_up}});
        assert!(
            answer(elsewhere.to_string().as_bytes(), &Metrics::new()).is_ok(),
            "what nobody looks at is not counted"
        );
    }
}
