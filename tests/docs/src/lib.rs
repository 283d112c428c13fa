//! Pages of the documentation, read for what they tell people to type.
//!
//! A fenced block whose info string is `sh` is meant to be typed, block after block in one shell, from the root of the
//! repository: `cargo xtask test` does so. `sh not run: REASON` is meant to be typed and is not run by the suite. Every
//! other fenced block is something to look at.

/// What is done with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use<'a> {
    /// The suite types it.
    Run,
    /// People type it and the suite does not, for this reason.
    NotRun(&'a str),
    /// Nobody types it: output, a picture, a file.
    Shown,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    /// Of its first line within the fence, from 1.
    pub line: usize,
    /// What is done with it.
    pub usage: Use<'a>,
    /// What stands between the fences, without their indentation.
    pub text: String,
}

/// One command as it stands in a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Of its line, from 1.
    pub line: usize,
    /// Program and arguments.
    pub words: Vec<String>,
}

/// Programs that are looked for.
const PROGRAMS: [&str; 6] = ["cargo", "culvert", "culvert-agent", "culvert-control", "helm", "kubectl"];

/// All fenced blocks of a page. An open fence ends with the page.
pub fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut found: Vec<Block<'_>> = Vec::new();
    let mut indent = None;
    for (number, line) in page.lines().enumerate() {
        let bare = line.trim_start();
        match (bare.strip_prefix("```"), indent) {
            (Some(info), None) => {
                indent = Some(line.len() - bare.len());
                found.push(Block { line: number + 2, usage: usage(info.trim()), text: String::new() });
            }
            (Some(_), Some(_)) => indent = None,
            (None, Some(indent)) => {
                if let Some(block) = found.last_mut() {
                    block.text.push_str(line.get(indent..).unwrap_or(bare));
                    block.text.push('\n');
                }
            }
            (None, None) => {}
        }
    }
    found
}

fn usage(info: &str) -> Use<'_> {
    match info.split_once(' ') {
        None if info == "sh" => Use::Run,
        Some(("sh", rest)) => Use::NotRun(rest.strip_prefix("not run:").unwrap_or(rest).trim()),
        _ => Use::Shown,
    }
}

/// The commands of a page's blocks. A line whose first word is one of the programs (after `$ `, an assignment or a word
/// of the shell) is a command; several are parted by `&&`, `;`, `|` and `$(`; what follows `--` of `kubectl exec` is one
/// of its own.
pub fn commands(page: &str) -> Vec<Command> {
    blocks(page).iter().flat_map(commands_of).collect()
}

/// The commands of one block.
pub fn commands_of(block: &Block<'_>) -> Vec<Command> {
    let mut found = Vec::new();
    let mut joined = String::new();
    for (number, line) in block.text.lines().enumerate() {
        joined.push_str(line.trim().trim_start_matches("$ "));
        if joined.ends_with('\\') {
            joined.pop();
            continue;
        }
        let text = std::mem::take(&mut joined).replace("$(", ";");
        for part in text.split(['|', ';', '&']) {
            let words = part.split_whitespace().take_while(|word| !word.starts_with('#'));
            let words: Vec<&str> = words.map(|word| word.trim_matches(['"', '\'', '(', ')'])).collect();
            command(block.line + number, &words, &mut found);
        }
    }
    found
}

fn command(line: usize, words: &[&str], found: &mut Vec<Command>) {
    let passed = |word: &&&str| ["do", "then", "sudo", "in", "$"].contains(*word);
    let words = &words[words.iter().take_while(passed).count()..];
    if !words.first().is_some_and(|first| PROGRAMS.contains(first)) {
        return;
    }
    let inner = words.iter().position(|word| *word == "--").filter(|_| words[0] == "kubectl");
    let (own, behind) = words.split_at(inner.unwrap_or(words.len()));
    found.push(Command { line, words: own.iter().map(|word| (*word).to_owned()).collect() });
    if let Some((_, rest)) = behind.split_first() {
        command(line, rest, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_whether_they_are_typed() {
        let page =
            "a\n```sh\none\ntwo\n```\n- b\n  ```sh not run: needs Docker\n  three\n  ```\n```\nout\n```\n```yaml\nx: 1";
        let found: Vec<_> = blocks(page).into_iter().map(|block| (block.line, block.usage, block.text)).collect();
        let expected = [
            (3, Use::Run, "one\ntwo\n"),
            (8, Use::NotRun("needs Docker"), "three\n"),
            (11, Use::Shown, "out\n"),
            (14, Use::Shown, "x: 1\n"),
        ];
        assert_eq!(found, expected.map(|(line, usage, text)| (line, usage, text.to_owned())));
    }

    #[test]
    fn commands_are_found_where_people_would_type_them() {
        let page = "culvert no\n```sh\n$ culvert status   # why\nfor pod in $(kubectl get pods); do\n  kubectl exec $pod -- culvert-agent uninstall\ndone\n\
                    a b && helm lint x \\\n  --strict\noutput of culvert\n```\nhelm no\n";
        let words: Vec<String> = commands(page).iter().map(|command| command.words.join(" ")).collect();
        assert_eq!(
            words,
            [
                "culvert status",
                "kubectl get pods",
                "kubectl exec $pod",
                "culvert-agent uninstall",
                "helm lint x --strict"
            ]
        );
        assert_eq!(commands(page)[0].line, 3);
    }
}
