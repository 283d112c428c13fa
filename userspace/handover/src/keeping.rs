//! The keeper's messages. Listeners come and go beside the line, in the order of [`Kept::slots`].

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{MAX_DESCRIPTORS, ProtocolError, is_uid, line};

/// How long the keeper may take: it does nothing but this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer: every pod of a node with its slots.
const MAX_ANSWER: usize = 1 << 20;

/// What the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Keep these listeners, in place of what is kept of the pod.
    Put {
        /// The pod's UID.
        uid: String,
        /// Which listener each descriptor is, see [`Kept::slots`].
        slots: Vec<u32>,
    },
    /// Give duplicates of what is kept of the pod.
    Take {
        /// The pod's UID.
        uid: String,
    },
    /// Close what is kept of the pod.
    Drop {
        /// The pod's UID.
        uid: String,
    },
    /// Say what is kept.
    List,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Answer {
    /// Done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `take`: which listener each descriptor is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<u32>,
    /// `list`: the kernel's name of each socket, by UID and slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, BTreeMap<u32, u64>>,
}

/// Listeners of one pod.
#[derive(Debug, Default)]
pub struct Kept {
    /// Which listener of the pod each is: an index of its map of listeners (`culvert_abi::slot`).
    pub slots: Vec<u32>,
    /// The sockets, in the same order.
    pub sockets: Vec<OwnedFd>,
}

/// Reads a complete request line. `None`: more bytes are needed.
pub fn parse(buffer: &[u8]) -> Result<Option<Request>, ProtocolError> {
    let Some(text) = line::complete(buffer)? else { return Ok(None) };
    let request: Request = line::read(text)?;
    match &request {
        Request::Put { uid, .. } | Request::Take { uid } | Request::Drop { uid } if !is_uid(uid) => {
            Err(ProtocolError::BadUid)
        }
        Request::Put { slots, .. } if !are_slots(slots) => {
            Err(ProtocolError::Malformed(format!("slots are up to {MAX_DESCRIPTORS} different numbers below it")))
        }
        _ => Ok(Some(request)),
    }
}

fn are_slots(slots: &[u32]) -> bool {
    let inside = slots.iter().all(|slot| (*slot as usize) < MAX_DESCRIPTORS);
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    inside && !slots.is_empty() && sorted.len() == slots.len()
}

/// A message as a line.
pub fn write(answer: &Answer) -> Result<Vec<u8>, ProtocolError> {
    line::written(answer)
}

/// The agent's half.
#[derive(Debug, Clone)]
pub struct Client<'a> {
    /// The keeper's socket.
    pub socket: &'a Path,
}

impl Client<'_> {
    /// Has the listeners kept.
    pub fn put(&self, uid: &str, slots: Vec<u32>, sockets: &[BorrowedFd<'_>]) -> Result<(), ProtocolError> {
        self.ask(&Request::Put { uid: uid.to_owned(), slots }, sockets).map(drop)
    }

    /// Duplicates of what is kept of a pod; nothing kept is no error.
    pub fn take(&self, uid: &str) -> Result<Kept, ProtocolError> {
        let (answer, sockets) = self.ask(&Request::Take { uid: uid.to_owned() }, &[])?;
        if answer.slots.len() != sockets.len() || !(sockets.is_empty() || are_slots(&answer.slots)) {
            return Err(ProtocolError::Malformed("the keeper's slots and sockets do not fit together".to_owned()));
        }
        Ok(Kept { slots: answer.slots, sockets })
    }

    /// Has what is kept of a pod closed; nothing kept is no error.
    pub fn drop(&self, uid: &str) -> Result<(), ProtocolError> {
        self.ask(&Request::Drop { uid: uid.to_owned() }, &[]).map(drop)
    }

    /// What is kept, as cookies by UID and slot.
    pub fn list(&self) -> Result<BTreeMap<String, BTreeMap<u32, u64>>, ProtocolError> {
        Ok(self.ask(&Request::List, &[])?.0.pods)
    }

    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>), ProtocolError> {
        let line = line::written(request)?;
        let (answer, given) = line::exchange(self.socket, &line, fds, Some(PATIENCE), MAX_ANSWER)?;
        let answer: Answer = line::read(&answer)?;
        if answer.ok {
            return Ok((answer, given));
        }
        Err(ProtocolError::Malformed(format!("the keeper refuses: {}", answer.reason.unwrap_or_default())))
    }
}

impl Kept {
    /// The sockets, to be sent on.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.as_fd()).collect()
    }
}
