//! Real processes: a development cluster is formed, used, hurt and healed.
//!
//! Every test has a cluster of its own, in a directory of its own, on ports of its own. They take
//! turns, because each wants the whole machine. Nothing sleeps for a guessed time: tests wait for
//! what they want to see, and fail when it does not come.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "process/bad_input.rs"]
mod bad_input;

#[path = "process/bootstrap.rs"]
mod bootstrap;

#[path = "process/certificates.rs"]
mod certificates;

#[path = "process/checks.rs"]
mod checks;

#[path = "process/cluster.rs"]
mod cluster;

#[path = "process/copies.rs"]
mod copies;

#[path = "process/cut_off.rs"]
mod cut_off;

#[path = "process/faults.rs"]
mod faults;

#[path = "process/front_end.rs"]
mod front_end;

#[path = "process/history.rs"]
mod history;

#[path = "process/levels.rs"]
mod levels;

#[path = "process/lifecycle.rs"]
mod lifecycle;

#[path = "process/recover.rs"]
mod recover;

#[path = "process/reprotect.rs"]
mod reprotect;

#[path = "process/nodes.rs"]
mod nodes;

#[path = "process/placement.rs"]
mod placement;

#[path = "process/shaping.rs"]
mod shaping;

#[path = "process/splitting.rs"]
mod splitting;

#[path = "process/tls.rs"]
mod tls;
