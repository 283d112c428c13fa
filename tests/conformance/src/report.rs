//! What came out, per table and in total.

use std::process::ExitCode;

/// The result of one file.
pub(crate) struct Table {
    name: String,
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Table {
    pub(crate) fn new(name: String) -> Self {
        Self { name, passed: 0, failures: Vec::new(), skips: Vec::new() }
    }

    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    pub(crate) fn skip(&mut self, reason: impl Into<String>) {
        self.skips.push(reason.into());
    }

    pub(crate) fn fail(&mut self, case: &str, input: &str, expected: &str, got: &str) {
        self.failures.push(format!("{case}\n    input:    {input}\n    expected: {expected}\n    got:      {got}"));
    }
}

/// The results of all files.
#[derive(Default)]
pub(crate) struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Prints a table's result and counts it.
    pub(crate) fn add(&mut self, table: Table) {
        let Table { name, passed, failures, skips } = table;
        println!("{name}: {passed} passed, {} failed, {} skipped", failures.len(), skips.len());
        for failure in &failures {
            println!("  FAILED {failure}");
        }
        for reason in &skips {
            println!("  skipped: {reason}");
        }
        self.passed += passed;
        self.failed += failures.len();
        self.skipped += skips.len();
    }

    /// Prints the totals. Nothing at all is a failure too.
    pub(crate) fn finish(self) -> ExitCode {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed > 0 || self.passed + self.skipped == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
