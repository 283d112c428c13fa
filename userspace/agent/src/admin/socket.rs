//! The admin socket: root's alone, one question per connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    answers,
    protocol::{Answer, Question},
    why,
};
use crate::{
    enrol::Enroller,
    snapshot::Snapshot,
    worker::{Shared, Workers},
};

/// Longest question, in bytes.
const MAX_LINE: u64 = 4096;
/// Patience for what the control plane has to be asked.
const ASKING: Duration = Duration::from_secs(2);
/// Patience for a question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who answers, and from what.
#[derive(Clone)]
pub struct Desk {
    /// This node's name.
    pub node: Arc<str>,
    /// Pods and identities.
    pub enroller: Arc<Enroller>,
    /// Snapshot, outcomes, metrics.
    pub shared: Arc<Shared>,
    /// Tunnels.
    pub workers: Arc<Workers>,
}

/// Answers, for ever.
pub async fn serve(listener: UnixListener, desk: Desk) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(one(stream, desk.clone()))),
            Err(error) => {
                tracing::warn!(%error, "accept on the admin socket failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, desk: Desk) {
    // Read before anything is said: an answer that overtakes the question is lost when the socket closes.
    let question = tokio::time::timeout(PATIENCE, read(&mut stream)).await;
    let mut text = match (may_ask(&stream), question) {
        (Err(message), _) => error("not_root", message),
        (Ok(()), Ok(Ok(question))) => answer(&desk, question).await,
        (Ok(()), Ok(Err(message))) => error("bad_question", message),
        (Ok(()), Err(_)) => error("bad_question", "no complete line within 5 s".to_owned()),
    };
    text.push(b'\n');
    let _ = stream.write_all(&text).await;
    let _ = stream.shutdown().await;
}

/// Root, and the agent's own user.
fn may_ask(stream: &UnixStream) -> Result<(), String> {
    let uid = stream.peer_cred().map_err(|error| error.to_string())?.uid();
    if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(format!("the caller has uid {uid}"))
}

async fn read(stream: &mut UnixStream) -> Result<Question, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MAX_LINE));
    reader.read_line(&mut line).await.map_err(|error| error.to_string())?;
    serde_json::from_str(&line).map_err(|error| error.to_string())
}

async fn answer(desk: &Desk, question: Question) -> Vec<u8> {
    match question {
        Question::Status => ok(&answers::status(desk).await),
        Question::Connections => ok(&answers::connections(desk)),
        Question::Recent { limit } => {
            let recent = desk.shared.sink.recent();
            ok(&recent[recent.len().saturating_sub(limit)..])
        }
        Question::Why { source, destination, port } => match told(desk, [&source, &destination]).await {
            None => error("not_synced", "the control plane has not said anything yet".to_owned()),
            Some(snapshot) => match why::why(&snapshot, &source, &destination, port) {
                Ok(why) => ok(&why),
                Err(fault) => error(fault.reason(), fault.to_string()),
            },
        },
    }
}

/// The snapshot, once it tells of these addresses: the agent may have to ask for them.
async fn told(desk: &Desk, ends: [&String; 2]) -> Option<Arc<Snapshot>> {
    let addresses: Vec<IpAddr> = ends.into_iter().filter_map(|end| end.parse().ok()).collect();
    let current = &desk.shared.current;
    let snapshot = current.get()?;
    addresses.iter().for_each(|address| current.need(&snapshot, *address));
    let tells = |snapshot: &Arc<Snapshot>| addresses.iter().all(|a| snapshot.tells(*a)).then(|| snapshot.clone());
    // Without an answer what is known has to do.
    current.wait_for(ASKING, tells).await.or(Some(snapshot))
}

fn ok<T: Serialize + ?Sized>(answer: &T) -> Vec<u8> {
    match serde_json::to_value(answer) {
        Ok(value) => serde_json::to_vec(&Answer::Ok(value)).unwrap_or_default(),
        Err(fault) => error("answer_failed", fault.to_string()),
    }
}

fn error(reason: &str, message: String) -> Vec<u8> {
    let answer = Answer::<()>::Error { reason: reason.to_owned(), message };
    serde_json::to_vec(&answer).unwrap_or_default()
}
