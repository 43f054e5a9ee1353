//! The applied state of a node: every version of every key, in memory first and then in one file.
//!
//! ```text
//! apply -> active memtable --seal--> flushing memtable --one durable commit--> state file
//!               ^ reads                    ^ reads                                ^ reads
//! ```
//!
//! Invariants:
//! - What is applied is visible to reads at once, and durable after the next [`State::flush`]. After
//!   a crash the raft log replays from the durable applied position of each range, which is
//!   committed with the data it stands for.
//! - Versions never change, so reads at a revision agree however often a flush comes between.
//! - A position (revision, sub) belongs to one change in the whole cluster.
//! - Spans of ranges of one node never overlap, so keys carry no range number and a split moves
//!   nothing.
//! - After a failed write the handle refuses all others; a failed read panics.

mod codec;

mod memtable;

mod ordered;

mod tables;

mod rows;

mod parts;

mod flush;

mod read;

mod prune;

mod hash;

mod audit;

mod jobs;

mod snapshot;

mod staging;

pub use audit::{Audit, Audited};
pub use codec::{Facts, Position};
pub use prune::RevisionPin;
pub use snapshot::PinnedSnapshot;
pub use staging::Staging;

use crate::disk::sync_dir;
use crate::error::{Result, StorageError};
use audit::Audits;
use holdfast_core::ids::RangeId;
use holdfast_core::state::{Applied, ApplyBatch};
use memtable::Memtable;
use ordered::Ordered;
use parking_lot::{Mutex, RwLock};
use prune::Pins;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tables::DiskView;

/// Settings of a [`State`].
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// Size from which the active memtable should be flushed, bytes.
    pub memtable_bytes: usize,
    /// Pages of the state file to keep in memory, bytes.
    pub cache_bytes: usize,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { memtable_bytes: 32 << 20, cache_bytes: 192 << 20 }
    }
}

/// The open state of a node. Clones are handles on the same state, for any thread.
#[derive(Clone)]
pub struct State {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    options: StateOptions,
    database: Database,
    /// What reads look at. Held for a short time only, never across I/O.
    inner: RwLock<Inner>,
    /// Held by whoever changes the file: one at a time.
    writer: Mutex<()>,
    /// Held for as long as an install or a wipe takes, which is many turns of `writer`, and tried
    /// by pruning. Taken before `writer`.
    jobs: Mutex<()>,
    /// Positions that became durable and were not told yet.
    news: Mutex<BTreeMap<RangeId, Applied>>,
    staged: Arc<staging::Memory>,
    pins: Pins,
    audits: Audits,
    poisoned: AtomicBool,
}

struct Inner {
    active: Memtable,
    flushing: Option<Arc<Memtable>>,
    disk: Arc<DiskView>,
}

impl State {
    /// Opens the state file at `path`, or creates it, and finishes what a crash interrupted. Raft
    /// snapshots that were received and not installed are removed.
    pub fn open(path: &Path, options: StateOptions) -> Result<Self> {
        if !path.exists() {
            create(path)?;
        }
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(StorageError::io("open", path))?;
        // redb would take an empty one for a file that is to be made.
        let empty = file.metadata().map_err(StorageError::io("size", path))?.len() == 0;
        let backend = FileBackend::new(file).map_err(StorageError::state("open"))?;
        if empty {
            let what = format!("state file {}", path.display());
            return Err(StorageError::Corrupt { what, detail: "it is empty".into() });
        }
        Self::open_with_backend(path, options, backend)
    }

    /// Like [`State::open`], on a backend of the caller's; `path` names the place beside which
    /// received raft snapshots are staged. A power loss while an empty backend is opened for the
    /// first time can leave it unusable.
    pub fn open_with_backend(
        path: &Path,
        options: StateOptions,
        backend: impl StorageBackend,
    ) -> Result<Self> {
        let backend = Ordered::new(backend);
        let database = Self::builder(&options).create_with_backend(backend);
        Self::with_database(path, options, database)
    }

    fn builder(options: &StateOptions) -> redb::Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache_bytes);
        builder
    }

    fn with_database(
        path: &Path,
        options: StateOptions,
        database: Result<Database, redb::DatabaseError>,
    ) -> Result<Self> {
        let database = database.map_err(StorageError::state("open"))?;
        tables::prepare(&database)?;
        let disk = Arc::new(DiskView::open(&database)?);
        let state = Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                options,
                database,
                inner: RwLock::new(Inner { active: Memtable::default(), flushing: None, disk }),
                writer: Mutex::new(()),
                jobs: Mutex::new(()),
                news: Mutex::new(BTreeMap::new()),
                staged: Arc::default(),
                pins: Pins::default(),
                audits: Audits::default(),
                poisoned: AtomicBool::new(false),
            }),
        };
        state.finish_jobs()?;
        Ok(state)
    }

    /// Makes batches visible to reads, in order. In memory only: cheap, and lost at a crash.
    pub fn apply(&self, batches: &[ApplyBatch]) {
        if batches.is_empty() {
            return;
        }
        let mut inner = self.shared.inner.write();
        for batch in batches {
            inner.active.apply(batch);
        }
    }

    /// The position up to which a range is visible to reads.
    pub fn applied(&self, range: RangeId) -> Option<Applied> {
        let inner = self.shared.inner.read();
        let in_memory = inner.active.applied.get(&range).copied();
        in_memory
            .or_else(|| inner.flushing.as_ref()?.applied.get(&range).copied())
            .or_else(|| inner.disk.applied(range))
    }

    /// The durable position of each range in the file, by range.
    pub fn durable_applied(&self) -> Vec<(RangeId, Applied)> {
        self.shared.inner.read().disk.clone().applied_all()
    }

    /// Size of what the next [`State::flush`] would write, bytes.
    pub fn memtable_bytes(&self) -> usize {
        self.shared.inner.read().active.bytes
    }

    /// True if the active memtable is large enough to be flushed.
    pub fn wants_flush(&self) -> bool {
        self.memtable_bytes() >= self.shared.options.memtable_bytes
    }

    /// True if a flush is under way and the active memtable is full already: writes should wait.
    pub fn is_congested(&self) -> bool {
        let inner = self.shared.inner.read();
        inner.flushing.is_some() && inner.active.bytes >= self.shared.options.memtable_bytes
    }

    /// Size of the state file, bytes.
    pub fn size_on_disk(&self) -> Result<u64> {
        let path = &self.shared.path;
        std::fs::metadata(path).map(|file| file.len()).map_err(StorageError::io("size", path))
    }

    /// Size of the newest and all kept older versions in the file, bytes: what a file without gaps
    /// would need, about.
    pub fn size_in_use(&self) -> u64 {
        self.shared.inner.read().disk.meta().live_bytes
    }

    fn check_usable(&self) -> Result<()> {
        if self.shared.poisoned.load(Ordering::Acquire) {
            return Err(StorageError::Poisoned { what: "state file" });
        }
        Ok(())
    }
}

/// Makes an empty state file under another name first: one that a power loss left half made could
/// never be opened, nor told from a damaged one.
fn create(path: &Path) -> Result<()> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StorageError::io("remove", &new)(error));
        }
        _ => {}
    }
    let database = Database::create(&new).map_err(StorageError::state("create"))?;
    tables::prepare(&database)?;
    drop(database);
    std::fs::rename(&new, path).map_err(StorageError::io("rename", &new))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod format_tests;

#[cfg(test)]
mod staging_tests;

#[cfg(test)]
mod crash_tests;

#[cfg(test)]
mod concurrency_tests;
