//! What a process with NET_RAW can do: frames past the whole stack, and seeing what an interface sees.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_lab::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{SockaddrLike, bind, recv, send, socket};

use crate::frame::{self, Frame, Seen};

/// An `AF_PACKET` socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens on an interface of a netns.
    pub fn open(netns: &Netns, interface: &str) -> Result<PacketSocket> {
        netns.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface).context("no such interface")?;
            let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            bind(fd.as_raw_fd(), &link_address(index)?)?;
            Ok(PacketSocket { fd })
        })
    }

    /// Sends past the traffic control of the interface.
    pub fn bypass_qdisc(&self) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int; pointer and size are those of `on`.
        let ret = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                4,
            )
        };
        ensure!(ret == 0, "PACKET_QDISC_BYPASS: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Sends a frame.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        send(self.fd.as_raw_fd(), &frame.bytes(), MsgFlags::empty())?;
        Ok(())
    }

    /// The next TCP segment that fits, or `None` within the time.
    pub fn next_tcp(&self, patience: Duration, fits: impl Fn(&Seen) -> bool) -> Result<Option<Seen>> {
        self.next(patience, |bytes| frame::read_tcp(bytes).filter(|seen| fits(seen)))
    }

    /// The next frame that `read` makes something of, or `None` within the time.
    pub fn next<T>(&self, patience: Duration, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let deadline = Instant::now() + patience;
        let mut buffer = vec![0; 70_000];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(left)?)? == 0 {
                return Ok(None);
            }
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(found) = read(&buffer[..length]) {
                return Ok(Some(found));
            }
        }
    }
}

fn link_address(index: u32) -> Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: a valid `sockaddr_ll` and its size.
    let address =
        unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(u32::try_from(size_of::<libc::sockaddr_ll>())?)) };
    address.context("link address")
}

/// A MAC address as text.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let parts: Vec<u8> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    match parts.try_into() {
        Ok(mac) => Ok(mac),
        Err(_) => bail!("{text} is not a MAC address"),
    }
}
