//! The enrolment socket's messages: one JSON line each way, the network namespace beside it as a descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    net::IpAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Longest request or answer, in bytes.
pub const MAX_LINE: usize = 4096;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Capture the pod whose network namespace comes along.
    Enrol {
        /// The pod's UID.
        uid: String,
    },
    /// Let the pod go.
    Withdraw {
        /// The pod's UID.
        uid: String,
    },
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Answer {
    /// Done, or was so already.
    pub ok: bool,
    /// The pod's addresses, read in its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The SPIFFE ID that the pod proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Why not: a word of docs/operating/reasons.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A request that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("the enrolment socket failed")]
    Io(#[from] io::Error),
    /// Not a line of JSON as documented.
    #[error("the request is not one of docs/operating/settings.md: {0}")]
    Malformed(String),
    /// The UID cannot be a file's name.
    #[error("a pod's UID has 1 to 63 letters, digits, - and _")]
    BadUid,
}

impl ProtocolError {
    /// Stable word for log and answer.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "enrol_socket_failed",
            Self::Malformed(_) => "enrol_malformed",
            Self::BadUid => "pod_uid_invalid",
        }
    }
}

/// One `recvmsg`: the bytes go to `buffer`, descriptors are collected. Zero bytes is the end.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than a request may carry"));
    }
    Ok(got.bytes)
}

/// Reads a complete request line. `None`: more bytes are needed.
pub fn parse(buffer: &[u8]) -> Result<Option<Request>, ProtocolError> {
    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
        if buffer.len() >= MAX_LINE {
            return Err(ProtocolError::Malformed(format!("longer than {MAX_LINE} bytes")));
        }
        return Ok(None);
    };
    let request = serde_json::from_slice(&buffer[..end]);
    let request = request.map_err(|error| ProtocolError::Malformed(error.to_string()))?;
    let (Request::Enrol { uid } | Request::Withdraw { uid }) = &request;
    if !is_uid(uid) {
        return Err(ProtocolError::BadUid);
    }
    Ok(Some(request))
}

/// Files and folders are named by UIDs: nothing else gets past this point.
fn is_uid(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&text.len()) && text.bytes().all(good)
}

/// The client's half: asks the agent behind `socket` and waits for its answer.
pub fn ask(socket: &Path, request: &Request, netns: Option<OwnedFd>) -> Result<Answer, ProtocolError> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(request).map_err(|error| ProtocolError::Malformed(error.to_string()))?;
    line.push(b'\n');
    send(&stream, &line, netns.as_ref())?;
    let mut answer = Vec::new();
    stream.by_ref().take(MAX_LINE as u64 * 4).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(|error| ProtocolError::Malformed(format!("the agent's answer: {error}")))
}

/// Sends a whole line, with the descriptor beside its first byte.
fn send(stream: &UnixStream, line: &[u8], netns: Option<&OwnedFd>) -> io::Result<()> {
    let fds: Vec<_> = netns.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let mut sent = sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    while sent < line.len() {
        let mut nothing = SendAncillaryBuffer::default();
        sent += sendmsg(stream, &[IoSlice::new(&line[sent..])], &mut nothing, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}
