//! One kind: listed, watched from there, listed again when the server has forgotten where that was.

use std::time::Duration;

use futures::StreamExt as _;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::{sync::mpsc, time};

use super::{
    gather::Heard,
    kinds::{Place, Watched},
};
use crate::api::{Api, ApiError};

/// Pauses after failures: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often a kind that is not there is asked for.
const ABSENT: Duration = Duration::from_secs(5);
/// Objects of one page.
const PAGE: usize = 500;
/// The server ends a watch after so many seconds; a dead connection is noticed not much later.
const LIFE: u32 = 55;
/// After so many failures in a row at the same place the kind is listed anew.
const PATIENCE: u32 = 5;

/// Why a pass ended.
enum End {
    /// Nobody listens any more.
    Done,
    /// The kind is to be looked for and listed again.
    Again,
    Failed(ApiError),
}

pub(super) type Hearing = mpsc::Sender<(Watched, Heard)>;

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// Watches for ever.
pub(super) async fn watch(api: Api, watched: Watched, hearing: Hearing) {
    let mut pause = PAUSES.0;
    loop {
        match pass(&api, watched, &hearing, &mut pause).await {
            End::Done => return,
            End::Again => {}
            End::Failed(error) => {
                let why = format!("{}: {error}", watched.name());
                if hearing.send((watched, Heard::Failing(why))).await.is_err() {
                    return;
                }
                time::sleep(next(&mut pause)).await;
            }
        }
    }
}

fn next(pause: &mut Duration) -> Duration {
    let now = *pause;
    *pause = (now * 2).min(PAUSES.1);
    // A tenth more or less, so that ten watches do not call at once.
    now.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

async fn pass(api: &Api, watched: Watched, hearing: &Hearing, pause: &mut Duration) -> End {
    match listed(api, watched, hearing).await {
        Ok(Some((place, version))) => {
            *pause = PAUSES.0;
            follow(api, watched, &place, version, hearing).await
        }
        Ok(None) => {
            *pause = PAUSES.0;
            time::sleep(ABSENT).await;
            End::Again
        }
        Err(end) => end,
    }
}

/// Lists everything. `None`: there is no such kind.
async fn listed(api: &Api, watched: Watched, hearing: &Hearing) -> Result<Option<(Place, String)>, End> {
    let place = watched.place(api).await?;
    say(hearing, watched, Heard::Begin).await?;
    let Some(place) = place else {
        say(hearing, watched, Heard::End).await?;
        return Ok(None);
    };
    let mut more = String::new();
    loop {
        let mut path = format!("{}?limit={PAGE}", place.path);
        for (key, value) in [("labelSelector", place.selector), ("continue", &more)] {
            if !value.is_empty() {
                path = format!("{path}&{key}={}", encoded(value));
            }
        }
        let mut page = api.get(&path).await?;
        let metadata = page["metadata"].take();
        let Value::Array(items) = page["items"].take() else {
            return Err(ApiError::Malformed("a list without items".to_owned()).into());
        };
        for item in items {
            say(hearing, watched, Heard::Put(place.named(item))).await?;
        }
        more = metadata["continue"].as_str().unwrap_or_default().to_owned();
        if more.is_empty() {
            say(hearing, watched, Heard::End).await?;
            let version = metadata["resourceVersion"].as_str().unwrap_or_default().to_owned();
            return Ok(Some((place, version)));
        }
    }
}

/// Watches from a version on, again and again, until the server has forgotten it.
async fn follow(api: &Api, watched: Watched, place: &Place, mut version: String, hearing: &Hearing) -> End {
    let (mut failures, mut pause) = (0, PAUSES.0);
    loop {
        let error = match follow_once(api, watched, place, &mut version, hearing).await {
            Ok(()) => {
                (failures, pause) = (0, PAUSES.0);
                continue;
            }
            Err(End::Failed(error)) => error,
            Err(end) => return end,
        };
        failures += 1;
        if error.is(410) || error.is(404) || matches!(error, ApiError::Malformed(_)) {
            return End::Again;
        }
        let why = format!("{}: {error}", watched.name());
        if hearing.send((watched, Heard::Failing(why))).await.is_err() {
            return End::Done;
        }
        // Not for a server that is merely away: listing anew would not bring it back.
        if failures >= PATIENCE && matches!(error, ApiError::Refused { .. }) {
            return End::Again;
        }
        time::sleep(next(&mut pause)).await;
    }
}

async fn follow_once(
    api: &Api,
    watched: Watched,
    place: &Place,
    version: &mut String,
    hearing: &Hearing,
) -> Result<(), End> {
    let selector = match place.selector {
        "" => String::new(),
        selector => format!("&labelSelector={}", encoded(selector)),
    };
    let path = format!(
        "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={LIFE}&resourceVersion={version}{selector}",
        place.path
    );
    let events = api.watch(&path).await?;
    say(hearing, watched, Heard::Fine).await?;
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                note(version, &object);
                say(hearing, watched, Heard::Put(place.named(object))).await?;
            }
            WatchEvent::Deleted(object) => {
                note(version, &object);
                say(hearing, watched, Heard::Gone(place.named(object))).await?;
            }
            WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) => {
                let (reason, message) = (status.reason.clone(), status.message.clone());
                return Err(ApiError::Refused { code: status.code, reason, message }.into());
            }
        }
    }
    Ok(())
}

fn note(version: &mut String, object: &Value) {
    if let Some(newer) = object["metadata"]["resourceVersion"].as_str() {
        newer.clone_into(version);
    }
}

async fn say(hearing: &Hearing, watched: Watched, heard: Heard) -> Result<(), End> {
    hearing.send((watched, heard)).await.map_err(|_| End::Done)
}

impl Place {
    /// Items of lists do not say what they are.
    fn named(&self, mut object: Value) -> Value {
        if let Some(map) = object.as_object_mut() {
            map.entry("apiVersion").or_insert_with(|| self.api_version.clone().into());
            map.entry("kind").or_insert_with(|| self.kind.as_str().into());
        }
        object
    }
}

/// Percent-encoding of a query's value.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes().fold(String::new(), |text, byte| {
        if plain(byte) { text + char::from(byte).encode_utf8(&mut [0; 4]) } else { format!("{text}%{byte:02X}") }
    })
}
