//! Attaching classifiers to an interface of the calling thread's netns: tcx links, pinned, or clsact
//! filters, which live as long as the interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption};

use crate::netlink::{Netlink, absent, exists};
use crate::pins;
use crate::programs::Loaded;
use crate::sys;

/// Which way packets go, seen from the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Ingress,
    Egress,
}

impl Way {
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => sys::ATTACH_TCX_INGRESS,
            Self::Egress => sys::ATTACH_TCX_EGRESS,
        }
    }

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: u16::MAX, minor }
    }
}

/// How classifiers are attached on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Tcx,
    Clsact,
}

/// State of one hook, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attached {
    /// The program is attached and first.
    First,
    /// The program is attached behind another one.
    Behind,
    /// Another program of ours, of an earlier agent, is attached.
    Other,
    /// Nothing of ours is attached.
    Missing,
}

/// How often, and at which intervals, a link that is being freed is waited for: half a second in all.
const FREEING_ATTEMPTS: u32 = 50;
const FREEING_PAUSE: Duration = Duration::from_millis(10);
/// Priority and handle of our clsact filters.
const PRIORITY: u32 = 1;
const HANDLE: TcHandle = TcHandle { major: 0, minor: 0xc01 };
/// `ETH_P_ALL` in network byte order.
const ALL_PROTOCOLS: u32 = 0x0300;

impl Mechanism {
    /// Whether the kernel has tcx: the query of an interface that exists everywhere.
    pub(crate) fn detect() -> Self {
        const LOOPBACK: u32 = 1;
        if sys::query_tcx(LOOPBACK, sys::ATTACH_TCX_INGRESS).is_ok() { Self::Tcx } else { Self::Clsact }
    }

    /// Attaches, or replaces the program of the attachment that is there. There is no moment without.
    pub(crate) fn ensure(self, pin: &Path, program: &Loaded, ifindex: u32, way: Way) -> io::Result<()> {
        match self {
            Self::Tcx => ensure_tcx(pin, program, ifindex, way),
            Self::Clsact => ensure_clsact(program, ifindex, way),
        }
    }

    /// Whether another program has come in front of an attached one of ours.
    pub(crate) fn is_behind(self, pin: &Path, ifindex: u32, way: Way) -> io::Result<bool> {
        let Some(link) = (if self == Self::Tcx { sys::pinned(pin)? } else { None }) else { return Ok(false) };
        let info = sys::link_info(link.as_fd())?;
        Ok(info.target == ifindex && sys::query_tcx(ifindex, way.attach_type())?.first() != Some(&info.program))
    }

    /// Attaches a second copy of the program in front and lets the first go. A chain takes the same
    /// program only once, hence the copy. There is no moment without a pin: an agent that dies here
    /// leaves the one or the other.
    pub(crate) fn move_to_front(self, pin: &Path, copy: &Loaded, ifindex: u32, way: Way) -> io::Result<()> {
        let fresh = attach_tcx(copy, ifindex, way)?;
        let beside = pins::beside(pin);
        pins::ignore_absent(std::fs::remove_file(&beside))?;
        sys::pin(fresh.as_fd(), &beside)?;
        std::fs::rename(&beside, pin)
    }

    /// Looks at one hook for the program with this tag.
    pub(crate) fn look(self, pin: &Path, tag: [u8; 8], ifindex: u32, way: Way) -> io::Result<Attached> {
        match self {
            Self::Tcx => look_tcx(pin, tag, ifindex, way),
            Self::Clsact => look_clsact(tag, ifindex, way),
        }
    }

    /// Detaches; what is not there is no error. The pin of a tcx link is removed with the pod's pins.
    pub(crate) fn detach(self, ifindex: u32, way: Way) -> io::Result<()> {
        match self {
            Self::Tcx => Ok(()),
            Self::Clsact => detach_clsact(ifindex, way),
        }
    }
}

/// The ifindex that a pinned tcx link is attached to; 0 if the interface is gone, `None` without pin.
pub(crate) fn pinned_target(pin: &Path) -> io::Result<Option<u32>> {
    match sys::pinned(pin)? {
        Some(link) => Ok(Some(sys::link_info(link.as_fd())?.target)),
        None => Ok(None),
    }
}

