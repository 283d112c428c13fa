//! Sockets as the load and the server want them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, listen as start_listening, setsockopt,
    socket, sockopt,
};

/// A listener with the longest queue that the kernel gives: storms of connections must not wait for SYN retries.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = tcp(SockFlag::empty())?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &ipv4(address)?)?;
    start_listening(&socket, Backlog::MAXALLOWABLE)?;
    Ok(TcpListener::from(socket))
}

/// Starts to connect; the socket becomes writable when it is done.
pub(crate) fn start_connecting(address: SocketAddr) -> Result<TcpStream> {
    let socket = tcp(SockFlag::SOCK_NONBLOCK)?;
    match connect(socket.as_raw_fd(), &ipv4(address)?) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tcp(flags: SockFlag) -> Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?)
}

fn ipv4(address: SocketAddr) -> Result<SockaddrIn> {
    match address {
        SocketAddr::V4(address) => Ok(SockaddrIn::from(address)),
        SocketAddr::V6(_) => anyhow::bail!("{address}: the load speaks IPv4"),
    }
}
