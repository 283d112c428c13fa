//! Every command in README and docs is one that the programs take: sub-commands, flags, files and chart values exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use clap::CommandFactory as _;
use culvert_docs::{Command, Use, blocks, commands, commands_of};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages() -> Vec<(PathBuf, String)> {
    let mut files = vec![root().join("README.md")];
    for folder in ["docs", "docs/operating"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder of pages");
        let entries = entries.map(|entry| entry.expect("an entry").path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(&file).expect("a page"))).collect()
}

/// Commands of one program, with where they stand.
fn of(program: &str) -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for (file, page) in pages() {
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        let own = commands(&page).into_iter().filter(|command| command.words[0] == program);
        found.extend(own.map(|command| (format!("{name}:{}", command.line), command)));
    }
    found
}

/// Walks sub-commands and looks each flag up.
fn complaint(known: &clap::Command, words: &[String]) -> Option<String> {
    let (mut at, mut flags) = (known, Vec::new());
    flags.extend(known.get_arguments());
    let mut open = true;
    for word in words {
        let name = word.split('=').next().unwrap_or(word);
        if let Some(flag) = name.strip_prefix("--") {
            if !["help", "version", ""].contains(&flag) && !flags.iter().any(|one| one.get_long() == Some(flag)) {
                return Some(format!("{} has no flag --{flag}", at.get_name()));
            }
        } else if open && let Some(next) = at.find_subcommand(name) {
            at = next;
            flags.extend(next.get_arguments());
        } else if open && at.has_subcommands() && at.get_positionals().next().is_none() && !word.starts_with('-') {
            // A flag's value may stand before the sub-command; a word that is none is a typing mistake.
            return Some(format!("{} has no sub-command {word}", at.get_name()));
        } else {
            open = at.has_subcommands();
        }
    }
    None
}

fn all_known(program: &str, known: &clap::Command, least: usize) {
    let commands = of(program);
    assert!(commands.len() >= least, "only {} commands of {program} were found", commands.len());
    let wrong = commands.iter().filter_map(|(place, command)| {
        Some(format!("{place}: {}: {}", command.words.join(" "), complaint(known, &command.words[1..])?))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_of_culvert_exist() {
    all_known("culvert", &culvert_cli::command_line(), 5);
}

#[test]
fn commands_of_the_agent_and_of_the_control_plane_exist() {
    all_known("culvert-agent", &culvert_agent::settings::Cli::command(), 1);
    all_known("culvert-control", &culvert_control::cli::Cli::command(), 0);
}

/// By the real `--help` of each task.
#[test]
fn tasks_of_cargo_exist() {
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for (place, command) in
        of("cargo").into_iter().filter(|(_, command)| command.words.get(1).is_some_and(|word| word == "xtask"))
    {
        let words = &command.words[2..];
        // Words behind the task may be sub-tasks or what is given to it; the first flag ends them.
        let task: Vec<&String> = words.iter().take_while(|word| !word.starts_with('-')).take(2).collect();
        let flags: Vec<&str> =
            words.iter().filter(|word| word.starts_with("--")).map(|word| word.split('=').next().unwrap()).collect();
        let help = help(&task).or_else(|_| help(&task[..task.len().min(1)]));
        match help {
            Ok(text) => wrong.extend(
                flags
                    .iter()
                    .filter(|flag| !text.contains(**flag))
                    .map(|flag| format!("{place}: {task:?} has no flag {flag}")),
            ),
            Err(text) => wrong.push(format!("{place}: {task:?}: {text}")),
        }
        seen.push(task.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(" "));
    }
    assert!(seen.len() >= 5, "only {seen:?} were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn help(task: &[&String]) -> Result<String, String> {
    let mut cargo = process::Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--package", "xtask", "--"]).args(task).arg("--help").current_dir(root());
    let done = cargo.output().map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

/// `-f FILE` of kubectl and the chart of helm.
#[test]
fn files_that_are_named_exist() {
    let mut seen = 0;
    for (place, command) in of("kubectl").into_iter().chain(of("helm")) {
        for word in command.words.iter().filter(|word| word.starts_with("deploy/")) {
            seen += 1;
            let kind = word.starts_with("deploy/culvert");
            assert!(kind || root().join(word).exists(), "{place}: {word} is not there");
        }
    }
    assert!(seen >= 4, "only {seen} files were found");
}

#[test]
fn values_that_are_set_are_the_charts() {
    let text = fs::read_to_string(root().join("deploy/helm/culvert/values.yaml")).expect("values");
    let values: Value = serde_saphyr::from_str(&text).expect("YAML");
    let mut seen = 0;
    for (place, command) in of("helm") {
        let pairs = command.words.windows(2).filter(|pair| pair[0] == "--set");
        for key in pairs.map(|pair| pair[1].split('=').next().unwrap().to_owned()) {
            seen += 1;
            let known = values.pointer(&format!("/{}", key.replace('.', "/")));
            assert!(known.is_some(), "{place}: the chart has no value {key}");
        }
    }
    assert!(seen >= 1, "no --set was found");
}

/// What only a chart may say that has this one as a part.
const OF_A_PARENT: [&str; 2] = ["enabled", "global"];

/// What the chart's values are is said twice: as they come, and as what they may be.
#[test]
fn the_schema_of_the_charts_values_has_each_of_them_and_no_other() {
    fn compare(at: &str, values: &Value, schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{at}");
        let (mut known, mut written): (Vec<_>, Vec<_>) = (
            properties.keys().filter(|name| !at.is_empty() || !OF_A_PARENT.contains(&name.as_str())).collect(),
            values.as_object().unwrap().keys().collect(),
        );
        known.sort();
        written.sort();
        // Of resources people may say more than the chart does.
        if !at.ends_with("/resources") {
            assert_eq!(known, written, "{at}");
        }
        for (name, value) in values.as_object().unwrap() {
            compare(&format!("{at}/{name}"), value, &properties[name]);
        }
    }
    let chart = root().join("deploy/helm/culvert");
    let values = serde_saphyr::from_str(&fs::read_to_string(chart.join("values.yaml")).unwrap()).unwrap();
    let schema = serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap()).unwrap();
    compare("", &values, &schema);
}

/// `cargo xtask test` types the blocks of these pages that are marked for it: none may have been forgotten.
#[test]
fn what_is_to_be_typed_says_so_or_says_why_the_suite_does_not() {
    for (page, least) in [("README.md", 2), ("docs/install.md", 10)] {
        let text = fs::read_to_string(root().join(page)).expect("a page");
        let (mut typed, mut wrong) = (0, Vec::new());
        for block in blocks(&text) {
            match block.usage {
                Use::Run => typed += 1,
                Use::NotRun(reason) if !reason.is_empty() => typed += 1,
                Use::Shown if commands_of(&block).is_empty() => {}
                Use::NotRun(_) | Use::Shown => wrong.push(block),
            }
        }
        assert!(typed >= least, "only {typed} blocks of {page} are to be typed");
        assert!(wrong.is_empty(), "{page}: neither `sh` nor `sh not run: REASON`: {wrong:#?}");
    }
}

#[test]
fn every_setting_of_the_control_plane_is_on_its_page() {
    let page = fs::read_to_string(root().join("docs/control-plane.md")).expect("the page");
    let mut missing = Vec::new();
    let cli = culvert_control::cli::Cli::command();
    for command in cli.get_subcommands() {
        for flag in command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help") {
            if !page.contains(&format!("--{flag}")) {
                missing.push(format!("{} --{flag}", command.get_name()));
            }
        }
    }
    assert!(missing.is_empty(), "docs/control-plane.md says nothing of {missing:?}");
}
