//! A packet capture of our own: what crossed an interface, and whether it held certain bytes.
//!
//! Payload is joined per direction of each TCP connection in order of arrival, so that a text cut in two by segment
//! borders is found. Memory holds the whole capture; it is for short conversations, not for bulk transfers.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::Netns;

mod frame;

pub use frame::Flow;

/// Kernel buffer, bytes: at the lab's rates nothing is lost, and a loss is noticed by [`Capture::stop`].
const KERNEL_BUFFER: usize = 128 << 20;

/// The largest frame: a coalesced segment of 64 KiB with its headers.
const LARGEST_FRAME: usize = 70_000;

/// A running capture on one or more interfaces of one namespace.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
}

/// What a capture has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Frames seen.
    pub frames: usize,
    /// TCP payload by direction of connection, in order of arrival.
    pub flows: HashMap<Flow, Vec<u8>>,
    /// Everything that is not TCP over IP, whole frames.
    pub other: Vec<Vec<u8>>,
}

impl Seen {
    fn add(&mut self, interface: &str, bytes: &[u8]) {
        self.frames += 1;
        match frame::tcp_payload(interface, bytes) {
            Some((flow, payload)) => self.flows.entry(flow).or_default().extend_from_slice(payload),
            None => self.other.push(bytes.to_vec()),
        }
    }

    /// Whether `needle` occurs anywhere.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.count(needle) > 0
    }

    /// In how many places `needle` occurs.
    pub fn count(&self, needle: &[u8]) -> usize {
        self.flows.values().chain(&self.other).map(|bytes| occurrences(bytes, needle)).sum()
    }

    /// Bytes of TCP payload seen.
    pub fn payload_bytes(&self) -> usize {
        self.flows.values().map(Vec::len).sum()
    }
}

/// How often `needle` occurs in `bytes`, overlaps included.
fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    let Some((first, _)) = needle.split_first() else { return 0 };
    let last = bytes.len().saturating_sub(needle.len() - 1);
    bytes[..last].iter().enumerate().filter(|(at, byte)| *byte == first && bytes[*at..].starts_with(needle)).count()
}

impl Capture {
    /// Starts to capture; returns when each interface is being listened to.
    pub fn start(netns: &Netns, interfaces: &[&str]) -> Result<Capture> {
        let mut capture = Capture { stop: Arc::default(), seen: Arc::default(), threads: Vec::new() };
        for name in interfaces {
            let tap = netns.enter(|| open_tap(name)).with_context(|| format!("cannot capture on {name}"))?;
            let (stop, seen, name) = (Arc::clone(&capture.stop), Arc::clone(&capture.seen), (*name).to_owned());
            let thread = std::thread::Builder::new().name(format!("capture-{name}")).spawn(move || {
                let outcome = read_frames(&tap, &stop, |bytes| {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).add(&name, bytes);
                });
                outcome.with_context(|| format!("capture on {name}"))
            })?;
            capture.threads.push(thread);
        }
        Ok(capture)
    }

    /// What has been seen so far, after waiting a moment for what is under way.
    pub fn so_far(&self) -> Seen {
        std::thread::sleep(Duration::from_millis(60));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the capture. An error when a reader had failed, because then "not seen" would mean nothing.
    pub fn stop(mut self) -> Result<Seen> {
        let seen = self.so_far();
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("the capture's reader panicked"))??;
        }
        Ok(seen)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A packet socket on one interface of the current namespace.
fn open_tap(interface: &str) -> Result<OwnedFd> {
    let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    // The safe way to a link address: the protocol stays the socket's own when the address names none.
    let address = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.and_then(|address| address.as_link_addr().copied()))
        .ok_or_else(|| anyhow!("no interface {interface}"))?;
    setsockopt(&tap, sockopt::RcvBufForce, &KERNEL_BUFFER).context("SO_RCVBUFFORCE")?;
    setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
    bind(tap.as_raw_fd(), &address)?;
    Ok(tap)
}

fn read_frames(tap: &OwnedFd, stop: &AtomicBool, mut add: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0_u8; LARGEST_FRAME];
    loop {
        match recv(tap.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => bail!("a frame of {length} bytes did not fit"),
            Ok(length) => add(&buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            // The interface went away with its pod: nothing more can cross it.
            Err(Errno::ENETDOWN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
