//! The enrolment socket: root's alone, one request per connection.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use nix::sys::stat::{Mode, umask};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
};

use super::{
    EnrolError, Enrolled, Enroller,
    protocol::{self, Answer, ProtocolError, Request},
};

/// Patience for a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a Unix socket that only this user can open, in place of a former agent's.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // No moment in which it would be open to others, although its folder is closed as well.
    let former = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(former);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests, for ever.
pub async fn serve(listener: UnixListener, enroller: Arc<Enroller>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(one(stream, enroller.clone()))),
            Err(error) => {
                tracing::warn!(%error, "accept on the enrolment socket failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: UnixStream, enroller: Arc<Enroller>) {
    let answer = match answer(&stream, &enroller).await {
        Ok(Some(enrolled)) => Answer {
            ok: true,
            addresses: enrolled.addresses,
            identity: Some(enrolled.identity.to_string()),
            ..Answer::default()
        },
        Ok(None) => Answer { ok: true, ..Answer::default() },
        Err((reason, message)) => {
            tracing::warn!(reason, message, "enrolment refused");
            Answer { reason: Some(reason.to_owned()), message: Some(message), ..Answer::default() }
        }
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    let _ = stream.write_all(&line).await;
    let _ = stream.shutdown().await;
}

type Refused = (&'static str, String);

async fn answer(stream: &UnixStream, enroller: &Arc<Enroller>) -> Result<Option<Enrolled>, Refused> {
    let refuse = |error: EnrolError| (error.reason(), crate::outcome::chain(&error));
    let malformed = |error: ProtocolError| (error.reason(), crate::outcome::chain(&error));
    // Read before anything is said: an answer that overtakes the question is lost when the socket closes.
    let mut fds = Vec::new();
    let request = tokio::time::timeout(PATIENCE, read(stream, &mut fds)).await;
    let request = request.unwrap_or_else(|_| Err(ProtocolError::Malformed("no complete line within 5 s".to_owned())));
    let uid = stream.peer_cred().map_err(|error| malformed(error.into()))?.uid();
    if uid != 0 {
        return Err(refuse(EnrolError::NotRoot(uid)));
    }
    match request.map_err(malformed)? {
        Request::Enrol { uid, pod } => {
            let netns = fds.pop().filter(|_| fds.is_empty()).ok_or_else(|| refuse(EnrolError::NoNetns))?;
            enroller.enrol(&uid, netns, pod.as_ref()).await.map(Some).map_err(refuse)
        }
        Request::Withdraw { uid } => enroller.withdraw(&uid, fds.first()).await.map(|()| None).map_err(refuse),
        Request::Check { uid } => enroller.check(&uid).await.map(|()| None).map_err(refuse),
        Request::Uninstall => enroller.uninstall().await.map(|()| None).map_err(refuse),
    }
}

async fn read(stream: &UnixStream, fds: &mut Vec<std::os::fd::OwnedFd>) -> Result<Request, ProtocolError> {
    let mut text = Vec::new();
    let mut buffer = [0; protocol::MAX_LINE];
    loop {
        let got = stream.async_io(Interest::READABLE, || protocol::receive(stream, &mut buffer, fds)).await?;
        if got == 0 {
            return Err(ProtocolError::Malformed("the request ends before its line does".to_owned()));
        }
        text.extend_from_slice(&buffer[..got]);
        if let Some(request) = protocol::parse(&text)? {
            return Ok(request);
        }
    }
}
