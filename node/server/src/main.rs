//! The `holdfast-node` command.

use std::process::ExitCode;

/// Thousands of ranges come and go in many threads: memory that was used once must not stay taken.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    holdfast_server::cli::main()
}
