//! The rig: a lab with one pair of nodes per contender, checks, rounds, output.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use culvert_lab::{Lab, report, sandbox};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mod certificates;
mod checks;
mod cold;
mod contender;
mod counts;
mod facts;
mod field;
mod handshake;
mod many;
mod pair;
mod proxies;
mod rounds;
mod sidecars;
mod template;
mod workload;

pub(crate) use cold::{ColdArguments, run as cold};
pub(crate) use contender::Contender;
pub(crate) use counts::{Arguments as CountArguments, run as count};
pub(crate) use facts::Facts;
pub(crate) use rounds::{Failure, Record};
pub(crate) use sidecars::{SidecarArguments, run as sidecars};
pub(crate) use workload::Workload;

/// What to compare, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Folder with culvert-agent, culvert-control and culvert.
    #[arg(long)]
    bin_dir: PathBuf,
    /// A second such folder, to compare with the first: the contender `before`.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Envoy's program.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Folder with HAProxy and nginx as the distribution's packages have them, `/` to be.
    #[arg(long)]
    debian: Option<PathBuf>,
    /// A ztunnel that has its fake CA (feature `testing`).
    #[arg(long)]
    ztunnel: Option<PathBuf>,
    /// Contenders and workloads; all when none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Every workload, not only the usual ones.
    #[arg(long)]
    every_workload: bool,
    /// Interleaved rounds.
    #[arg(long)]
    rounds: usize,
    /// Seconds that count, of each run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before that, of each run.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Threads of each proxy.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// The rivals are also started with so many threads, and each workload is run by the better of the two.
    #[arg(long)]
    other_workers: Option<usize>,
    /// Time only while the host has the cores there; after a while it is done all the same.
    #[arg(long)]
    cores: Option<crate::pulse::Distance>,
    /// More arguments of culvert's agents, separated by spaces. Without: no line per connection, as with the rivals.
    #[arg(long, default_value = "--log info,access=off", allow_hyphen_values = true)]
    agent_args: String,
    /// Fail when a ratio is worse than the one that this document has.
    #[arg(long)]
    check: Option<PathBuf>,
    /// More pods and policies in the mesh of the contender `crowded`, so many of each.
    #[arg(long)]
    crowd: Option<usize>,
    /// One more contender, `churning`: a policy of the server's changes four times a second.
    #[arg(long)]
    churn: bool,
    /// One more contender, `rotating`: certificates live ten seconds.
    #[arg(long)]
    rotate: bool,
    /// Where the raw figures go.
    #[arg(long)]
    out: PathBuf,
    /// culvert's agents run under callgrind.
    #[arg(skip)]
    counting: bool,
}

impl Arguments {
    /// culvert alone, under callgrind, and nothing timed.
    fn for_counting(bin_dir: &std::path::Path, crowd: usize) -> Arguments {
        Arguments {
            bin_dir: bin_dir.to_path_buf(),
            before: None,
            envoy: None,
            debian: None,
            ztunnel: None,
            only: Vec::new(),
            every_workload: false,
            rounds: 1,
            seconds: 0.0,
            warmup: 0.0,
            // One, so that every connection has the same way.
            workers: 1,
            other_workers: None,
            cores: None,
            agent_args: String::new(),
            check: None,
            crowd: Some(crowd),
            churn: false,
            rotate: false,
            out: PathBuf::new(),
            counting: true,
        }
    }

    /// culvert alone, as it is.
    fn for_culvert(bin_dir: &std::path::Path) -> Arguments {
        Arguments { workers: 2, counting: false, crowd: None, ..Arguments::for_counting(bin_dir, 0) }
    }

    /// How long a start may take.
    fn patience(&self) -> Duration {
        if self.counting { START * 9 } else { START }
    }
}

/// Makes the sandbox and runs the comparison in it.
pub(crate) fn run(wanted: &Arguments) -> Result<bool> {
    if let Some(status) = sandbox::enter_or_reexec()? {
        return Ok(status.success());
    }
    let outcome = compare(wanted);
    if outcome.is_err() && std::env::var_os("CULVERT_LAB_VERBOSE").is_some() {
        println!("{}", report::operators_view());
    }
    outcome.map(|()| true)
}

fn compare(wanted: &Arguments) -> Result<()> {
    raise_file_limit()?;
    let (contenders, workloads) = chosen(wanted)?;
    let mut lab = Lab::new()?;
    let mut field = field::Field::start(&mut lab, &contenders, wanted)?;
    field.choose(&workloads, wanted);
    let facts = facts::gather(wanted, &field);
    let (records, failures) = rounds::run(&field, &workloads, wanted)?;
    let raw = crate::output::Raw { facts, records, failures };
    crate::output::write(&raw, &wanted.out)?;
    match &wanted.check {
        Some(document) => crate::regression::check(&raw, document),
        None => Ok(()),
    }
}

/// What `--only` leaves, in our order.
fn chosen(wanted: &Arguments) -> Result<(Vec<Contender>, Vec<Workload>)> {
    let words = &wanted.only;
    let known: Vec<String> = Contender::ALL
        .iter()
        .map(|contender| contender.name().to_owned())
        .chain(Workload::all().iter().map(|workload| workload.name.clone()))
        .collect();
    if let Some(word) = words.iter().find(|word| !known.contains(word)) {
        bail!("--only {word}: there is {}", known.join(", "));
    }
    let named = |name: &str| words.iter().any(|word| word == name);
    let by_name = Contender::ALL.iter().any(|contender| named(contender.name()));
    let mut contenders = Vec::new();
    for contender in Contender::ALL {
        let at_hand = contender.at_hand(wanted);
        ensure!(at_hand || !named(contender.name()), "{}: no program was given", contender.name());
        if at_hand && (!by_name || named(contender.name())) {
            contenders.push(contender);
        }
    }
    let all = Workload::all();
    let by_name = all.iter().any(|workload| named(&workload.name));
    let workloads = all
        .into_iter()
        .filter(|workload| if by_name { named(&workload.name) } else { workload.usual || wanted.every_workload });
    Ok((contenders, workloads.collect()))
}

/// Children inherit it; nobody may go above the hard limit.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// How long a start may take.
const START: Duration = Duration::from_secs(20);
