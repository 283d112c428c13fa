use std::{
    fs::{self, File},
    io::Write,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    sync::Arc,
    thread,
};

use culvert_workload::{Phase, Protocol, WorkloadUid};
use tempfile::TempDir;

use super::{
    Book, EnrolError, Entry, find, prepare_run_dir,
    protocol::{self, Answer, ProtocolError, Request},
    recover::{Fate, fate},
    usable,
};
use crate::samples::{pod, snapshot};

#[test]
fn a_pod_without_a_fitting_record_is_refused_with_its_reason() {
    let node: Arc<str> = "n1".into();
    let with = |change: fn(&mut culvert_workload::Workload)| {
        let mut web = pod("web", "10.0.0.2");
        change(&mut web);
        let state = snapshot([web], [], []);
        usable(&state, &WorkloadUid::new("web"), &node).map(|_| ()).map_err(|error| error.reason())
    };
    assert_eq!(with(|_| {}), Ok(()));
    assert_eq!(with(|web| web.node = "n2".into()), Err("other_node"));
    assert_eq!(with(|web| web.host_network = true), Err("host_network"));
    assert_eq!(with(|web| web.phase = Phase::Ended), Err("pod_ended"));
    assert_eq!(with(|web| web.protocol = Protocol::Plain), Err("namespace_not_enrolled"));
    let nobody = usable(&snapshot([], [], []), &WorkloadUid::new("web"), &node);
    assert!(matches!(nobody, Err(EnrolError::NoRecord(_))));
}

#[test]
fn only_a_record_that_says_not_enrolled_opens_a_pod() {
    let node: Arc<str> = "n1".into();
    let why = |change: fn(&mut culvert_workload::Workload)| {
        let mut web = pod("web", "10.0.0.2");
        change(&mut web);
        let state = snapshot([web], [], []);
        fate(&usable(&state, &WorkloadUid::new("web"), &node).expect_err("a record that does not fit"))
    };
    assert_eq!(why(|web| web.protocol = Protocol::Plain), Fate::Open);
    for closed in [
        why(|web| web.node = "n2".into()),
        why(|web| (web.node, web.protocol) = ("n2".into(), Protocol::Plain)),
        why(|web| web.host_network = true),
        why(|web| web.phase = Phase::Ended),
        fate(&usable(&snapshot([], [], []), &WorkloadUid::new("web"), &node).expect_err("no record at all")),
        fate(&EnrolError::NotSynced),
    ] {
        assert_eq!(closed, Fate::Wait);
    }
    assert_eq!(fate(&EnrolError::NoSvid("ca_denied")), Fate::Retry);
    assert_eq!(fate(&EnrolError::IdentityChanged), Fate::Retry);
}

#[test]
fn a_request_brings_its_namespace_as_a_descriptor() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("enrol.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let netns = File::open("/proc/self/ns/net").expect("our own namespace");
    let inode = netns.metadata().expect("its inode").ino();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        let (mut text, mut fds, mut buffer) = (Vec::new(), Vec::new(), [0; 16]);
        let request = loop {
            let got = protocol::receive(&stream, &mut buffer, &mut fds).expect("bytes");
            text.extend_from_slice(&buffer[..got]);
            if let Some(request) = protocol::parse(&text).expect("a good request") {
                break request;
            }
        };
        let answer = Answer { ok: true, identity: Some("spiffe://td/x".to_owned()), ..Answer::default() };
        (&stream).write_all(&serde_json::to_vec(&answer).expect("JSON")).expect("sent");
        let inode = File::from(fds.pop().expect("a descriptor")).metadata().expect("its inode").ino();
        (request, inode, fds.len())
    });
    let request = Request::Enrol { uid: "a-uid".to_owned() };
    let answer = protocol::ask(&path, &request, Some(netns.into())).expect("an answer");
    assert!(answer.ok);
    assert_eq!(server.join().expect("no panic"), (request, inode, 0));
}

#[test]
fn strange_requests_are_not_guessed_at() {
    for text in
        ["{}\n", "{\"op\":\"enrol\"}\n", "{\"op\":\"enrol\",\"uid\":\"a\",\"namespace\":\"kube-system\"}\n", "x\n"]
    {
        assert!(matches!(protocol::parse(text.as_bytes()), Err(ProtocolError::Malformed(_))), "{text}");
    }
    assert!(matches!(protocol::parse(&[b'x'; protocol::MAX_LINE]), Err(ProtocolError::Malformed(_))));
    assert!(matches!(protocol::parse(b"{\"op\":"), Ok(None)), "more may come");
    for uid in ["", "../node", "a/b", "a.b", &"x".repeat(64)] {
        for op in ["enrol", "withdraw"] {
            let line = format!("{{\"op\":\"{op}\",\"uid\":\"{uid}\"}}\n");
            assert!(matches!(protocol::parse(line.as_bytes()), Err(ProtocolError::BadUid)), "{line}");
        }
    }
}

#[test]
fn the_run_directory_is_private_or_not_used() {
    let folder = TempDir::new().expect("a folder");
    let fresh = folder.path().join("run");
    prepare_run_dir(&fresh).expect("made");
    assert_eq!(fs::metadata(&fresh).expect("there").mode() & 0o777, 0o700);
    prepare_run_dir(&fresh).expect("used again");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o750)).expect("changed");
    prepare_run_dir(&fresh).expect_err("others may enter");
    let link = folder.path().join("link");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o700)).expect("changed");
    std::os::unix::fs::symlink(&fresh, &link).expect("a link");
    prepare_run_dir(&link).expect_err("a link may lead anywhere");
}

#[test]
fn the_book_gives_back_what_was_written_down() {
    let folder = TempDir::new().expect("a folder");
    let book = Book::open(folder.path()).expect("opened");
    let entry = |uid: &str| Entry {
        uid: uid.to_owned(),
        netns_inode: 4026531840,
        host_veth: "veth0".to_owned(),
        host_ifindex: 7,
    };
    book.put(&entry("a")).expect("written");
    book.put(&entry("b")).expect("written");
    fs::write(folder.path().join("pods/c.json"), "not JSON").expect("a torn page");
    let mut all = book.all().expect("read");
    all.sort_by(|a, b| a.uid.cmp(&b.uid));
    assert_eq!(all, [entry("a"), entry("b")]);
    book.remove("a").expect("struck out");
    book.remove("a").expect("twice is nothing");
    assert_eq!(book.all().expect("read"), [entry("b")]);
}

#[test]
fn a_namespace_is_found_by_its_inode_among_running_processes() {
    let own = File::open("/proc/self/ns/net").expect("ours").metadata().expect("its inode").ino();
    let found = find::netns(own).expect("we are a process");
    assert_eq!(File::from(found).metadata().expect("its inode").ino(), own);
    assert!(find::netns(1).is_none(), "no namespace has inode 1");
}
