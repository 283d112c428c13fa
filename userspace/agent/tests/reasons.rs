//! docs/operating/reasons.md and the code have the same words: what an operator greps for in the page is what the
//! programs say, and what they say is on the page.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Functions whose literals are reasons, wherever they stand.
const FUNCTIONS: [&str; 4] = ["fn reason(", "fn failure_reason(", "fn word_of(", "fn unready("];
/// Calls and constructors whose first literal is a reason.
const CALLS: [&str; 7] =
    ["Failure::wait(\"", ".refuse(\"", ".deny(\"", "Ended(\"", ".revoke(\"", " error(\"", "Blame::Us, \""];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() {
            if name != "tests" {
                sources(&entry, into);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" && name != "samples.rs" {
            into.push(entry);
        }
    }
}

/// The words of all crates, with the crate that says each.
fn said() -> BTreeMap<String, BTreeSet<String>> {
    let mut words: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for krate in fs::read_dir(root().join("userspace")).expect("the crates").map(|entry| entry.expect("an entry")) {
        let name = krate.file_name().to_string_lossy().into_owned();
        let mut files = Vec::new();
        sources(&krate.path().join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source");
            for word in words_of(&text) {
                words.entry(word).or_default().insert(name.clone());
            }
        }
    }
    words
}

fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, _) in FUNCTIONS.iter().flat_map(|name| text.match_indices(name)) {
        let signature = text[at..].split('{').next().unwrap_or_default();
        if signature.contains("&'static str") {
            words.extend(literals(body(&text[at..])).filter(|word| is_word(word)));
        }
    }
    for (at, call) in CALLS.iter().flat_map(|call| text.match_indices(call)) {
        let after = at + call.rfind('"').expect("a quote") + 1;
        words.extend(text[after..].split('"').next().filter(|word| is_word(word)).map(str::to_owned));
    }
    // The policy engine's reasons have an `as_str` of their own.
    if let Some(at) = text.find("impl Reason {") {
        words.extend(literals(body(&text[at..])).filter(|word| is_word(word)));
    }
    for constant in ["POLICY_CHANGE: &str = ", "POD_WITHDRAWN: &str = "] {
        if let Some(at) = text.find(constant) {
            words.extend(literals(&text[at..]).next());
        }
    }
    words
}

/// From the first `{` to the brace that closes it.
fn body(text: &str) -> &str {
    let begin = text.find('{').unwrap_or(text.len());
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().skip(begin) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return &text[begin..at],
            b'}' => depth -= 1,
            _ => {}
        }
    }
    &text[begin..]
}

fn literals(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}

fn is_word(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.len() > 1 && text.bytes().all(good) && text.as_bytes()[0].is_ascii_lowercase()
}

/// The words of the page: the first cell of each row of its tables.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("docs/operating/reasons.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned));
    let mut words = BTreeSet::new();
    for word in rows {
        assert!(words.insert(word.clone()), "{word} is on the page twice");
    }
    words
}

#[test]
fn every_reason_is_on_the_page_and_the_page_has_no_other() {
    let said = said();
    let documented = documented();
    let missing: Vec<_> = said.iter().filter(|(word, _)| !documented.contains(*word)).collect();
    let unsaid: Vec<_> = documented.iter().filter(|word| !said.contains_key(*word)).collect();
    assert!(
        missing.is_empty() && unsaid.is_empty(),
        "not on docs/operating/reasons.md: {missing:#?}\non the page, but said by no crate: {unsaid:#?}"
    );
}

#[test]
fn the_search_finds_words_where_they_stand() {
    let text = r#"
        fn reason(&self) -> &'static str { match self { Self::A => "one", Self::B { .. } => { "two" } } }
        fn other(&self) { "no_word" }
        accepted.refuse("three"); outcome.deny("four"); StreamError::Ended("five")
        pub const POLICY_CHANGE: &str = "six";
        impl Reason { fn as_str(&self) -> &'static str { "seven" } }
    "#;
    assert_eq!(words_of(text), ["one", "two", "three", "four", "five", "seven", "six"]);
}
