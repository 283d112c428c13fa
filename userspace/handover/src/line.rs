//! One line of JSON each way.

use std::{
    io::{self, Read as _},
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{ProtocolError, receive, send};

/// Longest request, in bytes.
pub const MAX_LINE: usize = 4096;

/// The line of a buffer that holds all of one. `None`: more bytes are needed.
pub fn complete(buffer: &[u8]) -> Result<Option<&[u8]>, ProtocolError> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some(&buffer[..end])),
        None if buffer.len() >= MAX_LINE => Err(ProtocolError::Malformed(format!("longer than {MAX_LINE} bytes"))),
        None => Ok(None),
    }
}

/// The JSON value of a line.
pub(crate) fn read<T: DeserializeOwned>(line: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(line).map_err(|error| ProtocolError::Malformed(error.to_string()))
}

/// A message as a line.
pub(crate) fn written<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut line = serde_json::to_vec(message).map_err(|error| ProtocolError::Malformed(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

/// Asks whoever listens on `socket`, and gives the whole answer with its descriptors.
pub(crate) fn exchange(
    socket: &Path,
    line: &[u8],
    fds: &[BorrowedFd<'_>],
    patience: Option<Duration>,
    longest: usize,
) -> Result<(Vec<u8>, Vec<OwnedFd>), ProtocolError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    send(&stream, line, fds)?;
    let (mut answer, mut given, mut buffer) = (Vec::new(), Vec::new(), [0; MAX_LINE]);
    let got = receive(&stream, &mut buffer, &mut given)?;
    answer.extend_from_slice(&buffer[..got]);
    // Descriptors come beside the first bytes only.
    let rest = (&stream).take(longest as u64).read_to_end(&mut answer)?;
    if rest == longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless answer").into());
    }
    Ok((answer, given))
}
