//! Keeps: the raft log, the applied state, the identity of a data directory, raft snapshots.
//!
//! Everything here is synchronous and starts no thread: the caller decides which thread pays.
//! What is read back is checked, and what fails its check stops the process; a failed write is
//! returned once, and the handle refuses everything after it.

pub mod error;

pub mod disk;

pub mod log;

pub mod state;

pub mod faulty;

#[cfg(test)]
mod seeds;

pub use disk::{Disk, Identity, Room, replace_json};
pub use error::{Result, StorageError};
pub use log::{LogOptions, RaftLog};
pub use state::{Facts, PinnedSnapshot, Position, RevisionPin, Staging, State, StateOptions};
