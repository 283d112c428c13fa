//! The demo as a newcomer runs it: from outside any sandbox, on the example manifests.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use culvert_e2e::mesh::Programs;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").canonicalize().unwrap()
}

fn demo(manifests: &Path) -> Command {
    let mut command = Command::new(Programs::find().unwrap().path("culvert-demo"));
    command.arg("--manifests").arg(manifests);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The example manifests without one file.
fn examples_without(left_out: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut found = false;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if name == left_out {
            found = true;
        } else {
            std::fs::copy(&path, folder.path().join(name)).unwrap();
        }
    }
    assert!(found, "there is no {left_out}");
    folder
}

#[test]
fn the_examples_go_as_expected_within_twenty_seconds() {
    let began = Instant::now();
    let output = demo(&examples()).output().unwrap();
    let took = began.elapsed();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(took < Duration::from_secs(20), "it took {took:?}\n{text}");
    for needle in [
        "spiffe://cluster.local/ns/shop/sa/web -> spiffe://cluster.local/ns/shop/sa/orders",
        "allowed by shop/orders-callers rule 0",
        "denied by data/ledger-no-batch rule 0 (policy_denied)",
        "peer_unauthenticated",
        "enrolment on:  the marker text was readable 0 times",
    ] {
        assert!(text.contains(needle), "no {needle:?} in\n{text}");
    }
}

#[test]
fn without_one_allow_policy_its_row_is_refused_and_the_demo_fails() {
    let manifests = examples_without("policy-data.yaml");
    let output = demo(manifests.path()).output().unwrap();
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    let row = text.lines().find(|line| line.starts_with("BAD") && line.contains("shop/orders")).unwrap_or_default();
    assert!(row.contains("refused") && row.contains("expected mTLS"), "{text}");
}

#[test]
fn without_the_deny_policy_another_one_decides_and_the_demo_fails() {
    let manifests = examples_without("policy-data-no-batch.yaml");
    let output = demo(manifests.path()).output().unwrap();
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("it should have been decided by data/ledger-no-batch"), "{text}");
}

/// Processes whose environment carries `mark`.
fn marked(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        if environment.windows(mark.len()).any(|window| window == mark.as_bytes()) {
            found.push(std::fs::read_to_string(path.join("comm")).unwrap_or_default());
        }
    }
    found
}

fn leaves_nothing_behind_after(signal: &str) {
    let mark = format!("run-{}-{signal}", std::process::id());
    let mut command = demo(&examples());
    command.env("CULVERT_DEMO_RUN", &mark).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !marked(&mark).iter().any(|name| name.starts_with("culvert-agent")) {
        assert!(Instant::now() < deadline, "no agent was started: {:?}", marked(&mark));
        assert!(child.try_wait().unwrap().is_none(), "the demo ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    // To the one process that a person sees, as a terminal or an impatient operator would.
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !marked(&mark).is_empty() {
        assert!(Instant::now() < deadline, "still running: {:?}", marked(&mark));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!Path::new("/run/lab").exists() && !Path::new("/run/netns/web").exists());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    leaves_nothing_behind_after("-INT");
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    leaves_nothing_behind_after("-KILL");
}

/// A manifest without its annotations: the key and everything indented deeper.
fn without_annotations(text: &str) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        inside = if line == "  annotations:" { true } else { inside && indent > 2 };
        if !inside {
            kept.push(line);
        }
    }
    kept.join("\n") + "\n"
}

#[test]
fn manifests_that_say_nothing_about_calls_are_held_against_culvert_why() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let text = without_annotations(&std::fs::read_to_string(&path).unwrap());
        std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
    }
    let output = demo(folder.path()).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    // Four other pods with five ports between them.
    let rows = text.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(rows, 20, "{text}");
    for kind in [" mTLS ", " plaintext ", " refused "] {
        assert!(text.lines().any(|line| line.starts_with("ok ") && line.contains(kind)), "no row is{kind}\n{text}");
    }
}
