//! inotify on one directory (inotify(7)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{Interest, unix::AsyncFd};

/// A watched directory.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: AsyncFd<Polled>,
}

/// What tokio polls.
#[derive(Debug)]
struct Polled(Inotify);

impl AsRawFd for Polled {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(path, what)?;
        #[expect(deprecated, reason = "its successor is unsafe; the descriptor in Polled is owned and never changes")]
        let inotify = AsyncFd::try_with_interest(Polled(inotify), Interest::READABLE)?;
        Ok(Self { inotify })
    }

    /// Waits for a change. `false`: the directory itself is gone or was moved, or the watch failed.
    pub(super) async fn changed(&mut self) -> bool {
        loop {
            let Ok(mut ready) = self.inotify.readable_mut().await else {
                return false;
            };
            let events = ready.try_io(|inotify| inotify.get_ref().0.read_events().map_err(io::Error::from));
            match events {
                Ok(Ok(events)) => {
                    let own = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
                    return !events.iter().any(|event| event.mask.intersects(own));
                }
                Ok(Err(_)) => return false,
                Err(_would_block) => {}
            }
        }
    }
}
