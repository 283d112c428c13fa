//! Reading once per turn.

use std::io::{self, ErrorKind};

use tokio::{io::Interest, net::TcpStream};

/// Reads by `once`, which asks for `most` bytes. When fewer came the socket is empty, and is not asked again before the
/// kernel has reported more: that would be a system call for nothing with each message. What the peer's FIN has to say
/// is not lost, because a socket that was closed stays ready.
pub(crate) fn read(tcp: &TcpStream, most: usize, once: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    let mut got = Err(ErrorKind::WouldBlock.into());
    let drained = tcp.try_io(Interest::READABLE, || {
        got = once();
        match got {
            // For tokio this is the word that takes the readiness away.
            Ok(bytes) if bytes > 0 && bytes < most => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match (got, drained) {
        (Err(blocked), Err(error)) if blocked.kind() == ErrorKind::WouldBlock => Err(error),
        (got, _) => got,
    }
}
