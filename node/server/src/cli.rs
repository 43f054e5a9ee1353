//! The `holdfast-node` command: its words, help and exit codes.
//!
//! Exit codes, which scripts may rely on: see [`Exit`].

mod admin;

mod check;

mod client;

mod output;

mod recover;

mod placement;

mod security;

mod status;

pub use security::ClientSecurity;

use crate::config::{ServeArgs, expand_config_file};
use crate::dev::DevArgs;
use crate::{dev, serve};
use admin::{
    DrainArgs, MergeArgs, MoveArgs, RangesArgs, ReprotectArgs, SplitArgs, TransferArgs, UndrainArgs,
};
use check::CheckArgs;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use client::ClientArgs;
use placement::PlacementArgs;
use recover::RecoverArgs;
use status::StatusArgs;
use std::ffi::OsString;
use std::process::ExitCode;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and the answer is "yes" where there is one.
    Success = 0,
    /// Done, and the answer is "no": for example, the cluster is not fully protected.
    Negative = 1,
    /// The command line or configuration makes no sense here; nothing was changed.
    Usage = 2,
    /// It failed while running.
    Failure = 3,
    /// No node could be reached.
    Unreachable = 4,
}

/// An ending other than success, with the line that tells the user why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong and what to do, in one line; empty if all was said already.
    pub line: String,
}

impl Failure {
    /// Wrong flags, files or directories.
    pub fn usage(line: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, line: line.into() }
    }

    /// Something broke.
    pub fn broken(line: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, line: line.into() }
    }

    /// Nobody answers.
    pub fn unreachable(line: impl Into<String>) -> Self {
        Self { exit: Exit::Unreachable, line: line.into() }
    }
}

const AFTER_HELP: &str = "\
Examples:
  holdfast-node dev                                   a three-node cluster on this machine
  holdfast-node dev --split-keys g,n,t --data ./data  with four ranges, kept in ./data
  holdfast-node status                                how protected the data is
  holdfast-node status --wait Full --timeout 60s      wait until every range has all its copies

Exit codes:
  0  done (status: every range has all its copies; check: all copies are equal)
  1  the answer is no (status: not fully protected; check: copies differ)
  2  wrong flags, or a directory or port that cannot be used; nothing was changed
  3  failed while running
  4  no node could be reached";

/// A replicated, range-sharded key-value store that speaks the etcd v3 API
#[derive(Debug, Parser)]
#[command(name = "holdfast-node", version, after_help = AFTER_HELP, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node
    #[command(after_help = SERVE_HELP, args_override_self = true)]
    Serve(Box<ServeArgs>),
    /// Run a whole cluster on this machine, for development and tests
    #[command(after_help = dev::AFTER_HELP, args_override_self = true)]
    Dev(DevArgs),
    /// Show how protected the data is; exit code 0 only for Full
    #[command(after_help = status::AFTER_HELP)]
    Status(StatusArgs),
    /// List the ranges: keys, copies, leader
    Ranges(RangesArgs),
    /// List the nodes: state, ranges, leaders
    Nodes(ClientArgs),
    /// Compare the copies of every range; exit code 0 only if all are equal
    #[command(after_help = check::AFTER_HELP)]
    Check(CheckArgs),
    /// Cut the range that holds a key, so that the key starts a new range
    #[command(after_help = "Example:\n  holdfast-node split users/m\n  holdfast-node split 0x00ff")]
    Split(SplitArgs),
    /// Give the leadership of a range to another node
    #[command(after_help = "Example:\n  holdfast-node transfer 3 2    # range 3 to node 2")]
    Transfer(TransferArgs),
    /// Take all leaders away from a node and keep them away, for example before maintenance
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Let a drained node lead again
    Undrain(UndrainArgs),
    /// Make the copies of a node that does not answer on other nodes, now
    #[command(after_help = REPROTECT_HELP)]
    Reprotect(ReprotectArgs),
    /// Move one copy of a range to another node
    #[command(after_help = MOVE_HELP)]
    Move(MoveArgs),
    /// Merge a range with its right neighbour, into one
    #[command(after_help = MERGE_HELP)]
    Merge(MergeArgs),
    /// Give up a majority that is gone for good: make one stopped node the whole cluster
    #[command(after_help = recover::AFTER_HELP)]
    Recover(RecoverArgs),
    /// How many copies the keys under a prefix have
    #[command(after_help = placement::AFTER_HELP)]
    Placement(PlacementArgs),
}

