//! The tables of the state file, and a consistent view of them.
//!
//! Invariants: a [`DiskView`] never changes; every change of the file is followed by a new view.
//! A row that must be there and is not, or fails its check, stops the process.

use crate::error::{Result, StorageError};
use crate::state::codec::{
    Facts, HEAD_LEN, LogRow, POSITION_LEN, Position, after_number, decode_head, history_key,
    history_position, lease_key, system_key,
};
use crate::state::parts::{PART_KEY_LEN, decode_part, part_key};
use bytes::Bytes;
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::{Span, printable};
use holdfast_core::state::{Applied, Version};
use redb::{
    AccessGuard, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Newest version of each key.
pub const HEADS: TableDefinition<&[u8], &[u8; HEAD_LEN]> = TableDefinition::new("heads");
/// Every version, in the order of changes.
pub const LOG: TableDefinition<&[u8; POSITION_LEN], &[u8]> = TableDefinition::new("log");
/// Parts of large values; see [`crate::state::parts`].
pub const PARTS: TableDefinition<&[u8; PART_KEY_LEN], &[u8]> = TableDefinition::new("parts");
/// Some of the versions of each key, to find old versions by; see [`Position::is_marked`].
pub const HISTORY: TableDefinition<&[u8], ()> = TableDefinition::new("history");
/// Keys attached to client leases.
pub const LEASES: TableDefinition<&[u8], ()> = TableDefinition::new("leases");
/// System rows of ranges.
pub const SYSTEM: TableDefinition<&[u8], &[u8]> = TableDefinition::new("system");
/// Range to (index, term).
pub const APPLIED: TableDefinition<u64, (u64, u64)> = TableDefinition::new("applied");
/// Numbers about the file itself, by name; see the constants below.
pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Unfinished work on ranges, done again when the file is opened; see [`crate::state::jobs`].
pub const JOBS: TableDefinition<u64, &[u8]> = TableDefinition::new("jobs");

/// Row of [`META`]: format of all tables.
pub const META_FORMAT: &str = "format";
const META_PRUNED: &str = "pruned";
const META_PRUNE_DONE: &str = "prune done";
const META_PRUNE_CURSOR_REVISION: &str = "prune cursor revision";
const META_PRUNE_CURSOR_SUB: &str = "prune cursor sub";
/// Row of [`META`]: see [`Meta::live_bytes`].
pub const META_LIVE_BYTES: &str = "live bytes";
/// The format of this version: 2 has the table `parts`.
pub const FORMAT: u64 = 2;
/// The oldest format that this version reads; it makes it the newest at once.
const FORMAT_OLDEST: u64 = 1;

/// Attempted, as error messages name it.
pub const READ: &str = "read";

/// Numbers about the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// No version at or below this revision is sure to be there still.
    pub pruned: Revision,
    /// The walk of [`State::prune`](crate::state::State::prune) to this revision is finished.
    pub prune_done: Revision,
    /// Where that walk goes on.
    pub prune_cursor: Position,
    /// Size of all rows of `heads`, `log` and `parts`.
    pub live_bytes: u64,
}

impl Meta {
    /// As a transaction sees it.
    pub fn load(transaction: &WriteTransaction) -> std::result::Result<Self, redb::Error> {
        Self::read(&transaction.open_table(META)?)
    }

    fn read(
        meta: &impl ReadableTable<&'static str, u64>,
    ) -> std::result::Result<Self, redb::Error> {
        let number = |name| -> std::result::Result<u64, redb::Error> {
            Ok(meta.get(name)?.map_or(0, |row| row.value()))
        };
        Ok(Self {
            pruned: number(META_PRUNED)? as Revision,
            prune_done: number(META_PRUNE_DONE)? as Revision,
            prune_cursor: Position {
                revision: number(META_PRUNE_CURSOR_REVISION)? as Revision,
                sub: number(META_PRUNE_CURSOR_SUB)? as u32,
            },
            live_bytes: number(META_LIVE_BYTES)?,
        })
    }

