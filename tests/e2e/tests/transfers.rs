//! Bytes arrive as they were sent, whatever their number and whoever is done first.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use culvert_e2e::fixture;
use culvert_e2e::mesh::Mesh;
use culvert_e2e::streams::{Pattern, Server, connect, expect_end, expect_pattern, send_pattern};
use culvert_lab::anyhow::{Context as _, Result};
use culvert_lab::in_sandbox;

const PORT: u16 = 9000;

/// One exchange: how much each side sends and who ends its direction first.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    seed: u64,
    up: u64,
    down: u64,
    /// The server ends its direction before it reads.
    server_first: bool,
}

impl Exchange {
    fn random(number: u64, largest: u64, pattern: &mut Pattern) -> Exchange {
        // Sizes are spread over the powers of two, and hit their borders.
        let mut size = || {
            let power = pattern.number() % (64 - u64::from(largest.leading_zeros()));
            ((1 << power) + pattern.number() % 3).saturating_sub(1).min(largest)
        };
        let (up, down) = (size(), size());
        Exchange { seed: number + 1, up, down, server_first: pattern.number().is_multiple_of(2) }
    }

    fn head(self) -> [u8; 25] {
        let mut head = [0; 25];
        for (slot, value) in [self.seed, self.up, self.down].into_iter().enumerate() {
            head[slot * 8..slot * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        head[24] = u8::from(self.server_first);
        head
    }

    fn of(head: [u8; 25]) -> Exchange {
        let number = |slot: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[slot * 8..slot * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        Exchange { seed: number(0), up: number(1), down: number(2), server_first: head[24] == 1 }
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = [0; 25];
    stream.read_exact(&mut head)?;
    let exchange = Exchange::of(head);
    let outcome = answer(&mut stream, exchange);
    if let Err(error) = &outcome {
        println!("server: {exchange:?}: {error:#}");
    }
    // A wrong upload must not look like a good one: the client reads one byte too few.
    outcome.map_err(std::io::Error::other)
}

fn answer(stream: &mut TcpStream, exchange: Exchange) -> Result<()> {
    let mut sending = stream.try_clone()?;
    let mut send = move || -> std::io::Result<()> {
        send_pattern(&mut sending, exchange.seed ^ 0xff, exchange.down)?;
        sending.shutdown(Shutdown::Write)
    };
    if exchange.server_first {
        send()?;
        expect_pattern(stream, exchange.seed, exchange.up)?;
        expect_end(stream)
    } else {
        expect_pattern(stream, exchange.seed, exchange.up)?;
        expect_end(stream)?;
        Ok(send()?)
    }
}

fn run(mut stream: TcpStream, exchange: Exchange) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&exchange.head())?;
    let mut sending = stream.try_clone()?;
    let upload = std::thread::spawn(move || -> std::io::Result<TcpStream> {
        send_pattern(&mut sending, exchange.seed, exchange.up)?;
        Ok(sending)
    });
    if exchange.server_first {
        expect_pattern(&mut stream, exchange.seed ^ 0xff, exchange.down)?;
        expect_end(&mut stream)?;
        upload.join().unwrap()?.shutdown(Shutdown::Write)?;
        Ok(())
    } else {
        upload.join().unwrap()?.shutdown(Shutdown::Write)?;
        expect_pattern(&mut stream, exchange.seed ^ 0xff, exchange.down)?;
        expect_end(&mut stream)
    }
}

fn transfers(count: u64, largest: u64, more: &[(u64, u64)]) -> Result<()> {
    let seed = std::env::var("CULVERT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    println!("CULVERT_SEED={seed}");
    let mesh = Mesh::start(&fixture::manifests(&[("client", "node1"), ("server", "node2")])?)?;
    let (client, server) = (mesh.pod("client.app")?, mesh.pod("server.app")?);
    let _server = Server::start(server.pod.netns(), PORT, serve)?;
    let mut pattern = Pattern::new(seed);
    let fixed = more.iter().map(|&(up, down)| Exchange { seed: 7, up, down, server_first: false });
    let random = (0..count).map(|number| Exchange::random(number, largest, &mut pattern));
    for (number, exchange) in fixed.chain(random).enumerate() {
        let address = if number % 2 == 0 { server.pod.ip4().into() } else { server.pod.ip6().context("IPv6")?.into() };
        let stream = connect(client.pod.netns(), SocketAddr::new(address, PORT))?;
        run(stream, exchange).with_context(|| format!("{exchange:?} to {address}"))?;
    }
    Ok(())
}

#[test]
fn bytes_arrive_as_sent_up_to_64_mib_with_either_side_done_first() {
    in_sandbox!(|| transfers(60, 16 << 20, &[(1, 1), (0, 0), (64 << 20, 1), (1, 64 << 20)]))
}

#[test]
#[ignore = "takes minutes: --long"]
fn bytes_arrive_as_sent_up_to_one_gib() {
    in_sandbox!(Duration::from_secs(1800), || transfers(300, 64 << 20, &[(1 << 30, 1 << 20), (1 << 20, 1 << 30)]))
}
