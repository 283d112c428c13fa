//! `culvert-control`: the control plane.

use std::{process::ExitCode, time::Duration};

use clap::error::ErrorKind;
use culvert_control::{
    cli::{CaArgs, Cli, Command, LogFormat, MeshArgs, Run, exit},
    cluster::{self, secrets::Done},
    run,
};
use culvert_manifests::Severity;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// musl's own takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to do where even the message cannot be printed.
            let _ = error.print();
            return ExitCode::from(if asked { exit::OK } else { exit::USAGE });
        }
    };
    ExitCode::from(match cli.command {
        Command::Serve(args) => serve(args),
        Command::Check { mesh, .. } => check(&mesh),
        Command::Ca(args) => ca(&args),
        Command::RotateRoot { state, hold, retire } => match run::rotate_root(&state, hold, retire) {
            Ok(()) => {
                println!("the next root is made; give root.pem to the nodes again as soon as it holds both");
                exit::OK
            }
            Err(error) => failed(&error),
        },
        Command::Token { node, state } => match run::token(&node, &state) {
            Ok(token) => {
                println!("{token}");
                exit::OK
            }
            Err(error) => failed(&error),
        },
    })
}

fn check(args: &MeshArgs) -> u8 {
    let complaints = match run::check(args) {
        Ok(complaints) => complaints,
        Err(error) => return failed(&error),
    };
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    let count = |severity| complaints.iter().filter(|complaint| complaint.severity == severity).count();
    println!(
        "{} errors, {} warnings, {} notes",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Info)
    );
    if count(Severity::Error) > 0 { exit::FOUND_ERRORS } else { exit::OK }
}

fn ca(args: &CaArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(cluster::renew_keys(args)) {
        Ok(done) => {
            println!(
                "{}",
                match done {
                    Done::Nothing => "the issuing key is good for a while",
                    Done::Issuing => "there is a new issuing key",
                    Done::NotOurs => "the issuing key is not culvert's: it is left as it is",
                }
            );
            exit::OK
        }
        Err(error) => failed(&error),
    }
}

fn serve(args: Run) -> u8 {
    log(args.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let served = runtime.block_on(async {
        let (began, stopping) = tokio::sync::oneshot::channel();
        let serving = run::serve(args, async {
            stop_signal().await;
            tracing::info!("stopping");
            let _ = began.send(());
        });
        tokio::select! {
            served = serving => served,
            // Discovery streams never end by themselves.
            () = async { let _ = stopping.await; tokio::time::sleep(Duration::from_secs(1)).await } => Ok(()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match served {
        Ok(()) => exit::OK,
        Err(error) => failed(&error),
    }
}

async fn stop_signal() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}

/// The client library logs each failed connection as an error; what becomes of it is logged here.
const FILTER: &str = "info,kube_client=off";

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("CULVERT_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn failed(error: &anyhow::Error) -> u8 {
    eprintln!("culvert-control: {error:#}");
    exit::UNAVAILABLE
}
