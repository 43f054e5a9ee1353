//! The raft log of all ranges of a node: one append-only log, one write and at most one fsync for
//! any number of ranges.
//!
//! Invariants:
//! - [`RaftLog::write`] with `sync` returns only when this write and all before it are durable.
//! - A range's log is `truncated.index + 1 ..= last_index`, without gaps; `truncated` keeps the
//!   term of the position below which the log was cut. A log without entries is [`parked`].
//! - After one failed write the handle refuses all further ones. A failed fsync panics inside the
//!   engine, which ends the process as well.

mod files;
mod parked;

use crate::error::{Result, StorageError};
use crate::faulty::FaultyDisk;
use files::Files;
use holdfast_core::effects::{LogReads, LogWrite, Persist, ReplicaBoot};
use holdfast_core::ids::{Index, RangeId, ReplicaId, Term};
use holdfast_core::state::Applied;
use parked::{Parked, Places};
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Engine group of the log's own rows. No range has this number.
const OWN_GROUP: u64 = 0;
/// Own row: format of everything this file writes.
const FORMAT_KEY: &[u8] = b"format";
/// Own row: rewritten to force an fsync when there is nothing else to write.
const SYNC_KEY: &[u8] = b"sync";
/// Own rows: the last replica of a range that was removed from this node. Not among the range's own
/// rows, which go when its log does.
const REMOVED_KEY: &[u8] = b"removed/";
/// Above all [`REMOVED_KEY`]s.
const REMOVED_END: &[u8] = b"removed0";
/// The format of this version. Since 2, ranges without entries are parked.
const FORMAT: u64 = 2;
/// The oldest format that is taken over: nothing in it has to change.
const FORMAT_OLDEST: u64 = 1;
/// Row of a range: its protobuf hard state.
const HARD_STATE_KEY: &[u8] = b"h";
/// Row of a range: index and term of the position below which its log was cut.
const TRUNCATED_KEY: &[u8] = b"t";
/// Batches from this size on are compressed: bulk catch-up, where disk bandwidth is what counts.
/// Below, compression would be a large part of the CPU time of an entry.
const COMPRESS_FROM_BYTES: u64 = 512 * 1024;

/// The memory of a write that is larger than this is not kept for the next one.
const SCRATCH_BYTES: usize = 256 << 10;

/// The same, for the number of ranges that it changes.
const SCRATCH_WRITES: usize = 256;

/// Settings of a [`RaftLog`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of one log file, bytes.
    pub file_bytes: u64,
    /// [`RaftLog::purge`] starts to free files when the log is larger than this, bytes. Not less
    /// than `file_bytes`.
    pub purge_from_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, purge_from_bytes: 256 << 20 }
    }
}

/// Tells the engine how to read an entry's index.
struct EntryCodec;

impl MessageExt for EntryCodec {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The open log of a node. All methods may be called from any thread.
pub struct RaftLog {
    engine: Engine<Files>,
    /// Reused, so that a write allocates little.
    scratch: Mutex<LogBatch>,
    /// Something was written without fsync since the last fsync.
    unsynced: AtomicBool,
    /// Files are being freed.
    purging: AtomicBool,
    poisoned: AtomicBool,
}

impl RaftLog {
    /// Opens the log in `dir`, or creates it. A tail that was torn by a crash is cut off.
    pub fn open(dir: &Path, options: &LogOptions) -> Result<Self> {
        Self::open_on(Files::real(), dir, options)
    }

    /// Like [`RaftLog::open`], on a disk that fails on purpose.
    pub fn open_faulty(dir: &Path, options: &LogOptions, disk: &FaultyDisk) -> Result<Self> {
        Self::open_on(Files::faulty(disk), dir, options)
    }

    fn open_on(files: Files, dir: &Path, options: &LogOptions) -> Result<Self> {
        let engine = Engine::open_with_file_system(config(dir, options), Arc::new(files))
            .map_err(StorageError::log("open"))?;
        let log = Self {
            engine,
            scratch: Mutex::new(LogBatch::default()),
            unsynced: AtomicBool::new(false),
            purging: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        };
        log.check_format()?;
        log.recut()?;
        Ok(log)
    }

    /// Writes one turn's changes; see [`RaftLog::write`].
    pub fn persist(&self, persist: &Persist) -> Result<()> {
        self.write(&persist.writes, persist.sync)
    }

