//! gRPC channels to the control plane, over this project's own TLS configurations.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use culvert_identity::{SpiffeId, TrustDomain};
use culvert_mtls::{Expected, LocalIdentity, Refusal, Trust, anonymous_client_config, server_name};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

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
    bearer: Bearer,
    line: Arc<watch::Sender<Option<ControlChannel>>>,
}

/// A channel whose calls carry the token, where there is one.
pub type ControlChannel = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer` to each call, from a file that somebody else keeps fresh: kubelet, for a pod's projected
/// service account token. The file is read for each call.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<Arc<Path>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(path) = &self.0 else { return Ok(request) };
        let unusable =
            |why: String| Status::unavailable(format!("the token in {} cannot be used: {why}", path.display()));
        let token = fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let value = MetadataValue::<Ascii>::try_from(format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|error| unusable(error.to_string()))?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

impl ControlPort {
    /// `address` is `host:port` (`[v6]:port`). `trust` holds the roots of the file that the node was given;
    /// the server must be `spiffe://TD/culvert/control`.
    pub fn new(address: &str, trust: Trust, trust_domain: &TrustDomain) -> Self {
        let expected = Expected::one(SpiffeId::of_control(trust_domain));
        let (trust_domain, bearer) = (trust_domain.clone(), Bearer::default());
        Self { address: address.into(), trust, trust_domain, expected, bearer, line: Arc::default() }
    }

    /// The same, with the token of this file on every call. Joining and renewing are then one: the token says which
    /// node it is.
    #[must_use]
    pub fn with_token_file(self, path: PathBuf) -> Self {
        Self { bearer: Bearer(Some(path.into())), ..self }
    }

    /// Do calls carry a token.
    pub fn has_token(&self) -> bool {
        self.bearer.0.is_some()
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
    pub fn channel(&self, identity: &LocalIdentity) -> ControlChannel {
        let (identity, expected) = (identity.clone(), self.expected.clone());
        self.channel_with(move || identity.client_config(&expected).map_err(io::Error::from))
    }

    /// Says that the node's stream runs over this channel.
    pub fn set_line(&self, channel: ControlChannel) {
        self.line.send_replace(Some(channel));
    }

    /// The channel that the node's stream runs over, as it changes. There may be several control planes behind the address,
    /// and what is said of a stream is said to the one that serves it.
    pub fn line(&self) -> watch::Receiver<Option<ControlChannel>> {
        self.line.subscribe()
    }

    /// A channel that proves nothing: only for joining.
    pub fn anonymous_channel(&self) -> ControlChannel {
        let (trust, expected) = (self.trust.clone(), self.expected.clone());
        self.channel_with(move || anonymous_client_config(&trust, &expected).map_err(io::Error::other))
    }

    fn channel_with<F>(&self, config: F) -> ControlChannel
    where
        F: Fn() -> io::Result<Arc<ClientConfig>> + Send + 'static,
    {
        let address = Arc::clone(&self.address);
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (config(), Arc::clone(&address));
            async move { connect(&address, config?).await.map(TokioIo::new) }
        });
        // The address is the connector's; this one only fills the authority of requests.
        let channel = Endpoint::from_static("http://control.culvert.internal")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_with_connector_lazy(connector);
        InterceptedService::new(channel, self.bearer.clone())
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
