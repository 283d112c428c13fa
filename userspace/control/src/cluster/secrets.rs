//! The two Secrets of the CA, and the job that makes them and renews the issuing key.
//!
//! ```text
//! culvert-issuing  tls.key, tls.crt, ca.crt   read by the control plane, by name
//! culvert-root     tls.key, tls.crt           read by the job alone
//! ```
//!
//! A Secret that somebody else brought (without the annotation) is never written to.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use culvert_identity::TrustDomain;
use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    api::{Api, ApiError, Body},
    ca::{CaError, Given, Roots, new_issuing, new_root},
};

/// Says that culvert made the Secret, and may replace what is in it.
const OURS: &str = "culvert.dev/made-by";

/// Where the Secrets are.
#[derive(Debug, Clone)]
pub struct Names {
    /// Culvert's namespace.
    pub namespace: String,
    /// Of the issuing key.
    pub issuing: String,
    /// Of the root key.
    pub root: String,
}

/// What the job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing was due.
    Nothing,
    /// There is a new issuing key; nothing, or an older one of ours, was there before.
    Issuing,
    /// The Secret is somebody else's.
    NotOurs,
}

/// Why the keys are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// What is in a Secret.
    #[error("Secret {name}: {error}")]
    Ca {
        /// Which one.
        name: String,
        /// What is wrong.
        error: CaError,
    },
    /// An entry is missing.
    #[error("Secret {name} has no entry {entry}")]
    Missing {
        /// Which one.
        name: String,
        /// What it lacks.
        entry: &'static str,
    },
}

impl KeysError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api(error) => error.reason(),
            Self::Ca { error, .. } => error.reason(),
            Self::Missing { .. } => "secret_incomplete",
        }
    }

    /// There is no such Secret.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Api(error) if error.is(404))
    }
}

/// Reads the issuing key.
pub async fn issuing(api: &Api, namespace: &str, name: &str) -> Result<Given, KeysError> {
    given(&api.get(&path(namespace, name)).await?, name)
}

/// Makes what is missing and renews what is due. `force`: a new issuing key in any case.
pub async fn renew(
    api: &Api,
    names: &Names,
    domain: &TrustDomain,
    force: bool,
    now: SystemTime,
) -> Result<Done, KeysError> {
    let held = match api.get(&path(&names.namespace, &names.issuing)).await {
        Ok(secret) => Some(secret),
        Err(error) if error.is(404) => None,
        Err(error) => return Err(error.into()),
    };
    if held.as_ref().is_some_and(|secret| secret["metadata"]["annotations"][OURS].is_null()) {
        return Ok(Done::NotOurs);
    }
    let before = held.as_ref().map(|secret| given(secret, &names.issuing)).transpose()?;
    let (root_key, root) = root(api, names, domain, now).await?;
    let of_ca = |error| KeysError::Ca { name: names.issuing.clone(), error };
    let roots = Roots::of_pem(&root).map_err(of_ca)?;
    if let Some(before) = &before {
        let same_root = before.roots().map_err(of_ca)?.hold(&roots);
        if !force && same_root && !before.due(now).map_err(of_ca)? {
            return Ok(Done::Nothing);
        }
    }
    let fresh = new_issuing(domain, &root_key, &root, now).map_err(of_ca)?;
    let data =
        json!({"tls.key": encoded(&fresh.key), "tls.crt": encoded(&fresh.chain), "ca.crt": encoded(&fresh.roots)});
    put(api, names, &names.issuing, data, held).await?;
    Ok(Done::Issuing)
}

async fn root(
    api: &Api,
    names: &Names,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<(Zeroizing<String>, String), KeysError> {
    match api.get(&path(&names.namespace, &names.root)).await {
        Ok(secret) => {
            let key = Zeroizing::new(entry(&secret, &names.root, "tls.key")?);
            return Ok((key, entry(&secret, &names.root, "tls.crt")?));
        }
        Err(error) if error.is(404) => {}
        Err(error) => return Err(error.into()),
    }
    let (key, pem) = new_root(domain, now).map_err(|error| KeysError::Ca { name: names.root.clone(), error })?;
    // Refused where another job was faster: it then starts again and finds that one's.
    put(api, names, &names.root, json!({"tls.key": encoded(&key), "tls.crt": encoded(&pem)}), None).await?;
    Ok((key, pem))
}

/// `held`: what is there already; its version is compared by the API server.
async fn put(api: &Api, names: &Names, name: &str, data: Value, held: Option<Value>) -> Result<(), ApiError> {
    let all = format!("/api/v1/namespaces/{}/secrets", names.namespace);
    match held {
        Some(mut secret) => {
            secret["data"] = data;
            api.send(Method::PUT, &path(&names.namespace, name), Body::Whole, &secret).await?;
        }
        None => {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"name": name, "namespace": names.namespace, "annotations": {OURS: "culvert-control"},
                    "labels": {"app.kubernetes.io/part-of": "culvert"}},
                "data": data});
            api.send(Method::POST, &all, Body::Whole, &secret).await?;
        }
    }
    Ok(())
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}

fn given(secret: &Value, name: &str) -> Result<Given, KeysError> {
    Ok(Given {
        key: Zeroizing::new(entry(secret, name, "tls.key")?),
        chain: entry(secret, name, "tls.crt")?,
        roots: entry(secret, name, "ca.crt")?,
    })
}

fn entry(secret: &Value, name: &str, entry: &'static str) -> Result<String, KeysError> {
    let missing = || KeysError::Missing { name: name.to_owned(), entry };
    let text = secret["data"][entry].as_str().ok_or_else(missing)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| missing())?;
    String::from_utf8(bytes).map_err(|_| missing())
}

fn encoded(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}