    /// Writes changes of any number of ranges as one unit: after a crash all of it is there or
    /// nothing. Within one [`LogWrite`], `destroy` comes first, then `truncate`, then the rest.
    /// Entries are always synced, whatever `sync` says.
    pub fn write<'a>(
        &self,
        writes: impl IntoIterator<Item = &'a LogWrite>,
        sync: bool,
    ) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(StorageError::Poisoned { what: "raft log" });
        }
        let mut batch = self.scratch.lock();
        let sync = sync || self.purging.load(Ordering::Acquire);
        let result = self.write_batch(&mut batch, writes, sync);
        if result.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    fn write_batch<'a>(
        &self,
        batch: &mut LogBatch,
        writes: impl IntoIterator<Item = &'a LogWrite>,
        mut sync: bool,
    ) -> Result<()> {
        let mut places = Places::new(&self.engine);
        let mut count = 0;
        for write in writes {
            count += 1;
            // The engine checks the entries of the last batch only when it opens, so a power loss
            // must not leave a batch with torn entries before another one.
            sync |= !write.entries.is_empty();
            let parked = places.park(batch, write)?;
            add(batch, write, parked).map_err(StorageError::log("encode a write to"))?;
        }
        if batch.is_empty() {
            if !sync || !self.unsynced.load(Ordering::Acquire) {
                return Ok(());
            }
            // The engine skips the fsync of an empty batch.
            batch
                .put(OWN_GROUP, SYNC_KEY.to_vec(), Vec::new())
                .map_err(StorageError::log("write to"))?;
        }
        let large = batch.approximate_size() > SCRATCH_BYTES || count > SCRATCH_WRITES;
        self.engine.write(batch, sync).map_err(StorageError::log("write to"))?;
        if large {
            *batch = LogBatch::default();
        }
        self.unsynced.store(!sync, Ordering::Release);
        Ok(())
    }

    /// What the log knows of a range, or `None` if it was never written, or destroyed without a
    /// replica having been removed.
    /// [`ReplicaBoot::applied`] is left at its default; the state knows it.
    pub fn boot(&self, range: RangeId) -> Result<Option<ReplicaBoot>> {
        let (hard_state, truncated, last_entry) = match Parked::of(&self.engine, range)? {
            Some(Parked { hard_state, truncated }) => (Some(hard_state), Some(truncated), None),
            None => {
                let hard_state = self.engine.get_message::<HardState>(range.0, HARD_STATE_KEY);
                let hard_state = hard_state.map_err(StorageError::log("read"))?;
                (hard_state, self.truncated(range)?, self.engine.last_index(range.0))
            }
        };
        let removed = self.removed(range)?;
        let nothing = hard_state.is_none() && truncated.is_none() && last_entry.is_none();
        if nothing && removed.is_none() {
            return Ok(None);
        }
        let truncated = truncated.unwrap_or_default();
        Ok(Some(ReplicaBoot {
            range,
            hard_state: hard_state.unwrap_or_default(),
            truncated,
            last_index: last_entry.unwrap_or(0).max(truncated.index),
            applied: Applied::default(),
            removed: removed.unwrap_or_default(),
        }))
    }

    /// The ranges of which the log knows anything, by number.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn ranges(&self) -> Result<Vec<RangeId>> {
        let groups = self.engine.raft_groups().into_iter().filter(|group| *group != OWN_GROUP);
        let mut ranges: BTreeSet<RangeId> =
            groups.map(RangeId).filter(|range| !matches!(self.boot(*range), Ok(None))).collect();
        ranges.extend(Parked::all(&self.engine)?);
        self.engine
            .scan_raw_messages(OWN_GROUP, Some(REMOVED_KEY), Some(REMOVED_END), false, |key, _| {
                let range = key.strip_prefix(REMOVED_KEY).and_then(|id| id.try_into().ok());
                ranges.extend(range.map(|id| RangeId(u64::from_be_bytes(id))));
                true
            })
            .map_err(StorageError::log("read"))?;
        Ok(ranges.into_iter().collect())
    }

    /// Disk space used, bytes.
    pub fn bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    /// Frees files whose entries are all truncated, moving the few that are not. Slow: call it
    /// from a background thread, every few seconds. Returns the ranges that hold files back and
    /// should be truncated further.
    pub fn purge(&self) -> Result<Vec<RangeId>> {
        // A file is freed when newer rows replace its rows. Those must be durable first: a power
        // loss would take both, and with them a vote. So nothing is left unsynced meanwhile.
        self.purging.store(true, Ordering::Release);
        let outcome = self
            .write([], true)
            .and_then(|()| self.engine.purge_expired_files().map_err(StorageError::log("purge")));
        self.purging.store(false, Ordering::Release);
        if outcome.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        Ok(outcome?.into_iter().filter(|group| *group != OWN_GROUP).map(RangeId).collect())
    }

    fn truncated(&self, range: RangeId) -> Result<Option<Applied>> {
        let Some(row) = self.engine.get(range.0, TRUNCATED_KEY) else { return Ok(None) };
        let row: [u8; 16] = row.try_into().map_err(|row: Vec<u8>| StorageError::Corrupt {
            what: format!("the truncation row of range {range}"),
            detail: format!("{} bytes", row.len()),
        })?;
        let number = u128::from_be_bytes(row);
        Ok(Some(Applied { index: (number >> 64) as u64, term: number as u64 }))
    }

    fn removed(&self, range: RangeId) -> Result<Option<ReplicaId>> {
        let Some(row) = self.engine.get(OWN_GROUP, &removed_key(range)) else { return Ok(None) };
        let row: [u8; 8] = row.try_into().map_err(|row: Vec<u8>| StorageError::Corrupt {
            what: format!("the row of removed replicas of range {range}"),
            detail: format!("{} bytes", row.len()),
        })?;
        Ok(Some(ReplicaId(u64::from_be_bytes(row))))
    }

    fn check_format(&self) -> Result<()> {
        let found = self.engine.get(OWN_GROUP, FORMAT_KEY);
        let is_new = found.is_none() && self.engine.is_empty();
        let found = found
            .and_then(|row| row.try_into().ok())
            .map_or(0, |row: [u8; 8]| u64::from_be_bytes(row));
        if found == FORMAT {
            return Ok(());
        }
        if !is_new && !(FORMAT_OLDEST..FORMAT).contains(&found) {
            return Err(StorageError::Format { what: "raft log", found, known: FORMAT });
        }
        // Before anything is written that an older version would not understand.
        let mut batch = LogBatch::default();
        batch
            .put(OWN_GROUP, FORMAT_KEY.to_vec(), FORMAT.to_be_bytes().to_vec())
            .and_then(|()| self.engine.write(&mut batch, true))
            .map_err(StorageError::log("write the format of"))?;
        Ok(())
    }

    /// Cuts each range's log again where it was cut. Freeing a file can lose the cut, and with it
    /// entries that were replaced, while the old entries, moved elsewhere, come back at the next
    /// start: those before the cut, and, if the log was empty, replaced ones after it. The latter
    /// are of older terms than the cut, which entries that belong there never are. What comes back
    /// of a range that is parked goes again.
    fn recut(&self) -> Result<()> {
        let mut batch = LogBatch::default();
        for group in self.engine.raft_groups() {
            if group != OWN_GROUP && Parked::of(&self.engine, RangeId(group))?.is_some() {
                batch.add_command(group, Command::Clean);
                continue;
            }
            let Some(truncated) = self.truncated(RangeId(group))? else { continue };
            let first = self.engine.first_index(group).unwrap_or(u64::MAX);
            let last = self.engine.last_index(group).unwrap_or(0);
            let start = first.max(truncated.index + 1);
            if start <= last && self.entry_term(group, start)? < truncated.term {
                batch.add_command(group, Command::Compact { index: last + 1 });
            } else if first <= truncated.index {
                batch.add_command(group, Command::Compact { index: truncated.index + 1 });
            }
        }
        self.engine.write(&mut batch, true).map_err(StorageError::log("cut"))?;
        Ok(())
    }

    fn entry_term(&self, group: u64, index: Index) -> Result<Term> {
        let entry = self.engine.get_entry::<EntryCodec>(group, index);
        let entry = entry.map_err(StorageError::log("read"))?;
        Ok(entry.expect("the index is between the first and the last").term)
    }
}

