#![allow(clippy::expect_used, reason = "a test stops where it fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{
    ApiServer, CONFLIST, ChainError, CniSettings, Installation, KUBECONFIG, PLUGIN, Place, State, chained, keep,
};

const BRIDGE: &str =
    r#"{"cniVersion":"0.4.0","name":"net","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
const PTP: &str = r#"{"cniVersion":"1.0.0","name":"one","type":"ptp","mtu":1500}"#;

struct Scene {
    folder: TempDir,
    installation: Arc<Installation>,
}

impl Scene {
    fn new(api: bool) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["bin", "conf"] {
            fs::create_dir(path(name)).expect("made");
        }
        fs::write(path("plugin"), "program 1").expect("written");
        fs::write(path("root.pem"), "a root").expect("written");
        fs::write(path("token"), "token-1\n").expect("written");
        let api = api.then(|| ApiServer {
            server: "https://10.96.0.1:443".to_owned(),
            root: path("root.pem"),
            token: path("token"),
        });
        let settings = CniSettings {
            bin_dir: path("bin"),
            conf_dir: path("conf"),
            conf_dir_on_node: "/etc/cni/net.d".into(),
            plugin: path("plugin"),
            exclude_namespaces: vec!["kube-system".to_owned()],
            api,
            istio_labels: false,
        };
        let place = Place { socket: "/run/culvert/enrol.sock".into(), known: "/run/culvert/known.json".into() };
        Self { folder, installation: Arc::new(Installation::new(settings, place)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.path("conf").join(name)
    }

    fn ensure(&self) -> State {
        self.installation.ensure().expect("in place")
    }

    fn types(&self) -> Vec<String> {
        let list: Value = serde_json::from_slice(&fs::read(self.conf(CONFLIST)).expect("there")).expect("JSON");
        let plugins = list["plugins"].as_array().expect("plugins");
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_list_and_a_single_plugin_are_chained_alike() {
    let entry: Map<String, Value> = [("type".to_owned(), json!(PLUGIN))].into_iter().collect();
    let read = |text: &str| {
        let list = chained(text.as_bytes(), &entry)?;
        Ok::<Value, ChainError>(serde_json::from_slice(&list).expect("JSON"))
    };
    let bridge = json!({"type": "bridge", "ipam": {"type": "host-local"}});
    let ours = json!({"type": PLUGIN});
    let expected = json!({"cniVersion": "0.4.0", "name": "net", "plugins": [bridge, ours]});
    assert_eq!(read(BRIDGE).expect("chained"), expected);
    // Chained behind a list that has us already: once.
    assert_eq!(read(&expected.to_string()).expect("chained"), expected);
    let single = json!({"cniVersion": "1.0.0", "name": "one", "plugins": [{"type": "ptp", "mtu": 1500}, ours]});
    assert_eq!(read(PTP).expect("chained"), single);
    for (text, reason) in [
        ("", "cni_conf_unreadable"),
        ("[]", "cni_conf_unreadable"),
        (&BRIDGE[..40], "cni_conf_unreadable"),
        (r#"{"name":"net","plugins":[{"type":"bridge"}]}"#, "cni_conf_version"),
        (r#"{"cniVersion":"0.2.0","name":"net","type":"bridge"}"#, "cni_conf_version"),
        (r#"{"cniVersion":"1.0.0","name":"net"}"#, "cni_conf_empty"),
        (r#"{"cniVersion":"1.0.0","name":"net","plugins":[]}"#, "cni_conf_empty"),
        (r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"culvert-cni"}]}"#, "cni_conf_empty"),
        (r#"{"cniVersion":"1.0.0","name":"net","plugins":["bridge"]}"#, "cni_conf_empty"),
    ] {
        assert_eq!(read(text).expect_err(text).reason(), reason, "{text}");
    }
}

#[test]
fn what_is_put_in_place_is_whole_private_and_first() {
    let scene = Scene::new(true);
    fs::write(scene.conf("10-bridge.conflist"), BRIDGE).expect("written");
    fs::write(scene.conf("00-readme.txt"), "no configuration").expect("written");
    assert_eq!(scene.ensure(), State::Repaired);
    assert_eq!(scene.types(), ["bridge", PLUGIN]);
    assert_eq!(names(&scene.path("conf")), [CONFLIST, "00-readme.txt", "10-bridge.conflist", KUBECONFIG]);
    assert_eq!(names(&scene.path("bin")), [PLUGIN]);
    assert_eq!((mode(&scene.conf(CONFLIST)), mode(&scene.conf(KUBECONFIG))), (0o600, 0o600));
    assert_eq!(mode(&scene.path("bin").join(PLUGIN)), 0o755);
    assert_eq!(scene.ensure(), State::Unchanged);
    // The other's file is as it was.
    assert_eq!(fs::read_to_string(scene.conf("10-bridge.conflist")).expect("there"), BRIDGE);
    let list: Value = serde_json::from_slice(&fs::read(scene.conf(CONFLIST)).expect("there")).expect("JSON");
    let ours = &list["plugins"][1];
    assert_eq!(ours["excludeNamespaces"], json!(["kube-system"]));
    assert_eq!(ours["kubeconfig"], json!("/etc/cni/net.d/culvert-kubeconfig"));
}

#[test]
fn every_change_is_noticed_and_put_right() {
    let scene = Scene::new(true);
    fs::write(scene.conf("20-b.conflist"), BRIDGE).expect("written");
    scene.ensure();
    let repaired = |what: &str| assert_eq!(scene.ensure(), State::Repaired, "{what}");
    fs::write(scene.conf("10-a.conf"), PTP).expect("written");
    repaired("an earlier configuration");
    assert_eq!(scene.types(), ["ptp", PLUGIN]);
    fs::write(scene.conf(CONFLIST), "{}").expect("written");
    repaired("ours was rewritten");
    fs::remove_file(scene.conf(CONFLIST)).expect("removed");
    repaired("ours was removed");
    fs::write(scene.path("plugin"), "program 2").expect("written");
    repaired("a newer plugin");
    assert_eq!(fs::read_to_string(scene.path("bin").join(PLUGIN)).expect("there"), "program 2");
    fs::set_permissions(scene.path("bin").join(PLUGIN), fs::Permissions::from_mode(0o644)).expect("changed");
    repaired("not executable");
    fs::write(scene.path("token"), "token-2").expect("written");
    repaired("another token");
    assert!(fs::read_to_string(scene.conf(KUBECONFIG)).expect("there").contains("token-2"));
    fs::set_permissions(scene.conf(KUBECONFIG), fs::Permissions::from_mode(0o644)).expect("changed");
    repaired("others could read the token");
}

#[test]
fn a_half_written_configuration_leaves_ours_as_it_is() {
    let scene = Scene::new(false);
    fs::write(scene.conf("10-bridge.conflist"), BRIDGE).expect("written");
    scene.ensure();
    for half in [&BRIDGE[..50], ""] {
        fs::write(scene.conf("10-bridge.conflist"), half).expect("written");
        assert_eq!(scene.installation.ensure().expect_err("half").reason(), "cni_conf_unreadable");
        assert_eq!(scene.types(), ["bridge", PLUGIN]);
    }
    // Removed for a moment, as some replace their file.
    fs::remove_file(scene.conf("10-bridge.conflist")).expect("removed");
    assert_eq!(scene.ensure(), State::Alone);
    assert_eq!(scene.types(), ["bridge", PLUGIN]);
    assert_eq!(names(&scene.path("conf")), [CONFLIST]);
}

#[test]
fn what_is_taken_away_is_not_put_back() {
    let scene = Scene::new(true);
    fs::write(scene.conf("10-bridge.conflist"), BRIDGE).expect("written");
    scene.ensure();
    scene.installation.remove().expect("gone");
    scene.installation.remove().expect("twice is nothing");
    assert_eq!(scene.ensure(), State::Removed);
    assert_eq!(names(&scene.path("conf")), ["10-bridge.conflist"]);
    assert_eq!(names(&scene.path("bin")), Vec::<String>::new());
}

#[test]
fn a_missing_plugin_or_folder_is_an_error_and_no_configuration_is_written() {
    let scene = Scene::new(false);
    fs::write(scene.conf("10-bridge.conflist"), BRIDGE).expect("written");
    fs::remove_file(scene.path("plugin")).expect("removed");
    assert_eq!(scene.installation.ensure().expect_err("no plugin").reason(), "cni_plugin_missing");
    assert_eq!(
        names(&scene.path("conf")),
        ["10-bridge.conflist"],
        "a configuration without its plugin stops every pod"
    );
    fs::write(scene.path("plugin"), "program").expect("written");
    fs::remove_dir_all(scene.path("conf")).expect("removed");
    assert_eq!(scene.installation.ensure().expect_err("no folder").reason(), "cni_folder_unreadable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cni_that_rewrites_the_folder_all_the_time_does_not_win_and_no_reader_sees_half_a_file() {
    let scene = Scene::new(true);
    let theirs = scene.conf("10-bridge.conflist");
    fs::write(&theirs, BRIDGE).expect("written");
    let keeper = tokio::spawn(keep(scene.installation.clone()));
    let ours = scene.conf(CONFLIST);
    until("ours is there", || ours.exists()).await;
    let (stop, read) = (Arc::new(AtomicBool::new(false)), ours.clone());
    let stopped = stop.clone();
    // A runtime that reads whenever it likes.
    let reader = std::thread::spawn(move || {
        let mut whole = 0;
        while !stopped.load(Ordering::Relaxed) {
            if let Ok(text) = fs::read(&read) {
                let list: Value = serde_json::from_slice(&text).expect("never half a file");
                assert_eq!(list["plugins"][1]["type"], PLUGIN);
                whole += 1;
            }
        }
        whole
    });
    for turn in 0..8 {
        fs::write(&theirs, BRIDGE.replace("net", &format!("net{turn}"))).expect("written");
        if turn % 2 == 0 {
            let _ = fs::remove_file(&ours);
        }
        until("ours follows", || fs::read_to_string(&ours).is_ok_and(|text| text.contains(&format!("net{turn}"))))
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("no panic") > 10);
    scene.installation.remove().expect("gone");
    tokio::time::timeout(Duration::from_secs(5), keeper).await.expect("it ends").expect("no panic");
    assert!(!ours.exists());
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
