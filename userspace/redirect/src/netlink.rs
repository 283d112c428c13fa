//! rtnetlink in the netns of the calling thread: links, addresses, rules, routes.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Largest answer that is read at once; the kernel's dumps come in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// One conversation, in the netns in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens in the calling thread's netns.
    pub(crate) fn open() -> io::Result<Self> {
        Self::with_protocol(NETLINK_ROUTE)
    }

    pub(crate) fn with_protocol(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Everything of a kind.
    pub(crate) fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.talk(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// One object.
    pub(crate) fn get(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Adds; fails with `AlreadyExists` if it is there.
    pub(crate) fn add(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Adds or replaces.
    pub(crate) fn replace(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Removes.
    pub(crate) fn delete(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.talk(message, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    fn talk(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        let mut answers = Vec::new();
        while self.read(&mut answers)? {}
        Ok(answers)
    }

    /// Reads one datagram; true if more is to come.
    fn read(&self, answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
        let mut buffer = Vec::with_capacity(BUFFER);
        self.socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length() as usize;
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(false),
                NetlinkPayload::Error(error) => return error.code.map_or(Ok(false), |_| Err(error.to_io())),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(true)
    }

    /// Sends a request of another family of netlink and returns the payloads of the answers, each
    /// with its message type.
    pub(crate) fn raw(&self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let length = u32::try_from(16 + payload.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(16 + payload.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(payload);
        self.socket.send(&request, 0)?;
        let mut answers = Vec::new();
        while self.read_raw(&mut answers)? {}
        Ok(answers)
    }

    fn read_raw(&self, answers: &mut Vec<(u16, Vec<u8>)>) -> io::Result<bool> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut buffer = Vec::with_capacity(BUFFER);
        self.socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let (length, kind) = (message.length() as usize, message.message_type());
            let payload = &rest[16..length];
            match kind {
                DONE => return Ok(false),
                ERROR => {
                    let code = payload.first_chunk::<4>().map_or(-libc::EIO, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => answers.push((kind, payload.to_vec())),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(true)
    }
}

/// Whether an error says that something is there already.
pub(crate) fn exists(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

/// Whether an error says that something is not there.
pub(crate) fn absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO))
}
