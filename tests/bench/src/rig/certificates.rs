//! Certificates for the rivals: P-256, root, intermediate and leaf as culvert's are, SPIFFE ID and name in the leaf.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// The client's identity.
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/bench/sa/client";
/// The server's identity.
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/bench/sa/server";
/// One that may not call.
pub(crate) const OTHER: &str = "spiffe://cluster.local/ns/bench/sa/other";

/// Where the rig keeps them.
pub(crate) const FOLDER: &str = "/run/lab/certificates";

/// Makes, new for each run, a folder with `root.pem` and, for each of `client`, `server`, `other` and `foreign` (of another root), `NAME.pem` (leaf
/// and intermediate), `NAME.key` and `NAME.both` (chain and key in one file).
pub(crate) fn make(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        return Ok(folder.to_path_buf());
    }
    std::fs::create_dir_all(folder)?;
    let (root, issuing) = authority("bench")?;
    std::fs::write(folder.join("root.pem"), root.pem())?;
    for (name, id) in [("client", CLIENT), ("server", SERVER), ("other", OTHER)] {
        leaf(folder, name, id, &issuing)?;
    }
    let (_, strange) = authority("strange")?;
    leaf(folder, "foreign", CLIENT, &strange)?;
    Ok(folder.to_path_buf())
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<(Issuer, Issuer)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{name} root"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = CertifiedIssuer::self_signed(params.clone(), KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    params.distinguished_name.push(DnType::CommonName, format!("{name} issuing"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuing = CertifiedIssuer::signed_by(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, &root)?;
    Ok((root, issuing))
}

fn leaf(folder: &Path, name: &str, id: &str, issuing: &Issuer) -> Result<()> {
    let mut params = CertificateParams::default();
    // HAProxy and nginx have no word for a URI name: they match the common name and the host name.
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(name.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let chain = format!("{}{}", params.signed_by(&key, issuing)?.pem(), issuing.pem());
    std::fs::write(folder.join(format!("{name}.pem")), &chain)?;
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(std::fs::write(folder.join(format!("{name}.both")), format!("{chain}{}", key.serialize_pem()))?)
}
