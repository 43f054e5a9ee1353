//! Work on a range that is too long for one transaction: wiping it, installing a raft snapshot.
//!
//! ```text
//! flush, write the job down  ->  remove old rows, slice by slice  ->  load new rows, slice by slice
//!                                            ->  position and system rows, forget the job: one commit
//! ```
//!
//! A raft snapshot for a range of which nothing is here yet, as all are of which copies are made anew,
//! is written down as a wipe: what a crash leaves of it is removed, and it is as if it had not come. So what
//! was staged need not be durable, nor a file at all, which spares the disk half of the work. Where
//! something is replaced it is a file, made durable, before the job is written down.
//!
//! Invariants: a job that was written down is done, if need be again from its start when the file
//! is opened after a crash. While it runs the range has no position, other ranges are read, applied
//! and flushed, and nothing is applied to the job's keys.

use crate::disk::sync_dir;
use crate::error::{Result, StorageError};
use crate::state::State;
use crate::state::codec::{
    Facts, HEAD_LEN, Position, encode_head, history_key, lease_key, system_key,
};
use crate::state::rows::{Link, count_bytes, remove_keys, remove_log, write_log};
use crate::state::snapshot::{Change, HEADS_AT_ONCE, Reader};
use crate::state::staging::Staged;
use crate::state::tables::{APPLIED, HEADS, HISTORY, JOBS, LEASES, SYSTEM};
use bytes::Bytes;
use holdfast_core::ids::RangeId;
use holdfast_core::key::{Span, successor};
use holdfast_core::state::Applied;
use parking_lot::MutexGuard;
use redb::WriteTransaction;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;

/// Versions gathered before any is removed, so that they can be removed in the order of the log.
const WIPE_GATHER: usize = 500_000;
/// Versions removed in one transaction.
const WIPE_SLICE: usize = 20_000;
/// Keys and values held in memory before they are written in the order of the log, bytes. Fewer
/// would write most pages of the log again and again.
const LOAD_GATHER_BYTES: usize = 96 << 20;
/// Versions held in memory before they are written.
const LOAD_GATHER: usize = 300_000;
/// Versions written in one transaction.
const LOAD_SLICE: usize = 20_000;
/// The same in bytes of their keys and values: what goes to the disk at once makes the raft log wait.
const LOAD_SLICE_BYTES: usize = 2 << 20;

/// What is to be done to a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Job {
    /// Remove its keys, system rows and position.
    Wipe { spans: Vec<Span> },
    /// Remove these keys and load a staged raft snapshot.
    Install { spans: Vec<Span>, file: String, applied: Applied },
}

impl State {
    /// Removes all keys in `spans`, and the system rows and the position of `range`, durably.
    /// Nothing may be applied to these keys or this range meanwhile.
    pub fn wipe(&self, range: RangeId, spans: &[Span]) -> Result<()> {
        let _jobs = self.begin(spans)?;
        let job = Job::Wipe { spans: spans.to_vec() };
        self.write_down(range, &job)?;
        self.run(range, &job)
    }

    /// Replaces all keys in `clear` and the system rows of `range` by the staged raft snapshot
    /// number `staged`, durably, at position `applied`, and removes what was staged; from memory it is
    /// gone at once, whatever comes of it. Nothing may be applied to these keys or this range meanwhile.
    pub fn install(
        &self,
        staged: u64,
        range: RangeId,
        applied: Applied,
        clear: &[Span],
    ) -> Result<()> {
        let staged = self.staged(staged);
        let header = Reader::open(&staged)?.header()?;
        if (header.range, header.applied) != (range, applied) {
            return Err(StorageError::Corrupt {
                what: staged.path().display().to_string(),
                detail: format!(
                    "it is of range {} at {:?}, wanted is range {range} at {applied:?}",
                    header.range, header.applied
                ),
            });
        }
        let mut spans = clear.to_vec();
        spans.push(header.span);
        let _jobs = self.begin(&spans)?;
        if !self.has_something(range, &spans) {
            self.write_down(range, &Job::Wipe { spans })?;
            return self.load_all(range, &staged, applied);
        }
        // Something is replaced: what replaces it must outlive a crash from here on.
        let path = staged.into_file()?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        make_durable(&self.staging_dir(), &file)?;
        let job = Job::Install { spans, file, applied };
        self.write_down(range, &job)?;
        self.run(range, &job)
    }

