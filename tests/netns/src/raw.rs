//! What a process with NET_RAW can do: frames past the whole stack, and seeing what an interface sees.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
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

    /// Sends a frame around a TCP segment that the kernel is to cut into segments of `size` bytes
    /// (`struct virtio_net_hdr`).
    pub fn send_segmented(&self, frame: &Frame, size: u16) -> Result<()> {
        const PACKET_VNET_HDR: libc::c_int = 15;
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        let transport: u16 = 34;
        let mut bytes = vec![NEEDS_CSUM, GSO_TCPV4];
        for word in [transport + 20, size, transport, 16] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame.bytes());
        let set = |on: libc::c_int| -> Result<()> {
            let fd = self.fd.as_raw_fd();
            // SAFETY: the option takes an int; pointer and size are those of `on`.
            let ret = unsafe { libc::setsockopt(fd, libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), 4) };
            ensure!(ret == 0, "PACKET_VNET_HDR: {}", std::io::Error::last_os_error());
            Ok(())
        };
        set(1)?;
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        set(0)
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

/// Where frames of a pod go: its own MAC address and its next hop's.
pub fn macs(pod: &culvert_lab::Pod) -> Result<([u8; 6], [u8; 6])> {
    Ok((mac(&pod.mac()?)?, mac(culvert_lab::topology::GATEWAY_MAC)?))
}

/// A frame of a pod around an IP packet.
pub fn ip_frame(pod: &culvert_lab::Pod, packet: Vec<u8>) -> Result<Frame> {
    let (from, to) = macs(pod)?;
    let ethertype = if packet.first().is_some_and(|first| first >> 4 == 4) { 0x0800 } else { 0x86dd };
    Ok(Frame { to, from, ethertype, payload: packet })
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
}

/// Loads a program that returns one number.
fn load_constant(kind: u32, answer: u32) -> Result<OwnedFd> {
    const PROG_LOAD: u32 = 5;
    // r0 = answer; exit
    let instructions: [u64; 2] = [u64::from(answer) << 32 | 0xb7, 0x95];
    let license = c"GPL";
    let load = Load {
        kind,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    // SAFETY: a prefix of `union bpf_attr` with its size; the pointers in it live as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    ensure!(fd >= 0, "loading a program: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

fn pin(fd: &OwnedFd, path: &std::path::Path) -> Result<()> {
    const OBJ_PIN: u32 = 6;
    let path = std::ffi::CString::new(path.to_str().context("path")?)?;
    let attr = [path.as_ptr() as u64, u64::try_from(fd.as_raw_fd())?];
    // SAFETY: path and descriptor are the first two words of this command's attributes; the path
    // lives as long as the call.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, &raw const attr, 16) };
    ensure!(ret == 0, "pinning: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Attaches a program in front of all others of an interface of the calling thread's netns.
fn attach_tcx(program: &OwnedFd, ifindex: u32, attach_type: u32) -> Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        pad: u32,
        revision: u64,
    }
    const LINK_CREATE: u32 = 28;
    const BEFORE: u32 = 1 << 3;
    let program = u32::try_from(program.as_raw_fd())?;
    let create = Create { program, target: ifindex, attach_type, flags: BEFORE, relative: 0, pad: 0, revision: 0 };
    // SAFETY: a prefix of `union bpf_attr` with its size.
    let link = unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, &raw const create, size_of::<Create>()) };
    ensure!(link >= 0, "attaching: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(link)?) })
}

/// Loads the XDP program that passes everything and pins it.
pub fn pin_xdp_pass(path: &std::path::Path) -> Result<()> {
    const XDP: u32 = 6;
    const XDP_PASS: u32 = 2;
    pin(&load_constant(XDP, XDP_PASS)?, path)
}

/// Lets nothing pass over `lo` of a netns as long as the returned link is open.
pub fn drop_on_loopback(netns: &Netns) -> Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    const SHOT: u32 = 2;
    const TCX_EGRESS: u32 = 47;
    let program = load_constant(SCHED_CLS, SHOT)?;
    netns.enter(move || attach_tcx(&program, 1, TCX_EGRESS))
}

/// Switches generic receive offload of an interface on, which turns NAPI on for a veth.
pub fn switch_gro_on(netns: &Netns, interface: &str) -> Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_SGRO: u32 = 0x2c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    netns.enter(|| {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let mut value = Value { command: ETHTOOL_SGRO, data: 1 };
        // SAFETY: zero is valid for this struct of integers and a pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::try_from(from)?;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names a live `Value` as ethtool expects it.
        let ret = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        ensure!(ret == 0, "ETHTOOL_SGRO: {}", std::io::Error::last_os_error());
        Ok(())
    })
}

/// Attaches a program in front of all others at the ingress of a pod's host veth, and pins the link.
pub fn attach_in_front(node: &Netns, pod: &culvert_lab::Pod, program: u32, path: &std::path::Path) -> Result<()> {
    const GET_FD_BY_ID: u32 = 13;
    const TCX_INGRESS: u32 = 46;
    let ifindex = pod.host_ifindex()?;
    let id = [program, 0, 0];
    // SAFETY: a prefix of `union bpf_attr` with its size.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, GET_FD_BY_ID, &raw const id, 12) };
    ensure!(fd >= 0, "program {program}: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    node.enter(move || pin(&attach_tcx(&program, ifindex, TCX_INGRESS)?, path))
}
