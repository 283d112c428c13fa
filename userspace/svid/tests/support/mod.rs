//! A CA, a clock and an observer for tests.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]

pub mod port;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Credentials, CredentialsWriter, LocalIdentity, Trust, TrustBundles};
use culvert_svid::{Clock, Issue, IssueError, Key, Observer, Request, WallOf};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

pub const TILL: &str = "spiffe://td.test/ns/shop/sa/till";
pub const BANK: &str = "spiffe://td.test/ns/bank/sa/ledger";
pub const HOUR: Duration = Duration::from_secs(3600);

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse("td.test").unwrap()
}

/// Monotonic time is tokio's (which tests may pause); wall time is the same plus what a test shifts it by.
#[derive(Clone)]
pub struct ShiftedClock {
    began: Instant,
    base: SystemTime,
    shift: Arc<AtomicI64>,
}

impl ShiftedClock {
    pub fn new() -> Self {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        Self { began: Instant::now(), base, shift: Arc::default() }
    }

    /// Moves the wall clock.
    pub fn jump(&self, seconds: i64) {
        self.shift.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn wall(&self) -> SystemTime {
        let shift = self.shift.load(Ordering::SeqCst);
        let at = self.base + self.began.elapsed();
        let distance = Duration::from_secs(shift.unsigned_abs());
        if shift < 0 { at - distance } else { at + distance }
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
}

pub fn trust_by(clock: &ShiftedClock) -> Trust {
    Trust::with_clock(TrustBundles::new(), Arc::new(WallOf(clock.clone())))
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub fn trusted_by(&self, trust: &Trust) {
        trust.bundles().set(X509Bundle::from_der(domain(), &[&self.root]).unwrap()).unwrap();
    }

    pub fn sign(
        &self,
        id: &str,
        key: &impl PublicKeyData,
        from: SystemTime,
        life: Duration,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (from.into(), (from + life).into());
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// Signs the key of a request, under whatever name.
    pub fn sign_request(&self, csr: &str, id: &str, from: SystemTime, life: Duration) -> CertificateDer<'static> {
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        self.sign(id, &request.public_key, from, life)
    }

    pub fn local(&self, id_text: &str, trust: &Trust) -> (CredentialsWriter, LocalIdentity) {
        let key = Key::generate().unwrap();
        let chain = vec![self.sign(id_text, &key, SystemTime::now() - HOUR, 2 * HOUR)];
        let (writer, local) = LocalIdentity::new(id(id_text), trust);
        writer.publish(Credentials::new(chain, key.signing()).unwrap()).unwrap();
        (writer, local)
    }
}

/// What the CA of a test does with a request.
pub type Behave =
    Box<dyn Fn(&Authority, &Request, SystemTime) -> Result<CertificateDer<'static>, IssueError> + Send + Sync>;

/// An issuer in the same process.
#[derive(Clone)]
pub struct TestCa(pub Arc<TestCaInner>);

pub struct TestCaInner {
    pub authority: Authority,
    clock: ShiftedClock,
    behave: Mutex<Behave>,
    /// How long an answer takes.
    pub delay: Mutex<Duration>,
    /// Requests with the monotonic time of their arrival.
    pub seen: Mutex<Vec<(Duration, Request)>>,
    now: AtomicI64,
    pub most_at_once: AtomicI64,
}

/// Signs what is asked for, from now on, for as long as asked.
pub fn good() -> Behave {
    Box::new(|ca, request, now| Ok(ca.sign_request(&request.csr, request.id.as_str(), now, request.validity)))
}

pub fn down() -> Behave {
    Box::new(|_, _, _| Err(IssueError::Unreachable { why: "reset", status: "gone".into() }))
}

impl TestCa {
    pub fn new(clock: &ShiftedClock) -> Self {
        Self(Arc::new(TestCaInner {
            authority: Authority::new(),
            clock: clock.clone(),
            behave: Mutex::new(good()),
            delay: Mutex::default(),
            seen: Mutex::default(),
            now: AtomicI64::new(0),
            most_at_once: AtomicI64::new(0),
        }))
    }

    pub fn behave(&self, behave: Behave) {
        *self.0.behave.lock().unwrap() = behave;
    }

    pub fn delay(&self, delay: Duration) {
        *self.0.delay.lock().unwrap() = delay;
    }

    pub fn times(&self) -> Vec<Duration> {
        self.0.seen.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    pub fn asked(&self) -> usize {
        self.0.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> Request {
        self.0.seen.lock().unwrap().last().unwrap().1.clone()
    }
}

impl Issue for TestCa {
    async fn issue(&self, request: Request) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let ca = &*self.0;
        let now = ca.now.fetch_add(1, Ordering::SeqCst) + 1;
        ca.most_at_once.fetch_max(now, Ordering::SeqCst);
        ca.seen.lock().unwrap().push((ca.clock.monotonic(), request.clone()));
        let delay = *ca.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        ca.now.fetch_sub(1, Ordering::SeqCst);
        let answer = (ca.behave.lock().unwrap())(&ca.authority, &request, ca.clock.wall());
        answer.map(|leaf| vec![leaf])
    }
}

/// Writes down what it is told.
#[derive(Default)]
pub struct Diary(pub Mutex<Vec<String>>);

impl Diary {
    pub fn count(&self, word: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.starts_with(word)).count()
    }
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Observer for Diary {
    fn asked(&self, id: &SpiffeId) {
        self.note(format!("asked {id}"));
    }
    fn issued(&self, id: &SpiffeId, _: Duration, renewed: bool) {
        self.note(format!("{} {id}", if renewed { "renewed" } else { "first" }));
    }
    fn failed(&self, id: &SpiffeId, reason: &'static str) {
        self.note(format!("failed {reason} {id}"));
    }
    fn expired(&self, id: &SpiffeId) {
        self.note(format!("expired {id}"));
    }
    fn erased(&self, id: &SpiffeId) {
        self.note(format!("erased {id}"));
    }
}
