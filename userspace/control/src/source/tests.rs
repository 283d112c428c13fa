//! A real directory, watched.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use super::*;

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";

fn directory() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (root, path)
}

fn put(path: &Path, name: &str, text: &str) {
    fs::write(path.join(name), text).unwrap();
    fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o644)).unwrap();
}

fn reason(path: &Path) -> &'static str {
    Source::new(path, Catalog::default()).read().map_or_else(|error| error.reason(), |_| "ok")
}

#[test]
fn a_directory_that_is_empty_gone_or_open_to_others_is_an_error() {
    let (root, path) = directory();
    assert_eq!(reason(&path), "manifests_empty");
    put(&path, ".hidden.yaml", NAMESPACE);
    put(&path, "notes.txt", NAMESPACE);
    assert_eq!(reason(&path), "manifests_empty");
    put(&path, "a.yaml", "# nothing\n");
    assert_eq!(reason(&path), "manifests_empty");
    put(&path, "b.yaml", NAMESPACE);
    assert_eq!(reason(&path), "ok");
    for mode in [0o775, 0o757, 0o777, 0o1777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(reason(&path), "manifests_writable_by_others", "{mode:o}");
    }
    assert_eq!(reason(&root.path().join("gone")), "manifests_unreadable");
    assert_eq!(reason(&path.join("b.yaml")), "manifests_not_a_directory");
}

#[test]
fn a_file_that_others_may_write_is_not_read_and_keeps_what_it_said() {
    let (_root, path) = directory();
    put(&path, "a.yaml", NAMESPACE);
    let mut source = Source::new(&path, Catalog::default());
    source.read().unwrap();
    put(&path, "a.yaml", &NAMESPACE.replace("shop", "forged"));
    fs::set_permissions(path.join("a.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let Reading::Catalog(catalog, complaints) = source.read().unwrap() else { panic!() };
    let names: Vec<String> = catalog.objects().map(|(key, _)| key.to_string()).collect();
    assert_eq!(names, ["Namespace shop"]);
    assert_eq!(complaints.iter().filter(|c| c.reason == "file_unreadable").count(), 1);
}

#[test]
fn what_belongs_to_another_user_is_not_taken() {
    use std::os::unix::fs::chown;

    assert!(nix::unistd::geteuid().is_root(), "this test gives files away, which takes root");
    let (_root, path) = directory();
    put(&path, "a.yaml", NAMESPACE);
    put(&path, "b.yaml", &NAMESPACE.replace("shop", "forged"));
    chown(path.join("b.yaml"), Some(12_345), None).unwrap();
    let Reading::Catalog(catalog, complaints) = Source::new(&path, Catalog::default()).read().unwrap() else {
        panic!()
    };
    assert_eq!(catalog.objects().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), ["Namespace shop"]);
    assert_eq!(complaints.iter().filter(|c| c.reason == "file_unreadable").count(), 1);
    chown(&path, Some(12_345), None).unwrap();
    assert_eq!(reason(&path), "manifests_of_another_owner");
}

#[test]
fn a_file_emptied_or_linked_to_nowhere_keeps_what_it_said() {
    let (_root, path) = directory();
    put(&path, "a.yaml", NAMESPACE);
    put(&path, "b.yaml", &NAMESPACE.replace("shop", "other"));
    let mut source = Source::new(&path, Catalog::default());
    let mut names = || {
        let Reading::Catalog(catalog, _) = source.read().unwrap() else { panic!() };
        catalog.objects().map(|(key, _)| key.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["other", "shop"]);
    put(&path, "a.yaml", "");
    assert_eq!(names(), ["other", "shop"], "emptied");
    fs::remove_file(path.join("a.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", path.join("a.yaml")).unwrap();
    assert_eq!(names(), ["other", "shop"], "a dangling symlink");
    fs::remove_file(path.join("a.yaml")).unwrap();
    assert_eq!(names(), ["other"], "removed");
}

#[test]
fn a_pipe_or_a_device_is_said_to_be_no_file_and_nobody_waits_for_it() {
    let (_root, path) = directory();
    put(&path, "b.yaml", NAMESPACE);
    nix::unistd::mkfifo(&path.join("a.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path.join("c.yaml")).unwrap();
    fs::create_dir(path.join("d.yaml")).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(Source::new(&path, Catalog::default()).read().map_err(|e| e.reason())));
    let Ok(Reading::Catalog(catalog, complaints)) = receiver.recv_timeout(Duration::from_secs(60)).unwrap() else {
        panic!("the good file is read")
    };
    assert_eq!(catalog.objects().map(|(key, _)| key.to_string()).collect::<Vec<_>>(), ["Namespace shop"]);
    let files = complaints.iter().filter(|c| c.reason == "file_unreadable").map(|c| c.origin.file.as_str());
    assert_eq!(files.collect::<Vec<_>>(), ["a.yaml", "c.yaml"]);
}

async fn next(changes: &mut mpsc::Receiver<Change>) -> Result<Vec<String>, String> {
    let change = time::timeout(Duration::from_secs(10), changes.recv()).await.unwrap().unwrap();
    match change {
        Change::Directory(Reading::Catalog(catalog, _)) => {
            Ok(catalog.objects().map(|(key, _)| key.name.clone()).collect())
        }
        Change::Directory(Reading::Unusable(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_are_taken_together_after_quiet_and_the_directory_may_come_back() {
    let (_root, path) = directory();
    put(&path, "a.yaml", NAMESPACE);
    let (sender, mut changes) = mpsc::channel(8);
    tokio::spawn(Source::new(&path, Catalog::default()).run(sender));
    assert_eq!(next(&mut changes).await.unwrap(), ["shop"]);
    let begin = Instant::now();
    for name in ["b", "c", "d"] {
        put(&path, &format!("{name}.yaml"), &NAMESPACE.replace("shop", name));
        time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(next(&mut changes).await.unwrap(), ["b", "c", "d", "shop"], "one read for three writes");
    assert!(begin.elapsed() >= Duration::from_millis(200) + QUIET);
    fs::remove_file(path.join("d.yaml")).unwrap();
    assert_eq!(next(&mut changes).await.unwrap(), ["b", "c", "shop"]);
    let aside = path.with_file_name("aside");
    fs::rename(&path, &aside).unwrap();
    assert!(next(&mut changes).await.is_err(), "a vanished directory is an error");
    fs::rename(&aside, &path).unwrap();
    loop {
        if let Ok(names) = next(&mut changes).await {
            assert_eq!(names, ["b", "c", "shop"]);
            break;
        }
    }
    put(&path, "d.yaml", &NAMESPACE.replace("shop", "d"));
    loop {
        if next(&mut changes).await.unwrap() == ["b", "c", "d", "shop"] {
            break;
        }
    }
}