    /// Writes all of it.
    pub fn store(&self, transaction: &WriteTransaction) -> std::result::Result<(), redb::Error> {
        let Self { pruned, prune_done, prune_cursor, live_bytes } = *self;
        let mut meta = transaction.open_table(META)?;
        for (name, number) in [
            (META_PRUNED, pruned as u64),
            (META_PRUNE_DONE, prune_done as u64),
            (META_PRUNE_CURSOR_REVISION, prune_cursor.revision as u64),
            (META_PRUNE_CURSOR_SUB, u64::from(prune_cursor.sub)),
            (META_LIVE_BYTES, live_bytes),
        ] {
            meta.insert(name, number)?;
        }
        Ok(())
    }
}

/// All tables at one moment.
pub struct DiskView {
    /// See [`HEADS`].
    pub heads: ReadOnlyTable<&'static [u8], &'static [u8; HEAD_LEN]>,
    /// See [`LOG`].
    pub log: ReadOnlyTable<&'static [u8; POSITION_LEN], &'static [u8]>,
    /// See [`PARTS`].
    pub parts: ReadOnlyTable<&'static [u8; PART_KEY_LEN], &'static [u8]>,
    history: ReadOnlyTable<&'static [u8], ()>,
    leases: ReadOnlyTable<&'static [u8], ()>,
    system: ReadOnlyTable<&'static [u8], &'static [u8]>,
    applied: ReadOnlyTable<u64, (u64, u64)>,
    jobs: ReadOnlyTable<u64, &'static [u8]>,
    meta: Meta,
}

/// Makes the tables of a new file; checks the format of an old one, and brings it to this one. Large
/// values stay in it as they are, and are read so.
pub fn prepare(database: &Database) -> Result<()> {
    let state =
        |action| move |error: redb::Error| StorageError::state::<redb::Error>(action)(error);
    let prepare = || -> std::result::Result<Option<u64>, redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let empty = transaction.list_tables()?.next().is_none();
        let found = {
            let mut meta = transaction.open_table(META)?;
            if empty {
                meta.insert(META_FORMAT, FORMAT)?;
            }
            let found = meta.get(META_FORMAT)?.map(|row| row.value());
            if found.is_some_and(|found| (FORMAT_OLDEST..FORMAT).contains(&found)) {
                meta.insert(META_FORMAT, FORMAT)?;
            }
            found
        };
        if !found.is_some_and(|found| (FORMAT_OLDEST..=FORMAT).contains(&found)) {
            transaction.abort()?;
            return Ok(found);
        }
        transaction.open_table(HEADS)?;
        transaction.open_table(LOG)?;
        transaction.open_table(PARTS)?;
        transaction.open_table(HISTORY)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(SYSTEM)?;
        transaction.open_table(APPLIED)?;
        transaction.open_table(JOBS)?;
        if empty || found != Some(FORMAT) {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(found)
    };
    match prepare().map_err(state("prepare"))? {
        Some(FORMAT_OLDEST..=FORMAT) => Ok(()),
        None | Some(..FORMAT_OLDEST) => Err(StorageError::Corrupt {
            what: "the state file".to_owned(),
            detail: "it does not say which format it has".to_owned(),
        }),
        Some(found) => Err(StorageError::Format { what: "state file", found, known: FORMAT }),
    }
}

impl DiskView {
    /// The tables as they are now.
    pub fn open(database: &Database) -> Result<Self> {
        let open = || -> std::result::Result<Self, redb::Error> {
            let transaction = database.begin_read()?;
            Ok(Self {
                heads: transaction.open_table(HEADS)?,
                log: transaction.open_table(LOG)?,
                parts: transaction.open_table(PARTS)?,
                history: transaction.open_table(HISTORY)?,
                leases: transaction.open_table(LEASES)?,
                system: transaction.open_table(SYSTEM)?,
                applied: transaction.open_table(APPLIED)?,
                jobs: transaction.open_table(JOBS)?,
                meta: Meta::read(&transaction.open_table(META)?)?,
            })
        };
        open().map_err(StorageError::state::<redb::Error>(READ))
    }

    /// The newest version of a key, without its value.
    pub fn head(&self, key: &[u8]) -> Option<Facts> {
        let row = must(self.heads.get(key))?;
        Some(decode_head(key, row.value()))
    }

