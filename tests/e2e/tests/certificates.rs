//! Peers with certificates that are not good enough, at the port of a real agent: each is refused with its own reason, in
//! the log and in the metrics. `culvert_mtls` tries the same rules one by one.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, Programs, wait_until};
use culvert_e2e::streams::connect;
use culvert_lab::anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, in_sandbox};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, SignatureScheme, StreamOwned};

const HBONE: u16 = 15008;
const CLIENT: &str = "spiffe://cluster.local/ns/app/sa/client";
/// The connection preface of HTTP/2 with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Who signs: its certificate, and a key for it.
struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The control plane's own issuing key, as a thief of it would use it.
    fn real() -> Result<Authority> {
        let read = |name: &str| std::fs::read_to_string(format!("/run/lab/control/{name}"));
        let der = CertificateDer::from_pem_slice(read("issuing.pem")?.as_bytes())?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(&read("issuing.key")?)?)?;
        Ok(Authority { der, issuer })
    }

    /// A stranger's.
    fn strange() -> Result<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let der = params.self_signed(&key)?.der().clone();
        Ok(Authority { der, issuer: Issuer::new(params, key) })
    }

    /// A leaf of the usual form, changed by `change`.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<Shown> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri(CLIENT)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = at(-3600).into();
        params.not_after = at(3600).into();
        change(&mut params);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Shown { chain: vec![leaf, self.der.clone()], key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() })
    }
}

/// What a peer shows.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// So many seconds from now.
fn at(seconds: i64) -> SystemTime {
    let now = SystemTime::now();
    match u64::try_from(seconds) {
        Ok(ahead) => now + Duration::from_secs(ahead),
        Err(_) => now - Duration::from_secs(seconds.unsigned_abs()),
    }
}

/// Takes any server: it is the agent that is to be choosy.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Shakes hands at a pod's HBONE port and waits for the first frame of the agent.
fn served(from: &Netns, to: SocketAddr, shown: Option<Shown>) -> Result<bool> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some(Shown { chain, key }) => config.with_client_auth_cert(chain, key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(from, to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let client = ClientConnection::new(Arc::new(config), ServerName::try_from("any.test")?)?;
    let mut tls = StreamOwned::new(client, stream);
    // In TLS 1.3 a client learns of its refusal only when it reads.
    let talked = tls.write_all(PREFACE).and_then(|()| tls.read_exact(&mut [0; 9]));
    Ok(talked.is_ok())
}

fn handshakes(mesh: &Mesh, node: usize, direction: &str, result: &str) -> Result<u64> {
    let text = mesh.lab.node(node).netns().enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", 15020))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
        Ok(std::io::read_to_string(stream)?)
    })?;
    let counted = text.lines().find(|line| {
        line.starts_with("culvert_tls_handshakes_total")
            && line.contains(&format!("direction=\"{direction}\""))
            && line.contains(&format!("result=\"{result}\""))
    });
    counted.map_or(Ok(0), |line| Ok(line.rsplit(' ').next().context("no value")?.parse()?))
}

#[test]
fn each_bad_certificate_is_refused_with_its_own_reason_in_log_and_metrics() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&[("client", "node1"), ("server", "node2")])?)?;
        let stranger = mesh.pod("stranger.outside")?.pod.netns().clone();
        let to = SocketAddr::from((mesh.pod("server.app")?.pod.ip4(), HBONE));
        let (real, strange) = (Authority::real()?, Authority::strange()?);
        ensure!(
            served(&stranger, to, Some(real.leaf(|_| {})?))?,
            "a good certificate shown in the same way is refused"
        );
        ensure!(handshakes(&mesh, 2, "inbound", "ok")? >= 1, "a good handshake is not counted");
        let uris = |uris: &[&str]| uris.iter().map(|text| uri(text)).collect::<Vec<_>>();
        let table = [
            ("unknown_authority", Some(strange.leaf(|_| {})?)),
            (
                "no_bundle_for_trust_domain",
                Some(real.leaf(|leaf| leaf.subject_alt_names = uris(&["spiffe://other.test/ns/app/sa/client"]))?),
            ),
            ("expired", Some(real.leaf(|leaf| leaf.not_after = at(-60).into())?)),
            (
                "not_yet_valid",
                Some(real.leaf(|leaf| (leaf.not_before, leaf.not_after) = (at(600).into(), at(3600).into()))?),
            ),
            (
                "many_uri_sans",
                Some(real.leaf(|leaf| leaf.subject_alt_names = uris(&[CLIENT, "spiffe://cluster.local/ns/app/sa/x"]))?),
            ),
            ("no_uri_san", Some(real.leaf(|leaf| leaf.subject_alt_names = Vec::new())?)),
            ("leaf_is_ca", Some(real.leaf(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))?)),
            ("no_client_certificate", None),
        ];
        let mut log = mesh.follow("node2")?;
        for (reason, shown) in table {
            let before = handshakes(&mesh, 2, "inbound", reason)?;
            ensure!(!served(&stranger, to, shown)?, "{reason}: it was served");
            let record = log.demand(Duration::from_secs(3), reason, |access| access.field("reason") == Some(reason))?;
            ensure!(record.direction() == "inbound" && record.outcome() != "closed", "{}", record.text());
            wait_until(&format!("{reason} is counted"), Duration::from_secs(3), || {
                Ok(handshakes(&mesh, 2, "inbound", reason)? == before + 1)
            })?;
        }
        Ok(())
    })
}

/// The right authority, but not who the roster says lives there.
#[test]
fn a_server_of_another_identity_is_refused_by_the_agent_that_dials() {
    in_sandbox!(|| {
        let manifests = fixture::manifests(&[("client", "node1"), ("server", "node2")])?;
        fixture::address(&manifests, "server", "10.244.2.50")?;
        let mesh = Mesh::start(&manifests)?;
        let server = mesh.pod("server.app")?;
        let to = SocketAddr::from((server.pod.ip4(), 8080));
        // The pod's own agent lets go of it, and somebody else answers on its HBONE port.
        let socket = mesh.agents["node2"].run_dir.join("enrol.sock");
        let mut command = server.pod.node().netns().command(Programs::find()?.path("culvert-agent"));
        let withdrawn =
            command.arg("withdraw").arg("--socket").arg(socket).args(["--uid", &server.spec.uid]).output()?;
        ensure!(withdrawn.status.success(), "{withdrawn:?}");
        let Shown { chain, key } = Authority::real()?.leaf(|_| {})?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let listener = server.pod.netns().enter(|| Ok(std::net::TcpListener::bind(("0.0.0.0", HBONE))?))?;
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::io::Result::ok) {
                let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
            }
        });
        let mut log = mesh.follow("node1")?;
        let answer = connect(mesh.pod("client.app")?.pod.netns(), to).and_then(|mut stream| {
            stream.write_all(b"a secret")?;
            Ok(stream.read(&mut [0; 8])?)
        });
        ensure!(answer.is_err(), "a stranger was taken for the server: {answer:?}");
        let record = log.demand(Duration::from_secs(5), "the refusal", |access| {
            access.field("reason") == Some("unexpected_identity")
        })?;
        ensure!(record.direction() == "outbound", "{}", record.text());
        ensure!(handshakes(&mesh, 1, "outbound", "unexpected_identity")? >= 1, "not counted");
        Ok(())
    })
}
