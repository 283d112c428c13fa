//! What test pods run: a server that says who it is and whom it sees, and clients that write down how each call went.
//!
//! ```text
//! cluster-app serve PORT...             answers each connection with "NAME PORT PEER-ADDRESS", then echoes lines
//! cluster-app call ADDRESS              one call: prints "ok NAME PORT PEER-ADDRESS" or "failed WORD", with milliseconds
//! cluster-app ask ADDRESS TEXT          sends a line and prints the first line of the answer
//! cluster-app calls ADDRESS MS          a call every so many milliseconds, for ever, one line each
//! cluster-app hold ADDRESS              one connection, a line to and fro ten times a second until it breaks; says each
//!                                       second that it holds
//! cluster-app sleep
//! ```

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a call may take.
const LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve", ports @ ..] => serve(ports),
        ["call", address] => return once(address),
        ["ask", address, text] => ask(address, text),
        ["calls", address, pause] => calls(address, pause),
        ["hold", address] => hold(address),
        ["sleep"] => loop {
            thread::sleep(LIMIT);
        },
        _ => Err(io::Error::other(
            "serve PORT... | call ADDRESS | ask ADDRESS TEXT | calls ADDRESS MS | hold ADDRESS | sleep",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("broken {}", word(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error as one word.
fn word(error: &io::Error) -> String {
    format!("{:?}", error.kind())
}

fn serve(ports: &[&str]) -> io::Result<()> {
    let mut threads = Vec::new();
    for port in ports {
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let port = stream.local_addr()?.port();
    writeln!(stream, "{} {port} {peer}", name())?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        stream.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn once(address: &str) -> ExitCode {
    let (line, good) = describe(address);
    println!("{line}");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(address: &str) -> (String, bool) {
    let begun = Instant::now();
    let outcome = call(address);
    let took = begun.elapsed().as_millis();
    match outcome {
        Ok(answer) => (format!("ok {answer} {took}"), true),
        Err(error) => (format!("failed {} {took}", word(&error)), false),
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn call(address: &str) -> io::Result<String> {
    let stream = connect(address)?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim().to_owned())
}

fn ask(address: &str, text: &str) -> io::Result<()> {
    let mut stream = connect(address)?;
    write!(stream, "{text}\r\n\r\n")?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    println!("{}", line.trim());
    Ok(())
}

fn calls(address: &str, pause: &str) -> io::Result<()> {
    let pause = Duration::from_millis(pause.parse().map_err(io::Error::other)?);
    loop {
        println!("{}", describe(address).0);
        thread::sleep(pause);
    }
}

fn hold(address: &str) -> io::Result<()> {
    let mut stream = connect(address)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let server = line.trim().to_owned();
    for number in 0.. {
        if number % 10 == 0 {
            println!("holds {server}");
        }
        stream.write_all(b"still there\n")?;
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
