//! Keys, certificates and tokens of one cluster. They live as long as it and are good for nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::cluster::place::{CONTROL, NODES, Place};
use crate::shell;

/// Who may speak to the API server with a token, and as a member of which group.
const PEOPLE: &[(&str, &str, &str)] = &[
    ("admin", "admin", "system:masters"),
    ("controllers", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("node1", "system:node:node1", "system:nodes"),
    ("node2", "system:node:node2", "system:nodes"),
];

/// The secrets of one cluster.
pub(crate) struct Secrets {
    folder: PathBuf,
    tokens: BTreeMap<&'static str, String>,
}

impl Secrets {
    /// Makes them with `openssl`.
    pub(crate) fn make(place: &Place) -> Result<Secrets> {
        let folder = place.secrets();
        authority(&folder)?;
        serving(&folder)?;
        let mut tokens = BTreeMap::new();
        let mut rows = String::new();
        for (who, user, group) in PEOPLE {
            let token = shell::output(Command::new("openssl").args(["rand", "-hex", "24"]))?.trim().to_owned();
            rows.push_str(&format!("{token},{user},{who},\"{group}\"\n"));
            tokens.insert(*who, token);
        }
        std::fs::write(folder.join("tokens.csv"), rows)?;
        Ok(Secrets { folder, tokens })
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// A kubeconfig with which `who` finds the API server at `server`.
    pub(crate) fn kubeconfig(&self, who: &str, server: &str) -> Result<String> {
        let token = self.tokens.get(who).with_context(|| format!("{who} has no token"))?;
        let authority = std::fs::read_to_string(self.folder.join("ca.crt"))?;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "culvert",
            "clusters": [{"name": "culvert", "cluster": {"server": server, "certificate-authority-data": base64(&authority)}}],
            "users": [{"name": who, "user": {"token": token}}],
            "contexts": [{"name": "culvert", "context": {"cluster": "culvert", "user": who}}],
        });
        Ok(serde_json::to_string_pretty(&kubeconfig)?)
    }
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    shell::output(command.args(arguments.split(' ')).current_dir(folder))
        .map(drop)
        .context("the program `openssl` makes the cluster's certificates: is it installed?")
}

fn authority(folder: &Path) -> Result<()> {
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=test-cluster \
         -keyout ca.key -out ca.crt",
    )?;
    openssl(folder, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out service-accounts.key")?;
    openssl(folder, "rsa -in service-accounts.key -pubout -out service-accounts.pub")
}

fn serving(folder: &Path) -> Result<()> {
    let mut names = String::from("subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,");
    names.push_str(&format!("DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:{}", CONTROL.address()));
    for node in NODES {
        names.push_str(&format!(",IP:{}", node.address()));
    }
    names.push_str("\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n");
    std::fs::write(folder.join("names"), names)?;
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=kube-apiserver \
         -keyout api.key -out api.csr",
    )?;
    openssl(
        folder,
        "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out api.crt",
    )
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (group >> (18 - 6 * place) & 63) as usize;
            out.push(if place > chunk.len() { '=' } else { char::from(ALPHABET[index]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_padded() {
        assert_eq!(["", "f", "fo", "foo", "foob"].map(base64), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }
}
