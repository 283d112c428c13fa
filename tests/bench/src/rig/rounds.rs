//! Rounds: in each, every workload is run once by every contender, in random order, one right after the other.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

use super::Arguments;
use super::contender::Found;
use super::field::Field;
use super::pair;
use super::proxies::culvert::Churn;
use super::workload::Workload;
use crate::load::Outcome;
use crate::pulse::{self, Distance};

/// How long the machine is left alone between two runs.
const PAUSE: Duration = Duration::from_millis(300);

/// Cores that somebody else may use meanwhile. The accounting itself is off by some hundredths.
const FOREIGN: f64 = 0.15;

/// How often a block is tried again after the host has moved the cores or somebody else has used them.
const TRIES: usize = 6;

/// How long to wait for the placement of cores that was asked for.
const PLACEMENT: Duration = Duration::from_secs(90);

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) round: usize,
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) outcome: Outcome,
    /// What the second load of the workload did meanwhile.
    #[serde(default)]
    pub(crate) beside: Option<Outcome>,
    /// Where the cores were before the run.
    pub(crate) cores: Distance,
    /// The host moved the cores within the block, or somebody else used them: none of the block's figures counts, whatever
    /// they are.
    #[serde(default)]
    pub(crate) moved: bool,
}

/// A rival that could not do a workload. It is left out of it from then on, and what it did before does not count either.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) contender: String,
    pub(crate) workload: String,
    pub(crate) why: String,
}

/// All rounds. A run of ours that fails fails the comparison: no round is left out by its result.
pub(crate) fn run(field: &Field, workloads: &[Workload], wanted: &Arguments) -> Result<(Vec<Record>, Vec<Failure>)> {
    let mut random = rand::rng();
    let (mut records, mut failures) = (Vec::new(), Vec::<Failure>::new());
    for round in 1..=wanted.rounds {
        eprintln!("round {round} of {}", wanted.rounds);
        let mut order: Vec<&Workload> = workloads.iter().collect();
        order.shuffle(&mut random);
        for workload in order {
            for _ in 0..TRIES {
                let mut turn = field.of(workload);
                let gave_up =
                    |name: &str, failure: &Failure| failure.contender == name && failure.workload == workload.name;
                turn.retain(|one| !failures.iter().any(|failure| gave_up(one.name(), failure)));
                turn.shuffle(&mut random);
                let (block, failure) = block(round, &turn, workload, wanted)?;
                // One that has failed may have been the first: a block without records is to be run again as well.
                let again = failure.is_some() || block.iter().any(|record| record.moved);
                records.extend(block);
                failures.extend(
                    failure.inspect(|one| eprintln!("{} gave up {}: {}", one.contender, one.workload, one.why)),
                );
                if !again {
                    break;
                }
            }
        }
    }
    for failure in &failures {
        records.retain(|one: &Record| one.contender != failure.contender || one.workload != failure.workload);
    }
    Ok((records, failures))
}

/// Every contender once. It ends early when the cores have moved or were busy, or a rival has failed, and then counts for
/// nothing.
fn block(
    round: usize,
    turn: &[&Found],
    workload: &Workload,
    wanted: &Arguments,
) -> Result<(Vec<Record>, Option<Failure>)> {
    let cores = placement(wanted.cores)?;
    let mut records = Vec::new();
    let (mut moved, mut failure) = (false, None);
    for one in turn {
        let (outcome, beside) = match measure(one, workload, wanted) {
            Ok(measured) => measured,
            Err(error) if one.contender.is_rival() => {
                let why = format!("round {round}: {error:#}");
                failure = Some(Failure { contender: one.name().to_owned(), workload: workload.name.clone(), why });
                moved = true;
                break;
            }
            Err(error) => return Err(error.context(format!("{} under {}, round {round}", one.name(), workload.name))),
        };
        // With a second load its processor time is not the first one's; connections that are only held are judged by memory.
        let judged = beside.is_none() && !workload.name.starts_with("idle") && !workload.name.starts_with("stall");
        let busy = judged && outcome.usage.foreign > FOREIGN * outcome.usage.seconds;
        let (workload, contender) = (workload.name.clone(), one.name().to_owned());
        records.push(Record { round, workload, contender, outcome, beside, cores, moved: false });
        std::thread::sleep(PAUSE);
        moved = busy || pulse::distance()? != cores;
        if moved {
            break;
        }
    }
    records.iter_mut().for_each(|record| record.moved = moved);
    Ok((records, failure))
}

/// Waits, for a while, until the cores are where they were asked to be.
fn placement(wanted: Option<Distance>) -> Result<Distance> {
    let since = Instant::now();
    loop {
        let now = pulse::distance()?;
        if wanted.is_none_or(|wanted| wanted == now) || since.elapsed() > PLACEMENT {
            return Ok(now);
        }
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn measure(one: &Found, workload: &Workload, wanted: &Arguments) -> Result<(Outcome, Option<Outcome>)> {
    let disturbed = one.disturb(wanted)?;
    let measured = run_load(one, workload, wanted)?;
    disturbed.map_or(Ok(()), Churn::end)?;
    Ok(measured)
}

fn run_load(one: &Found, workload: &Workload, wanted: &Arguments) -> Result<(Outcome, Option<Outcome>)> {
    let load = |words: &[String], seconds, warmup| one.pair.load(&one.watch(), seconds, warmup, words);
    let Some(second) = &workload.beside else {
        return Ok((pair::finish(load(&workload.words, wanted.seconds, wanted.warmup)?)?, None));
    };
    // The second begins first and ends last, so that the first is never alone.
    let mut beside = spawn(load(second, wanted.seconds, wanted.warmup)?)?;
    let outcome = pair::finish(load(&workload.words, wanted.seconds, wanted.warmup)?);
    if outcome.is_err() {
        beside.kill()?;
    }
    let beside = beside.wait_with_output()?;
    Ok((outcome?, Some(pair::parse(&beside)?)))
}

fn spawn(mut command: Command) -> Result<std::process::Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}
