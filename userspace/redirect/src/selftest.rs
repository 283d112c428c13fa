//! A connection from the pod to an address that nobody has must arrive at the outbound listener.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::deviation::Family;
use crate::enrol::Subject;
use crate::node::Node;
use crate::pod::Listeners;
use crate::routing;

const PATIENCE: Duration = Duration::from_secs(2);
/// The discard port.
const PORT: u16 = 9;

/// Tests each family. Returns what processes of the pod opened in between.
pub(crate) fn run(node: &Node, subject: &Subject, listeners: &Listeners) -> Result<Vec<TcpStream>, String> {
    let mut early = Vec::new();
    for (family, _) in subject.families() {
        let listener = match family {
            Family::V4 => Some(&listeners.outbound_v4),
            Family::V6 => listeners.outbound_v6.as_ref(),
        };
        let destination = SocketAddr::new(routing::documentation(family), PORT);
        let result = listener.ok_or_else(|| "there is no listener".to_owned()).and_then(|listener| {
            let client = subject
                .netns
                .enter(&node.shared.home, || connect(destination))
                .map_err(|error| format!("connecting failed: {error}"))?;
            await_arrival(listener, &client, destination, &mut early)
        });
        result.map_err(|text| format!("to {destination}: {text}"))?;
    }
    Ok(early)
}

fn connect(destination: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(destination), Type::STREAM.nonblocking().cloexec(), None)?;
    // No TIME_WAIT of ours in the pod.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

fn await_arrival(
    listener: &TcpListener,
    client: &Socket,
    destination: SocketAddr,
    early: &mut Vec<TcpStream>,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let ours = client.local_addr().map_err(text)?.as_socket();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) if Some(peer) == ours => {
                let arrived = stream.local_addr().map_err(text)?;
                return if arrived == destination { Ok(()) } else { Err(format!("it arrived as one to {arrived}")) };
            }
            Ok((stream, _)) => early.push(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(listener, deadline)?,
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn wait(listener: &TcpListener, deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).map_err(|error| error.to_string())?;
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(0) => Err(format!("it did not arrive at the outbound listener within {PATIENCE:?}")),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
