//! The `holdfast-node` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_server::cli::main()
}
