//! Joining, renewing and signing over the real protocols and the real TLS, on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use culvert_mtls::{Trust, TrustBundles};
use culvert_svid::{
    ControlPort, Issue, JoinError, Keeper, KeeperSettings, Key, NoObserver, NodeIdentity, Request, Signer, SystemClock,
    node::{self, join, load, save},
};
use support::{
    port::{CONTROL, NODE, Port, TOKEN, trust_in},
    *,
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}

async fn listening() -> (Port, ControlPort) {
    let port = Port::listen(CONTROL, &Trust::new(TrustBundles::new())).await;
    let control = ControlPort::new(&port.address, trust_in(&port), &domain());
    (port, control)
}

async fn joined(control: &ControlPort) -> NodeIdentity {
    let node = join(control, TOKEN, &*clock()).await.unwrap();
    NodeIdentity::start(node, control.clone(), None, clock(), Arc::new(NoObserver)).unwrap()
}

/// A folder in memory, as an agent's run directory is.
fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn reason_of(result: Result<culvert_svid::NodeCredentials, JoinError>) -> &'static str {
    result.map_or_else(|error| error.reason(), |_| "joined")
}

fn request(name: &str) -> Request {
    let csr = Key::generate().unwrap().request(Some(&id(name))).unwrap();
    Request { id: id(name), pod_uid: Some("pod-1".into()), csr, validity: HOUR }
}

#[tokio::test]
async fn a_token_buys_a_node_certificate_which_then_gets_svids_for_pods() {
    let (port, control) = listening().await;
    let node = joined(&control).await;
    assert_eq!(node.identity().id(), &id(NODE));
    assert_eq!(port.calls("join")[0].by, None, "the joining client proves nothing");

    let signer = Signer::new(control.clone(), node.identity().clone());
    let keeper = Keeper::new(signer, trust_in(&port), KeeperSettings::default(), clock(), Arc::new(NoObserver));
    let local = keeper.hold(&id(TILL), "pod-1");
    assert!(timeout(Duration::from_secs(10), keeper.ready(&id(TILL))).await.unwrap());
    let credentials = local.credentials().unwrap();
    assert_eq!((credentials.id(), credentials.chain().len()), (&id(TILL), 1));

    let call = &port.calls("create")[0];
    assert_eq!(call.by.as_deref(), Some(NODE));
    let wanted = [("ImpersonatedIdentity", TILL), ("PodUID", "pod-1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!((call.metadata.clone(), call.seconds), (BTreeMap::from(wanted), 3600));
}

#[tokio::test]
async fn a_bad_token_is_refused_and_says_so() {
    let (_port, control) = listening().await;
    assert_eq!(reason_of(join(&control, "another token", &*clock()).await), "ca_denied");
}

#[tokio::test]
async fn a_token_is_not_shown_to_a_server_that_is_not_the_control_plane() {
    // A workload of the same trust domain on the control plane's address.
    let port = Port::listen(TILL, &Trust::new(TrustBundles::new())).await;
    let control = ControlPort::new(&port.address, trust_in(&port), &domain());
    let Err(JoinError::Issue(error)) = join(&control, TOKEN, &*clock()).await else { panic!("joined") };
    assert_eq!(error.reason(), "unexpected_identity", "{error}");
    assert!(port.calls("join").is_empty());

    // The right name under another root.
    let (port, _) = listening().await;
    let stranger = Trust::new(TrustBundles::new());
    Authority::new().trusted_by(&stranger);
    let control = ControlPort::new(&port.address, stranger, &domain());
    let Err(JoinError::Issue(error)) = join(&control, TOKEN, &*clock()).await else { panic!("joined") };
    assert_eq!(error.reason(), "unknown_authority", "{error}");
    assert!(port.calls("join").is_empty());
}

#[tokio::test]
async fn a_token_is_not_sent_in_clear() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        let count = tcp.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        bytes
    });
    let trust = Trust::new(TrustBundles::new());
    Authority::new().trusted_by(&trust);
    let result = join(&ControlPort::new(&address, trust, &domain()), TOKEN, &*clock()).await;
    assert_eq!(reason_of(result), "ca_unreachable");
    let heard = heard.await.unwrap();
    assert_eq!(heard[0], 22, "a TLS handshake");
    assert!(!heard.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()));
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let control = ControlPort::new(&address, Trust::new(TrustBundles::new()), &domain());
    assert_eq!(reason_of(join(&control, TOKEN, &*clock()).await), "ca_unreachable");
}

#[tokio::test]
async fn an_erased_node_identity_reaches_nobody() {
    let (port, control) = listening().await;
    let node = joined(&control).await;
    let identity = node.identity().clone();
    drop(node);
    let error = Signer::new(control.clone(), identity).issue(request(TILL)).await.unwrap_err();
    assert_eq!(error.reason(), "no_svid", "{error}");
    assert!(port.calls("create").is_empty());
}

#[tokio::test]
async fn refusals_of_the_ca_come_through_as_such() {
    let (port, control) = listening().await;
    let node = joined(&control).await;
    let signer = Signer::new(control.clone(), node.identity().clone());
    let unknown_pod = Request { pod_uid: Some("pod-9".into()), ..request(TILL) };
    let error = signer.issue(unknown_pod).await.unwrap_err();
    assert_eq!((error.reason(), error.to_string().contains("no such pod")), ("ca_denied", true));
    // A workload's SVID is no node certificate.
    let (_writer, workload) = port.authority.local(BANK, control.trust());
    let error = Signer::new(control.clone(), workload).issue(request(TILL)).await.unwrap_err();
    assert_eq!(error.reason(), "ca_denied");
}

