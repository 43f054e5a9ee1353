//! `holdfast-sim`: runs the simulated cluster under a seed, or under many.

use clap::Parser;
use holdfast_sim::run::{Plan, Report, run};
use std::process::ExitCode;
use std::time::Instant;

/// Runs the whole cluster in one process on virtual time, under faults drawn from a seed, and checks
/// that it keeps its promises. The same seed gives the same run.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  holdfast-sim --seed 42\n  holdfast-sim --seed 42 \
    --verbose | less\n  holdfast-sim --seed 1 --count 1000"
)]
struct Arguments {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// How many seeds to run, from that one up.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// End the faults after so many events.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    steps: u64,
    /// End the faults after so many seconds of virtual time.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Print every message.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = 0;
    for seed in arguments.seed..arguments.seed + arguments.count {
        let mut plan = Plan::new(seed);
        plan.chaos_ms = arguments.seconds * 1000;
        plan.steps_max = arguments.steps;
        plan.calm = arguments.calm;
        plan.options.verbose = arguments.verbose;
        eprintln!("seed {seed}");
        let start = Instant::now();
        let report = run(plan);
        print(&report, start.elapsed().as_millis());
        failed += u64::from(report.violation.is_some());
    }
    if failed > 0 {
        println!("{failed} of {} seeds failed", arguments.count);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print(report: &Report, millis: u128) {
    let Report {
        seed,
        trace,
        coverage,
        operations,
        succeeded,
        revisions,
        watches,
        virtual_ms,
        violation,
    } = report;
    println!(
        "seed {seed} trace {trace:016x}: {succeeded} of {operations} operations succeeded, \
         {revisions} revisions, {watches} watches, {virtual_ms} ms in {millis} ms"
    );
    println!("  {coverage:?}");
    if let Some(violation) = violation {
        println!("  VIOLATION: {violation}");
    }
}
