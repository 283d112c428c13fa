//! TLS 1.3 with both ends proven, on rustls' unbuffered connections: the buffers are ours, the records rustls'.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What one read may take from the tunnel, and a record that was cut.
const INCOMING: usize = 256 << 10;

/// Room of a sealed record beyond its payload.
const OVERHEAD: usize = 64;

/// The two kinds of connection.
pub(crate) trait Side: Send + 'static {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn peer(&self) -> Option<&CertificateDer<'static>>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn peer(&self) -> Option<&CertificateDer<'static>> {
        self.peer_certificates()?.first()
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn peer(&self) -> Option<&CertificateDer<'static>> {
        self.peer_certificates()?.first()
    }
}

/// Whether signatures on certificates that were found good are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chains {
    /// Each time: a whole handshake.
    Anew,
    /// Once: what a proxy may do that meets the same certificates again.
    Remembered,
}

fn provider(chains: Chains) -> Arc<CryptoProvider> {
    static REMEMBERING: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> = LazyLock::new(|| {
        let all = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        all.iter().map(|one| &*Box::leak(Box::new(Remembering { one: *one, good: Mutex::default() })) as _).collect()
    });
    let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut provider = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
    if chains == Chains::Remembered {
        provider.signature_verification_algorithms.all = &REMEMBERING;
    }
    Arc::new(provider)
}

/// An algorithm that computes each good signature once.
#[derive(Debug)]
struct Remembering {
    one: &'static dyn SignatureVerificationAlgorithm,
    good: Mutex<HashSet<[Box<[u8]>; 3]>>,
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let parts = [key.into(), message.into(), signature.into()];
        let good = || self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if !good().contains(&parts) {
            self.one.verify_signature(key, message, signature)?;
            good().insert(parts);
        }
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.one.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.one.signature_alg_id()
    }
}

fn roots(folder: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("root.pem"))?)?;
    Ok(roots)
}

fn own(folder: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?))
}

/// With these key exchanges, or the usual ones.
pub(crate) fn client(
    folder: &Path,
    groups: &[&'static dyn SupportedKxGroup],
    chains: Chains,
) -> Result<Arc<ClientConfig>> {
    let (chain, key) = own(folder, "client")?;
    let mut provider = CryptoProvider::clone(&provider(chains));
    if !groups.is_empty() {
        provider.kx_groups = groups.to_vec();
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(Arc::new(builder.with_root_certificates(roots(folder)?).with_client_auth_cert(chain, key)?))
}

pub(crate) fn server(folder: &Path, chains: Chains) -> Result<Arc<ServerConfig>> {
    let (chain, key) = own(folder, "server")?;
    let provider = provider(chains);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(folder)?), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A connection after its handshake.
pub(crate) struct Tls<S> {
    side: S,
    incoming: Vec<u8>,
    filled: usize,
    /// What came out of the last records.
    plain: Vec<u8>,
    /// What came in one piece with the handshake's end, in `plain`.
    first: Vec<Range<usize>>,
    /// Opened already, up to here.
    opened: usize,
    /// Sealed and not sent: from `sent` to `end`.
    out: Vec<u8>,
    sent: usize,
    end: usize,
}

impl<S: Side> Tls<S> {
    /// Shakes hands on a blocking socket.
    pub(crate) fn establish(side: S, mut stream: &TcpStream) -> Result<Tls<S>> {
        let mut tls = Tls {
            side,
            incoming: vec![0; INCOMING],
            filled: 0,
            plain: Vec::new(),
            first: Vec::new(),
            opened: 0,
            out: Vec::new(),
            sent: 0,
            end: 0,
        };
        let mut ranges = Vec::new();
        loop {
            let done = tls.open(&mut ranges)?;
            stream.write_all(&tls.out)?;
            tls.out.clear();
            if done {
                tls.first = ranges;
                return Ok(tls);
            }
            ensure!(tls.read(stream)? > 0, "the peer ended the handshake");
        }
    }

    pub(crate) fn peer(&self) -> Option<&CertificateDer<'static>> {
        self.side.peer()
    }

    /// Reads once; 0 at the end. There may be more when no room is left.
    pub(crate) fn read(&mut self, mut stream: &TcpStream) -> std::io::Result<usize> {
        self.compact();
        let length = stream.read(&mut self.incoming[self.filled..])?;
        self.filled += length;
        Ok(length)
    }

    /// Opens what is complete: the plaintext is at `ranges` of [`Tls::plain`] until the next time. Returns whether the
    /// handshake is over.
    pub(crate) fn open(&mut self, ranges: &mut Vec<Range<usize>>) -> Result<bool> {
        self.plain.clear();
        let mut start = self.opened;
        let over = loop {
            let UnbufferedStatus { mut discard, state } = self.side.process(&mut self.incoming[start..self.filled]);
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        let at = self.plain.len();
                        self.plain.extend_from_slice(record.payload);
                        ranges.push(at..self.plain.len());
                        discard += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut flight = vec![0; 16 << 10];
                    let length = data.encode(&mut flight)?;
                    self.out.extend_from_slice(&flight[..length]);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake => {
                    start += discard;
                    break false;
                }
                ConnectionState::WriteTraffic(_) => {
                    start += discard;
                    break true;
                }
                _ => bail!("the peer closed"),
            }
            start += discard;
        };
        self.opened = start;
        Ok(over)
    }

    /// What had come with the handshake's end, once.
    pub(crate) fn take_first(&mut self) -> Vec<Range<usize>> {
        std::mem::take(&mut self.first)
    }

    /// What has been opened.
    pub(crate) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Whether the last read took all that there was room for.
    pub(crate) fn filled_up(&self) -> bool {
        self.filled == self.incoming.len()
    }

    /// Moves the rest of a cut record to the front.
    fn compact(&mut self) {
        self.incoming.copy_within(self.opened..self.filled, 0);
        self.filled -= self.opened;
        self.opened = 0;
    }

    /// Seals and queues. The buffer only grows, so that nothing is cleared before it is written.
    pub(crate) fn seal(&mut self, plain: &[u8]) -> Result<()> {
        let room = self.end + plain.len() + OVERHEAD * (plain.len() / (16 << 10) + 1);
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let status = self.side.process(&mut []);
        let ConnectionState::WriteTraffic(mut traffic) = status.state? else { bail!("not ready to send") };
        self.end += traffic.encrypt(plain, &mut self.out[self.end..]).ok().context("no room for the records")?;
        Ok(())
    }

    /// Bytes that are sealed and not sent.
    pub(crate) fn unsent(&self) -> usize {
        self.end - self.sent
    }

    /// Sends what the socket takes.
    pub(crate) fn send(&mut self, mut stream: &TcpStream) -> std::io::Result<()> {
        while self.unsent() > 0 {
            match stream.write(&self.out[self.sent..self.end]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        (self.sent, self.end) = (0, 0);
        Ok(())
    }
}
