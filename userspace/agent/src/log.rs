//! The log: to standard error, for people or as JSON.
//!
//! Lines gather in a buffer that a thread of its own writes every [`PAUSE`]: a node that opens thousands of connections
//! a second writes a line for each, and no connection waits for whoever reads them. A reader that is too slow loses
//! lines, which are counted, rather than slowing the traffic down.

use std::{
    io::{self, Write},
    panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    outcome::{Level, Record, line},
    settings::{LogFormat, Settings},
};

/// How long lines gather.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that may wait to be written.
const MOST: usize = 4 << 20;

/// Lines that wait to be written.
#[derive(Debug, Default)]
pub struct Log {
    waiting: Mutex<Waiting>,
    come: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    lost: u64,
}

/// Starts logging; what is logged waits until [`Log::write_all_day`] or [`Log::flush`]. A second call in one process
/// changes nothing.
pub fn start(settings: &Settings) -> Arc<Log> {
    let log = Arc::new(Log::default());
    let filter = EnvFilter::new(&settings.log);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines(log.clone()));
    let _ = match settings.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    let last = log.clone();
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        // Should this very thread hold the lock, waiting for it would turn a panic into a hang.
        if let Ok(mut waiting) = last.waiting.try_lock() {
            Log::write(&std::mem::take(&mut *waiting));
        }
        usual(what);
    }));
    log
}

impl Log {
    /// Makes the thread that writes. Not before the capabilities are dropped, which each thread has for itself.
    pub fn write_all_day(self: &Arc<Self>) -> io::Result<()> {
        let log = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || log.write_what_comes()).map(|_| ())
    }

    /// Adds a connection's line as text, in the form in which all other lines are.
    pub(crate) fn connection(&self, record: &Record, level: Level, message: &str) {
        self.add(|text| line::put(text, record, level, message));
    }

    /// Writes what waits.
    pub fn flush(&self) {
        let waiting = std::mem::take(&mut *self.lock());
        Self::write(&waiting);
    }

    fn add(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.lock();
        if waiting.text.len() > MOST {
            waiting.lost += 1;
            return;
        }
        let first = waiting.text.is_empty();
        put(&mut waiting.text);
        drop(waiting);
        if first {
            self.come.notify_one();
        }
    }

    fn write_what_comes(&self) {
        loop {
            let mut waiting = self.lock();
            while waiting.text.is_empty() {
                waiting = self.come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            drop(waiting);
            thread::sleep(PAUSE);
            self.flush();
        }
    }

    fn write(waiting: &Waiting) {
        // There is nobody to tell when standard error is gone.
        let mut out = io::stderr().lock();
        let _ = out.write_all(&waiting.text);
        if waiting.lost > 0 {
            let _ =
                writeln!(out, "culvert-agent: {} lines of the log were lost: nobody read them in time", waiting.lost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where `tracing` writes: whole lines.
struct Lines(Arc<Log>);

/// One line.
struct Line<'a>(&'a Log);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add(|text| text.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
