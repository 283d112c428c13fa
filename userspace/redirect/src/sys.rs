//! Raw `bpf(2)` calls that aya does not make, or makes with an exclusive borrow: links, element
//! access by shared reference, queries.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

/// `bpf(2)` commands (linux/bpf.h).
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const PROG_QUERY: u32 = 16;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// `enum bpf_attach_type`.
pub(crate) const ATTACH_SK_LOOKUP: u32 = 36;
pub(crate) const ATTACH_TCX_INGRESS: u32 = 46;
pub(crate) const ATTACH_TCX_EGRESS: u32 = 47;

const F_BEFORE: u32 = 1 << 3;

/// Makes one call. `attr` is the prefix of `union bpf_attr` that the command reads.
fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is a `repr(C)` prefix of `union bpf_attr` for this command, valid for reads and
    // writes of its size for the time of the call; pointers in it outlive the call (see the callers).
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

fn bpf_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(clippy::cast_sign_loss, reason = "a descriptor that is open is not negative")]
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

#[repr(C)]
struct ElemAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// A map by descriptor. All access is by shared reference: the kernel synchronises.
#[derive(Debug)]
pub(crate) struct Map(OwnedFd);

impl Map {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    fn attr<K>(&self, key: &K, value: u64, flags: u64) -> ElemAttr {
        ElemAttr { map: number(self.0.as_fd()), pad: 0, key: address(key), value, flags }
    }

    /// Inserts or replaces. `K` and `V` have the map's sizes (checked when the map was opened).
    pub(crate) fn set<K: Pod, V: Pod>(&self, key: &K, value: &V) -> io::Result<()> {
        bpf(MAP_UPDATE_ELEM, &mut self.attr(key, address(value), 0)).map(drop)
    }

    /// Inserts; fails with `AlreadyExists` if there is an entry.
    pub(crate) fn insert<K: Pod, V: Pod>(&self, key: &K, value: &V) -> io::Result<()> {
        const NOEXIST: u64 = 1;
        bpf(MAP_UPDATE_ELEM, &mut self.attr(key, address(value), NOEXIST)).map(drop)
    }

    /// Removes; no entry is no error.
    pub(crate) fn remove<K: Pod>(&self, key: &K) -> io::Result<()> {
        match bpf(MAP_DELETE_ELEM, &mut self.attr(key, 0, 0)) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// The value of a key.
    pub(crate) fn get<K: Pod, V: Pod>(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        let attr = &mut self.attr(key, value.as_mut_ptr() as u64, 0);
        match bpf(MAP_LOOKUP_ELEM, attr) {
            // SAFETY: the kernel wrote the value; `Pod` types are valid for every bit pattern.
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The values of a per-CPU map's key, one per possible CPU. The size of `V` is a multiple of 8.
    pub(crate) fn get_per_cpu<K: Pod, V: Pod>(&self, key: &K) -> io::Result<Vec<V>> {
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut values = Vec::<V>::with_capacity(cpus);
        bpf(MAP_LOOKUP_ELEM, &mut self.attr(key, values.as_mut_ptr() as u64, 0))?;
        // SAFETY: the kernel wrote one value of this size (a multiple of 8, so without gaps) per
        // possible CPU; the capacity is that number.
        unsafe { values.set_len(cpus) };
        Ok(values)
    }

    /// Overwrites a per-CPU map's key on every CPU.
    pub(crate) fn set_per_cpu<K: Pod, V: Pod>(&self, key: &K, value: V) -> io::Result<()> {
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let values = vec![value; cpus];
        bpf(MAP_UPDATE_ELEM, &mut self.attr(key, values.as_ptr() as u64, 0)).map(drop)
    }

    /// All keys at this moment.
    pub(crate) fn keys<K: Pod>(&self) -> io::Result<Vec<K>> {
        let mut keys = Vec::new();
        let mut previous: Option<K> = None;
        loop {
            let mut next = std::mem::MaybeUninit::<K>::zeroed();
            let attr = &mut ElemAttr {
                map: number(self.0.as_fd()),
                pad: 0,
                key: previous.as_ref().map_or(0, address),
                value: next.as_mut_ptr() as u64,
                flags: 0,
            };
            match bpf(MAP_GET_NEXT_KEY, attr) {
                Ok(_) => {
                    // SAFETY: the kernel wrote the key; `Pod` types are valid for every bit pattern.
                    let key = unsafe { next.assume_init() };
                    keys.push(key);
                    previous = Some(key);
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }

    /// Its layout.
    pub(crate) fn info(&self) -> io::Result<MapInfo> {
        info(self.0.as_fd())
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn pathname(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned object; `None` if there is no such pin.
pub(crate) fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    let name = pathname(path)?;
    match bpf_fd(OBJ_GET, &mut ObjAttr { path: name.as_ptr() as u64, fd: 0, flags: 0 }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pins an object.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = pathname(path)?;
    bpf(OBJ_PIN, &mut ObjAttr { path: name.as_ptr() as u64, fd: number(fd), flags: 0 }).map(drop)
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

/// Opens a program by its id.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(PROG_GET_FD_BY_ID, &mut IdAttr { id, next: 0, flags: 0 })
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// What the kernel tells about an object. `T` is a `repr(C)` prefix of the kernel's struct.
fn info<T: Copy>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = std::mem::MaybeUninit::<T>::zeroed();
    let length = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    bpf(OBJ_GET_INFO_BY_FD, &mut InfoAttr { fd: number(fd), length, info: info.as_mut_ptr() as u64 })?;
    // SAFETY: zeroed, then written by the kernel; all `T` here consist of integers.
    Ok(unsafe { info.assume_init() })
}

/// Prefix of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// Prefix of `struct bpf_prog_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ProgramInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) tag: [u8; 8],
}

/// What a program is.
pub(crate) fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    info(fd)
}

/// Prefix of `struct bpf_link_info`; the last two fields are those of a netns or tcx link.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// Inode of the netns, or ifindex; 0 once that is gone.
    pub(crate) target: u32,
    pub(crate) attach_type: u32,
}

/// What a link is.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    info(fd)
}

#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// Attaches a program to a netns (`sk_lookup`, Linux 5.9).
pub(crate) fn attach_netns(program: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    create_link(program, number(netns), ATTACH_SK_LOOKUP, 0)
}

/// Attaches a program in front of all others of an interface of the current netns (tcx, Linux 6.6).
pub(crate) fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    create_link(program, ifindex, attach_type, F_BEFORE)
}

fn create_link(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let attr =
        &mut LinkCreateAttr { program: number(program), target, attach_type, flags, relative: 0, pad: 0, revision: 0 };
    bpf_fd(LINK_CREATE, attr)
}

#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// Replaces the program of a link in one step.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_UPDATE, &mut LinkUpdateAttr { link: number(link), program: number(program), flags: 0, old: 0 }).map(drop)
}

#[repr(C)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// Program ids of a tcx chain of the current netns, first one first.
pub(crate) fn query_tcx(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let attr = &mut QueryAttr {
        target: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: 64,
        pad: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    bpf(PROG_QUERY, attr)?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

#[cfg(test)]
mod tests;