    /// Does again what a crash interrupted, and removes what was staged before it.
    pub(super) fn finish_jobs(&self) -> Result<()> {
        let jobs = self.shared.inner.read().disk.jobs();
        for (range, row) in jobs {
            let job = postcard::from_bytes(&row).map_err(|error| StorageError::Corrupt {
                what: format!("the unfinished work on range {range}"),
                detail: error.to_string(),
            })?;
            self.run(range, &job)?;
        }
        let dir = self.staging_dir();
        let Ok(files) = std::fs::read_dir(&dir) else { return Ok(()) };
        for file in files.flatten() {
            std::fs::remove_file(file.path()).map_err(StorageError::io("remove", file.path()))?;
        }
        Ok(())
    }

    /// Flushes, and keeps other work of this kind away while the guard lives.
    fn begin(&self, spans: &[Span]) -> Result<MutexGuard<'_, ()>> {
        self.shared.audits.disturb(spans);
        let jobs = self.shared.jobs.lock();
        let _writer = self.shared.writer.lock();
        self.check_usable()?;
        self.flush_locked()?;
        Ok(jobs)
    }

    /// Is there anything of the range, or any key of these, in the file? Nothing is written to them
    /// meanwhile.
    fn has_something(&self, range: RangeId, spans: &[Span]) -> bool {
        let disk = self.shared.inner.read().disk.clone();
        let mut spans = spans.iter().filter(|span| !span.is_empty());
        disk.applied(range).is_some()
            || spans.any(|span| !disk.heads(&span.start, span.end.as_ref(), 1).is_empty())
    }

    /// From here on the job is done, whatever happens.
    fn write_down(&self, range: RangeId, job: &Job) -> Result<()> {
        let row = postcard::to_stdvec(job).expect("plain data always serialises");
        self.slice(|transaction| {
            transaction.open_table(JOBS)?.insert(range.0, row.as_slice())?;
            forget_range(transaction, range)
        })?;
        self.shared.news.lock().remove(&range);
        Ok(())
    }

    fn run(&self, range: RangeId, job: &Job) -> Result<()> {
        let (Job::Wipe { spans } | Job::Install { spans, .. }) = job;
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let mut next = Some(span.start.clone());
            while let Some(from) = next {
                next = self.wipe_part(&from, span)?;
            }
        }
        match job {
            Job::Wipe { spans: _ } => self.slice(|transaction| {
                transaction.open_table(JOBS)?.remove(range.0)?;
                Ok(())
            }),
            Job::Install { spans: _, file, applied } => {
                self.load_all(range, &Staged::File(self.staging_dir().join(file)), *applied)
            }
        }
    }

    /// Loads a staged raft snapshot, takes its position, forgets the job, and removes what was staged.
    fn load_all(&self, range: RangeId, staged: &Staged, applied: Applied) -> Result<()> {
        let system = self.load(staged)?;
        self.slice(|transaction| {
            let mut table = transaction.open_table(SYSTEM)?;
            for (key, value) in &system {
                table.insert(system_key(range, key).as_slice(), value.as_ref())?;
            }
            let mut table = transaction.open_table(APPLIED)?;
            table.insert(range.0, (applied.index, applied.term))?;
            transaction.open_table(JOBS)?.remove(range.0)?;
            Ok(())
        })?;
        self.shared.news.lock().insert(range, applied);
        staged.remove()
    }

    /// Removes some keys of `span` from `from` on; returns where to go on.
    ///
    /// Old versions go first: what a crash leaves of a key is still found from its newest version.
    fn wipe_part(&self, from: &Bytes, span: &Span) -> Result<Option<Bytes>> {
        let disk = self.shared.inner.read().disk.clone();
        let mut positions = Vec::new();
        let mut leases = Vec::new();
        let mut found = false;
        let mut start = Some(from.clone());
        while let Some(from) = start.take_if(|_| positions.len() < WIPE_GATHER) {
            let heads = disk.heads(&from, span.end.as_ref(), HEADS_AT_ONCE);
            start = heads
                .last()
                .filter(|_| heads.len() == HEADS_AT_ONCE)
                .map(|(key, _)| successor(key));
            found |= !heads.is_empty();
            for (key, head) in heads {
                positions.extend(disk.positions(&key, &head));
                if head.lease != 0 {
                    leases.push((head.lease, key));
                }
            }
        }
        drop(disk);
        // Every row of a key but those of the log is written and removed with its head.
        if !found {
            return Ok(start);
        }
        positions.sort_unstable();
        for positions in positions.chunks(WIPE_SLICE) {
            self.slice(|transaction| remove_log(transaction, positions))?;
        }
        let end = start.as_ref().or(span.end.as_ref());
        self.slice(|transaction| remove_keys(transaction, from, end.map(AsRef::as_ref), &leases))?;
        Ok(start)
    }

    /// Loads the changes of a staged raft snapshot; returns its system rows.
    fn load(&self, staged: &Staged) -> Result<Vec<(Bytes, Bytes)>> {
        let mut reader = Reader::open(staged)?;
        reader.header()?;
        let system = reader.system()?;
        // What this node has pruned would never be found again.
        let pruned = self.shared.inner.read().disk.meta().pruned;
        let mut changes = Vec::new();
        let mut bytes = 0;
        let mut hidden_key = None;
        while let Some(change) = reader.next_change()? {
            let Change { key, version, newest: _ } = &change;
            if hidden_key.as_ref() == Some(key) {
                continue;
            }
            if version.mod_revision <= pruned {
                hidden_key = Some(key.clone());
                if version.value.is_none() && version.mod_revision < pruned {
                    continue;
                }
            }
            if bytes >= LOAD_GATHER_BYTES || changes.len() >= LOAD_GATHER {
                self.load_part(&changes, Some(&change))?;
                changes.clear();
                bytes = 0;
            }
            bytes += key.len() + version.value.as_ref().map_or(0, Bytes::len);
            changes.push(change);
        }
        reader.end()?;
        self.load_part(&changes, None)?;
        Ok(system)
    }

    /// Writes changes, those of a key from the newest to the oldest. `next` is the change that
    /// follows the last one: perhaps the older version of its key.
    fn load_part(&self, changes: &[Change], next: Option<&Change>) -> Result<()> {
        for changes in changes.chunks(LOAD_SLICE) {
            self.slice(|transaction| load_keys(transaction, changes))?;
        }
        let followers = changes.iter().skip(1).map(Some).chain([next]);
        let mut links: Vec<Link<'_>> = changes
            .iter()
            .zip(followers)
            .map(|(Change { key, version, newest: _ }, follower)| Link {
                position: Position::of(version),
                previous: follower
                    .filter(|follower| follower.key == *key)
                    .map(|follower| Position::of(&follower.version)),
                key,
                version,
            })
            .collect();
        links.sort_unstable_by_key(|link| link.position);
        let mut rest = links.as_slice();
        while !rest.is_empty() {
            let (links, others) = rest.split_at(slice_length(rest));
            self.slice(|transaction| write_log(transaction, links))?;
            rest = others;
        }
        Ok(())
    }

    fn slice<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let _writer = self.shared.writer.lock();
        self.check_usable()?;
        self.change(write, |_| {})
    }
}

