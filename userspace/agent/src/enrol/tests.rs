use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use culvert_workload::{Phase, Protocol, WorkloadUid};
use tempfile::TempDir;

use super::{
    Book, EnrolError, Entry, UidInCgroup, agrees, find, prepare_run_dir,
    protocol::Claim,
    recover::{Fate, fate},
    uid_of, usable,
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
    let found = find::netns(Path::new("/proc"), own).expect("we are a process");
    assert_eq!(File::from(found).metadata().expect("its inode").ino(), own);
    assert!(find::netns(Path::new("/proc"), 1).is_none(), "no namespace has inode 1");
}

#[test]
fn a_claim_that_means_another_pod_is_refused() {
    let web = pod("web", "10.0.0.2");
    let claim = |namespace: &str, name: &str| {
        let claim = Claim { namespace: namespace.to_owned(), name: name.to_owned(), veths: Vec::new() };
        agrees(&web, Some(&claim)).map_err(|error| error.reason())
    };
    assert_eq!(claim(&web.namespace, &web.name), Ok(()));
    assert_eq!(claim("kube-system", &web.name), Err("pod_name_mismatch"));
    assert_eq!(claim(&web.namespace, "other"), Err("pod_name_mismatch"));
    agrees(&web, None).expect("nothing was claimed");
}

#[test]
fn the_pod_of_a_process_is_the_first_that_its_cgroup_names() {
    let (uid, other) = ("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "ffffffff-0000-1111-2222-333333333333");
    let slice = uid.replace('-', "_");
    for text in [
        // cgroupfs, v2 and v1
        format!("0::/kubepods/burstable/pod{uid}/0123abc\n"),
        format!("0::/kubepods/pod{uid}/0123abc\n"),
        format!("12:pids:/kubepods/besteffort/pod{uid}/x\n1:name=systemd:/kubepods/besteffort/pod{uid}/x\n0::/\n"),
        format!("0::/kubepods/burstable/pod{uid}"),
        // systemd
        format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-01.scope"
        ),
        format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-01.scope"),
        format!("3:cpu,cpuacct:/kubepods.slice/kubepods-pod{slice}.slice/docker-01.scope\n"),
        format!("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-01.scope"),
        // as seen from a container with a cgroup namespace of its own
        format!("0::/../../pod{uid}/0123abc"),
        format!("0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-01.scope"),
        // a pod that names a cgroup of its own after another
        format!("0::/kubepods/burstable/pod{uid}/0123abc/kubepods/pod{other}/x"),
        format!("0::/kubepods/pod{uid}/c/kubepods-pod{}.slice", other.replace('-', "_")),
    ] {
        assert_eq!(uid_of(&text), Some(UidInCgroup::new(uid)), "{text}");
    }
    // a static pod's, a hash
    let hash = "0123456789abcdef0123456789abcdef";
    assert_eq!(uid_of(&format!("0::/kubepods/pod{hash}/c")), Some(UidInCgroup::new(hash)));
    for text in [
        "",
        "0::/",
        "0::/system.slice/kubelet.service",
        "0::/podman/x",
        "0::/user.slice/pod.slice",
        "x",
        "0::/machine.slice/libpod-0123456789abcdef.scope",
    ] {
        assert_eq!(uid_of(text), None, "{text}");
    }
}
