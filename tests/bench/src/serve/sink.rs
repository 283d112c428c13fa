//! The two ports that take bytes: one thread per connection, blocking reads.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// What one read may take.
const BUFFER: usize = 128 << 10;

/// Reads each connection to its end and answers with the number of bytes.
pub(crate) fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A thread that cannot be had shows as a reset at the client, which then fails its run.
        let _ = std::thread::Builder::new().name("sink".to_owned()).spawn(move || drain(stream));
    }
}

fn drain(mut stream: TcpStream) {
    let mut buffer = vec![0_u8; BUFFER];
    let mut count = 0_u64;
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 {
            let _ = stream.write_all(&count.to_be_bytes());
            return;
        }
        count += length as u64;
    }
}

/// Keeps every connection and reads none.
pub(crate) fn hold(listener: &TcpListener) {
    let mut held = Vec::new();
    for stream in listener.incoming().flatten() {
        held.push(stream);
    }
}
