//! `cargo xtask docs`: types what the pages tell people to type, block after block in one shell.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use culvert_docs::{Block, Use, blocks};

use crate::cluster::{self, place::Place};
use crate::tally::Tally;
use crate::{paths, shell};

/// The pages whose commands need nothing but this machine.
pub(crate) const README: &str = "README.md";
/// The page whose commands make a cluster, use it and end it.
pub(crate) const INSTALL: &str = "docs/install.md";

/// Longest time for one page, in seconds. What hangs would hang for its reader as well.
const PATIENCE: &str = "1500";

/// How a line says that the next block begins.
const MARK: &str = "##### docs: ";

/// Types a page's commands; each block that is run counts as one test, as do those behind one that fails. Clusters that
/// it makes are `cluster`, where one is given.
pub(crate) fn run(page: &str, cluster: Option<&Place>, tally: &mut Tally) -> Result<()> {
    tally.timed(&format!("commands of {page}"), |tally| every_block(page, cluster, tally))
}

fn every_block(page: &str, cluster: Option<&Place>, tally: &mut Tally) -> Result<()> {
    let text = std::fs::read_to_string(paths::root().join(page)).with_context(|| page.to_owned())?;
    let blocks = blocks(&text);
    for block in &blocks {
        if let Use::NotRun(reason) = block.usage {
            println!("not run, {reason}: {page}:{}", block.line);
        }
    }
    let run: Vec<&Block<'_>> = blocks.iter().filter(|block| block.usage == Use::Run).collect();
    let (reached, ended_well) = typed(&script(page, &run), cluster)?;
    for (number, block) in run.iter().enumerate() {
        let outcome = match (number + 1).cmp(&reached) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal if ended_well => Ok(()),
            std::cmp::Ordering::Equal => Err(anyhow::anyhow!("it failed:\n{}", block.text)),
            std::cmp::Ordering::Greater => Err(anyhow::anyhow!("it was not reached")),
        };
        tally.note(&format!("{page}:{}", block.line), outcome);
    }
    Ok(())
}

/// One shell for all blocks: what one sets the next ones have. Any command that fails ends it.
fn script(page: &str, run: &[&Block<'_>]) -> String {
    let mut script = String::from("set -eo pipefail\n");
    for block in run {
        let typed = block.text.replace('\'', r"'\''");
        // What was printed before may have no end of line.
        script.push_str(&format!("printf '\\n%s\\n' '{MARK}{page}:{}' '{typed}'\n{}", block.line, block.text));
    }
    script
}

/// How many blocks were begun, and whether the last of them ended well.
fn typed(script: &str, cluster: Option<&Place>) -> Result<(usize, bool)> {
    let mut bash = shell::program("timeout");
    bash.args(["--kill-after=10", PATIENCE, "bash", "-c", script]);
    // No cluster but one that the page itself makes, and no answer that nobody gives.
    bash.env("KUBECONFIG", "/dev/null");
    bash.env("CI", "true").stdin(Stdio::null()).stdout(Stdio::piped());
    if let Some(place) = cluster {
        bash.env(cluster::NAME, place.name());
    }
    let mut child = bash.spawn().context("cannot start bash")?;
    let Some(stdout) = child.stdout.take() else { bail!("bash has no standard output") };
    let mut reached = 0;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        reached += usize::from(line.starts_with(MARK));
        println!("{line}");
    }
    Ok((reached, child.wait()?.success()))
}

/// Types the commands of one page, for whoever has changed it.
pub(crate) fn page(page: &Path) -> Result<()> {
    let mut tally = Tally::default();
    run(&page.to_string_lossy(), None, &mut tally)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    anyhow::ensure!(tally.failed == 0, "{} blocks failed", tally.failed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(page: &str) -> (usize, bool) {
        let blocks = blocks(page);
        typed(&script("page", &blocks.iter().collect::<Vec<_>>()), None).unwrap()
    }

    #[test]
    fn blocks_share_a_shell_and_the_first_failure_ends_it() {
        assert_eq!(outcome("```sh\nit='a b'\n```\n```sh\ntest \"$it\" = 'a b'\n```\n"), (2, true));
        assert_eq!(outcome("```sh\nprintf x\n```\n```sh\nfalse | cat\n```\n```sh\ntrue\n```\n"), (2, false));
    }
}
