//! Instruction counts: the agents of this build under callgrind, with real capture and real certificates, in a small mesh
//! and in a crowded one.
//!
//! Times differ from machine to machine and from minute to minute; the number of instructions that the agents execute for a
//! connection, a request or a megabyte hardly does. So this is the check that can run with every test: what the code
//! costs is compared with figures that are committed, and the crowded mesh with the small one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use culvert_lab::{Lab, report, sandbox};

use super::Contender;
use super::contender::Found;

mod callgrind;
mod drive;
mod figures;

pub(crate) use callgrind::Callgrind;
use drive::Job;
use figures::{Count, Figures};

/// How often each operation is counted in each mesh, at least.
const TURNS: usize = 3;

/// And at most, while it seems to cost too much: chance only ever adds, so the least of many turns is what it costs.
const MOST_TURNS: usize = 12;

/// How long the agents are left alone before anything is counted. In their first seconds they give back what it took to
/// read the mesh, the more the larger it is (the allocator's second of decay, the agent's own look every five seconds), and
/// that is not what a connection costs: it was seen to add up to 3.6 % in the crowd.
const START: Duration = Duration::from_secs(12);

/// What to count, and what to compare with.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Folder with culvert-agent, culvert-control and culvert, as they are released.
    #[arg(long)]
    bin_dir: PathBuf,
    /// The committed figures.
    #[arg(long)]
    figures: PathBuf,
    /// Write the figures of this run there instead of comparing.
    #[arg(long)]
    update: bool,
    /// Pods and policies that the crowded mesh has more, so many of each.
    #[arg(long, default_value_t = 10_000)]
    crowd: usize,
    /// Leave callgrind's dumps here, a folder for each operation and mesh, for callgrind_annotate.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Counts in a sandbox and compares.
pub(crate) fn run(wanted: &Arguments) -> Result<bool> {
    if let Some(status) = sandbox::enter_or_reexec()? {
        return Ok(status.success());
    }
    let committed = if wanted.update { None } else { Some(Figures::read(&wanted.figures)?) };
    let counted = count(wanted, committed.as_ref());
    if counted.is_err() && std::env::var_os("CULVERT_LAB_VERBOSE").is_some() {
        println!("{}", report::operators_view());
    }
    let counted = counted?;
    println!("{}", counted.table(committed.as_ref()));
    match committed {
        Some(committed) => figures::judge(&counted, &committed)?,
        None => counted.write(&wanted.figures)?,
    }
    Ok(true)
}

fn count(wanted: &Arguments, committed: Option<&Figures>) -> Result<Figures> {
    super::raise_file_limit()?;
    let since = Instant::now();
    let mut lab = Lab::new()?;
    let with = super::Arguments::for_counting(&wanted.bin_dir, wanted.crowd);
    let small = Contender::Culvert.start(&mut lab, &with).context("a small mesh under callgrind")?;
    let crowded = Contender::Crowded.start(&mut lab, &with).context("a crowded mesh under callgrind")?;
    eprintln!("both meshes stand after {:.0} s", since.elapsed().as_secs_f64());
    std::thread::sleep(START);
    let mut figures = Figures { processor: processor(), crowd: wanted.crowd, counts: Vec::new() };
    for job in Job::ALL {
        let count = count_one([&small, &crowded], job, |count| figures.accepts(count, committed));
        figures.counts.push(count.with_context(|| job.name().to_owned())?);
        if let Some(folder) = &wanted.keep {
            for (mesh, name) in [(&small, job.name().to_owned()), (&crowded, format!("{}-crowded", job.name()))] {
                mesh.processes.iter().try_for_each(|agent| Callgrind::of(agent.pid()).keep(&folder.join(&name)))?;
            }
        }
        eprintln!("{} after {:.0} s", job.name(), since.elapsed().as_secs_f64());
    }
    Ok(figures)
}

/// Instructions of both agents' workers for one operation, in both meshes by turns: the least of several turns. What is
/// on top of that is chance: whether two things came in one wake-up or in two.
fn count_one(meshes: [&Found; 2], job: Job, is_fine: impl Fn(&Count) -> bool) -> Result<Count> {
    let tools = meshes.map(|mesh| mesh.processes.iter().map(|agent| Callgrind::of(agent.pid())).collect::<Vec<_>>());
    for (mesh, tools) in meshes.iter().zip(&tools) {
        job.run(mesh, job.warm_up())?;
        tools.iter().try_for_each(Callgrind::begin)?;
    }
    let mut count = Count { what: job.name().to_owned(), small: u64::MAX, crowded: u64::MAX };
    for turn in 1..=MOST_TURNS {
        count.small = count.small.min(turn_of(meshes[0], &tools[0], job)?);
        count.crowded = count.crowded.min(turn_of(meshes[1], &tools[1], job)?);
        if turn >= TURNS && is_fine(&count) {
            break;
        }
    }
    tools.iter().flatten().try_for_each(Callgrind::end)?;
    Ok(count)
}

fn turn_of(mesh: &Found, tools: &[Callgrind], job: Job) -> Result<u64> {
    let done = job.run(mesh, job.times())?;
    settle();
    let used: u64 = tools.iter().map(Callgrind::dump).sum::<Result<u64>>()?;
    ensure!(used > 0, "callgrind has counted nothing");
    Ok(used / done)
}

/// What ends a connection is done a moment after the client has seen its end.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}

/// What decides which instructions the same code executes: ciphers and copies are chosen by the processor's abilities,
/// as far as callgrind lets them be seen.
fn processor() -> String {
    const SEEN: &[&str] = &["aes", "avx", "avx2", "bmi2", "pclmulqdq", "rdrand", "sha_ni"];
    let text = std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let flags = line.split(' ').filter(|flag| SEEN.contains(flag));
    let mut flags: Vec<&str> = flags.collect();
    flags.sort_unstable();
    format!("{} {}", std::env::consts::ARCH, flags.join(" "))
}
