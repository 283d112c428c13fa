//! Raw TCP for tests: echo servers, patterned bytes with checksums, limits raised.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, Process};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

/// Raises the soft limit of open files to the hard one.
pub fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("RLIMIT_NOFILE")
}

/// A server of the test's own inside a pod; each connection is handled on a thread with a small stack.
#[derive(Debug)]
pub struct Server {
    /// Connections open right now.
    pub open: Arc<AtomicUsize>,
}

impl Server {
    /// Listens on `port` in both families and runs `handle` for each connection.
    pub fn start(
        netns: &Netns,
        port: u16,
        handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        let listener = netns.enter(|| Ok(TcpListener::bind(("::", port))?))?;
        let server = Server { open: Arc::default() };
        let open = Arc::clone(&server.open);
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (open, handle) = (Arc::clone(&open), Arc::clone(&handle));
                open.fetch_add(1, Ordering::Relaxed);
                let work = move || {
                    let _ = handle(stream);
                    open.fetch_sub(1, Ordering::Relaxed);
                };
                if std::thread::Builder::new().stack_size(128 << 10).spawn(work).is_err() {
                    return;
                }
            }
        });
        Ok(server)
    }
}

/// Sends everything back until the client is done.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Connects from inside a pod.
pub fn connect(netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = netns.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(8))?))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Connects from inside a pod with words that are there when its agent takes the connection: it is stopped until they
/// are. Demands them back.
pub fn connect_saying(netns: &Netns, to: SocketAddr, words: &[u8], agent: &mut Process) -> Result<TcpStream> {
    agent.signal(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(5));
    let said = connect(netns, to).and_then(|mut stream| stream.write_all(words).map(|()| stream).map_err(Into::into));
    agent.signal(Signal::SIGCONT)?;
    let mut stream = said?;
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == words, "sent {words:?}, got {back:?}");
    Ok(stream)
}

/// Sends `text` and demands it back.
pub fn ping(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == text, "sent {text:?}, got {back:?}");
    Ok(())
}

/// Bytes that repeat nowhere within reach, from a seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// The same seed gives the same bytes.
    pub fn new(seed: u64) -> Pattern {
        // Neighbouring seeds are spread apart, and zero, which would stay zero, is not reached.
        Pattern { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1).max(1) }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.number().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// The size of one write: a multiple of eight, so that chunks of a pattern join without a seam.
const CHUNK: usize = 256 << 10;

/// Writes `length` bytes of the pattern of `seed`.
pub fn send_pattern(to: &mut impl Write, seed: u64, length: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        pattern.fill(&mut buffer[..size]);
        to.write_all(&buffer[..size])?;
        left -= size as u64;
    }
    Ok(())
}

/// Reads exactly `length` bytes and compares each with the pattern of `seed`.
pub fn expect_pattern(from: &mut impl Read, seed: u64, length: u64) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let (mut wanted, mut got) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut done = 0;
    while done < length {
        let size = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
        pattern.fill(&mut wanted[..size]);
        from.read_exact(&mut got[..size]).with_context(|| format!("after {done} of {length} bytes"))?;
        ensure!(got[..size] == wanted[..size], "bytes differ between {done} and {}", done + size as u64);
        done += size as u64;
    }
    Ok(())
}

/// Demands the end of the stream: a clean one, with nothing before it.
pub fn expect_end(from: &mut impl Read) -> Result<()> {
    let mut rest = [0; 1];
    ensure!(from.read(&mut rest)? == 0, "more bytes than were sent");
    Ok(())
}

#[cfg(test)]
mod tests;
