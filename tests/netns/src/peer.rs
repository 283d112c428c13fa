//! The ordinary programs of a pod: an echo server, a client, and a client that tries to get around.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_lab::Netns;
use socket2::{Domain, Protocol, Socket, Type};

use crate::agent::PATIENCE;

/// A server that echoes each connection until its end, on a thread of its own.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    peers: Receiver<SocketAddr>,
}

impl Echo {
    /// Starts one; it ends with the sandbox.
    pub fn start(netns: &Netns, address: impl Into<SocketAddr>) -> Result<Echo> {
        let address = address.into();
        let listener = netns.enter(|| listen(address))?;
        let address = listener.local_addr()?;
        let (sender, peers) = channel();
        std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                let _ = sender.send(peer);
                std::thread::spawn(move || echo(stream));
            }
        })?;
        Ok(Echo { address, peers })
    }

    /// The next client's address, as the server saw it.
    pub fn peer(&self) -> Result<SocketAddr> {
        self.peers.recv_timeout(PATIENCE).context("no client reached the server")
    }

    /// Whether nobody has come.
    pub fn is_unvisited(&self) -> bool {
        self.peers.try_recv().is_err()
    }
}

/// A listener; IPv6 ones take IPv6 only.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// How a client's socket is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tricks {
    /// `SO_BINDTODEVICE eth0`.
    pub bind_device: bool,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// `IP_TRANSPARENT` and this source.
    pub source: Option<SocketAddr>,
    /// Source port, of any own address.
    pub port: Option<u16>,
    /// User id of the thread that makes and connects it.
    pub uid: Option<u32>,
    /// How long connecting may take.
    pub patience: Option<Duration>,
}

/// Connects from a netns.
pub fn connect(netns: &Netns, destination: impl Into<SocketAddr>) -> Result<TcpStream> {
    connect_with(netns, destination, Tricks::default())
}

/// Connects from a netns with tricks.
pub fn connect_with(netns: &Netns, destination: impl Into<SocketAddr>, tricks: Tricks) -> Result<TcpStream> {
    let destination = destination.into();
    netns.enter(move || {
        if let Some(uid) = tricks.uid {
            become_user(uid)?;
        }
        let socket = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP))?;
        if tricks.bind_device {
            socket.bind_device(Some(b"eth0"))?;
        }
        if let Some(port) = tricks.port {
            let any = if destination.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        if let Some(mark) = tricks.mark {
            socket.set_mark(mark)?;
        }
        if let Some(source) = tricks.source {
            if source.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
                .context("IP_TRANSPARENT")?;
            socket.set_reuse_address(true)?;
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&destination.into(), tricks.patience.unwrap_or(PATIENCE))?;
        let stream: TcpStream = socket.into();
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

/// Gives the calling thread another user id, without any capability.
pub fn become_user(uid: u32) -> Result<()> {
    // SAFETY: the raw call changes the ids of this thread only, which is what is wanted here.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    ensure!(ret == 0, "setresuid: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Sends a word and expects it back.
pub fn ping(stream: &mut TcpStream, word: &[u8]) -> Result<()> {
    stream.write_all(word)?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).context("nothing came back")?;
    ensure!(back == word, "something else came back");
    Ok(())
}

/// A connection in each direction and of each family, with both of its ends.
pub fn in_each_direction(pod: &culvert_lab::Pod, other: &culvert_lab::Pod) -> Result<Vec<(TcpStream, TcpStream)>> {
    let mut pairs = Vec::new();
    for v6 in [false, true] {
        for (from, to) in [(pod, other), (other, pod)] {
            let server = to.netns().enter(|| listen(at(crate::own(to, v6)?, 4000)))?;
            let client = connect(from.netns(), server.local_addr()?)?;
            let (served, _) = server.accept()?;
            served.set_read_timeout(Some(PATIENCE))?;
            pairs.push((client, served));
        }
    }
    Ok(pairs)
}

/// A word each way.
pub fn talk((client, served): &mut (TcpStream, TcpStream)) -> std::io::Result<()> {
    client.write_all(b"there")?;
    served.read_exact(&mut [0; 5])?;
    served.write_all(b"back")?;
    client.read_exact(&mut [0; 4])
}

/// Ends both ways in order: our FIN, then the other side's.
pub fn finish(mut stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{} bytes more than expected", rest.len());
    Ok(())
}

/// An address and a port.
pub fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
