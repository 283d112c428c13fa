use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use culvert_handover::keeping::Client;
use tempfile::TempDir;

use crate::{Keep, listen, serve};

/// A keeper of its own in a thread that ends with the tests.
fn keeper(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("inner").join("keep.sock");
    let listener = listen(&path).expect("a socket");
    thread::spawn(move || serve(&listener, &mut Keep::default()));
    path
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn client(path: &Path) -> Client<'_> {
    Client { socket: path }
}

#[test]
fn connections_wait_while_nobody_accepts_and_are_found_by_the_next() {
    let folder = TempDir::new().expect("a folder");
    let path = keeper(&folder);
    let first = listener();
    let address = first.local_addr().expect("its address");
    client(&path).put("pod", vec![2], &[first.as_fd()]).expect("kept");
    drop(first);
    let mut caller = TcpStream::connect(address).expect("the backlog takes it");
    caller.write_all(b"hello").expect("sent");
    // Taken twice: the first taker dies as well.
    drop(client(&path).take("pod").expect("given"));
    let mut kept = client(&path).take("pod").expect("given");
    assert_eq!(kept.slots, [2]);
    let again = TcpListener::from(kept.sockets.pop().expect("a socket"));
    let (mut served, _) = again.accept().expect("it waited");
    let mut bytes = [0; 5];
    served.read_exact(&mut bytes).expect("what was said meanwhile");
    assert_eq!(&bytes, b"hello");
    drop(again);
    client(&path).drop("pod").expect("closed");
    client(&path).drop("pod").expect("twice is nothing");
    TcpStream::connect(address).expect_err("nobody holds it any more");
    assert!(client(&path).take("pod").expect("an answer").sockets.is_empty());
}

#[test]
fn the_list_names_sockets_as_the_kernel_does() {
    let folder = TempDir::new().expect("a folder");
    let path = keeper(&folder);
    let (one, two) = (listener(), listener());
    client(&path).put("a", vec![0, 3], &[one.as_fd(), two.as_fd()]).expect("kept");
    let cookie = |socket: &TcpListener| rustix::net::sockopt::socket_cookie(socket).expect("a cookie");
    let list = client(&path).list().expect("a list");
    assert_eq!(list["a"], [(0, cookie(&one)), (3, cookie(&two))].into());
    // In place of what was there, not beside it.
    client(&path).put("a", vec![1], &[one.as_fd()]).expect("kept");
    assert_eq!(client(&path).list().expect("a list")["a"], [(1, cookie(&one))].into());
}

#[test]
fn what_is_no_listener_is_not_kept() {
    let folder = TempDir::new().expect("a folder");
    let path = keeper(&folder);
    let listening = listener();
    let connected = TcpStream::connect(listening.local_addr().expect("an address")).expect("connected");
    let file: OwnedFd = std::fs::File::open("/dev/null").expect("a file").into();
    for (socket, why) in [(connected.as_fd(), "keep_not_a_listener"), (file.as_fd(), "keep_not_a_listener")] {
        let error = client(&path).put("a", vec![0], &[socket]).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let error = client(&path).put("a", vec![0, 1], &[listening.as_fd()]).expect_err("one is missing").to_string();
    assert!(error.contains("keep_count"), "{error}");
    assert!(client(&path).list().expect("a list").is_empty());
}

#[test]
fn a_caller_that_says_nothing_holds_nobody_up_for_long() {
    let folder = TempDir::new().expect("a folder");
    let path = keeper(&folder);
    let _silent = UnixStream::connect(&path).expect("connected");
    let begun = std::time::Instant::now();
    client(&path).list().expect("an answer");
    assert!(begun.elapsed() < Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[test]
fn the_socket_is_roots_alone() {
    // This test runs itself once more, as another user.
    if let Some(path) = std::env::var_os("CULVERT_KEEPER_SOCKET") {
        println!("{}", client(Path::new(&path)).list().expect_err("only root is answered"));
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let path = keeper(&folder);
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    let exposed = folder.path().join("exposed");
    std::fs::create_dir(&exposed).expect("a folder");
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o750)).expect("changed");
    listen(&exposed.join("keep.sock")).expect_err("others may enter");
    // Whoever is not root is refused even where the files would let him in.
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    open(&path, 0o666);
    open(path.parent().expect("a folder"), 0o755);
    open(folder.path(), 0o755);
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(program)
        .args(["--exact", "tests::the_socket_is_roots_alone", "--nocapture"])
        .env("CULVERT_KEEPER_SOCKET", &path)
        .output()
        .expect("setpriv");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the keeper refuses: not_root"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
