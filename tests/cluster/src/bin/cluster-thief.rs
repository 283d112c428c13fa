//! Somebody who has an agent's token, and what he gets for it: joins the control plane as that agent's node and asks for
//! identities. Prints one line for the joining and one for each identity: `granted`, or what the control plane said.
//!
//! ```text
//! cluster-thief CONTROL ROOT TOKEN [POD-UID SPIFFE-ID]...
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Trust, TrustBundles};
use culvert_svid::{
    ControlPort, Issue as _, IssueError, Key, NoObserver, NodeIdentity, Request, Signer, SystemClock, node,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [control, root, token, wishes @ ..] = words.as_slice() else {
        anyhow::bail!("cluster-thief CONTROL ROOT TOKEN [POD-UID SPIFFE-ID]...");
    };
    let domain = TrustDomain::parse("cluster.local")?;
    let bundles = TrustBundles::new();
    let pem = std::fs::read_to_string(root).with_context(|| root.clone())?;
    bundles.set(X509Bundle::parse_pem(domain.clone(), &pem)?)?;
    let port = ControlPort::new(control, Trust::new(bundles), &domain).with_token_file(token.into());
    let clock = Arc::new(SystemClock::new());
    let joined = match node::join(&port, "", &*clock).await {
        Ok(joined) => joined,
        Err(error) => {
            println!("refused: {error:?}");
            return Ok(());
        }
    };
    println!("granted");
    let identity = NodeIdentity::start(joined, port.clone(), None, clock, Arc::new(NoObserver))?;
    for wish in wishes.chunks(2) {
        let [pod, id] = wish else { continue };
        match issue(&port, &identity, pod, id).await {
            Ok(()) => println!("granted"),
            Err(error) => println!("refused: {error:?}"),
        }
    }
    Ok(())
}

async fn issue(port: &ControlPort, node: &NodeIdentity, pod: &str, id: &str) -> Result<(), IssueError> {
    let key = Key::generate()?;
    let id = SpiffeId::parse(id).map_err(|_| IssueError::Request)?;
    let csr = key.request(Some(&id))?;
    let request = Request { csr, id, pod_uid: Some(pod.into()), validity: Duration::from_secs(600) };
    Signer::new(port.clone(), node.identity().clone()).issue(request).await.map(drop)
}
