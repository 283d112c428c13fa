//! The SPIFFE bundle document: a JWK set with a sequence number and a refresh hint.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{BundleError, X509Bundle};
use crate::TrustDomain;

/// Refresh hint of a document that has none (SPIFFE Trust Domain and Bundle section 4.1.2).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// What a bundle document holds, as far as it is usable.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The X.509 authorities.
    pub x509: X509Bundle,
    /// Keys of use `jwt-svid`.
    pub jwt: Vec<JwtAuthority>,
    /// Keys of use `wit-svid`.
    pub wit: Vec<JwtAuthority>,
    /// `spiffe_sequence`: grows with every change.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`, or the default of 300 s.
    pub refresh_hint: Duration,
}

/// A key that verifies tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtAuthority {
    /// The key's ID.
    pub kid: String,
    /// The JWK as it was in the document.
    pub jwk: Map<String, Value>,
}

/// Why a bundle document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or a member of the wrong type.
    #[error("not a JWK set: {0}")]
    NotJson(String),
    /// There is no `keys`.
    #[error("`keys` is missing")]
    NoKeys,
    /// Entry `.0` has no `kty` or no `use`.
    #[error("entry {0} has no `kty` or no `use`")]
    EntryIncomplete(usize),
    /// Entry `.0` verifies tokens and has no `kid`.
    #[error("entry {0} has no `kid`")]
    NoKid(usize),
    /// Entry `.0` has the `kid` of another one of the same use.
    #[error("entry {0} repeats a `kid`")]
    RepeatedKid(usize),
    /// Entry `.0` is an X.509 authority and has a `kid`.
    #[error("entry {0} is an X.509 authority and has a `kid`")]
    UnexpectedKid(usize),
    /// Entry `.0` has more than one certificate in `x5c`.
    #[error("entry {0} has more than one certificate in `x5c`")]
    ManyCertificates(usize),
    /// Entry `.0` has an `x5c` that is not a certificate of a CA in base64.
    #[error("entry {0} has no usable certificate in `x5c`")]
    BadCertificate(usize, #[source] Option<BundleError>),
    /// The map names a trust domain twice.
    #[error("trust domain {0:?} is there twice")]
    RepeatedTrustDomain(String),
    /// The map has a name that is not a trust domain.
    #[error("{0:?} is not a trust domain")]
    BadTrustDomain(String),
}

impl DocumentError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::NoKeys => "no_keys",
            Self::EntryIncomplete(_) => "entry_incomplete",
            Self::NoKid(_) => "no_kid",
            Self::RepeatedKid(_) => "repeated_kid",
            Self::UnexpectedKid(_) => "unexpected_kid",
            Self::ManyCertificates(_) => "many_certificates",
            Self::BadCertificate(..) => "bad_certificate",
            Self::RepeatedTrustDomain(_) => "repeated_trust_domain",
            Self::BadTrustDomain(_) => "bad_trust_domain",
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    keys: Option<Vec<Map<String, Value>>>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(PartialEq)]
enum Use {
    X509,
    Jwt,
    Wit,
}

impl Document {
    /// Reads the document of `trust_domain`.
    pub fn parse(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, DocumentError> {
        let raw: Raw = serde_json::from_slice(text).map_err(|e| DocumentError::NotJson(e.to_string()))?;
        Self::of_raw(trust_domain, raw)
    }

    /// Is this document to be taken in place of one with the sequence `held`? A lower one is old news.
    pub fn supersedes(&self, held: Option<u64>) -> bool {
        match (self.sequence, held) {
            (Some(new), Some(held)) => new >= held,
            (None, Some(_)) => false,
            (_, None) => true,
        }
    }

    fn of_raw(trust_domain: TrustDomain, raw: Raw) -> Result<Self, DocumentError> {
        let (mut authorities, mut jwt, mut wit) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in raw.keys.ok_or(DocumentError::NoKeys)?.into_iter().enumerate() {
            match use_of(at, &entry)? {
                None => {}
                Some(Use::X509) => authorities.extend(certificate_of(at, &entry)?),
                Some(Use::Jwt) => add(at, &mut jwt, entry)?,
                Some(Use::Wit) => add(at, &mut wit, entry)?,
            }
        }
        // Each was checked when it was read, so the entry's number is not lost here.
        let x509 =
            X509Bundle::from_der(trust_domain, &authorities).map_err(|e| DocumentError::BadCertificate(0, Some(e)))?;
        let refresh_hint = raw.spiffe_refresh_hint.map_or(DEFAULT_REFRESH, Duration::from_secs);
        Ok(Self { x509, jwt, wit, sequence: raw.spiffe_sequence, refresh_hint })
    }
}

fn use_of(at: usize, entry: &Map<String, Value>) -> Result<Option<Use>, DocumentError> {
    let text = |key| entry.get(key).and_then(Value::as_str).ok_or(DocumentError::EntryIncomplete(at));
    let (kind, purpose) = (text("kty")?, text("use")?);
    if !matches!(kind, "EC" | "RSA" | "OKP") {
        return Ok(None);
    }
    Ok(match purpose {
        "x509-svid" => Some(Use::X509),
        "jwt-svid" => Some(Use::Jwt),
        "wit-svid" => Some(Use::Wit),
        _ => None,
    })
}

fn certificate_of(at: usize, entry: &Map<String, Value>) -> Result<Option<Vec<u8>>, DocumentError> {
    if entry.contains_key("kid") {
        return Err(DocumentError::UnexpectedKid(at));
    }
    let Some(x5c) = entry.get("x5c") else { return Ok(None) };
    let certificate = match x5c.as_array().map(Vec::as_slice) {
        Some([Value::String(one)]) => STANDARD.decode(one).ok(),
        Some([_, _, ..]) => return Err(DocumentError::ManyCertificates(at)),
        _ => None,
    };
    let der = certificate.ok_or(DocumentError::BadCertificate(at, None))?;
    super::check_authority(at, &der).map_err(|e| DocumentError::BadCertificate(at, Some(e)))?;
    Ok(Some(der))
}

fn add(at: usize, held: &mut Vec<JwtAuthority>, entry: Map<String, Value>) -> Result<(), DocumentError> {
    let kid = entry.get("kid").and_then(Value::as_str).filter(|k| !k.is_empty()).ok_or(DocumentError::NoKid(at))?;
    if held.iter().any(|h| h.kid == kid) {
        return Err(DocumentError::RepeatedKid(at));
    }
    held.push(JwtAuthority { kid: kid.to_owned(), jwk: entry });
    Ok(())
}

/// Several documents by trust domain: `{"trust_domains": {"td": {"keys": ..}}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleMap {
    /// The documents.
    pub trust_domains: BTreeMap<TrustDomain, Document>,
}

#[derive(Deserialize)]
struct RawMap {
    trust_domains: Pairs,
}

/// Members in order, with repeated names kept: an ordinary map silently keeps the last one.
struct Pairs(Vec<(String, Raw)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one bundle per trust domain")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl BundleMap {
    /// Reads a map of bundles; a trust domain that is there twice is refused.
    pub fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        let raw: RawMap = serde_json::from_slice(text).map_err(|e| DocumentError::NotJson(e.to_string()))?;
        let mut trust_domains = BTreeMap::new();
        for (name, raw) in raw.trust_domains.0 {
            let domain = TrustDomain::parse(&name).map_err(|_| DocumentError::BadTrustDomain(name.clone()))?;
            let document = Document::of_raw(domain.clone(), raw)?;
            if trust_domains.insert(domain, document).is_some() {
                return Err(DocumentError::RepeatedTrustDomain(name));
            }
        }
        Ok(Self { trust_domains })
    }
}
