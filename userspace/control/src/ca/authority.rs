//! Making, loading and replacing the two keys.

use std::{
    sync::RwLock,
    time::{Duration, SystemTime},
};

use culvert_identity::{
    TrustDomain,
    bundle::X509Bundle,
    x509::{self, Validity},
};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::{
    Authority, CaError, Issued, Keys, Roots, SigningRequest,
    profile::{MAX_LEAF_LIFE, Role, hex, params, seconds},
};
use crate::state_dir::StateDir;

/// Life of the root.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Longest life of an issuing key.
pub const ISSUING_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

const ROOT_KEY: &str = "root.key";
const ROOT_PEM: &str = "root.pem";
const ISSUING_KEY: &str = "issuing.key";
const ISSUING_PEM: &str = "issuing.pem";

/// The issuing key with its certificate.
#[derive(Debug)]
pub(super) struct Issuing {
    pub(super) key: KeyPair,
    /// Its certificate, then those between it and the root.
    pub(super) chain: Vec<String>,
    pub(super) der: Vec<u8>,
    not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Authority {
    /// Loads the authority from its folder, or makes one for `trust_domain` where there is none.
    /// `issuing_life` is cut to [`ISSUING_LIFE`].
    pub fn open(
        state: StateDir,
        trust_domain: TrustDomain,
        issuing_life: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let issuing_life = issuing_life.min(ISSUING_LIFE);
        let root_pem = match read_text(&state, ROOT_PEM) {
            Ok(pem) => pem,
            Err(CaError::State(error)) if error.is_missing() => new_root(&state, &trust_domain, now)?,
            Err(error) => return Err(error),
        };
        let bundle = X509Bundle::parse_pem(trust_domain.clone(), &root_pem)
            .map_err(|error| CaError::Broken { file: ROOT_PEM, why: error.to_string() })?;
        let ders = bundle.authorities().to_vec();
        check_trust_domain(ders.first().map_or(&[], Vec::as_slice), &trust_domain)?;
        let fresh = || new_issuing(&state, &trust_domain, &root_pem, issuing_life, now);
        let issuing = match load_issuing(&state) {
            Ok(Some(issuing)) if !issuing.due(now) => issuing,
            // A root key that is away keeps nobody from going on with what is still good.
            Ok(Some(issuing)) if issuing.not_after > now => fresh().or_else(|error| match error {
                CaError::RootKeyAway => Ok(issuing),
                other => Err(other),
            })?,
            Ok(_) => fresh()?,
            Err(error) => return Err(error),
        };
        let keys = Keys { issuing, roots: Roots { pem: root_pem, ders } };
        Ok(Self { trust_domain, keys: RwLock::new(keys), home: Some((state, issuing_life)) })
    }

    /// The trust domain that a state folder belongs to, where it has one already.
    pub fn trust_domain_of(state: &StateDir) -> Result<Option<TrustDomain>, CaError> {
        let pem = match read_text(state, ROOT_PEM) {
            Ok(pem) => pem,
            Err(CaError::State(error)) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        let ders = x509::certificates_of_pem(pem.as_bytes()).map_err(|error| broken(ROOT_PEM, &error))?;
        let held = ders.first().and_then(|der| own_trust_domain(der)).unwrap_or_default();
        TrustDomain::parse(&held).map(Some).map_err(|error| broken(ROOT_PEM, &error))
    }
}

impl Issuing {
    /// Is less than a third of its life left.
    pub(super) fn due(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now + life / 3 >= self.not_after
    }

    pub(super) fn sign(
        &self,
        role: &Role<'_>,
        request: &SigningRequest,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let not_after = (now + life.min(MAX_LEAF_LIFE)).min(self.not_after);
        if not_after <= now {
            return Err(CaError::IssuingEnded);
        }
        let (params, serial) = params(role, now, not_after)?;
        let issuer = issuer(&self.der, &self.key)?;
        let leaf = params.signed_by(&request.public_key, &issuer).map_err(signing)?;
        Ok(Issued {
            chain: std::iter::once(leaf.pem()).chain(self.chain.iter().cloned()).collect(),
            serial: hex(&serial, usize::MAX),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(not_after)),
        })
    }
}

fn new_root(state: &StateDir, domain: &TrustDomain, now: SystemTime) -> Result<String, CaError> {
    let (key, pem) = make_root(domain, now)?;
    // The key first: a root without its key could never sign anything.
    state.write(ROOT_KEY, key.as_bytes())?;
    state.write(ROOT_PEM, pem.as_bytes())?;
    Ok(pem)
}

/// Makes a root: key and certificate in PEM.
pub(super) fn make_root(domain: &TrustDomain, now: SystemTime) -> Result<(Zeroizing<String>, String), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(signing)?;
    let (params, _) = params(&Role::Root(domain), now, now + ROOT_LIFE)?;
    let pem = params.self_signed(&key).map_err(signing)?.pem();
    Ok((Zeroizing::new(key.serialize_pem()), pem))
}

