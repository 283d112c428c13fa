use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn what_it_makes_is_its_owners_alone() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    state.write("key", b"1").unwrap();
    state.write("key", b"22").unwrap();
    state.append("log").unwrap().write_all(b"x").unwrap();
    let tokens = state.folder("tokens").unwrap();
    assert_eq!(state.read("key").unwrap(), b"22");
    for (path, expected) in [("", 0o700), ("key", 0o600), ("log", 0o600), ("tokens", 0o700)] {
        assert_eq!(mode(&state.path(path)), expected, "{path}");
    }
    assert!(!tokens.remove("nothing").unwrap());
    assert!(state.read("nothing").unwrap_err().is_missing());
}

#[test]
fn wider_modes_and_links_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let state = StateDir::open(&path).unwrap();
    state.write("key", b"1").unwrap();
    for wide in [0o601, 0o604, 0o620, 0o640, 0o700] {
        chmod(&state.path("key"), wide);
        assert_eq!(state.read("key").unwrap_err().reason(), "state_mode", "{wide:o}");
        assert_eq!(state.append("key").unwrap_err().reason(), "state_mode", "{wide:o}");
    }
    chmod(&state.path("key"), 0o400);
    state.read("key").unwrap();
    symlink(state.path("key"), state.path("link")).unwrap();
    assert_eq!(state.read("link").unwrap_err().reason(), "state_symlink");
    assert_eq!(state.append("link").unwrap_err().reason(), "state_symlink");
    fs::create_dir(state.path("folder")).unwrap();
    assert_eq!(state.read("folder").unwrap_err().reason(), "state_wrong_type");
    for wide in [0o701, 0o710, 0o750, 0o777] {
        chmod(&path, wide);
        assert_eq!(StateDir::open(&path).unwrap_err().reason(), "state_mode", "{wide:o}");
    }
    chmod(&path, 0o700);
    let link = root.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(StateDir::open(&link).unwrap_err().reason(), "state_symlink");
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    assert!(geteuid().is_root(), "this test gives a file away, which takes root");
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    state.write("key", b"1").unwrap();
    std::os::unix::fs::chown(state.path("key"), Some(12345), None).unwrap();
    assert_eq!(state.read("key").unwrap_err().reason(), "state_owner");
    std::os::unix::fs::chown(state.path(""), Some(12345), None).unwrap();
    assert_eq!(StateDir::open(&state.path("")).unwrap_err().reason(), "state_owner");
}

#[test]
fn a_link_in_the_place_of_the_new_file_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::open(&root.path().join("state")).unwrap();
    let victim = root.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, state.path(".key.new")).unwrap();
    state.write("key", b"secret").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}
