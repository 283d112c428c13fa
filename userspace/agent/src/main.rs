//! `culvert-agent`: the node daemon, and two small clients of its enrolment socket.

use std::{fs::File, path::Path, process::ExitCode};

use clap::Parser;
use culvert_agent::{
    assemble,
    enrol::protocol::{self, Request},
    settings::{Cli, Command, Settings, exit},
    uninstall,
};

/// The same with every C library (docs/decisions/0004-libraries.md); its options are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    ExitCode::from(match cli.command {
        Some(Command::Enrol { socket, uid, netns }) => match File::open(&netns) {
            Ok(file) => ask(&socket, &Request::Enrol { uid, pod: None }, Some(file.into())),
            Err(error) => {
                eprintln!("--netns {netns}: {error}");
                exit::USAGE
            }
        },
        Some(Command::Withdraw { socket, uid }) => ask(&socket, &Request::Withdraw { uid }, None),
        Some(Command::Uninstall(what)) => match uninstall::uninstall(&what) {
            Ok(()) => exit::OK,
            Err(error) => {
                eprintln!("culvert-agent: {error:#}");
                exit::UNAVAILABLE
            }
        },
        None => run(&cli.run),
    })
}

fn ask(socket: &str, request: &Request, netns: Option<std::os::fd::OwnedFd>) -> u8 {
    match protocol::ask(Path::new(socket), request, netns.as_ref(), None) {
        Ok(answer) => {
            println!("{}", serde_json::to_string(&answer).unwrap_or_default());
            if answer.ok { exit::OK } else { exit::REFUSED }
        }
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            exit::UNAVAILABLE
        }
    }
}

fn run(raw: &culvert_agent::settings::Run) -> u8 {
    match Settings::check(raw) {
        Err(faults) => {
            faults.iter().for_each(|fault| eprintln!("{fault}"));
            exit::USAGE
        }
        Ok(settings) => match assemble::run(&settings) {
            Ok(()) => exit::OK,
            Err(error) => {
                eprintln!("culvert-agent: {error:#}");
                exit::UNAVAILABLE
            }
        },
    }
}
