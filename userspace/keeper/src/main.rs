//! `culvert-keeper --socket FILE`.

use std::{env, path::PathBuf, process::ExitCode};

use culvert_keeper::{Keep, listen, serve};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As in `sysexits.h`, like the agent.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;

const HELP: &str = "culvert-keeper holds the pods' listeners while no agent runs.

usage: culvert-keeper [--socket FILE]     default /run/culvert/keep.sock";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let socket = match words.as_slice() {
        [] => PathBuf::from("/run/culvert/keep.sock"),
        ["--socket", file] if file.starts_with('/') => PathBuf::from(file),
        ["--version"] => {
            println!("culvert-keeper {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        ["--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    raise_descriptor_limit();
    let listener = match listen(&socket) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("culvert-keeper: {}: {error}", socket.display());
            return ExitCode::from(UNAVAILABLE);
        }
    };
    eprintln!("culvert-keeper: ready at {}", socket.display());
    if let Err(error) = serve(&listener, &mut Keep::default()) {
        eprintln!("culvert-keeper: {error}");
    }
    ExitCode::from(UNAVAILABLE)
}

/// Four descriptors per pod; as many as the machine allows. A refusal leaves the limit as it is.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
