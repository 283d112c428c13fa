//! Signatures on certificates that were found good, and what the leaves of good chains say.
//!
//! Whether a signature is good follows from algorithm, key, message and signature alone, whenever it is and whoever is
//! trusted; so what was found good once is not computed again. Everything else of a path (names, dates, purposes, the
//! anchor that it ends at) is judged at each handshake, and so is the proof that the peer has its key. Peers differ in
//! their leaves but not in the issuer's certificate, which a root with a P-384 key has signed: without this, 40 % of a new
//! tunnel's instructions.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use culvert_identity::x509::Svid;
use rustls_pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};

use crate::config::provider;

/// Signatures that are remembered of each algorithm, and chains. When there are more, remembering begins anew. Only good ones
/// count, so who has seen no good chain fills nothing. Who has seen one can send it again with other certificates behind it,
/// and so make everybody's be read anew: that costs their reading, and lets nobody in.
const MOST: usize = 1024;

/// The algorithms of [`provider`], each of which remembers.
pub(crate) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    static ALL: LazyLock<Vec<Remembering>> = LazyLock::new(|| {
        provider().signature_verification_algorithms.all.iter().map(|one| Remembering::new(*one)).collect()
    });
    static LENT: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
        LazyLock::new(|| ALL.iter().map(|one| one as &dyn SignatureVerificationAlgorithm).collect());
    &LENT
}

#[derive(Debug)]
struct Remembering {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    /// SHA-256 of key, message and signature.
    good: Mutex<HashSet<[u8; SHA256_OUTPUT_LEN]>>,
}

impl Remembering {
    fn new(algorithm: &'static dyn SignatureVerificationAlgorithm) -> Self {
        Self { algorithm, good: Mutex::default() }
    }

    fn good(&self) -> MutexGuard<'_, HashSet<[u8; SHA256_OUTPUT_LEN]>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let digest = digest([public_key, message, signature].into_iter());
        if self.good().contains(&digest) {
            return Ok(());
        }
        self.algorithm.verify_signature(public_key, message, signature)?;
        let mut good = self.good();
        if good.len() >= MOST {
            good.clear();
        }
        good.insert(digest);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// A chain of certificates by its digest. What its leaf says, if it has the profile of an X509-SVID, follows from its bytes
/// alone, and is asked for again as soon as the handshake is done and whenever the same peer comes back.
pub(crate) struct Chain([u8; SHA256_OUTPUT_LEN]);

impl Chain {
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Self {
        Self(digest(chain.iter().map(AsRef::as_ref)))
    }

    /// What its leaf says, if it is kept.
    pub(crate) fn find(&self) -> Option<Svid> {
        chains().get(&self.0).cloned()
    }

    /// To be called only when there is a path from the chain to a trusted authority. That the peer has the leaf's key is not
    /// known yet, and does not matter here.
    pub(crate) fn keep(self, svid: &Svid) {
        let mut chains = chains();
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(self.0, svid.clone());
    }
}

fn chains() -> MutexGuard<'static, HashMap<[u8; SHA256_OUTPUT_LEN], Svid>> {
    static CHAINS: LazyLock<Mutex<HashMap<[u8; SHA256_OUTPUT_LEN], Svid>>> = LazyLock::new(Mutex::default);
    CHAINS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each part with its length, so that no byte of one can pass for a byte of another.
fn digest<'p>(parts: impl Iterator<Item = &'p [u8]>) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Takes a signature that is key and message behind one another, and counts.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if [key, message].concat() == signature { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(b"key")
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(b"signature")
        }
    }

    fn counting() -> (&'static Counting, Remembering) {
        let counting = Box::leak(Box::default());
        (counting, Remembering::new(counting))
    }

    #[test]
    fn what_was_found_good_is_not_computed_again_and_nothing_else_passes_for_it() {
        let (counting, remembering) = counting();
        for _ in 0..5 {
            assert!(remembering.verify_signature(b"key", b"text", b"keytext").is_ok());
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        for (key, message, signature) in [
            (&b"kez"[..], &b"text"[..], &b"keytext"[..]),
            (b"key", b"texs", b"keytext"),
            (b"key", b"text", b"keytexu"),
            (b"key", b"text", b""),
            (b"ke", b"ytex", b"tkeytext"),
        ] {
            assert!(
                remembering.verify_signature(key, message, signature).is_err(),
                "{key:?} {message:?} {signature:?}"
            );
        }
        // Good as well, and another one: where one part ends belongs to what was found.
        assert!(remembering.verify_signature(b"ke", b"ytext", b"keytext").is_ok());
        assert_eq!(counting.0.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn what_is_bad_is_computed_each_time_and_only_so_much_is_remembered() {
        let (counting, remembering) = counting();
        for _ in 0..3 {
            assert!(remembering.verify_signature(b"a", b"b", b"c").is_err());
        }
        assert_eq!(counting.0.load(Ordering::Relaxed), 3);
        for number in 0..3 * MOST {
            let text = number.to_string();
            assert!(remembering.verify_signature(b"", text.as_bytes(), text.as_bytes()).is_ok());
            assert!(remembering.good().len() <= MOST);
        }
    }

    #[test]
    fn a_chain_is_found_by_all_of_its_bytes_and_only_so_many_are_kept() {
        let chain = |parts: &[&'static [u8]]| {
            Chain::of(&parts.iter().map(|part| CertificateDer::from(*part)).collect::<Vec<_>>())
        };
        let says = Svid {
            id: "spiffe://example.test/ns/shop/sa/web".parse().unwrap(),
            not_before: std::time::SystemTime::UNIX_EPOCH,
            not_after: std::time::SystemTime::UNIX_EPOCH,
            serial: String::new(),
            public_key: Vec::new(),
        };
        chain(&[b"leaf", b"signer"]).keep(&says);
        assert_eq!(chain(&[b"leaf", b"signer"]).find(), Some(says.clone()));
        for other in [&[&b"leaf"[..]][..], &[b"signer", b"leaf"], &[b"leafs", b"igner"], &[b"leaf", b"signer", b""]] {
            assert_eq!(chain(other).find(), None, "{other:?}");
        }
        for number in 0..3 * MOST {
            Chain::of(&[number.to_string().into_bytes().into()]).keep(&says);
            assert!(chains().len() <= MOST);
        }
    }
}
