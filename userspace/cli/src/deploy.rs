//! `culvert install`, `uninstall` and `check --cluster`: the command's side of [`crate::cluster`].

use std::{io::Write as _, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use crate::cluster::{self, Access, Api, ClusterError, Leave, Options, Server, check::Finding};

/// Which cluster.
pub(crate) type Reach = Access;

#[derive(Debug, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    options: Options,
    /// Print the objects as YAML, and ask no cluster.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: write them for this Kubernetes.
    #[arg(long, value_name = "1.MINOR", requires = "dry_run", value_parser = minor)]
    for_kubernetes: Option<u32>,
    /// Install although `culvert check --cluster` finds something in the way.
    #[arg(long)]
    skip_check: bool,
    /// How long to wait until everything is ready, like 90s or 3m; 0s does not wait.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    reach: Reach,
    /// Culvert's own namespace.
    #[arg(long, value_name = "NAME", default_value = "culvert-system")]
    namespace: String,
    /// Take culvert out of the nodes only, and its agents with it. Helm's hook does this.
    #[arg(long)]
    nodes_only: bool,
    /// How long to wait for the nodes, like 90s or 3m.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration)]
    timeout: Duration,
}

pub(crate) fn install(what: &Install) -> anyhow::Result<()> {
    if what.dry_run {
        let server =
            what.for_kubernetes.map(|minor| Server { version: format!("v1.{minor}"), minor, serves: [].into() });
        print!("{}", cluster::to_yaml(&cluster::objects(&what.options, server.as_ref())?));
        return Ok(());
    }
    what.options.check()?;
    block_on(async {
        let api = connect(&what.reach).await?;
        if !what.skip_check {
            let findings = cluster::check::check(&api, &what.options).await?;
            let fatal: Vec<&Finding> = findings.iter().filter(|finding| finding.fatal).collect();
            for finding in findings.iter().filter(|finding| !finding.ok && !finding.fatal) {
                say(format!("{}: {}: {}", finding.name, finding.detail, finding.remedy));
            }
            let one = |finding: &&Finding| format!("{}: {}; {}", finding.name, finding.detail, finding.remedy);
            anyhow::ensure!(fatal.is_empty(), "{}", fatal.iter().map(one).collect::<Vec<_>>().join("\n"));
        }
        Ok(cluster::install(&api, &what.options, what.timeout, &say).await?)
    })?;
    println!(
        "culvert is installed. kubectl label namespace NAMESPACE culvert.dev/enroll=true puts its pods into the mesh."
    );
    Ok(())
}

pub(crate) fn uninstall(what: &Uninstall) -> anyhow::Result<()> {
    let how = if what.nodes_only { Leave::Nodes } else { Leave::Everything };
    block_on(async {
        let api = connect(&what.reach).await?;
        Ok(cluster::uninstall(&api, &what.namespace, how, what.timeout, &say).await?)
    })
}

pub(crate) fn check(reach: &Reach, namespace: &str) -> anyhow::Result<Value> {
    block_on(async {
        let api = connect(reach).await?;
        let options = Options { namespace: namespace.to_owned(), ..Options::default() };
        Ok(cluster::check::check(&api, &options).await?.iter().map(Finding::to_json).collect())
    })
}

async fn connect(reach: &Reach) -> Result<Api, ClusterError> {
    Api::connect(reach).await.map_err(|error| ClusterError::Api { object: "the cluster".to_owned(), error })
}

fn say(line: String) {
    // Nobody may read any more: what was begun goes on.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?.block_on(work)
}

/// `90s`, `3m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 90s or 3m");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

fn minor(text: &str) -> Result<u32, String> {
    let number = text.trim_start_matches('v').strip_prefix("1.").and_then(|minor| minor.parse().ok());
    number.filter(|minor| *minor >= 20).ok_or_else(|| format!("{text:?} is no version from 1.20 on"))
}