fn ensure_tcx(pin: &Path, program: &Loaded, ifindex: u32, way: Way) -> io::Result<()> {
    if let Some(link) = sys::pinned(pin)? {
        let info = sys::link_info(link.as_fd())?;
        if info.target == ifindex && info.attach_type == way.attach_type() {
            return sys::update_link(link.as_fd(), program.fd.as_fd());
        }
        // Attached to an interface that is gone, or to another one than it should be.
        std::fs::remove_file(pin)?;
    }
    let fresh = attach_tcx(program, ifindex, way)?;
    sys::pin(fresh.as_fd(), pin)
}

/// Attaches. The kernel frees a link whose pin and descriptors are gone a little later, from a work queue; until then
/// its program still counts as a member of the chain, which takes the same one only once (`EEXIST`).
fn attach_tcx(program: &Loaded, ifindex: u32, way: Way) -> io::Result<OwnedFd> {
    let mut left = FREEING_ATTEMPTS;
    loop {
        match sys::attach_tcx(program.fd.as_fd(), ifindex, way.attach_type()) {
            Err(error) if exists(&error) && left > 0 => std::thread::sleep(FREEING_PAUSE),
            answer => return answer,
        }
        left -= 1;
    }
}

fn look_tcx(pin: &Path, tag: [u8; 8], ifindex: u32, way: Way) -> io::Result<Attached> {
    let Some(link) = sys::pinned(pin)? else { return Ok(Attached::Missing) };
    let info = sys::link_info(link.as_fd())?;
    if info.target != ifindex || info.attach_type != way.attach_type() {
        return Ok(Attached::Missing);
    }
    let attached = sys::program_by_id(info.program)?;
    if sys::program_info(attached.as_fd())?.tag != tag {
        return Ok(Attached::Other);
    }
    let chain = sys::query_tcx(ifindex, way.attach_type())?;
    Ok(match chain.iter().position(|id| *id == info.program) {
        Some(0) => Attached::First,
        Some(_) => Attached::Behind,
        None => Attached::Missing,
    })
}

fn filter(ifindex: u32, way: Way) -> io::Result<TcMessage> {
    let header = TcHeader {
        index: i32::try_from(ifindex).map_err(io::Error::other)?,
        handle: HANDLE,
        parent: way.parent(),
        info: (PRIORITY << 16) | ALL_PROTOCOLS,
        ..TcHeader::default()
    };
    Ok(TcMessage::from_parts(header, vec![TcAttribute::Kind("bpf".to_owned())]))
}

fn ensure_clsact(program: &Loaded, ifindex: u32, way: Way) -> io::Result<()> {
    let netlink = Netlink::open()?;
    let mut qdisc = TcMessage::with_index(i32::try_from(ifindex).map_err(io::Error::other)?);
    qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    match netlink.add(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) {
        Err(error) if !exists(&error) => return Err(error),
        _ => {}
    }
    let mut message = filter(ifindex, way)?;
    let fd = u32::try_from(program.fd.as_raw_fd()).map_err(io::Error::other)?;
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
        TcOption::Bpf(TcFilterBpfOption::ProgName("culvert".to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink.replace(RouteNetlinkMessage::NewTrafficFilter(message))
}

fn look_clsact(tag: [u8; 8], ifindex: u32, way: Way) -> io::Result<Attached> {
    let netlink = Netlink::open()?;
    let mut request = TcMessage::with_index(i32::try_from(ifindex).map_err(io::Error::other)?);
    request.header.parent = way.parent();
    let answers = match netlink.dump(RouteNetlinkMessage::GetTrafficFilter(request)) {
        Err(error) if absent(&error) || error.kind() == io::ErrorKind::InvalidInput => return Ok(Attached::Missing),
        answers => answers?,
    };
    let mut behind = false;
    for answer in answers {
        let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { continue };
        // A dump starts each filter chain with an entry without handle.
        if message.header.handle == TcHandle::UNSPEC || message.header.parent != way.parent() {
            continue;
        }
        if message.header.handle == HANDLE && message.header.info >> 16 == PRIORITY {
            return Ok(match program_tag(&message) {
                Some(found) if found != tag => Attached::Other,
                _ if behind => Attached::Behind,
                _ => Attached::First,
            });
        }
        behind = true;
    }
    Ok(Attached::Missing)
}

fn program_tag(message: &TcMessage) -> Option<[u8; 8]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgTag(tag)) => Some(*tag),
            _ => None,
        }),
        _ => None,
    })
}

fn detach_clsact(ifindex: u32, way: Way) -> io::Result<()> {
    match Netlink::open()?.delete(RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, way)?)) {
        Err(error) if !absent(&error) && error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}
