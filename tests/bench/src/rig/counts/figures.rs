//! The committed figures, and what is compared with them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// How far a figure may be above the committed one: repetitions differ by up to half of it.
const TOLERANCE: f64 = 0.06;

/// How far a crowded mesh may be above a small one.
const GROWTH: f64 = 0.03;

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Architecture and abilities of the processor; with others the same code executes other instructions.
    pub(crate) processor: String,
    /// Pods and policies that the crowded mesh had more.
    pub(crate) crowd: usize,
    /// Each operation.
    pub(crate) counts: Vec<Count>,
}

/// Instructions of both agents together for one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// The operation.
    pub(crate) what: String,
    /// In a mesh of three pods and one policy.
    pub(crate) small: u64,
    /// In a crowded one.
    pub(crate) crowded: u64,
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn share(now: u64, then: u64) -> f64 {
    now as f64 / then as f64 - 1.0
}

impl Count {
    fn growth(&self) -> f64 {
        share(self.crowded, self.small)
    }
}

impl Figures {
    pub(crate) fn read(file: &Path) -> Result<Figures> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{}", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether [`judge`] would have nothing against this count.
    pub(crate) fn accepts(&self, count: &Count, committed: Option<&Figures>) -> bool {
        let comparable = committed.filter(|committed| committed.processor == self.processor);
        let then = comparable.and_then(|committed| committed.of(&count.what));
        count.growth() <= GROWTH && then.is_none_or(|then| share(count.small, then.small) <= TOLERANCE)
    }

    fn of(&self, what: &str) -> Option<&Count> {
        self.counts.iter().find(|count| count.what == what)
    }

    /// For the eye.
    pub(crate) fn table(&self, committed: Option<&Figures>) -> String {
        let mut text = format!("instructions of both agents for each, on {}\n", self.processor);
        for count in &self.counts {
            let _ = write!(
                text,
                "  {:12} {:>9}  with {} pods and policies more {:>9} ({:+.1} %)",
                count.what,
                count.small,
                self.crowd,
                count.crowded,
                100.0 * count.growth()
            );
            if let Some(then) = committed.and_then(|committed| committed.of(&count.what)) {
                let _ =
                    write!(text, "  committed {:>9} ({:+.1} %)", then.small, 100.0 * share(count.small, then.small));
            }
            text.push('\n');
        }
        text
    }
}

/// Fails when something costs more than was committed, or more in a crowd.
pub(crate) fn judge(now: &Figures, committed: &Figures) -> Result<()> {
    let mut wrong = Vec::new();
    for count in &now.counts {
        if count.growth() > GROWTH {
            wrong.push(format!(
                "a {} costs {:.1} % more with {} pods and policies more; {:.0} % are allowed",
                count.what,
                100.0 * count.growth(),
                now.crowd,
                100.0 * GROWTH
            ));
        }
    }
    if now.processor == committed.processor {
        wrong.extend(dearer(now, committed)?);
    } else {
        println!(
            "not compared with the committed figures, which are of another kind of processor ({}); growth is checked all \
             the same",
            committed.processor
        );
    }
    if !wrong.is_empty() {
        bail!(
            "{}\nif it is meant to cost that: `cargo xtask bench --counts --update`, and say why in the commit",
            wrong.join("\n")
        );
    }
    Ok(())
}

fn dearer(now: &Figures, committed: &Figures) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for count in &now.counts {
        let then = committed.of(&count.what).with_context(|| format!("no figure for a {} is committed", count.what))?;
        let more = share(count.small, then.small);
        if more > TOLERANCE {
            wrong.push(format!(
                "a {} costs {} instructions, {:.1} % more than the committed {}",
                count.what,
                count.small,
                100.0 * more,
                then.small
            ));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(processor: &str, small: u64, crowded: u64) -> Figures {
        let counts = vec![Count { what: "request".to_owned(), small, crowded }];
        Figures { processor: processor.to_owned(), crowd: 10_000, counts }
    }

    #[test]
    fn what_costs_more_than_was_committed_fails() {
        let committed = figures("x86_64 aes", 10_000, 10_000);
        judge(&figures("x86_64 aes", 10_500, 10_500), &committed).unwrap();
        judge(&figures("x86_64 aes", 5_000, 5_000), &committed).unwrap();
        for (small, fine) in [(10_500, true), (10_700, false)] {
            let now = figures("x86_64 aes", small, small);
            assert_eq!(now.accepts(&now.counts[0], Some(&committed)), fine, "what is counted again is what would fail");
        }
        let told = judge(&figures("x86_64 aes", 10_700, 10_700), &committed).unwrap_err().to_string();
        assert!(told.contains("7.0 % more than the committed 10000"), "{told}");
    }

    #[test]
    fn growth_is_judged_on_every_processor_and_figures_only_on_the_same_kind() {
        let committed = figures("x86_64 aes avx2", 10_000, 10_000);
        judge(&figures("x86_64 aes", 20_000, 20_000), &committed).unwrap();
        for processor in ["x86_64 aes", "x86_64 aes avx2"] {
            let told = judge(&figures(processor, 10_000, 10_400), &committed).unwrap_err().to_string();
            assert!(told.contains("4.0 % more with 10000 pods"), "{told}");
        }
    }

    #[test]
    fn a_figure_that_was_never_committed_is_no_success() {
        let committed = Figures { counts: Vec::new(), ..figures("x86_64", 1, 1) };
        assert!(judge(&figures("x86_64", 1, 1), &committed).is_err());
    }
}
