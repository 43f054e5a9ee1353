//! What can go wrong on disk.
//!
//! Invariant: after any of these from a write, the handle refuses everything else; the caller
//! stops the process. A retried fsync may lie, so nothing is retried here.

use std::path::PathBuf;

/// A failed operation of this crate.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, for example `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The raft log failed.
    #[error("cannot {action} the raft log")]
    Log {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        #[source]
        source: raft_engine::Error,
    },
    /// The state file failed.
    #[error("cannot {action} the state file")]
    State {
        /// What was attempted.
        action: &'static str,
        /// Why not. Boxed, since the largest of redb's errors would dominate this type.
        #[source]
        source: Box<redb::Error>,
    },
    /// An earlier write failed, so what is on disk is not known any more.
    #[error("an earlier write to the {what} failed; the process must stop")]
    Poisoned {
        /// `raft log` or `state file`.
        what: &'static str,
    },
    /// The data was written by a version that this one does not know.
    #[error("the {what} has format {found}; this version reads formats up to {known}")]
    Format {
        /// Which data.
        what: &'static str,
        /// The format on disk.
        found: u64,
        /// The newest format that this version reads.
        known: u64,
    },
    /// What was read back is not what was written.
    #[error("{what} is corrupt: {detail}")]
    Corrupt {
        /// Which data.
        what: String,
        /// In which way.
        detail: String,
    },
    /// Another process works in the data directory.
    #[error("data directory {} is in use by process {process}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process id that its lock file names, or `?`.
        process: String,
    },
    /// The data directory belongs to something else.
    #[error("data directory {} belongs to {found}, not to {wanted}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
}

impl StorageError {
    /// Wraps an I/O error with what was attempted.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Wraps an error of the raft log.
    pub(crate) fn log(action: &'static str) -> impl FnOnce(raft_engine::Error) -> Self {
        move |source| Self::Log { action, source }
    }

    /// Wraps an error of the state file.
    pub(crate) fn state<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::State { action, source: Box::new(source.into()) }
    }
}

/// Shorthand of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