#[tokio::test]
async fn the_node_certificate_renews_itself_by_itself_and_is_kept_for_a_restart() {
    let (port, control) = listening().await;
    let folder = memory();
    // Half of the life is about a second and a half after what join gave.
    *port.life.lock().unwrap() = Duration::from_secs(5);
    let first = join(&control, TOKEN, &*clock()).await.unwrap();
    save(folder.path(), &first).unwrap();
    let serial = first.credentials().svid().serial.clone();
    *port.life.lock().unwrap() = HOUR;
    let keep_in = Some(folder.path().to_path_buf());
    let node = NodeIdentity::start(first, control.clone(), keep_in, clock(), Arc::new(NoObserver)).unwrap();
    let mut status = node.watch();
    assert_eq!(status.borrow().serial.as_ref(), Some(&serial));
    let renewed = timeout(Duration::from_secs(10), status.wait_for(|s| s.serial.as_ref() != Some(&serial)));
    let renewed = renewed.await.unwrap().unwrap().clone();
    assert_eq!(port.calls("renew")[0].by.as_deref(), Some(NODE));
    assert_eq!(node.identity().generation(), renewed.generation);

    // The agent is killed and comes back: no token, the same certificate, and it works.
    drop(node);
    let again = load(folder.path(), &domain()).unwrap().expect("kept");
    assert_eq!((again.node(), Some(&again.credentials().svid().serial)), ("node-1", renewed.serial.as_ref()));
    let node = NodeIdentity::start(again, control.clone(), None, clock(), Arc::new(NoObserver)).unwrap();
    Signer::new(control.clone(), node.identity().clone()).issue(request(TILL)).await.unwrap();
    assert_eq!(port.calls("join").len(), 1);
}

#[tokio::test]
async fn svids_are_signed_past_the_end_of_the_node_certificate_that_asked_first() {
    let (port, control) = listening().await;
    *port.life.lock().unwrap() = Duration::from_secs(5);
    let first = join(&control, TOKEN, &*clock()).await.unwrap();
    let end = first.credentials().not_after();
    let node = NodeIdentity::start(first, control.clone(), None, clock(), Arc::new(NoObserver)).unwrap();
    let signer = Signer::new(control.clone(), node.identity().clone());
    signer.issue(request(TILL)).await.unwrap();
    *port.life.lock().unwrap() = HOUR;
    let mut status = node.watch();
    let renewed = timeout(Duration::from_secs(10), status.wait_for(|status| status.not_after > Some(end)));
    renewed.await.unwrap().unwrap();
    while std::time::SystemTime::now() <= end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    signer.issue(request(TILL)).await.expect("the connection of the first call proves a certificate that has ended");
}

async fn kept(folder: &Path) -> PathBuf {
    let (_port, control) = listening().await;
    save(folder, &join(&control, TOKEN, &*clock()).await.unwrap()).unwrap();
    folder.join("node.pem")
}

fn load_reason(folder: &Path) -> &'static str {
    load(folder, &domain()).map_or_else(|e| e.reason(), |node| if node.is_some() { "kept" } else { "nothing" })
}

#[tokio::test]
async fn a_kept_certificate_is_private_and_anything_else_is_refused() {
    let folder = memory();
    assert_eq!(load_reason(folder.path()), "nothing");
    let file = kept(folder.path()).await;
    assert_eq!(load_reason(folder.path()), "kept");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");

    for wider in [0o640, 0o604, 0o660] {
        fs::set_permissions(&file, fs::Permissions::from_mode(wider)).unwrap();
        assert_eq!(load_reason(folder.path()), "store_exposed", "{wider:o}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(load_reason(folder.path()), "store_io");
    fs::remove_file(&file).unwrap();

    let text = fs::read_to_string(&elsewhere).unwrap();
    fs::rename(&elsewhere, &file).unwrap();
    let other_domain = culvert_identity::TrustDomain::parse("other.test").unwrap();
    assert_eq!(load(folder.path(), &other_domain).err().unwrap().reason(), "store_unusable");
    for broken in [String::new(), text.replace("PRIVATE KEY", "SECRET"), text[..text.len() / 2].to_owned()] {
        fs::write(&file, broken).unwrap();
        assert_eq!(load_reason(folder.path()), "store_unusable");
    }
}

#[tokio::test]
async fn the_key_of_another_certificate_is_refused() {
    let (one, two) = (memory(), memory());
    let (file, other) = (kept(one.path()).await, kept(two.path()).await);
    let key_of = |text: &str| text[text.find("-----BEGIN PRIVATE KEY").unwrap()..].to_owned();
    let (text, foreign) = (fs::read_to_string(&file).unwrap(), fs::read_to_string(other).unwrap());
    fs::write(&file, text.replace(&key_of(&text), &key_of(&foreign))).unwrap();
    assert_eq!(load_reason(one.path()), "store_unusable");
}

#[tokio::test]
async fn no_key_reaches_a_disk() {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_port, control) = listening().await;
    let node = join(&control, TOKEN, &*clock()).await.unwrap();
    let error = save(disk.path(), &node).expect_err("this test needs a target folder on a disk");
    assert_eq!(error.reason(), "store_not_in_memory");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0, "not even an empty file");
    // Nor is one taken from there.
    let folder = memory();
    let file = kept(folder.path()).await;
    fs::copy(&file, disk.path().join("node.pem")).unwrap();
    assert_eq!(node::load(disk.path(), &domain()).err().unwrap().reason(), "store_not_in_memory");
}
