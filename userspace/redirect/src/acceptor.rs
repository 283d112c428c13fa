//! Taking connections from a listener without registering them with the runtime of the thread that takes them: whoever
//! carries them does that, and it may be another.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::{self, SocketFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// A listener, registered with the runtime in which it was made.
#[derive(Debug)]
pub struct Acceptor(AsyncFd<TcpListener>);

impl Acceptor {
    /// A non-blocking listener. To be called, and used, inside a runtime with I/O.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: the listener owns an open descriptor for as long as it lives, and always names that one.
        let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// The next connection, non-blocking and registered nowhere, and its other end. Cancel safe.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, accept).await
    }
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket.into(), peer.ok_or(io::ErrorKind::ConnectionAborted)?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn what_is_taken_does_not_block_and_names_its_caller() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Acceptor::new(listener).unwrap();
        let caller = TcpStream::connect(address).unwrap();
        let (mut taken, peer) = acceptor.accept().await.unwrap();
        assert_eq!(peer, caller.local_addr().unwrap());
        assert_eq!(taken.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
