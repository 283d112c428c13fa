//! How many handshakes the machine can do: mutual TLS 1.3 with P-256 certificates behind an intermediate, X25519MLKEM768,
//! nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::{ClientConfig, ClientConnection, Connection, NamedGroup, ServerConfig, ServerConnection};

use crate::tls::{self, Chains};

/// Prints one number: handshakes per second of all threads together.
pub(crate) fn run(workers: usize, certificates: &Path, seconds: f64) -> Result<()> {
    let (client, server) = (
        tls::client(certificates, &[kx_group::X25519MLKEM768], Chains::Anew)?,
        tls::server(certificates, Chains::Anew)?,
    );
    let length = Duration::from_secs_f64(seconds);
    let count = std::thread::scope(|scope| {
        let (client, server) = (&client, &server);
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(move || count(client, server, length))).collect();
        let counts = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        counts.sum::<Result<u32>>()
    })?;
    println!("{:.0}", f64::from(count) / seconds);
    Ok(())
}

fn count(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, length: Duration) -> Result<u32> {
    let since = Instant::now();
    let mut count = 0;
    while since.elapsed() < length {
        handshake(client, server)?;
        count += 1;
    }
    Ok(count)
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<()> {
    let mut client = Connection::from(ClientConnection::new(Arc::clone(client), "server".try_into()?)?);
    let mut server = Connection::from(ServerConnection::new(Arc::clone(server))?);
    while client.is_handshaking() || server.is_handshaking() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    let group = client.negotiated_key_exchange_group().context("no key exchange")?.name();
    ensure!(group == NamedGroup::X25519MLKEM768, "the key exchange is {group:?}");
    ensure!(server.peer_certificates().is_some(), "the client has not proven itself");
    Ok(())
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<()> {
    let mut flight = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut flight)?;
    }
    let mut rest = flight.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(())
}