impl LogReads for RaftLog {
    fn entries(&self, range: RangeId, low: Index, high: Index, max_bytes: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let limit = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if let Err(error) = self.engine.fetch_entries_to::<EntryCodec>(
            range.0,
            low,
            high,
            Some(limit),
            &mut entries,
        ) {
            panic!("cannot read entries {low}..{high} of range {range} from the raft log: {error}");
        }
        assert!(
            low >= high || entries.first().is_some_and(|entry| entry.index == low),
            "the raft log lost entry {low} of range {range}"
        );
        entries
    }
}

fn config(dir: &Path, options: &LogOptions) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        // A bad record in the middle means that acknowledged entries are lost: refuse to open.
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        batch_compression_threshold: ReadableSize(COMPRESS_FROM_BYTES),
        target_file_size: ReadableSize(options.file_bytes),
        purge_threshold: ReadableSize(options.purge_from_bytes.max(options.file_bytes)),
        ..Config::default()
    }
}

/// The row under [`TRUNCATED_KEY`].
fn encode_cut(Applied { index, term }: Applied) -> Vec<u8> {
    ((u128::from(index) << 64) | u128::from(term)).to_be_bytes().to_vec()
}

fn removed_key(range: RangeId) -> Vec<u8> {
    [REMOVED_KEY, &range.0.to_be_bytes()].concat()
}

/// The part of a change that is not made by [`Places::park`].
fn add(batch: &mut LogBatch, write: &LogWrite, parked: bool) -> raft_engine::Result<()> {
    let LogWrite { range, entries, hard_state, truncate, destroy, removed } = write;
    assert_ne!(range.0, OWN_GROUP, "range 0 is the log's own");
    if let Some(removed) = removed {
        batch.put(OWN_GROUP, removed_key(*range), removed.0.to_be_bytes().to_vec())?;
    }
    if parked {
        return Ok(());
    }
    if *destroy {
        batch.add_command(range.0, Command::Clean);
    }
    let mut entries = entries.as_slice();
    if let Some(cut) = *truncate {
        batch.add_command(range.0, Command::Compact { index: cut.index + 1 });
        batch.put(range.0, TRUNCATED_KEY.to_vec(), encode_cut(cut))?;
        let cut = entries.iter().take_while(|entry| entry.index <= cut.index).count();
        entries = &entries[cut..];
    }
    batch.add_entries::<EntryCodec>(range.0, entries)?;
    if let Some(hard_state) = hard_state {
        batch.put_message(range.0, HARD_STATE_KEY.to_vec(), hard_state)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod crash_tests;