/// A crash from here on leaves the file as it is.
fn make_durable(dir: &Path, file: &str) -> Result<()> {
    let path = dir.join(file);
    File::open(&path).and_then(|file| file.sync_all()).map_err(StorageError::io("write", &path))?;
    sync_dir(dir)
}

/// How many of these go into one transaction: one at least.
fn slice_length(links: &[Link<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |link: &&Link<'_>| {
        bytes += link.key.len() + link.version.value.as_ref().map_or(0, Bytes::len);
        bytes <= LOAD_SLICE_BYTES
    };
    links.iter().take(LOAD_SLICE).take_while(fits).count().max(1)
}

fn forget_range(transaction: &WriteTransaction, range: RangeId) -> Result<(), redb::Error> {
    transaction.open_table(APPLIED)?.remove(range.0)?;
    let mut system = transaction.open_table(SYSTEM)?;
    let low = system_key(range, b"");
    let high = (range.0 + 1).to_be_bytes();
    system.retain_in(low.as_slice()..high.as_slice(), |_, _| false)?;
    Ok(())
}

/// Writes what all tables but the log hold of some changes.
fn load_keys(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut heads = transaction.open_table(HEADS)?;
    let mut history = transaction.open_table(HISTORY)?;
    let mut leases = transaction.open_table(LEASES)?;
    let mut bytes = 0;
    for Change { key, version, newest } in changes {
        let facts = Facts::of(version);
        if *newest {
            heads.insert(key.as_ref(), &encode_head(key, &facts))?;
            bytes += (key.len() + HEAD_LEN) as i64;
            if facts.lease != 0 {
                leases.insert(lease_key(facts.lease, key).as_slice(), ())?;
            }
        }
        if facts.position.is_marked() {
            history.insert(history_key(key, facts.position).as_slice(), ())?;
        }
    }
    drop((heads, history, leases));
    count_bytes(transaction, bytes)
}
