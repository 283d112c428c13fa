//! Agents by the tokens of their pods: the API server says whose a token is, the watches say where that pod runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use culvert_manifests::State;
use culvert_workload::{Phase, WorkloadUid};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::{
    api::{Api, ApiError, Body},
    index::Published,
};

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Longest token that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;
/// Longest life of a token, and how much longer than that is not counted: clocks and rounding.
const LIFE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(10));
/// For so long an answer is not asked for again.
const FRESH: Duration = Duration::from_secs(30);
/// Questions to the API server at once.
const AT_ONCE: usize = 16;
/// Answers that are kept.
const KEPT: usize = 20_000;

/// Whom agents' tokens are held against.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Culvert's namespace.
    pub namespace: String,
    /// The agents' service account in it.
    pub account: String,
    /// What tokens must be bound to.
    pub audience: String,
}

/// Asks, and remembers for a moment.
#[derive(Debug)]
pub struct Reviewer {
    api: Api,
    expected: Expected,
    published: watch::Receiver<Published>,
    places: Semaphore,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
}

/// An agent that has proven to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The node of its pod.
    pub node: String,
    /// Its pod.
    pub pod: WorkloadUid,
}

/// What the API server has said of a token.
#[derive(Debug, Clone)]
struct Answer {
    pod: WorkloadUid,
    fresh_until: SystemTime,
    /// End of the token.
    ends: SystemTime,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none.
    #[error("no token: the agent presents its projected service account token in `authorization: Bearer`")]
    Missing,
    /// Not a token of a service account.
    #[error("not a service account's token")]
    Malformed,
    /// The API server does not know it, or not any more.
    #[error("the API server does not accept the token")]
    NotAuthenticated,
    /// Bound to another audience.
    #[error("the token is not bound to this audience")]
    OtherAudience,
    /// Somebody else's.
    #[error("the token is not the agents' service account's")]
    OtherAccount,
    /// Bound to no pod.
    #[error("the token is bound to no pod")]
    NoPod,
    /// It lives longer than ten minutes.
    #[error("the token lives longer than ten minutes: set expirationSeconds to 600")]
    LongLived,
    /// It has ended.
    #[error("the token has ended")]
    Ended,
    /// Its pod is gone, or has ended, or was another one.
    #[error("the token's pod is not alive")]
    PodGone,
    /// Its pod is not on a node yet as far as is known.
    #[error("the token's pod is not known yet")]
    PodUnknown,
    /// Another node's than the certificate's.
    #[error("the token is of another node than the certificate")]
    OtherNode,
    /// Nobody can tell now.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl TokenRefusal {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::NotAuthenticated => "token_not_authenticated",
            Self::OtherAudience => "token_other_audience",
            Self::OtherAccount => "token_other_account",
            Self::NoPod => "token_unbound",
            Self::LongLived => "token_long_lived",
            Self::Ended => "token_expired",
            Self::PodGone => "agent_pod_gone",
            Self::PodUnknown => "agent_pod_unknown",
            Self::OtherNode => "token_of_other_node",
            Self::Api(error) => error.reason(),
        }
    }

    /// May it be another answer in a moment.
    pub fn passes(&self) -> bool {
        matches!(self, Self::PodUnknown | Self::Api(_))
    }
}

/// What the token says of itself. Nobody believes it before the API server does; it only saves questions.
struct Claims {
    pod: WorkloadUid,
    life: Duration,
    ends: SystemTime,
}

impl Reviewer {
    /// `published`: where the agents' pods are found.
    pub fn new(api: Api, expected: Expected, published: watch::Receiver<Published>) -> Self {
        let answers = Mutex::new(HashMap::new());
        Self { api, expected, published, places: Semaphore::new(AT_ONCE), answers }
    }

    /// Whose token it is.
    pub async fn agent(&self, token: Option<&str>, now: SystemTime) -> Result<Agent, TokenRefusal> {
        let token = token.ok_or(TokenRefusal::Missing)?;
        let claims = self.claims(token)?;
        if claims.ends <= now {
            return Err(TokenRefusal::Ended);
        }
        if claims.life > LIFE.0 + LIFE.1 {
            return Err(TokenRefusal::LongLived);
        }
        // Whoever makes a token up has to know the UID of an agent's pod first.
        let state = Arc::clone(&self.published.borrow().state);
        self.at_home(&state, claims.pod.clone())?;
        let pod = self.pod_of(token, &claims, now).await?;
        let state = Arc::clone(&self.published.borrow().state);
        self.at_home(&state, pod)
    }

