//! What all sockets of a splice have in common: how they end.

use std::{
    fmt,
    future::Future,
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use crate::{early::Early, meter::Meter};

/// How often a socket that is not being read is asked whether it was reset.
const LOOK_FOR_RESET: Duration = Duration::from_secs(2);

/// An application's socket, ready to be carried: it does not wait for more before it sends (TCP_NODELAY), and closing it
/// resets the connection (SO_LINGER with no time) until it has ended well.
#[derive(Debug)]
pub struct AppSocket {
    pub(super) tcp: TcpStream,
    /// It has said that it was reset, and will not say so again.
    pub(super) broken: bool,
    /// What was taken from it and not said to anybody yet.
    pub(super) unsaid: Vec<u8>,
}

impl AppSocket {
    /// A socket that has both options already; one that was accepted has them from its listener.
    pub fn ready(tcp: TcpStream) -> Self {
        Self { tcp, broken: false, unsaid: Vec::new() }
    }

    /// The socket alone.
    pub fn into_inner(self) -> TcpStream {
        self.tcp
    }

    /// The same socket after this was taken from it: what was said of it is counted as sent, the rest is said first, and
    /// its end is noted.
    pub fn after(self, early: Early, meter: &Meter) -> Self {
        early.count(meter);
        Self { broken: early.is_broken(), unsaid: early.into_unsaid(), ..self }
    }
}

impl From<TcpStream> for AppSocket {
    fn from(tcp: TcpStream) -> Self {
        prepare(&tcp);
        Self::ready(tcp)
    }
}

/// Sets a socket up for carrying.
pub(super) fn prepare(tcp: &TcpStream) {
    // A socket that takes no options is about to fail anyway.
    let _ = tcp.set_nodelay(true);
    arm(tcp);
}

/// From now on closing the socket resets the connection. So it does when this process is killed: a FIN would make a
/// clean end of a connection that broke. What has ended well takes this back before its FIN ([`finish`]).
pub(super) fn arm(tcp: &TcpStream) {
    // It fails only on a socket that has nothing to reset.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Sends FIN, after all that was written.
pub(super) fn finish(tcp: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    let _ = socket.set_linger(None);
    socket.shutdown(Shutdown::Write)
}

/// Looks from time to time whether a socket that nobody reads was reset.
pub(super) struct Look(Pin<Box<Sleep>>);

impl Default for Look {
    fn default() -> Self {
        Self(Box::pin(sleep(LOOK_FOR_RESET)))
    }
}

impl Look {
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<()> {
        while self.0.as_mut().poll(cx).is_ready() {
            if !matches!(tcp.take_error(), Ok(None)) {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(Instant::now() + LOOK_FOR_RESET);
        }
        Poll::Pending
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn what_is_finished_arrives_after_the_socket_is_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(address).unwrap());
        let (tcp, _) = listener.accept().await.unwrap();
        let mut client = client.await.unwrap();
        prepare(&tcp);
        // As much as the way takes while nobody reads: some of it still waits to be sent.
        let mut sent = 0;
        while let Ok(written) = (&*SockRef::from(&tcp)).write(&[7; 4096]) {
            sent += written;
        }
        finish(&tcp).unwrap();
        drop(tcp);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!((got.len(), got.iter().all(|byte| *byte == 7)), (sent, true));
    }

    #[tokio::test]
    async fn what_is_not_finished_is_reset() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(address).unwrap());
        let (tcp, _) = listener.accept().await.unwrap();
        prepare(&tcp);
        drop(tcp);
        let error = client.await.unwrap().read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
