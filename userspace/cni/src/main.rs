//! `culvert-cni`: called by the container runtime, see the library.

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use culvert_cni::{call::Environment, commands, failure::Failure, netconf::MAX_NETCONF};

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = io::stdin().take(MAX_NETCONF as u64 + 1).read_to_end(&mut stdin);
    let environment = Environment::of_process();
    let outcome = match read {
        Ok(_) => commands::run(&environment, &stdin),
        Err(error) => Err(Failure::io("the network configuration cannot be read", &error)),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => {
            // Runtimes show it to people; kubelet puts it in the pod's event.
            eprintln!("culvert-cni: {failure}");
            (failure.json(), ExitCode::FAILURE)
        }
    };
    match io::stdout().write_all(&text) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
