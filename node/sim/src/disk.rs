//! Disks of the simulated nodes: the raft log ([`log`]) and the applied state ([`state`]).
//!
//! Invariant: what a crash leaves is exactly what was synced, and of the rest some prefix.

pub mod log;

pub mod state;

pub use log::LogDisk;
pub use state::StateDisk;