    /// Is the agent's pod alive, on a node, and the agents' own. Also asked while a stream is open.
    pub fn at_home(&self, state: &State, pod: WorkloadUid) -> Result<Agent, TokenRefusal> {
        let known = state.workloads.get(&pod).ok_or(TokenRefusal::PodUnknown)?;
        if *known.namespace != *self.expected.namespace || *known.service_account != *self.expected.account {
            return Err(TokenRefusal::OtherAccount);
        }
        if known.phase == Phase::Ended {
            return Err(TokenRefusal::PodGone);
        }
        if known.node.is_empty() {
            return Err(TokenRefusal::PodUnknown);
        }
        Ok(Agent { node: known.node.to_string(), pod })
    }

    async fn pod_of(&self, token: &str, claims: &Claims, now: SystemTime) -> Result<WorkloadUid, TokenRefusal> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let kept = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.fresh_until > now) {
            return Ok(kept.pod.clone());
        }
        let asked = self.ask(token).await;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match (asked, kept) {
            (Ok(pod), _) => {
                if answers.len() >= KEPT {
                    answers.retain(|_, answer| answer.fresh_until > now);
                }
                let answer =
                    Answer { pod: pod.clone(), fresh_until: (now + FRESH).min(claims.ends), ends: claims.ends };
                answers.insert(key, answer);
                Ok(pod)
            }
            // An API server that is away takes nothing back that it has said; the token's own end does.
            (Err(TokenRefusal::Api(ApiError::Unreachable(_) | ApiError::Timeout)), Some(kept)) if kept.ends > now => {
                Ok(kept.pod)
            }
            (Err(error), _) => {
                answers.remove(&key);
                Err(error)
            }
        }
    }

    async fn ask(&self, token: &str) -> Result<WorkloadUid, TokenRefusal> {
        // Never closed, so that the error cannot happen.
        let _place = self.places.acquire().await;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.expected.audience]}});
        let answer = self.api.send(Method::POST, PATH, Body::Whole, &review).await?;
        self.read(&answer["status"])
    }

    fn read(&self, status: &Value) -> Result<WorkloadUid, TokenRefusal> {
        if status["authenticated"] != true {
            return Err(TokenRefusal::NotAuthenticated);
        }
        // A server that knows nothing of audiences says nothing of them, and has not looked at them either.
        let audiences = status["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !audiences.iter().any(|audience| *audience == *self.expected.audience) {
            return Err(TokenRefusal::OtherAudience);
        }
        if status["user"]["username"] != *self.user() {
            return Err(TokenRefusal::OtherAccount);
        }
        let uid = &status["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0];
        uid.as_str().filter(|uid| !uid.is_empty()).map(WorkloadUid::new).ok_or(TokenRefusal::NoPod)
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.expected.namespace, self.expected.account)
    }

    /// Refuses at once what the API server could only refuse: whoever sends many tokens does not make it work.
    fn claims(&self, token: &str) -> Result<Claims, TokenRefusal> {
        let payload = token.split('.').nth(1).filter(|_| token.len() <= LONGEST).ok_or(TokenRefusal::Malformed)?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenRefusal::Malformed)?;
        let claims: Value = serde_json::from_slice(&payload).map_err(|_| TokenRefusal::Malformed)?;
        if claims["sub"] != *self.user() {
            return Err(TokenRefusal::OtherAccount);
        }
        let audiences = claims["aud"].as_array().map(Vec::as_slice).unwrap_or(std::slice::from_ref(&claims["aud"]));
        if !audiences.iter().any(|audience| *audience == *self.expected.audience) {
            return Err(TokenRefusal::OtherAudience);
        }
        let pod = claims["kubernetes.io"]["pod"]["uid"].as_str().filter(|uid| !uid.is_empty());
        let pod = pod.map(WorkloadUid::new).ok_or(TokenRefusal::NoPod)?;
        let time = |name: &str| claims[name].as_u64().map(Duration::from_secs).ok_or(TokenRefusal::Malformed);
        let (begins, ends) = (time("iat")?, time("exp")?);
        let moment = SystemTime::UNIX_EPOCH.checked_add(ends).ok_or(TokenRefusal::Malformed)?;
        Ok(Claims { pod, life: ends.saturating_sub(begins), ends: moment })
    }
}

#[cfg(test)]
mod tests;
