use std::{
    fs::File,
    io::Write as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::MetadataExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    thread,
};

use tempfile::TempDir;

use crate::{
    MAX_DESCRIPTORS, MAX_LINE, ProtocolError,
    enrolment::{self, Answer, Claim, Request},
    keeping, receive, send,
};

#[test]
fn a_request_brings_its_namespace_as_a_descriptor() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("enrol.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let netns: OwnedFd = File::open("/proc/self/ns/net").expect("our own namespace").into();
    let inode = File::from(netns.try_clone().expect("another")).metadata().expect("its inode").ino();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        let (mut text, mut fds, mut buffer) = (Vec::new(), Vec::new(), [0; 16]);
        let request = loop {
            let got = receive(&stream, &mut buffer, &mut fds).expect("bytes");
            text.extend_from_slice(&buffer[..got]);
            if let Some(request) = enrolment::parse(&text).expect("a good request") {
                break request;
            }
        };
        let answer = Answer { ok: true, identity: Some("spiffe://td/x".to_owned()), ..Answer::default() };
        (&stream).write_all(&serde_json::to_vec(&answer).expect("JSON")).expect("sent");
        let inode = File::from(fds.pop().expect("a descriptor")).metadata().expect("its inode").ino();
        (request, inode, fds.len())
    });
    let claim = Claim { namespace: "shop".to_owned(), name: "web".to_owned(), veths: vec!["veth0".to_owned()] };
    let request = Request::Enrol { uid: "a-uid".to_owned(), pod: Some(claim) };
    let answer = enrolment::ask(&path, &request, Some(&netns), None).expect("an answer");
    assert!(answer.ok);
    assert_eq!(server.join().expect("no panic"), (request, inode, 0));
}

#[test]
fn what_was_asked_for_before_claims_were_made_is_still_understood() {
    let plain = b"{\"op\":\"enrol\",\"uid\":\"a\"}\n";
    assert_eq!(enrolment::parse(plain).expect("good"), Some(Request::Enrol { uid: "a".to_owned(), pod: None }));
    assert_eq!(enrolment::parse(b"{\"op\":\"uninstall\"}\n").expect("good"), Some(Request::Uninstall));
}

#[test]
fn strange_requests_are_not_guessed_at() {
    for text in
        ["{}\n", "{\"op\":\"enrol\"}\n", "{\"op\":\"enrol\",\"uid\":\"a\",\"namespace\":\"kube-system\"}\n", "x\n"]
    {
        assert!(matches!(enrolment::parse(text.as_bytes()), Err(ProtocolError::Malformed(_))), "{text}");
    }
    assert!(matches!(enrolment::parse(&[b'x'; MAX_LINE]), Err(ProtocolError::Malformed(_))));
    assert!(matches!(enrolment::parse(b"{\"op\":"), Ok(None)), "more may come");
    for uid in ["", "../node", "a/b", "a.b", &"x".repeat(64)] {
        for op in ["enrol", "withdraw", "check", "take", "drop"] {
            let line = format!("{{\"op\":\"{op}\",\"uid\":\"{uid}\"}}\n");
            let error = match op {
                "take" | "drop" => keeping::parse(line.as_bytes()).map(drop),
                _ => enrolment::parse(line.as_bytes()).map(drop),
            };
            assert!(matches!(error, Err(ProtocolError::BadUid)), "{line}");
        }
    }
    for slots in ["[]", "[4]", "[1,1]", "[0,1,2,3,0]"] {
        let line = format!("{{\"op\":\"put\",\"uid\":\"a\",\"slots\":{slots}}}\n");
        assert!(matches!(keeping::parse(line.as_bytes()), Err(ProtocolError::Malformed(_))), "{line}");
    }
}

#[test]
fn more_descriptors_than_allowed_are_refused_on_both_sides() {
    let (left, right) = UnixStream::pair().expect("a pair");
    let files: Vec<File> = (0..=MAX_DESCRIPTORS).map(|_| File::open("/dev/null").expect("a file")).collect();
    let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    send(&left, b"x\n", &fds).expect_err("one too many");
    let mut given = Vec::new();
    // Spread over two messages they are too many as well.
    send(&left, b"x", &fds[..3]).expect("sent");
    send(&left, b"x", &fds[..3]).expect("sent");
    receive(&right, &mut [0; 1], &mut given).expect("three");
    receive(&right, &mut [0; 1], &mut given).expect_err("six");
}