/// Makes an issuing key, signs it with the root key and puts both into the folder.
pub(super) fn new_issuing(
    state: &StateDir,
    domain: &TrustDomain,
    root_pem: &str,
    life: Duration,
    now: SystemTime,
) -> Result<Issuing, CaError> {
    let root_key = match read_text(state, ROOT_KEY) {
        Ok(text) => Zeroizing::new(text),
        Err(CaError::State(error)) if error.is_missing() => return Err(CaError::RootKeyAway),
        Err(error) => return Err(error),
    };
    let (key, pem) = make_issuing(domain, &root_key, root_pem, life, now)?;
    state.write(ISSUING_KEY, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    state.write(ISSUING_PEM, pem.as_bytes())?;
    issuing(key, &pem)
}

/// Makes an issuing key: the key and its certificate in PEM.
pub(super) fn make_issuing(
    domain: &TrustDomain,
    root_key: &str,
    root_pem: &str,
    life: Duration,
    now: SystemTime,
) -> Result<(KeyPair, String), CaError> {
    let root_key = KeyPair::from_pem(root_key).map_err(|error| broken(ROOT_KEY, &error))?;
    let root_der = first_certificate(root_pem, ROOT_PEM)?;
    if !belongs(&root_der, &root_key) {
        return Err(CaError::Broken { file: ROOT_KEY, why: "it is not the key of root.pem".to_owned() });
    }
    let root_end = x509::validity(&root_der).map_err(|error| broken(ROOT_PEM, &error))?.not_after;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing)?;
    let (params, _) = params(&Role::Issuing(domain), now, (now + life).min(root_end))?;
    let pem = params.signed_by(&key, &issuer(&root_der, &root_key)?).map_err(signing)?.pem();
    Ok((key, pem))
}

/// `None`: there is none, or a crash between writing the two files has left halves that do not belong together.
fn load_issuing(state: &StateDir) -> Result<Option<Issuing>, CaError> {
    let missing = |error: CaError| match error {
        CaError::State(error) if error.is_missing() => Ok(None),
        other => Err(other),
    };
    let key = match read_text(state, ISSUING_KEY) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => return missing(error),
    };
    let pem = match read_text(state, ISSUING_PEM) {
        Ok(text) => text,
        Err(error) => return missing(error),
    };
    let key = KeyPair::from_pem(&key).map_err(|error| broken(ISSUING_KEY, &error))?;
    issuing(key, &pem).map(|issuing| belongs(&issuing.der, &issuing.key).then_some(issuing))
}

/// `chain`: its certificate first.
pub(super) fn issuing(key: KeyPair, chain: &str) -> Result<Issuing, CaError> {
    let der = first_certificate(chain, ISSUING_PEM)?;
    let Validity { not_before, not_after } = x509::validity(&der).map_err(|error| broken(ISSUING_PEM, &error))?;
    let ders = x509::certificates_of_pem(chain.as_bytes()).map_err(|error| broken(ISSUING_PEM, &error))?;
    let chain = ders.into_iter().map(pem_of).collect();
    Ok(Issuing { key, chain, der, not_before, not_after })
}

/// One certificate in PEM.
pub(super) fn pem_of(der: Vec<u8>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

/// Is the certificate for this key.
pub(super) fn belongs(der: &[u8], key: &KeyPair) -> bool {
    let certificate = X509Certificate::from_der(der).ok();
    certificate.is_some_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

fn issuer<'k>(der: &[u8], key: &'k KeyPair) -> Result<Issuer<'static, &'k KeyPair>, CaError> {
    Issuer::from_ca_cert_der(&CertificateDer::from(der), key).map_err(signing)
}

fn first_certificate(pem: &str, file: &'static str) -> Result<Vec<u8>, CaError> {
    let ders = x509::certificates_of_pem(pem.as_bytes()).map_err(|error| broken(file, &error))?;
    ders.into_iter().next().ok_or_else(|| CaError::Broken { file, why: "no certificate in it".to_owned() })
}

fn check_trust_domain(root: &[u8], wanted: &TrustDomain) -> Result<(), CaError> {
    let held = own_trust_domain(root).unwrap_or_default();
    if held == wanted.as_str() {
        return Ok(());
    }
    Err(CaError::OtherTrustDomain { held, wanted: wanted.to_string() })
}

/// The trust domain in a CA certificate's own URI SAN.
pub(super) fn own_trust_domain(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
        _ => None,
    })
}

fn read_text(state: &StateDir, name: &'static str) -> Result<String, CaError> {
    let bytes = state.read(name)?;
    String::from_utf8(bytes).map_err(|_| CaError::Broken { file: name, why: "not text".to_owned() })
}

pub(super) fn broken(file: &'static str, error: &dyn std::fmt::Display) -> CaError {
    CaError::Broken { file, why: error.to_string() }
}

pub(super) fn signing(error: rcgen::Error) -> CaError {
    CaError::Signing(error.to_string())
}