const DRAIN_HELP: &str = "\
Examples:
  holdfast-node drain 2               leads nothing until `undrain 2`, keeps its copies
  holdfast-node drain 2 --ttl 10m     leads nothing for ten minutes from the last time this is said
  holdfast-node drain 2 --replicas    gives its copies to other nodes too, then it is gone for good;
                                      `undrain 2` before the end keeps what it still has";

const MOVE_HELP: &str = "\
Example:
  holdfast-node move --range 3 --from 2 --to 4 --wait --timeout 5m

A copy is made on the new node; when it has everything, it takes the place of the old one in one step.
Refused, with the reason, if that cannot be done now, or if the cluster would move a copy back to
even nodes out. `ranges` shows it under way.";

const MERGE_HELP: &str = "\
Example:
  holdfast-node merge --range 3 --wait

The right neighbour serves nothing for some tenths of a second; its requests wait. Copies are brought to
the same nodes first, if they are not. Refused, with the reason, if that cannot be done now; called off
by itself, with both ranges as before, if it does not come about in five seconds.";

const REPROTECT_HELP: &str = "\
Example:
  holdfast-node reprotect 3 && holdfast-node status --wait Full --timeout 10m

A supervisor (the operator, or `dev`) does this by itself after the reprotection delay. A node that
comes back before the end keeps what it has; afterwards it is refused for ever, and its place is
filled by a node with an empty disk.";

const SERVE_HELP: &str = "\
Examples:
  holdfast-node serve --data ./d                      a cluster of one, for a try
  holdfast-node serve --name a --data /var/lib/holdfast \\
    --client-listen 0.0.0.0:2379 --advertise-client a.example:2379 \\
    --peer-listen 0.0.0.0:2380 --advertise-peer a.example:2380 \\
    --http-listen 0.0.0.0:2381 --advertise-http a.example:2381 \\
    --initial-cluster a=a.example:2380,b=b.example:2380,c=c.example:2380
  holdfast-node serve --config /etc/holdfast.conf     flags from a file, one `name = value` a line

A full directory goes on where it stopped; --initial-cluster-state says what an empty one does.";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let exit = match run(std::env::args_os().collect()) {
        Ok(()) => Exit::Success,
        Err(failure) => {
            if !failure.line.is_empty() {
                eprintln!("holdfast-node: {}", failure.line);
            }
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    match parse(arguments)?.command {
        Command::Serve(args) => serve::run(*args),
        Command::Dev(args) => dev::run(args),
        Command::Status(args) => status::run(args),
        Command::Ranges(args) => admin::ranges(args),
        Command::Nodes(args) => admin::nodes(args),
        Command::Check(args) => check::run(args),
        Command::Split(args) => admin::split(args),
        Command::Transfer(args) => admin::transfer(args),
        Command::Drain(args) => admin::drain(args),
        Command::Undrain(args) => admin::undrain(args),
        Command::Move(args) => admin::move_copy(args),
        Command::Merge(args) => admin::merge(args),
        Command::Placement(args) => placement::run(args),
        Command::Reprotect(args) => admin::reprotect(args),
        Command::Recover(args) => recover::run(args),
    }
}

/// Parses, and once more with the flags of a configuration file if one is named. Help and usage
/// errors end the process here.
fn parse(arguments: Vec<OsString>) -> Result<Cli, Failure> {
    let cli = parse_or_exit(arguments.clone());
    let Command::Serve(args) = &cli.command else { return Ok(cli) };
    let Some(file) = &args.config else { return Ok(cli) };
    let expanded = expand_config_file(&arguments, file).map_err(Failure::usage)?;
    Ok(parse_or_exit(expanded))
}

fn parse_or_exit(arguments: Vec<OsString>) -> Cli {
    let matches = Cli::command().get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_later_flag_replaces_an_earlier_one() {
        let cli = Cli::try_parse_from(["n", "serve", "--name=a", "--name", "b"]).unwrap();
        let Command::Serve(args) = cli.command else { panic!() };
        assert_eq!(args.name, "b");
    }
}
