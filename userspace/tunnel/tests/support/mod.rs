//! Two agents on one thread, with real certificates, real TLS and real sockets on the loopback.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses its part")]

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Credentials, Expected, LocalIdentity, Trust, TrustBundles};
use culvert_tunnel::{
    Authority, Baggage, ConnectRequest, Generation, Inbound, Limits, Local, Malformed, Meter, Offer, OpenError, Peer,
    Pool, Proofs, Refusal, Revoker, Route, ServeError, Server, Totals, TunnelKey, TunnelStream, revocation, splice,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, LocalSet, spawn_local},
    time::timeout,
};

pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/stock";
pub const HOUR: Duration = Duration::from_secs(3600);

/// Runs a test as a worker thread runs: one thread, one `LocalSet`; a test that hangs fails.
pub fn worker<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new()
        .block_on(&runtime, async { timeout(Duration::from_secs(120), test).await.expect("the test hangs") });
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// An authority that signs SVIDs of `cluster.local`.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub fn sign(&self, id: &str, life: Duration) -> Credentials {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        let now = SystemTime::now();
        params.not_before = (now - HOUR).into();
        params.not_after = (now + life).into();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Credentials::from_pem(leaf.pem(), key.serialize_pem()).unwrap()
    }

    /// Trust in this authority for its trust domain.
    pub fn trust(&self) -> Trust {
        let bundles = TrustBundles::new();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        bundles.set(X509Bundle::from_der(domain, &[&self.root]).unwrap()).unwrap();
        Trust::new(bundles)
    }
}

/// One identity with its TLS configurations; the writer is kept, because the credentials go with it.
pub struct Identity {
    writer: culvert_mtls::CredentialsWriter,
    pub tls: LocalIdentity,
}

impl Identity {
    pub fn new(ca: &Ca, trust: &Trust, name: &str, life: Duration) -> Self {
        let (writer, tls) = LocalIdentity::new(id(name), trust);
        writer.publish(ca.sign(name, life)).unwrap();
        Self { writer, tls }
    }

    pub fn rotate(&self, ca: &Ca, life: Duration) {
        self.writer.publish(ca.sign(self.tls.id().as_str(), life)).unwrap();
    }

    pub fn generation(&self) -> Generation {
        Generation { svid: self.tls.generation(), bundle: self.tls.trust().bundles().generation() }
    }

    pub fn local(&self) -> Local {
        Local {
            identity: self.tls.id().clone(),
            generation: self.generation(),
            tls: self.tls.server_config().unwrap(),
            until: self.tls.credentials().unwrap().not_after(),
        }
    }

    pub fn route(&self, peer: &str, address: SocketAddr) -> Route {
        Route {
            key: TunnelKey {
                source: self.tls.id().clone(),
                destination: id(peer),
                address,
                from: IpAddr::V4(Ipv4Addr::LOCALHOST),
                peer: Arc::from("uid-1"),
            },
            generation: self.generation(),
            tls: self.tls.client_config(&Expected::one(id(peer))).unwrap(),
            until: self.tls.credentials().unwrap().not_after(),
        }
    }
}

/// The inbound side of an agent: connects to what the peer names, and remembers all that happened.
#[derive(Default)]
pub struct Deliver {
    pub totals: RefCell<Vec<Totals>>,
    pub requests: RefCell<Vec<ConnectRequest>>,
    pub malformed: RefCell<Vec<&'static str>>,
    pub peers: RefCell<Vec<Peer>>,
    pub refuse: Cell<Option<Refusal>>,
    /// Offers are left without an answer.
    pub silent: Cell<bool>,
    /// Offers are dropped.
    pub forget: Cell<bool>,
    pub gone: Cell<usize>,
    pub revokers: RefCell<Vec<Revoker>>,
    pub meters: RefCell<Vec<Arc<Meter>>>,
}

impl Inbound for Deliver {
    fn proven(&self, peer: &Peer, _took: Duration) {
        self.peers.borrow_mut().push(peer.clone());
    }

    fn malformed(&self, _peer: &Peer, why: Malformed) {
        self.malformed.borrow_mut().push(why.reason());
    }

    async fn offered(self: Rc<Self>, mut offer: Offer) {
        self.requests.borrow_mut().push(offer.request().clone());
        if self.forget.get() {
            return;
        }
        if self.silent.get() {
            offer.gone().await;
            self.gone.set(self.gone.get() + 1);
            return;
        }
        if let Some(refusal) = self.refuse.get() {
            return offer.refuse(refusal);
        }
        let Some(address) = offer.request().authority.address() else { return offer.refuse(Refusal::Unavailable) };
        let Ok(app) = TcpStream::connect(address).await else { return offer.refuse(Refusal::Unavailable) };
        let about = Arc::new(Baggage { service: Some("stock".into()), ..Baggage::default() });
        let Ok((app, stream)) = offer.accept(app, &about) else { return };
        let (revoker, revocation) = revocation();
        self.revokers.borrow_mut().push(revoker);
        let meter = Arc::new(Meter::default());
        self.meters.borrow_mut().push(Arc::clone(&meter));
        let totals = splice(app, stream, meter, revocation).await;
        self.totals.borrow_mut().push(totals);
    }
}

