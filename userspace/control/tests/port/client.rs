//! A client of the control port: what an agent would do, and what it must not get away with.

use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};

use culvert_identity::{SpiffeId, bundle::X509Bundle};
use culvert_mtls::{
    Credentials, CredentialsWriter, Expected, LocalIdentity, Role, Trust, TrustBundles, anonymous_client_config,
    server_name, verify_chain,
};
use culvert_wire::proto::{
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    culvert::{JoinRequest, node_service_client::NodeServiceClient},
};
use hyper_util::rt::TokioIo;
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::plane::{Plane, domain};

pub(crate) struct Key {
    pair: KeyPair,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    pub(crate) fn csr(&self) -> String {
        CertificateParams::default().serialize_request(&self.pair).unwrap().pem().unwrap()
    }

    pub(crate) fn with(&self, chain: &[String]) -> Credentials {
        Credentials::from_pem(chain.concat(), self.pair.serialize_pem()).unwrap()
    }
}

/// Who calls.
pub(crate) struct Caller {
    channel: Channel,
    _writer: Option<CredentialsWriter>,
}

pub(crate) fn trust(plane: &Plane) -> Trust {
    let bundles = TrustBundles::new();
    let pem = std::fs::read_to_string(plane.state("root.pem")).unwrap();
    bundles.set(X509Bundle::parse_pem(domain(), pem).unwrap()).unwrap();
    Trust::new(bundles)
}

fn expected() -> Expected {
    Expected::one(SpiffeId::of_control(&domain()))
}

fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(server_name(), stream).await?))
        }
    });
    Endpoint::from_static("http://control").connect_with_connector_lazy(connect)
}

impl Caller {
    pub(crate) fn nobody(plane: &Plane) -> Self {
        let config = anonymous_client_config(&trust(plane), &expected()).unwrap();
        Self { channel: channel(plane.address, config), _writer: None }
    }

    /// A connection of somebody who shakes hands without a certificate and says nothing; `None`: refused.
    pub(crate) async fn stranger(plane: &Plane) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
        let config = anonymous_client_config(&trust(plane), &expected()).unwrap();
        let stream = TcpStream::connect(plane.address).await.ok()?;
        TlsConnector::from(config).connect(server_name(), stream).await.ok()
    }

    pub(crate) fn with(plane: &Plane, credentials: Credentials) -> Self {
        let (writer, identity) = LocalIdentity::new(credentials.id().clone(), &trust(plane));
        writer.publish(credentials).unwrap();
        let config = identity.client_config(&expected()).unwrap();
        Self { channel: channel(plane.address, config), _writer: Some(writer) }
    }

    /// A node that has joined.
    pub(crate) async fn node(plane: &Plane, name: &str) -> Self {
        let key = Key::new();
        let answer = Self::nobody(plane).join(&plane.token(name), &key).await.unwrap();
        assert_eq!(answer.0, name);
        Self::with(plane, key.with(&answer.1))
    }

    /// A pod's SVID used to call: what a thief of one would try.
    pub(crate) async fn workload(plane: &Plane, node: &Self, pod: &str) -> Self {
        let key = Key::new();
        let chain = node.issue(pod, &identity_of(pod), &key).await.unwrap();
        let (_, chain) = chain.split_last().unwrap();
        Self::with(plane, key.with(chain))
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) async fn join(&self, token: &str, key: &Key) -> Result<(String, Vec<String>), Status> {
        let request = JoinRequest { token: token.to_owned(), csr: key.csr() };
        let answer = NodeServiceClient::new(self.channel()).join(request).await?.into_inner();
        Ok((answer.node, answer.cert_chain))
    }

    pub(crate) async fn issue(&self, pod: &str, identity: &str, key: &Key) -> Result<Vec<String>, Status> {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields =
            [("ImpersonatedIdentity".to_owned(), text(identity)), ("PodUID".to_owned(), text(&format!("uid-{pod}")))];
        let request = IstioCertificateRequest {
            csr: key.csr(),
            validity_duration: 0,
            metadata: Some(Struct { fields: fields.into() }),
        };
        let mut client = IstioCertificateServiceClient::new(self.channel());
        Ok(client.create_certificate(request).await?.into_inner().cert_chain)
    }
}

pub(crate) fn identity_of(pod: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{pod}")
}

/// Verifies a chain as a peer would, and gives its identity.
pub(crate) fn verified(plane: &Plane, chain: &[String]) -> SpiffeId {
    let read = |pem: &String| culvert_identity::x509::certificates_of_pem(pem.as_bytes()).unwrap();
    let chain: Vec<CertificateDer<'static>> = chain.iter().flat_map(read).map(CertificateDer::from).collect();
    let bundles = trust(plane).bundles().snapshot();
    verify_chain(&chain, &bundles, Role::Client, SystemTime::now()).unwrap();
    verify_chain(&chain, &bundles, Role::Server, SystemTime::now()).unwrap().id
}

/// Code and `culvert-reason` of a refusal.
pub(crate) fn word(status: &Status) -> (Code, String) {
    let reason = status.metadata().get("culvert-reason").map(|value| value.to_str().unwrap().to_owned());
    (status.code(), reason.unwrap_or_default())
}
