//! A very small HTTP server and client, so that the pods have something real to say to each other.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What the server says about a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which pod answered.
    pub server: String,
    /// The client's address as the application sees it.
    pub client: IpAddr,
    /// The marker, sent back.
    pub echo: String,
}

/// What the client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The client's own address and port; none when it never got that far.
    pub local: Option<SocketAddr>,
    /// The answer, if one came.
    pub answer: Option<Answer>,
    /// How it failed otherwise: `refused`, `reset`, `closed`, `timeout`, `unreachable` or the error's own words.
    pub error: Option<String>,
    /// From the first SYN to the end, in milliseconds.
    pub took_ms: u64,
}

/// Serves on `ports` in both families until the process is ended; says `serving` once it listens everywhere.
pub fn serve(name: &str, ports: &[u16]) -> Result<()> {
    let mut threads = Vec::new();
    for port in ports {
        // Both families where the pod has IPv6.
        let listener = TcpListener::bind(("::", *port)).or_else(|_| TcpListener::bind(("0.0.0.0", *port)));
        let listener = listener.with_context(|| format!("cannot listen on port {port}"))?;
        let name = name.to_owned();
        threads.push(std::thread::spawn(move || accept(&listener, &name)));
    }
    println!("serving");
    for thread in threads {
        let _ = thread.join();
    }
    // A pod without a port still has to live.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn accept(listener: &TcpListener, name: &str) {
    while let Ok((stream, peer)) = listener.accept() {
        let name = name.to_owned();
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream, peer, &name) {
                println!("{peer}: {error:#}");
            }
        });
    }
}

fn answer(stream: &TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut marker = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("x-marker: ") {
            value.trim().clone_into(&mut marker);
        }
    }
    let answer = Answer { server: name.to_owned(), client: peer.ip().to_canonical(), echo: marker };
    let body = serde_json::to_string(&answer)?;
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// One GET. Every way to fail is a result, not an error.
pub fn get(to: SocketAddr, marker: &str, patience: Duration) -> Seen {
    let began = Instant::now();
    let mut seen = Seen { local: None, answer: None, error: None, took_ms: 0 };
    match exchange(to, marker, patience, &mut seen.local) {
        Ok(answer) => seen.answer = Some(answer),
        Err(error) => seen.error = Some(word(&error)),
    }
    seen.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    seen
}

fn exchange(to: SocketAddr, marker: &str, patience: Duration, local: &mut Option<SocketAddr>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    // A connection that was reset already has lost its port.
    *local = stream.local_addr().ok().filter(|local| local.port() != 0);
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {to}\r\nx-marker: {marker}\r\nconnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    serde_json::from_str(body).map_err(io::Error::other)
}

fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        _ => return error.to_string(),
    }
    .to_owned()
}
