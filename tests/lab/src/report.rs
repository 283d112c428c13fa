//! The operator's view: what to print when a test fails.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::{Netns, shell};

#[derive(Default)]
struct Register {
    netns: Vec<String>,
    logs: Vec<(String, PathBuf)>,
    views: Vec<(String, Vec<String>)>,
}

static REGISTER: Mutex<Register> = Mutex::new(Register { netns: Vec::new(), logs: Vec::new(), views: Vec::new() });

/// How much of the end of each log is shown, in bytes.
const LOG_TAIL: usize = 12_000;

fn with<T>(work: impl FnOnce(&mut Register) -> T) -> T {
    work(&mut REGISTER.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn register_netns(netns: &Netns) {
    with(|register| register.netns.push(netns.name().to_owned()));
}

pub(crate) fn forget_netns(name: &str) {
    with(|register| register.netns.retain(|known| known != name));
}

pub(crate) fn register_log(name: &str, path: PathBuf) {
    with(|register| {
        if !register.logs.iter().any(|(_, known)| *known == path) {
            register.logs.push((name.to_owned(), path));
        }
    });
}

/// Adds a command (program and arguments) whose output is part of the view, for example `culvert status`.
pub fn add_view(title: &str, words: &[&str]) {
    with(|register| {
        register.views.push((title.to_owned(), words.iter().map(|word| (*word).to_owned()).collect()));
    });
}

/// The whole view as text: views added with [`add_view`], the end of each log, addresses, rules and routes.
pub fn operators_view() -> String {
    let (netns, logs, views) = with(|register| (register.netns.clone(), register.logs.clone(), register.views.clone()));
    let mut text = String::from("---- operator's view ----\n");
    for (title, words) in views {
        let Some((program, arguments)) = words.split_first() else { continue };
        section(&mut text, &title, shell::output(Command::new(program).args(arguments)));
    }
    for (name, path) in logs {
        let tail = std::fs::read(&path).map(|bytes| tail(&bytes)).map_err(anyhow::Error::from);
        section(&mut text, &format!("log of {name}"), tail);
    }
    for name in netns {
        for words in ["-brief address", "rule show", "-6 rule show", "route show table all"] {
            let shown = shell::output(Command::new("ip").args(["-n", &name]).args(words.split(' ')));
            section(&mut text, &format!("{name}: ip {words}"), shown.map(|shown| without_the_usual(&shown)));
        }
    }
    text
}

/// Leaves out what the kernel puts into the table `local` of every namespace.
fn without_the_usual(shown: &str) -> String {
    let usual = |line: &&str| !line.contains(" table local ");
    shown.lines().filter(usual).collect::<Vec<_>>().join("\n")
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]).into_owned()
}

fn section(text: &mut String, title: &str, body: anyhow::Result<String>) {
    let body = body.unwrap_or_else(|error| format!("(not to be had: {error:#})"));
    let _ = writeln!(text, "-- {title}\n{}", body.trim_end());
}
