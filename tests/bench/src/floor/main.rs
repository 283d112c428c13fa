//! The floor: what two proxies on the way cost when they do nothing but move bytes.
//!
//! `tcp` passes bytes on: two more hops. `client` and `server` are a pair with mutual TLS 1.3 in between: each thread of the
//! client has one connection to the server, all its streams share it in frames of eight bytes of header, and whatever became
//! ready in a turn of its loop is sealed and sent at once. No policy, metrics, records, flow control per stream; no code of
//! culvert's. The record layer is rustls'. With `--each` the pair makes a TLS connection for each connection instead: what first
//! connections to peers cost.

mod each;
mod handshakes;
mod intake;
mod relay;
#[path = "../sockets.rs"]
mod sockets;
mod tls;
mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
use sockets::{listen, start_connecting};
use tls::Chains;

/// What two bare proxies cost.
#[derive(Parser)]
#[command(name = "culvert-floor")]
struct Arguments {
    /// Threads.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Passes on to `--to`, port by port: LISTEN=PORT.
    Tcp {
        #[arg(long)]
        to: IpAddr,
        #[arg(required = true)]
        ports: Vec<String>,
        #[arg(long, default_value = "0.0.0.0")]
        bind: IpAddr,
    },
    /// Takes connections on LISTEN=PORT and tunnels them to the server's `--to`, which connects to PORT.
    Client {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        certificates: PathBuf,
        #[arg(required = true)]
        ports: Vec<String>,
        /// A TLS connection for each connection.
        #[arg(long)]
        each: bool,
    },
    /// Takes tunnels and connects on the loopback.
    Server {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        certificates: PathBuf,
        /// The identity that a client must have.
        #[arg(long)]
        peer: String,
        /// From a client with `--each`.
        #[arg(long)]
        each: bool,
    },
    /// The machine's limit: handshakes per second, both sides of each on the same thread and no socket in between.
    Handshakes {
        #[arg(long)]
        certificates: PathBuf,
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let workers = arguments.workers.max(1);
    match arguments.kind {
        Kind::Tcp { to, ports, bind } => relay::run(workers, bind, to, &intake::ports(&ports)?),
        Kind::Client { to, certificates, ports, each: false } => {
            tunnel::client(workers, to, &tls::client(&certificates, &[], Chains::Anew)?, &intake::ports(&ports)?)
        }
        Kind::Client { to, certificates, ports, each: true } => {
            let config = tls::client(&certificates, &[X25519MLKEM768], Chains::Remembered)?;
            each::client(workers, to, config, &intake::ports(&ports)?)
        }
        Kind::Handshakes { certificates, seconds } => handshakes::run(workers, &certificates, seconds),
        Kind::Server { listen, certificates, peer, each: false } => {
            tunnel::server(listen, &tls::server(&certificates, Chains::Anew)?, &peer)
        }
        Kind::Server { listen, certificates, peer, each: true } => {
            each::server(workers, listen, tls::server(&certificates, Chains::Remembered)?, &peer)
        }
    }
}
