//! Is the CA's answer what was asked for? Nobody publishes it before this says so.

use std::time::SystemTime;

use culvert_identity::{SpiffeId, x509};
use culvert_mtls::{Credentials, Role, Trust, verify_chain};
use rustls_pki_types::CertificateDer;

use crate::{IssueError, Key};

/// Checks identity and key, and that peers with the same bundle would accept it in either role. Without a
/// bundle for the own trust domain nothing is accepted.
pub(crate) fn accept(
    chain: Vec<CertificateDer<'static>>,
    wanted: &SpiffeId,
    key: &Key,
    trust: &Trust,
    now: SystemTime,
) -> Result<Credentials, IssueError> {
    let svid = x509::check_chain(&chain)?;
    if svid.id != *wanted {
        return Err(IssueError::AnswerOtherIdentity { got: svid.id, wanted: wanted.clone() });
    }
    if svid.public_key != key.public() {
        return Err(IssueError::AnswerOtherKey);
    }
    let bundles = trust.bundles().snapshot();
    for role in [Role::Client, Role::Server] {
        verify_chain(&chain, &bundles, role, now).map_err(IssueError::AnswerNotTrusted)?;
    }
    Credentials::new(chain, key.signing()).map_err(IssueError::AnswerUnusable)
}

/// Takes the last element, the roots, off a `cert_chain` of Istio's protocol and reads the others.
pub(crate) fn chain_of(elements: &[String]) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let [chain @ .., roots] = elements else { return Err(IssueError::AnswerIncomplete) };
    if x509::certificates_of_pem(roots.as_bytes())?.is_empty() {
        return Err(IssueError::AnswerIncomplete);
    }
    certificates(chain)
}

/// The certificates of several PEM texts, in order; at least one.
pub(crate) fn certificates(texts: &[String]) -> Result<Vec<CertificateDer<'static>>, IssueError> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(x509::certificates_of_pem(text.as_bytes())?.into_iter().map(CertificateDer::from));
    }
    if all.is_empty() { Err(IssueError::AnswerIncomplete) } else { Ok(all) }
}

#[cfg(test)]
mod tests;
