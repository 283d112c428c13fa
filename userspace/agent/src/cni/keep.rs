//! Watches the folders, and puts back what others change.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::unix::AsyncFd, time::Instant};

use super::{Installation, State};

/// Looked at even if nothing seems to have changed: the token may have, and a folder may have come.
const PERIOD: Duration = Duration::from_secs(30);
/// Others write in several steps.
const TOGETHER: Duration = Duration::from_millis(50);
/// Somebody puts his back as we put ours: not more often than this, then.
const QUARREL: Duration = Duration::from_secs(5);
/// So many repairs within a minute are a quarrel.
const MANY: usize = 10;

/// Keeps plugin and configuration in place until they are taken away.
pub(crate) async fn keep(installation: Arc<Installation>) {
    let watch = watch(&installation).inspect_err(|error| {
        tracing::warn!(%error, "the CNI folders are not watched: they are looked at every 30 s");
    });
    let watch = watch.ok();
    let mut repairs = Repairs::default();
    let mut said = None;
    loop {
        let worker = installation.clone();
        let Ok(found) = tokio::task::spawn_blocking(move || worker.ensure()).await else { return };
        let word = match &found {
            Ok(State::Removed) => return,
            Ok(State::Repaired) => {
                repairs.note(Instant::now());
                tracing::info!("the CNI plugin and its configuration were put in place");
                State::Unchanged.reason()
            }
            Ok(state) => state.reason(),
            Err(error) => error.reason(),
        };
        if said.replace(word) != Some(word) {
            match &found {
                Err(error) => {
                    let error = crate::outcome::chain(error);
                    tracing::error!(reason = word, error, "the CNI plugin is not in place: new pods start without it");
                }
                Ok(State::Alone) => {
                    tracing::warn!(reason = word, "no other CNI is configured that culvert could be chained to");
                }
                Ok(_) => {}
            }
        }
        changed(watch.as_ref()).await;
        tokio::time::sleep(repairs.pause(Instant::now())).await;
    }
}

/// When something was put right.
#[derive(Debug, Default)]
struct Repairs(VecDeque<Instant>);

impl Repairs {
    fn note(&mut self, now: Instant) {
        self.0.push_back(now);
    }

    fn pause(&mut self, now: Instant) -> Duration {
        while self.0.front().is_some_and(|first| now.duration_since(*first) > Duration::from_secs(60)) {
            self.0.pop_front();
        }
        if self.0.len() > MANY { QUARREL } else { TOGETHER }
    }
}

/// The folders' watch, as the runtime takes it.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(deprecated, reason = "deprecated for descriptors that may be closed under it; this one is owned by it")]
fn watch(installation: &Installation) -> io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    for folder in installation.folders() {
        inotify.add_watch(folder, changes)?;
    }
    AsyncFd::new(Watch(inotify))
}

/// Waits for a change, and takes in what else has changed with it.
async fn changed(watch: Option<&AsyncFd<Watch>>) {
    let Some(watch) = watch else { return tokio::time::sleep(PERIOD).await };
    let Ok(Ok(mut ready)) = tokio::time::timeout(PERIOD, watch.readable()).await else { return };
    tokio::time::sleep(TOGETHER).await;
    // Which files does not matter: all are looked at.
    while watch.get_ref().0.read_events().is_ok_and(|events| !events.is_empty()) {}
    ready.clear_ready();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarrel_over_the_folder_is_slowed_down_and_forgotten() {
        let mut repairs = Repairs::default();
        let begin = Instant::now();
        for _ in 0..MANY {
            repairs.note(begin);
        }
        assert_eq!(repairs.pause(begin), TOGETHER);
        repairs.note(begin);
        assert_eq!(repairs.pause(begin), QUARREL);
        assert_eq!(repairs.pause(begin + Duration::from_secs(61)), TOGETHER);
    }
}
