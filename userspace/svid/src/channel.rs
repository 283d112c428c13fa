//! gRPC channels to the control plane, over this project's own TLS configurations.

use std::{io, sync::Arc, time::Duration};

use culvert_identity::{SpiffeId, TrustDomain};
use culvert_mtls::{Expected, LocalIdentity, Refusal, Trust, anonymous_client_config, server_name};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the control plane listens, and how it is known: by its SPIFFE ID under the given trust.
#[derive(Debug, Clone)]
pub struct ControlPort {
    address: Arc<str>,
    trust: Trust,
    trust_domain: TrustDomain,
    expected: Expected,
}

impl ControlPort {
    /// `address` is `host:port` (`[v6]:port`). `trust` holds the roots of the file that the node was given;
    /// the server must be `spiffe://TD/culvert/control`.
    pub fn new(address: &str, trust: Trust, trust_domain: &TrustDomain) -> Self {
        let expected = Expected::one(SpiffeId::of_control(trust_domain));
        Self { address: address.into(), trust, trust_domain: trust_domain.clone(), expected }
    }

    /// The trust domain whose control plane it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What the server is verified against.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// A channel that presents `identity`. It connects on the first call, and each time it connects again
    /// it presents the newest credentials; a connection that stands keeps those it was made with, so open
    /// a new channel when the node's credentials change.
    pub fn channel(&self, identity: &LocalIdentity) -> Channel {
        let (identity, expected) = (identity.clone(), self.expected.clone());
        self.channel_with(move || identity.client_config(&expected).map_err(io::Error::from))
    }

    /// A channel that proves nothing: only for joining.
    pub fn anonymous_channel(&self) -> Channel {
        let (trust, expected) = (self.trust.clone(), self.expected.clone());
        self.channel_with(move || anonymous_client_config(&trust, &expected).map_err(io::Error::other))
    }

    fn channel_with<F>(&self, config: F) -> Channel
    where
        F: Fn() -> io::Result<Arc<ClientConfig>> + Send + 'static,
    {
        let address = Arc::clone(&self.address);
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (config(), Arc::clone(&address));
            async move { connect(&address, config?).await.map(TokioIo::new) }
        });
        // The address is the connector's; this one only fills the authority of requests.
        Endpoint::from_static("http://control.culvert.internal")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_with_connector_lazy(connector)
    }
}

async fn connect(address: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(server_name(), tcp).await?;
    // A server that never heard of HTTP/2 would otherwise be spoken to in it.
    match stream.get_ref().1.alpn_protocol() {
        Some(culvert_mtls::ALPN_H2) => Ok(stream),
        _ => Err(io::Error::from(Refusal::NotProven)),
    }
}
