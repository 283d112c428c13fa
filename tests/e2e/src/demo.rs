//! The main job as a table: who called whom, over what, what was expected, and why.
//!
//! Every row is put together from three things that were observed: what the caller's process saw, what the called
//! process saw of the caller, and the records of the two agents.

mod judge;
mod row;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_lab::capture::Seen as Captured;

use crate::call::{Target, Wanted, Way};
use crate::mesh::{Mesh, RunningPod};

pub use row::Row;

/// Texts that are looked for on the link. The second is for calls that are expected to be in the clear.
const SECRET: &str = "marker-that-must-not-cross-in-clear";
const OPEN: &str = "marker-of-a-call-in-the-clear";

/// Runs the whole demo inside a sandbox and returns whether everything was as expected.
pub fn run(manifests: &Path) -> Result<bool> {
    let began = Instant::now();
    println!("Two or more nodes, a link between them, and the pods of {}.\n", manifests.display());
    let mut mesh = Mesh::without_culvert(manifests)?;
    let before = in_the_clear(&mesh)?;
    let capture = mesh.lab.capture_link()?;
    mesh.start_culvert()?;
    println!("Control plane and agents run, {} pods are enrolled ({:.1} s).\n", enrolled(&mesh), seconds(began));
    let plan = plan(&mesh)?;
    let mut rows = Vec::new();
    for (from, wanted) in plan {
        let row = judge::call(&mesh, from, wanted, marker(from, &mesh))?;
        println!("{row}");
        rows.push(row);
    }
    let captured = capture.stop()?;
    let good_rows = rows.iter().filter(|row| row.is_good()).count();
    let link = link_verdict(before, &captured, &rows);
    println!("\n{} of {} rows as expected, {:.1} s in all.", good_rows, rows.len(), seconds(began));
    Ok(good_rows == rows.len() && !rows.is_empty() && link)
}

fn seconds(began: Instant) -> f64 {
    began.elapsed().as_secs_f64()
}

fn enrolled(mesh: &Mesh) -> usize {
    mesh.pods.iter().filter(|pod| pod.spec.enrolled).count()
}

/// The marker of a pod's calls: what an enrolled pod says must never be readable, unless its peer is not enrolled.
fn marker(from: &RunningPod, mesh: &Mesh) -> impl Fn(&Wanted) -> &'static str {
    let caller_enrolled = from.spec.enrolled;
    let outside: Vec<String> = mesh
        .pods
        .iter()
        .filter(|pod| !pod.spec.enrolled)
        .map(|pod| format!("{}.{}", pod.spec.name, pod.spec.namespace))
        .collect();
    move |wanted| match &wanted.target {
        Target::Pod(name) | Target::Pod6(name) if outside.contains(name) => OPEN,
        _ if caller_enrolled => SECRET,
        _ => OPEN,
    }
}

/// With enrolment off: one call across the link for each pair of nodes that has a server; how many were readable.
fn in_the_clear(mesh: &Mesh) -> Result<(usize, usize)> {
    let capture = mesh.lab.capture_link()?;
    let mut crossed = 0;
    for from in &mesh.pods {
        let peer = mesh.pods.iter().find(|to| to.spec.node != from.spec.node && !to.spec.ports.is_empty());
        let Some(to) = peer else { continue };
        let address = SocketAddr::new(to.pod.ip4().into(), to.spec.ports[0]);
        let seen = mesh.call(from, address, SECRET)?;
        ensure!(seen.answer.is_some(), "without culvert {} cannot call {address}: {seen:?}", from.spec.full_name());
        crossed += 1;
    }
    Ok((crossed, capture.stop()?.count(SECRET.as_bytes())))
}

fn link_verdict((crossed, readable): (usize, usize), captured: &Captured, rows: &[Row]) -> bool {
    let leaked = captured.count(SECRET.as_bytes());
    let clear_rows = rows.iter().filter(|row| row.crossed_in_clear()).count();
    let clear_seen = captured.count(OPEN.as_bytes());
    println!("\nOn the link between the nodes, in a packet capture:");
    println!("  enrolment off: the marker text was readable {readable} times in {crossed} calls");
    println!(
        "  enrolment on:  the marker text was readable {leaked} times in {} packets with {} bytes of TCP payload",
        captured.frames,
        captured.payload_bytes()
    );
    if clear_rows > 0 {
        println!(
            "  calls with a pod that is not enrolled: {clear_rows} crossed, readable {clear_seen} times, as expected"
        );
    }
    // Without a call that crosses, or with a capture that sees nothing, "never readable" would mean nothing.
    let shown = crossed == 0 || readable >= crossed;
    let still_seeing = captured.frames > 0 && (clear_rows == 0 || clear_seen > 0);
    if !shown || !still_seeing || leaked > 0 {
        println!("  NOT AS EXPECTED");
    }
    shown && still_seeing && leaked == 0
}

/// The calls of the annotations; without any, every pod calls every port of every other pod, and `culvert why` says
/// beforehand what is expected.
fn plan(mesh: &Mesh) -> Result<Vec<(&RunningPod, Wanted)>> {
    let mut plan = Vec::new();
    for from in &mesh.pods {
        plan.extend(from.spec.calls.iter().map(|wanted| (from, wanted.clone())));
    }
    if !plan.is_empty() {
        return Ok(plan);
    }
    println!("No pod says what it calls, so each calls all others; what is expected is asked of `culvert why`.\n");
    for from in &mesh.pods {
        for to in mesh.pods.iter().filter(|to| to.spec.full_name() != from.spec.full_name()) {
            for port in &to.spec.ports {
                let target = Target::Pod(format!("{}.{}", to.spec.name, to.spec.namespace));
                let (way, by) = judge::foretold(mesh, from, to, *port)?;
                plan.push((from, Wanted { target, port: *port, way, by }));
            }
        }
    }
    Ok(plan)
}

/// How long an agent may take to write its record once the caller has its answer.
const RECORD: Duration = Duration::from_secs(3);

/// What a call over this way means for the caller.
fn went_through(way: Way) -> bool {
    way != Way::Refused
}
