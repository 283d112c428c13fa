//! The keeper's socket: root's alone, one request per connection.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use culvert_handover::{
    MAX_LINE, ProtocolError,
    keeping::{self, Answer, Request},
    receive, send,
};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::geteuid;

use crate::Keep;

/// Patience for one read or write: callers are on this machine and say one line.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes the socket, mode 0600, in place of a former keeper's. Its folder is root's alone, or it is not used.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::symlink_metadata(folder)?;
        if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            let text = format!("{} must be a folder of this user with mode 0700", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests, one after the other, until accepting fails.
pub fn serve(listener: &UnixListener, keep: &mut Keep) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = one(&stream, keep) {
                    eprintln!("culvert-keeper: {}: {error}", error.reason());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn one(stream: &UnixStream, keep: &mut Keep) -> Result<(), ProtocolError> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let refused = |reason: &str| Answer { reason: Some(reason.to_owned()), ..Answer::default() };
    // Read before anything is said: an answer that overtakes the question is lost when the socket closes.
    let request = read(stream);
    // Not by rustix, which takes it for a failure that the peer's process has no number here: agents are of another process
    // namespace than a keeper in a container.
    if getsockopt(stream, PeerCredentials).map_err(io::Error::from)?.uid() != 0 {
        return reply(stream, &refused("not_root"), &[]);
    }
    let (request, fds) = request?;
    let mut given = Vec::new();
    let answer = match act(keep, request, fds, &mut given) {
        Ok(answer) => Answer { ok: true, ..answer },
        Err(error) => {
            eprintln!("culvert-keeper: {}: {error}", error.reason());
            refused(error.reason())
        }
    };
    reply(stream, &answer, &given)
}

fn act(
    keep: &mut Keep,
    request: Request,
    fds: Vec<OwnedFd>,
    given: &mut Vec<OwnedFd>,
) -> Result<Answer, crate::KeepError> {
    let mut answer = Answer::default();
    match request {
        Request::Put { uid, slots } => keep.put(&uid, &slots, fds)?,
        Request::Take { uid } => (answer.slots, *given) = keep.take(&uid)?,
        Request::Drop { uid } => keep.drop(&uid),
        Request::List => answer.pods = keep.list()?,
    }
    Ok(answer)
}

fn read(stream: &UnixStream) -> Result<(Request, Vec<OwnedFd>), ProtocolError> {
    let (mut text, mut fds, mut buffer) = (Vec::new(), Vec::new(), [0; MAX_LINE]);
    loop {
        let got = receive(stream, &mut buffer, &mut fds)?;
        if got == 0 {
            return Err(ProtocolError::Malformed("the request ends before its line does".to_owned()));
        }
        text.extend_from_slice(&buffer[..got]);
        if let Some(request) = keeping::parse(&text)? {
            return Ok((request, fds));
        }
    }
}

fn reply(stream: &UnixStream, answer: &Answer, fds: &[OwnedFd]) -> Result<(), ProtocolError> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    Ok(send(stream, &keeping::write(answer)?, &fds)?)
}
