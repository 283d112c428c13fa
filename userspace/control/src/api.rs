//! The API server: plain JSON in, plain JSON out. What an object says is for the readers of `culvert_manifests`.

use std::{path::Path, time::Duration};

use futures::{Stream, StreamExt as _};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::WatchEvent,
};
use serde_json::Value;

/// Longest wait for the answer to one question.
const ANSWER: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
/// A watch that says nothing for so long is dead: the server ends each one earlier by itself.
const SILENCE: Duration = Duration::from_secs(70);

/// A connection to the API server. Cheap to copy.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// Why the API server gave no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig, or the service account's folder.
    #[error("the API server's address or credentials cannot be read: {0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// It says no.
    #[error("the API server answers {code} {reason}: {message}")]
    Refused {
        /// HTTP's number.
        code: u16,
        /// Kubernetes' word.
        reason: String,
        /// For people.
        message: String,
    },
    /// Not what the API promises.
    #[error("the API server's answer cannot be read: {0}")]
    Malformed(String),
}

/// How the body of a change is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// POST or PUT of a whole object.
    Whole,
    /// PATCH: JSON merge patch (RFC 7386).
    Merge,
}

impl ApiError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "api_config",
            Self::Unreachable(_) => "api_unreachable",
            Self::Timeout => "api_timeout",
            Self::Refused { code: 401 | 403, .. } => "api_forbidden",
            Self::Refused { code: 404, .. } => "api_not_found",
            Self::Refused { code: 409, .. } => "api_conflict",
            Self::Refused { code: 410, .. } => "api_expired",
            Self::Refused { .. } => "api_refused",
            Self::Malformed(_) => "api_malformed",
        }
    }

    /// Is it HTTP's number.
    pub fn is(&self, number: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == number)
    }
}

impl Api {
    /// By a kubeconfig, else as the service account of the pod that this runs in.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self, ApiError> {
        let config = |error: &dyn std::fmt::Display| ApiError::Config(error.to_string());
        let mut settings = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| config(&error))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| config(&error))?
            }
            None => Config::incluster().map_err(|error| config(&error))?,
        };
        settings.connect_timeout = Some(CONNECT);
        settings.read_timeout = Some(SILENCE);
        // Retries are ours: they know what stays as it was meanwhile.
        settings.default_retry = false;
        let client = Client::try_from(settings).map_err(|error| config(&error))?;
        Ok(Self::of(client))
    }

    /// By a client that is there already.
    pub fn of(client: Client) -> Self {
        Self { client }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.answer(request(Method::GET, path, None, Vec::new())?).await
    }

    /// POST, PUT or PATCH.
    pub async fn send(&self, method: Method, path: &str, body: Body, value: &Value) -> Result<Value, ApiError> {
        let kind = match body {
            Body::Whole => "application/json",
            Body::Merge => "application/merge-patch+json",
        };
        let bytes = serde_json::to_vec(value).map_err(|error| ApiError::Malformed(error.to_string()))?;
        self.answer(request(method, path, Some(kind), bytes)?).await
    }

    /// GET with `watch=1` in the path: events until either side ends it.
    pub async fn watch(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, ApiError>> + use<>, ApiError> {
        let request = request(Method::GET, path, None, Vec::new())?;
        let events = tokio::time::timeout(ANSWER, self.client.request_events::<Value>(request));
        let events = events.await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::from)?;
        Ok(events.map(|event| event.map_err(ApiError::from)).boxed())
    }

    async fn answer(&self, request: Request<Vec<u8>>) -> Result<Value, ApiError> {
        // Not `Client::request`, which logs what it cannot read: it may be a Secret.
        let text = tokio::time::timeout(ANSWER, self.client.request_text(request));
        let text = text.await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::from)?;
        serde_json::from_str(&text).map_err(|error| ApiError::Malformed(error.to_string()))
    }
}

fn request(method: Method, path: &str, kind: Option<&str>, body: Vec<u8>) -> Result<Request<Vec<u8>>, ApiError> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    request.body(body).map_err(|error| ApiError::Malformed(error.to_string()))
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::Refused { code: status.code, reason: status.reason.clone(), message: status.message.clone() }
            }
            kube::Error::SerdeError(error) => Self::Malformed(error.to_string()),
            other => {
                let mut text = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(inner) = source {
                    text = format!("{text}: {inner}");
                    source = inner.source();
                }
                Self::Unreachable(text)
            }
        }
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}
