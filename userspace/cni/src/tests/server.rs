//! An API server with a few objects, on TLS; and an agent that answers as it is told.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use culvert_handover::{
    enrolment::{self, Answer, Request},
    receive,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};

pub(super) const TOKEN: &str = "a-token";

/// Its objects by path.
type Objects = BTreeMap<String, String>;

/// Starts one; gives its kubeconfig. It lives as long as the tests.
pub(super) fn api(folder: &Path, objects: Objects) -> PathBuf {
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("https://{}", listener.local_addr().expect("an address"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .expect("a configuration");
    thread::spawn(move || serve(&listener, &Arc::new(config), &objects));
    kubeconfig(folder, &server, &key.cert.pem())
}

pub(super) fn kubeconfig(folder: &Path, server: &str, root: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = format!(
        "{{\"clusters\":[{{\"name\":\"c\",\"cluster\":{{\"server\":{server:?},\"certificate-authority-data\":{:?}}}}}],\
         \"users\":[{{\"name\":\"u\",\"user\":{{\"token\":{TOKEN:?}}}}}]}}",
        BASE64_STANDARD.encode(root)
    );
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
    path
}

fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, objects: &Objects) {
    for stream in listener.incoming().flatten() {
        let connection = ServerConnection::new(config.clone()).expect("a connection");
        let mut stream = StreamOwned::new(connection, stream);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                break;
            }
            request.push(byte[0]);
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let allowed = request.contains(&format!("authorization: Bearer {TOKEN}\r\n"));
        let (status, body) = match (allowed, objects.get(path)) {
            (false, _) => ("401 Unauthorized", "{}"),
            (true, None) => ("404 Not Found", "{}"),
            (true, Some(body)) => ("200 OK", body.as_str()),
        };
        let length = body.len();
        // The client may have gone.
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    }
}

/// What an agent was asked for: the request, and how many descriptors came with it.
pub(super) type Asked = Arc<Mutex<Vec<(Request, usize)>>>;

/// Starts an agent's door that gives this answer to everything.
pub(super) fn agent(path: &Path, answer: Answer) -> Asked {
    let listener = UnixListener::bind(path).expect("a socket");
    let asked = Asked::default();
    let heard = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut text, mut fds, mut buffer) = (Vec::new(), Vec::new(), [0; 512]);
            let request = loop {
                let got = receive(&stream, &mut buffer, &mut fds).expect("bytes");
                text.extend_from_slice(&buffer[..got]);
                if let Some(request) = enrolment::parse(&text).expect("a good request") {
                    break request;
                }
            };
            heard.lock().expect("not poisoned").push((request, fds.len()));
            // The caller may have gone.
            let _ = (&stream).write_all(&serde_json::to_vec(&answer).expect("JSON"));
        }
    });
    asked
}
