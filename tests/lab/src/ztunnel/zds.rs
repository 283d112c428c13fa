//! The few words of the protocol between istio-cni and ztunnel (ztunnel's `proto/zds.proto`) that put a pod into its care.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::{Member, START};
use crate::topology::Pod;

/// An open conversation: when it ends, ztunnel lets its pods go.
#[derive(Debug)]
pub struct Conversation(OwnedFd);

/// The socket that ztunnel calls.
pub(super) fn listen(path: &Path) -> Result<OwnedFd> {
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&listener, 1)?;
    Ok(listener)
}

impl Conversation {
    /// Waits for the call; hears the greeting; says that there were no pods before.
    pub(super) fn begin(listener: &OwnedFd) -> Result<Conversation> {
        wait(listener.as_fd(), "ztunnel's call")?;
        let conversation = Conversation(rustix::net::accept(listener)?);
        conversation.receive()?;
        // WorkloadRequest { snapshot_sent: {} }
        conversation.send(&[0x1a, 0], &[])?;
        conversation.receive()?;
        Ok(conversation)
    }

    /// Hands over a pod's namespace with what the pod is.
    pub(super) fn add_pod(&self, pod: &Pod, member: Member<'_>) -> Result<()> {
        let Member { namespace, name, account } = member;
        let info = [text(1, name), text(2, namespace), text(3, account)].concat();
        let add = [text(1, &format!("{namespace}-{name}")), field(2, &info)].concat();
        let netns = pod.netns().open()?;
        self.send(&field(1, &add), &[netns.as_fd()])?;
        let answer = self.receive()?;
        // WorkloadResponse { ack: {} }
        ensure!(answer == [0x0a, 0], "ztunnel refuses the pod: {}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            ensure!(rights.push(SendAncillaryMessage::ScmRights(files)), "one file fits");
        }
        let sent = rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut rights, SendFlags::empty())?;
        ensure!(sent == bytes.len(), "a message went out in part");
        Ok(())
    }

    fn receive(&self) -> Result<Vec<u8>> {
        wait(self.0.as_fd(), "ztunnel's answer")?;
        let mut buffer = vec![0; 1024];
        let length = rustix::io::read(&self.0, &mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

fn wait(fd: BorrowedFd<'_>, what: &str) -> Result<()> {
    let patience = Timespec::try_from(START)?;
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&patience))?;
    ensure!(ready == 1, "{what} did not come within {START:?}");
    Ok(())
}

/// A length-delimited field of a protobuf message; all of ours are short.
fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX).min(0x7f);
    [&[number << 3 | 2, length], body].concat()
}

fn text(number: u8, body: &str) -> Vec<u8> {
    field(number, body.as_bytes())
}
