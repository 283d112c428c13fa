//! A small run of the simulation, with what has to hold at any size.

use std::process::Command;

#[test]
fn a_small_cluster_is_followed_in_parts_and_comes_back_without_being_sent_again() {
    let mut run = Command::new(env!("CARGO_BIN_EXE_culvert-scale"));
    // Six pods of seven are elsewhere: nodes are sent their parts. A loaded machine gets time.
    run.args(["--pods", "700", "--services", "70", "--agents", "7", "--policies", "5", "--calls", "3"]);
    run.args(["--rate", "20", "--seconds", "5", "--whole-up-to", "100", "--latency", "20000", "--hold"]);
    let done = run.output().expect("the simulation starts");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    let held = text.lines().find(|line| line.contains("workloads")).expect("what agents hold is said");
    let workloads = held.split_whitespace().nth(1).and_then(|number| number.parse::<usize>().ok());
    assert!(workloads.is_some_and(|number| (100..300).contains(&number)), "a part of the mesh: {held}");
}
