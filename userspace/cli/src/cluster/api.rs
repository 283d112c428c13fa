//! The API server: plain JSON in, plain JSON out.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::Args;
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::response::StatusCause,
};
use serde_json::{Value, json};

use super::FIELD_MANAGER;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// How the API server is reached.
#[derive(Debug, Clone, Default, Args)]
pub struct Access {
    /// A kubeconfig; else KUBECONFIG, ~/.kube/config, or the service account of the pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// One of its contexts; else its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// A connection to the API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// What the server is.
#[derive(Debug, Clone)]
pub struct Server {
    /// As it calls itself: `v1.31.2`.
    pub version: String,
    /// Of 1.MINOR.
    pub minor: u32,
    /// `GROUP/VERSION` of everything that it serves.
    pub serves: BTreeSet<String>,
}

/// Why the API server gave no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig, or the service account's folder.
    #[error("the cluster's address or credentials cannot be read: {0}")]
    Config(String),
    /// No connection, or it broke.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing came in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// It says no.
    #[error("the API server answers {code}: {message}")]
    Refused {
        /// HTTP's number.
        code: u16,
        /// For people.
        message: String,
        /// Field by field, where it says so.
        causes: Vec<Cause>,
    },
    /// Not what the API promises.
    #[error("the API server's answer cannot be read: {0}")]
    Malformed(String),
}

/// One field that the API server objects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Its path.
    pub field: String,
    /// What is wrong with it, or who else sets it.
    pub message: String,
}

impl ApiError {
    /// The stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) => "api_config",
            Self::Unreachable(_) => "api_unreachable",
            Self::Timeout => "api_timeout",
            Self::Refused { code: 401 | 403, .. } => "api_forbidden",
            Self::Refused { code: 404, .. } => "api_not_found",
            Self::Refused { code: 409, .. } => "api_conflict",
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
    /// Connects.
    pub async fn connect(access: &Access) -> Result<Self, ApiError> {
        let failed = |error: &dyn std::fmt::Display| ApiError::Config(error.to_string());
        let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &access.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
            }
            None if access.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| failed(&error))?
            }
            None => Config::infer().await.map_err(|error| failed(&error))?,
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        Ok(Self { client: Client::try_from(config).map_err(|error| failed(&error))? })
    }

    /// What the server is.
    pub async fn server(&self) -> Result<Server, ApiError> {
        let version = self.get("/version").await?;
        let minor = version["minor"].as_str().unwrap_or_default();
        let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
        let groups = self.get("/apis").await?;
        let versions = list(&groups["groups"]).iter().flat_map(|group| list(&group["versions"]));
        let serves = versions.filter_map(|version| version["groupVersion"].as_str()).map(str::to_owned).collect();
        Ok(Server {
            version: version["gitVersion"].as_str().unwrap_or("unknown").to_owned(),
            minor: minor.parse().map_err(|_| ApiError::Malformed(format!("/version: {version}")))?,
            serves,
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.answer(Method::GET, path, None, &Value::Null).await
    }

    /// GET; nothing where there is nothing.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        absent(self.get(path).await)
    }

    /// All objects of a collection; none where there is no such kind.
    pub async fn all(&self, path: &str, selector: &str) -> Result<Vec<Value>, ApiError> {
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit=500&labelSelector={}&continue={next}", escaped(selector));
            let Some(mut answer) = self.find(&page).await? else { return Ok(items) };
            next = escaped(answer["metadata"]["continue"].as_str().unwrap_or_default());
            if let Value::Array(more) = answer["items"].take() {
                items.extend(more);
            }
            if next.is_empty() {
                return Ok(items);
            }
        }
    }

    /// Server-side apply, as this command. A field that somebody else set to another value is a conflict.
    pub async fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let path = format!("{}?fieldManager={FIELD_MANAGER}&force=false", path(object)?);
        self.answer(Method::PATCH, &path, Some("application/apply-patch+yaml"), object).await
    }

    /// POST.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.answer(Method::POST, path, Some("application/json"), object).await
    }

    /// DELETE, with what belongs to it; what is gone already is no error.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        absent(self.answer(Method::DELETE, path, Some("application/json"), &options).await).map(drop)
    }

    async fn answer(&self, method: Method, path: &str, kind: Option<&str>, body: &Value) -> Result<Value, ApiError> {
        let malformed = |error: &dyn std::fmt::Display| ApiError::Malformed(error.to_string());
        let mut request = Request::builder().method(method).uri(path);
        let mut bytes = Vec::new();
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
            bytes = serde_json::to_vec(body).map_err(|error| malformed(&error))?;
        }
        let request = request.body(bytes).map_err(|error| malformed(&error))?;
        let text = tokio::time::timeout(ANSWER, self.client.request_text(request));
        let text = text.await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::from)?;
        serde_json::from_str(&text).map_err(|error| malformed(&error))
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let cause = |cause: &StatusCause| Cause { field: cause.field.clone(), message: cause.message.clone() };
                let causes = status.details.iter().flat_map(|details| &details.causes).map(cause).collect();
                Self::Refused { code: status.code, message: status.message.clone(), causes }
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

fn absent(answer: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The items of an array.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Where the kind of an object lives: `/apis/apps/v1/namespaces/n/deployments`.
pub(super) fn collection(object: &Value) -> Result<String, ApiError> {
    let field =
        |name: &str| object[name].as_str().ok_or_else(|| ApiError::Malformed(format!("an object has no {name}")));
    let (api_version, kind) = (field("apiVersion")?, field("kind")?);
    let namespace = object["metadata"]["namespace"].as_str();
    Ok(place(api_version, &plural(kind), namespace))
}

/// Where a kind lives.
pub(super) fn place(api_version: &str, plural: &str, namespace: Option<&str>) -> String {
    let root = if api_version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{api_version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{api_version}/{plural}"),
    }
}

/// Where an object lives.
pub(super) fn path(object: &Value) -> Result<String, ApiError> {
    let name = object["metadata"]["name"].as_str();
    let name = name.ok_or_else(|| ApiError::Malformed("an object has no name".to_owned()))?;
    Ok(format!("{}/{name}", collection(object)?))
}

/// Of the kinds that the chart has.
pub(super) fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if kind.ends_with("ss") || kind == "mesh" => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
