//! Runs third-party case files through the real parser, validator and decision code.
//!
//! Everything is read from the directory: which tables there are, their cases, and in `deviations.json` the cases where
//! culvert answers differently on purpose. Each file is either run by a reader, or read by one as input of its cases,
//! or counted as one skip with a reason.

mod case;
mod deviations;
mod directory;
mod envoy;
mod readers;
mod report;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{deviations::Deviations, directory::Directory, report::Report};

/// Runs a directory of conformance cases.
#[derive(Parser)]
struct Args {
    /// The directory; its README says how the files are laid out.
    #[arg(long)]
    dir: PathBuf,
    /// Only tables whose name contains one of these.
    names: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let directory = Directory::open(&args.dir)?;
    let deviations = Deviations::read(&directory)?;
    let chosen = |table: &str| args.names.is_empty() || args.names.iter().any(|name| table.contains(name.as_str()));
    let mut report = Report::default();
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for file in directory.files() {
        match readers::reader_of(file) {
            Some(reader) => read.push((file, reader)),
            None => unread.push(file),
        }
    }
    for (file, reader) in read {
        let table = readers::table_name(file);
        if chosen(&table) {
            report.add(readers::run(reader, &directory, &deviations, file, table));
        }
    }
    for file in unread {
        // What a reader took in as input of its cases is part of them.
        let table = readers::table_name(file);
        if chosen(&table) && !directory.was_read(file) {
            report.add(readers::skip(&directory, &deviations, file, table));
        }
    }
    Ok(report.finish())
}
