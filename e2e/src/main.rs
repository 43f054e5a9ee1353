//! `holdfast-e2e`: what the end-to-end tests run in pods.

use clap::{Parser, Subcommand};
use holdfast_e2e::client::{self, ClientArgs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::ExitCode;

/// Clients for the end-to-end tests of Holdfast
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write and read without pause, record every request, judge the answers; ends on SIGTERM
    Client(ClientArgs),
    /// Do nothing until SIGTERM: a place to run other programs in
    Wait,
    /// Send SIGTERM to process 1: ends the client of a pod, which then prints its summary
    Stop,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads and an event queue can be had at start");
    match Cli::parse().command {
        Command::Client(arguments) => runtime.block_on(client::run(arguments)),
        Command::Wait => {
            runtime.block_on(client::until_told_to_stop());
            ExitCode::SUCCESS
        }
        Command::Stop => match kill(Pid::from_raw(1), Signal::SIGTERM) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("holdfast-e2e: cannot stop process 1: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
