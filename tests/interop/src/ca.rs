//! Certificates for programs that ask as Istio's do: with a bearer token or nothing, where culvert's control plane serves
//! nodes that have joined. Signs with the control plane's own keys whatever it is asked for: for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use culvert_control::ca::{Authority, SigningRequest};
use culvert_control::state_dir::StateDir;
use culvert_identity::{SpiffeId, TrustDomain};
use culvert_wire::proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use culvert_wire::proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::value::Kind;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The name in its own certificate.
pub const NAME: &str = "ca.lab";

/// Life of what it signs.
const LIFE: Duration = Duration::from_secs(3600);

/// One that serves until it is dropped.
#[derive(Debug)]
pub struct Ca {
    /// Where it listens.
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Ca {
    /// Serves on `address` with the keys that a control plane has made in `folder`.
    pub fn start(folder: &Path, domain: &str, address: SocketAddr) -> Result<Ca> {
        let domain = TrustDomain::parse(domain)?;
        let authority = Authority::open(StateDir::open(folder)?, domain, LIFE, SystemTime::now())?;
        let acceptor = TlsAcceptor::from(Arc::new(own_config(&authority)?));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).with_context(|| format!("listen on {address}"))?;
        let (sender, connections) = mpsc::channel(16);
        runtime.spawn(accept(listener, acceptor, sender));
        let service = IstioCertificateServiceServer::new(Signer(authority));
        let incoming = ReceiverStream::new(connections);
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(Ca { address, _runtime: runtime })
    }
}

/// A server's certificate of the same roots, and HTTP/2.
fn own_config(authority: &Authority) -> Result<ServerConfig> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?.pem()?;
    let request = SigningRequest::from_pem(&request)?;
    let issued = authority.sign_server(&[NAME.to_owned()], &request, LIFE, SystemTime::now())?;
    let chain = issued.chain.concat();
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes TLS off; what is in it goes to the server.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, server: mpsc::Sender<std::io::Result<DuplexStream>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            let (mut near, far) = duplex(16 << 10);
            if let Ok(mut tls) = acceptor.accept(tcp).await
                && server.send(Ok(far)).await.is_ok()
            {
                // Its end is the client's affair.
                let _ = copy_bidirectional(&mut tls, &mut near).await;
            }
        });
    }
}

/// Gives everybody what they ask for.
struct Signer(Authority);

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let message = request.into_inner();
        self.sign(&message).map(Response::new).map_err(|error| Status::invalid_argument(format!("{error:#}")))
    }
}

impl Signer {
    fn sign(&self, message: &IstioCertificateRequest) -> Result<IstioCertificateResponse> {
        let asked = message.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"));
        let Some(Kind::StringValue(identity)) = asked.and_then(|value| value.kind.as_ref()) else {
            anyhow::bail!("no ImpersonatedIdentity");
        };
        let request = SigningRequest::from_pem(&message.csr)?;
        let issued = self.0.sign(&SpiffeId::parse(identity)?, &request, LIFE, SystemTime::now())?;
        let mut cert_chain = issued.chain;
        cert_chain.push(self.0.roots().pem);
        Ok(IstioCertificateResponse { cert_chain })
    }
}
