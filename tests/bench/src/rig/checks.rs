//! What must be so before anything is timed: it works, nothing readable crosses the link, strangers get nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_lab::{Lab, Pod};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::certificates::{self, FOLDER};
use super::contender::{Found, Stranger};
use super::pair::Pair;
use crate::serve::HTTP_PORT;

/// Sought on the link.
const MARKER: &str = "culvert-bench-marker-7f3a91";

/// How long a stranger waits for an answer that must not come.
const PATIENCE: Duration = Duration::from_secs(3);

/// All but [`works`]; the first that does not hold is the error.
pub(crate) fn all(lab: &Lab, found: &Found) -> Result<()> {
    encrypts(lab, found)?;
    for stranger in &found.strangers {
        let answer = ask_as(stranger, found)?;
        ensure!(!answer.contains("200 OK"), "a stranger ({stranger:?}) got an answer: {answer:?}");
    }
    Ok(())
}

/// The client gets its answer, several times: a first tunnel may be on its way.
pub(crate) fn works(found: &Found) -> Result<()> {
    answers(&found.pair, found.pair.server.ip4())
}

/// The same of any server.
pub(crate) fn answers(pair: &Pair, server: Ipv4Addr) -> Result<()> {
    let mut last = String::new();
    for _ in 0..20 {
        match ask(&pair.client, (server, HTTP_PORT).into(), "warm") {
            Ok(answer) if answer.contains("200 OK") => return Ok(()),
            Ok(answer) => last = format!("{answer:?}"),
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    bail!("the client gets no answer: {last}")
}

fn encrypts(lab: &Lab, found: &Found) -> Result<()> {
    let capture = lab.capture_link()?;
    let answer = ask(&found.pair.client, (found.pair.server.ip4(), HTTP_PORT).into(), MARKER)?;
    ensure!(answer.contains("200 OK"), "no answer while capturing: {answer:?}");
    let seen = capture.stop()?;
    ensure!(seen.payload_bytes() > 0, "the capture saw nothing");
    ensure!(
        seen.contains(MARKER.as_bytes()) != found.contender.encrypts(),
        "the marker was {} on the link",
        if found.contender.encrypts() { "seen" } else { "not seen" }
    );
    Ok(())
}

/// One request from inside a pod; whatever came.
fn ask(pod: &Pod, to: SocketAddr, marker: &str) -> Result<String> {
    pod.netns().enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        converse(&mut stream, marker)
    })
}

fn converse(stream: &mut (impl Read + Write), marker: &str) -> Result<String> {
    let request = format!("GET /64/close HTTP/1.1\r\nHost: server\r\nX-Marker: {marker}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// What a stranger gets; a refusal by reset or silence is an empty answer.
fn ask_as(stranger: &Stranger, found: &Found) -> Result<String> {
    let server = found.pair.server.ip4();
    match *stranger {
        Stranger::OtherPod => Ok(ask(&found.pair.other, (server, HTTP_PORT).into(), "stranger").unwrap_or_default()),
        Stranger::Plaintext(port) => Ok(ask(&found.pair.other, (server, port).into(), "stranger").unwrap_or_default()),
        Stranger::Certificate(port, name) => {
            let config = Arc::new(config(name).context("the stranger's TLS")?);
            let answer = found.pair.other.netns().enter(|| {
                let stream = TcpStream::connect_timeout(&(server, port).into(), PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let name = ServerName::try_from("server")?;
                let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(&config), name)?, stream);
                converse(&mut tls, "stranger")
            });
            Ok(answer.unwrap_or_default())
        }
    }
}

fn config(name: Option<&str>) -> Result<ClientConfig> {
    let folder = certificates::make(Path::new(FOLDER))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let Some(name) = name else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// A stranger does not care who the server is: it must be the server that refuses.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384]
    }
}