/// A serving agent on a port of its own.
pub struct Node {
    pub server: Server,
    pub inbound: Rc<Deliver>,
    pub address: SocketAddr,
    pub ends: Rc<RefCell<Vec<Result<(), ServeError>>>>,
    pub accepted: Rc<Cell<usize>>,
    pub local: Rc<RefCell<Local>>,
}

impl Node {
    pub async fn start(identity: &Identity, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Self {
            server: Server::new(limits, Proofs::new()),
            inbound: Rc::default(),
            address: listener.local_addr().unwrap(),
            ends: Rc::default(),
            accepted: Rc::default(),
            local: Rc::new(RefCell::new(identity.local())),
        };
        let (server, inbound, ends) = (node.server.clone(), Rc::clone(&node.inbound), Rc::clone(&node.ends));
        let (accepted, local) = (Rc::clone(&node.accepted), Rc::clone(&node.local));
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                let (server, inbound, ends) = (server.clone(), Rc::clone(&inbound), Rc::clone(&ends));
                let local = local.borrow().clone();
                spawn_local(async move {
                    let end = server.serve(tcp, &local, inbound).await;
                    ends.borrow_mut().push(end);
                });
            }
        });
        node
    }
}

/// Everything: one CA, a dialling agent and a serving one.
pub struct World {
    pub ca: Ca,
    pub trust: Trust,
    pub client: Identity,
    pub serving: Identity,
    pub node: Node,
    pub pool: Pool,
    pub dials: Rc<Cell<usize>>,
}

/// A connection of an application that the dialling agent carries.
pub struct Carried {
    pub app: TcpStream,
    pub revoker: Revoker,
    pub meter: Arc<Meter>,
    pub totals: JoinHandle<Totals>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Limits::default(), Limits::default()).await
    }

    pub async fn with(dialling: Limits, serving: Limits) -> Self {
        Self::living(dialling, serving, HOUR).await
    }

    pub async fn living(dialling: Limits, serving_limits: Limits, life: Duration) -> Self {
        let ca = Ca::new();
        let trust = ca.trust();
        let client = Identity::new(&ca, &trust, CLIENT, life);
        let serving = Identity::new(&ca, &trust, SERVER, life);
        let node = Node::start(&serving, serving_limits).await;
        let pool = Pool::new(dialling, Proofs::new());
        Self { ca, trust, client, serving, node, pool, dials: Rc::default() }
    }

    pub fn route(&self) -> Route {
        self.client.route(SERVER, self.node.address)
    }

    pub async fn open(&self, to: SocketAddr) -> Result<TunnelStream, OpenError> {
        self.open_on(&self.route(), to).await
    }

    pub async fn open_on(&self, route: &Route, to: SocketAddr) -> Result<TunnelStream, OpenError> {
        self.pool.open(route, &ConnectRequest::to(Authority::from(to)), self.dial(route.key.address)).await
    }

    pub fn dial(&self, address: SocketAddr) -> impl FnMut() -> BoxedDial + use<> {
        let dials = Rc::clone(&self.dials);
        move || {
            dials.set(dials.get() + 1);
            Box::pin(TcpStream::connect(address))
        }
    }

    /// An application connects to `to` through both agents.
    pub async fn carry(&self, to: SocketAddr) -> Carried {
        carry(self.open(to).await.unwrap()).await
    }
}

pub type BoxedDial = std::pin::Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// Splices a new application socket with the stream.
pub async fn carry(stream: TunnelStream) -> Carried {
    carry_from(pair().await, stream)
}

/// Splices the second socket with the stream; the first is the application's.
pub fn carry_from((app, near): (TcpStream, TcpStream), stream: TunnelStream) -> Carried {
    let (revoker, revocation) = revocation();
    let meter = Arc::new(Meter::default());
    let totals = spawn_local(splice(near, stream, Arc::clone(&meter), revocation));
    Carried { app, revoker, meter, totals }
}

/// Two connected sockets.
pub async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A server application; gives its address and each connection that it gets.
pub async fn application() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if sender.send(tcp).is_err() {
                break;
            }
        }
    });
    (address, receiver)
}

/// Waits until something has become true; fails after 10 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// Bytes that cannot repeat by accident: a xorshift stream.
pub struct Pattern(u64);

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }

    pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Self::new(seed).fill(&mut bytes);
        bytes
    }
}