    /// Keys of `span` at or after `from` with their newest versions, at most `limit`.
    pub fn heads(&self, from: &[u8], end: Option<&Bytes>, limit: usize) -> Vec<(Bytes, Facts)> {
        let upper = end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_ref()));
        if end.is_some_and(|end| end.as_ref() <= from) {
            return Vec::new();
        }
        let rows = must(self.heads.range::<&[u8]>((Bound::Included(from), upper)));
        rows.take(limit)
            .map(|row| {
                let (key, head) = must(row);
                let key = Bytes::copy_from_slice(key.value());
                let head = decode_head(&key, head.value());
                (key, head)
            })
            .collect()
    }

    /// The version that `head` of `key` names.
    pub fn newest(&self, key: &[u8], head: &Facts, values: bool) -> Version {
        if !values || head.tombstone {
            return head.with(Bytes::new());
        }
        let row = self.row(head.position).unwrap_or_else(|| lost(key, head.position));
        self.whole(&check_key(key, &decode(head.position, &row)))
    }

    /// The newest version of `key` at or below `revision`.
    pub fn at(
        &self,
        key: &[u8],
        head: &Facts,
        revision: Revision,
        values: bool,
    ) -> Option<Version> {
        if head.position.revision <= revision {
            return Some(self.newest(key, head, values));
        }
        // Start at the first version above that has a history row, else at the newest.
        let from = history_key(key, Position { revision: revision.saturating_add(1), sub: 0 });
        let to = history_key(key, head.position);
        let mut rows = must(self.history.range::<&[u8]>(from.as_slice()..=to.as_slice()));
        let mut position = rows.next().map_or(head.position, |row| {
            let (row, ()) = must(row.map(|(row, _)| (row, ())));
            history_position(row.value())
        });
        loop {
            let Some(row) = self.row(position) else {
                // Superseded or a tombstone at the compaction, so not visible at `revision`.
                if position.revision <= self.meta.pruned {
                    return None;
                }
                lost(key, position)
            };
            let row = check_key(key, &decode(position, &row));
            if position.revision <= revision {
                return Some(if values { self.whole(&row) } else { row.facts.with(Bytes::new()) });
            }
            position = row.previous?;
        }
    }

    /// All versions of `key`, newest first, as far as they are there.
    pub fn versions<'a>(
        &'a self,
        key: &'a [u8],
        head: &Facts,
    ) -> impl Iterator<Item = Version> + 'a {
        let mut next = Some(head.position);
        std::iter::from_fn(move || {
            let (version, previous) = self.version(key, next?)?;
            next = previous;
            Some(version)
        })
    }

    /// Positions of all versions of `key`, newest first, as far as they are there.
    pub fn positions<'a>(
        &'a self,
        key: &'a [u8],
        head: &Facts,
    ) -> impl Iterator<Item = Position> + 'a {
        let mut next = Some(head.position);
        std::iter::from_fn(move || {
            let position = next?;
            let row = self.row(position)?;
            next = check_key(key, &decode(position, &row)).previous;
            Some(position)
        })
    }

    /// The version of `key` at `position`, and where the one before is; `None` if it was pruned.
    pub fn version(&self, key: &[u8], position: Position) -> Option<(Version, Option<Position>)> {
        let Some(row) = self.row(position) else {
            if position.revision <= self.meta.pruned {
                return None;
            }
            lost(key, position)
        };
        let row = check_key(key, &decode(position, &row));
        Some((self.whole(&row), row.previous))
    }

    /// The version of a row of the log, copied out, with all of its value.
    pub fn whole(&self, row: &LogRow<'_>) -> Version {
        if row.parts.count == 0 {
            return row.facts.with(Bytes::copy_from_slice(row.value));
        }
        let position = row.facts.position;
        let length = row.parts.bytes as usize;
        let mut value = Vec::with_capacity(length + row.value.len());
        for number in 0..row.parts.count {
            let key = part_key(position, number);
            let part = must(self.parts.get(&key));
            let bytes = part.as_ref().and_then(|part| decode_part(&key, part.value()));
            value.extend_from_slice(bytes.unwrap_or_else(|| {
                panic!(
                    "the state file is corrupt: part {number} of the value at revision {} ({}) {}",
                    position.revision,
                    position.sub,
                    if part.is_some() { "fails its check" } else { "is missing" }
                )
            }));
        }
        assert!(
            value.len() == length,
            "the state file is corrupt: the parts of the value at revision {} ({}) should have {length} \
             bytes, but have {}",
            position.revision,
            position.sub,
            value.len()
        );
        value.extend_from_slice(row.value);
        row.facts.with(value.into())
    }

    /// Numbers about the file.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Unfinished work, by range.
    pub fn jobs(&self) -> Vec<(RangeId, Vec<u8>)> {
        must(self.jobs.range::<u64>(..))
            .map(|row| {
                let (range, job) = must(row);
                (RangeId(range.value()), job.value().to_vec())
            })
            .collect()
    }

    /// Rows of the log in order, from `from` to the end of revision `to`.
    pub fn changes(
        &self,
        from: Position,
        to: Revision,
    ) -> impl Iterator<Item = (Position, AccessGuard<'static, &'static [u8]>)> {
        let (low, high) = (from.encode(), Position { revision: to, sub: u32::MAX }.encode());
        let rows = (low <= high).then(|| must(self.log.range::<&[u8; POSITION_LEN]>(&low..=&high)));
        rows.into_iter().flatten().map(|row| {
            let (position, row) = must(row);
            (Position::decode(position.value()), row)
        })
    }

    /// Keys of `span` attached to `lease`.
    pub fn lease_keys(&self, lease: LeaseId, span: &Span) -> BTreeSet<Bytes> {
        let from = lease_key(lease, &span.start);
        must(self.leases.range::<&[u8]>(from.as_slice()..))
            .map(|row| must(row).0)
            .take_while(|row| row.value().starts_with(&lease.to_be_bytes()))
            .map(|row| Bytes::copy_from_slice(after_number(row.value())))
            .take_while(|key| span.contains(key))
            .collect()
    }

    /// System rows of `range`.
    pub fn system(&self, range: RangeId) -> BTreeMap<Bytes, Bytes> {
        let from = system_key(range, b"");
        must(self.system.range::<&[u8]>(from.as_slice()..))
            .map(must)
            .take_while(|(row, _)| row.value().starts_with(&range.0.to_be_bytes()))
            .map(|(row, value)| {
                let key = Bytes::copy_from_slice(after_number(row.value()));
                (key, Bytes::copy_from_slice(value.value()))
            })
            .collect()
    }

    /// Positions of all ranges, by range.
    pub fn applied_all(&self) -> Vec<(RangeId, Applied)> {
        must(self.applied.range::<u64>(..))
            .map(|row| {
                let (range, row) = must(row);
                let (index, term) = row.value();
                (RangeId(range.value()), Applied { index, term })
            })
            .collect()
    }

    /// Position of one range.
    pub fn applied(&self, range: RangeId) -> Option<Applied> {
        let row = must(self.applied.get(range.0))?;
        let (index, term) = row.value();
        Some(Applied { index, term })
    }

    /// All history marks.
    #[cfg(test)]
    pub fn history_rows(&self) -> Vec<Position> {
        must(self.history.range::<&[u8]>(..))
            .map(|row| history_position(must(row).0.value()))
            .collect()
    }

    /// All parts: their keys, and the lengths of their rows.
    #[cfg(test)]
    pub fn part_rows(&self) -> Vec<([u8; PART_KEY_LEN], usize)> {
        must(self.parts.range::<&[u8; PART_KEY_LEN]>(..))
            .map(|row| {
                let (key, row) = must(row);
                (*key.value(), row.value().len())
            })
            .collect()
    }

    fn row(&self, position: Position) -> Option<AccessGuard<'static, &'static [u8]>> {
        must(self.log.get(&position.encode()))
    }
}

/// Stops the process if the state file cannot be read: unknown means stop.
pub fn must<T, E: Into<redb::Error>>(result: std::result::Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("cannot read the state file: {}", error.into()))
}

fn decode<'a>(position: Position, row: &'a AccessGuard<'static, &'static [u8]>) -> LogRow<'a> {
    LogRow::decode(position, row.value())
}

fn check_key<'a>(key: &[u8], row: &LogRow<'a>) -> LogRow<'a> {
    assert!(
        row.key == key,
        "the state file is corrupt: the change at revision {} is of key {}, not of {}",
        row.facts.position.revision,
        printable(row.key),
        printable(key)
    );
    *row
}

fn lost(key: &[u8], position: Position) -> ! {
    panic!(
        "the state file is corrupt: key {} has no change at revision {} ({})",
        printable(key),
        position.revision,
        position.sub
    )
}
