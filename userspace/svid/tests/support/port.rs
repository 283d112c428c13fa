//! A control port on loopback: the real protocols over the real TLS, with a CA of the test behind it.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use culvert_mtls::{CredentialsWriter, LocalIdentity, Trust, VerifiedPeer, peer_of};
use culvert_wire::proto::{
    ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    culvert::{
        JoinRequest, JoinResponse, RenewRequest,
        node_service_server::{NodeService, NodeServiceServer},
    },
};
use prost_types::value::Kind;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::Connected},
};

use super::{Authority, domain};

pub const CONTROL: &str = "spiffe://td.test/culvert/control";
pub const NODE: &str = "spiffe://td.test/culvert/node/node-1";
pub const TOKEN: &str = "a token";

/// What the port noted of each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub what: &'static str,
    pub by: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub seconds: i64,
}

pub struct Port {
    pub address: String,
    pub authority: Arc<Authority>,
    pub calls: Arc<Mutex<Vec<Call>>>,
    /// Life of what is signed from now on.
    pub life: Arc<Mutex<Duration>>,
    _writer: CredentialsWriter,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    calls: Arc<Mutex<Vec<Call>>>,
    life: Arc<Mutex<Duration>>,
}

impl Port {
    /// Listens as `name`, with the bundle of its authority in `trust`.
    pub async fn listen(name: &str, trust: &Trust) -> Self {
        let authority = Arc::new(Authority::new());
        authority.trusted_by(trust);
        let (writer, local) = authority.local(name, trust);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = Service {
            authority: Arc::clone(&authority),
            calls: Arc::default(),
            life: Arc::new(Mutex::new(super::HOUR)),
        };
        let (calls, life) = (Arc::clone(&service.calls), Arc::clone(&service.life));
        let (sender, streams) = mpsc::channel(16);
        let serving = Server::builder()
            .add_service(NodeServiceServer::new(service.clone()))
            .add_service(IstioCertificateServiceServer::new(service))
            .serve_with_incoming(ReceiverStream::new(streams));
        let tasks =
            vec![tokio::spawn(async move { serving.await.unwrap() }), tokio::spawn(accept(listener, local, sender))];
        Self { address, authority, calls, life, _writer: writer, tasks }
    }

    pub fn calls(&self, what: &str) -> Vec<Call> {
        self.calls.lock().unwrap().iter().filter(|call| call.what == what).cloned().collect()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: TcpListener, local: LocalIdentity, sender: mpsc::Sender<io::Result<Conn>>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(local.server_config_optional_client().unwrap());
        let sender = sender.clone();
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let _ = sender.send(Ok(Conn(stream))).await;
            }
        });
    }
}

impl Service {
    fn note<T>(
        &self,
        what: &'static str,
        request: &Request<T>,
        metadata: BTreeMap<String, String>,
        seconds: i64,
    ) -> Option<String> {
        let by =
            request.extensions().get::<Option<VerifiedPeer>>().cloned().flatten().map(|peer| peer.id().to_string());
        self.calls.lock().unwrap().push(Call { what, by: by.clone(), metadata, seconds });
        by
    }

    fn sign(&self, csr: &str, id: &str) -> String {
        let life = *self.life.lock().unwrap();
        text(&self.authority.sign_request(csr, id, SystemTime::now() - Duration::from_secs(1), life))
    }
}

fn text(der: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()))
}

#[tonic::async_trait]
impl NodeService for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.note("join", &request, BTreeMap::new(), 0);
        if request.get_ref().token != TOKEN {
            return Err(Status::unauthenticated("token unknown or spent"));
        }
        let cert_chain = vec![self.sign(&request.get_ref().csr, NODE)];
        Ok(Response::new(JoinResponse { node: "node-1".into(), cert_chain }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        let Some(by) = self.note("renew", &request, BTreeMap::new(), 0) else {
            return Err(Status::unauthenticated("no node certificate"));
        };
        let cert_chain = vec![self.sign(&request.get_ref().csr, &by)];
        Ok(Response::new(JoinResponse { node: "node-1".into(), cert_chain }))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let fields = request.get_ref().metadata.clone().unwrap_or_default().fields;
        let metadata: BTreeMap<_, _> = fields
            .into_iter()
            .filter_map(|(key, value)| match value.kind {
                Some(Kind::StringValue(text)) => Some((key, text)),
                _ => None,
            })
            .collect();
        let by = self.note("create", &request, metadata.clone(), request.get_ref().validity_duration);
        if by.as_deref() != Some(NODE) {
            return Err(Status::permission_denied("not a node"));
        }
        // As the control plane does: the handshake may be hours ago.
        let peer = request.extensions().get::<Option<VerifiedPeer>>().cloned().flatten();
        if peer.is_none_or(|peer| SystemTime::now() > peer.svid().not_after) {
            return Err(Status::unauthenticated("the node certificate has ended"));
        }
        if metadata.get("PodUID").map(String::as_str) != Some("pod-1") {
            return Err(Status::permission_denied("no such pod on this node"));
        }
        let leaf = self.sign(&request.get_ref().csr, &metadata["ImpersonatedIdentity"]);
        // Two roots in the last element, as in a rotation of the CA.
        let roots = text(&self.authority.root) + &text(&Authority::new().root);
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, roots] }))
    }
}

/// A TLS connection whose proven peer is known to the services.
struct Conn(TlsStream<TcpStream>);

impl Connected for Conn {
    type ConnectInfo = Option<VerifiedPeer>;
    fn connect_info(&self) -> Self::ConnectInfo {
        peer_of(self.0.get_ref().1).ok()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The bundle of the port's authority, for somebody else's trust.
pub fn trust_in(port: &Port) -> Trust {
    let trust = Trust::new(culvert_mtls::TrustBundles::new());
    port.authority.trusted_by(&trust);
    assert!(trust.bundles().snapshot().get(&domain()).is_some());
    trust
}
