//! Brings what the programs log to `tracing`, target `culvert_ebpf`.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use culvert_abi::Counter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the thread goes on after its owner is gone.
const ROUND: Duration = Duration::from_millis(200);

/// A thread that empties the log ring until dropped.
#[derive(Debug)]
pub(crate) struct LogThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    pub(crate) fn start(mut ebpf: Ebpf) -> io::Result<Self> {
        let mut logger = EbpfLogger::init_with_logger(&mut ebpf, Forward).map_err(io::Error::other)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("ebpf-log".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                let timeout = PollTimeout::try_from(ROUND).unwrap_or(PollTimeout::ZERO);
                if poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
                    logger.flush();
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported on stderr; there is nothing else to do with it.
            let _ = thread.join();
        }
    }
}

/// Hands each line to `tracing`.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "culvert_ebpf", "{}", named(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// The programs log the number of a counter; people read its name.
pub(crate) fn named(line: &str) -> String {
    let Some((before, rest)) = line.split_once("counter=") else { return line.to_owned() };
    let (number, after) = rest.split_once(' ').unwrap_or((rest, ""));
    match number.parse().ok().and_then(Counter::from_index) {
        Some(counter) => format!("{before}decision={} {after}", counter.name()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
