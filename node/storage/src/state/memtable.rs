//! Changes that are applied and visible, not yet in the state file.
//!
//! Invariants: versions of a key are added in order; a version never changes. Everything in a
//! memtable is newer than everything about the same key or row in the tables below it.

use crate::state::codec::Position;
use bytes::Bytes;
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::{Span, printable};
use holdfast_core::state::{Applied, ApplyBatch, Version};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

/// What one change costs beside its key and value: tree nodes and a version.
const CHANGE_BYTES: usize = 300;
/// What a batch costs beside its changes. Not nothing, so that one without changes is flushed too.
const BATCH_BYTES: usize = 16;

/// A table in memory.
#[derive(Debug, Default)]
pub struct Memtable {
    /// All versions by key.
    pub keys: BTreeMap<Bytes, Chain>,
    /// Keys in the order of changes.
    pub order: BTreeMap<Position, Bytes>,
    /// Attached (`true`) and detached (`false`) keys.
    pub leases: BTreeMap<(LeaseId, Bytes), bool>,
    /// System rows; `None` is deleted.
    pub system: BTreeMap<(RangeId, Bytes), Option<Bytes>>,
    /// Positions reached.
    pub applied: BTreeMap<RangeId, Applied>,
    /// Approximate size.
    pub bytes: usize,
}

/// The versions of one key, at least one.
#[derive(Debug)]
pub struct Chain {
    /// The newest.
    newest: Version,
    /// The others, oldest first. Most keys change once between flushes.
    older: Vec<Version>,
}

impl Chain {
    /// The newest version.
    pub fn newest(&self) -> &Version {
        &self.newest
    }

    /// The newest version at or below `revision`.
    pub fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.mod_revision <= revision {
            return Some(&self.newest);
        }
        let after = self.older.partition_point(|version| version.mod_revision <= revision);
        after.checked_sub(1).map(|index| &self.older[index])
    }

    /// Exactly the version at `position`.
    pub fn exactly(&self, position: Position) -> Option<&Version> {
        if Position::of(&self.newest) == position {
            return Some(&self.newest);
        }
        let index = self.older.binary_search_by_key(&position, Position::of).ok()?;
        Some(&self.older[index])
    }

    /// All versions, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().chain([&self.newest])
    }

    fn push(&mut self, version: Version) {
        self.older.push(std::mem::replace(&mut self.newest, version));
    }
}

impl Memtable {
    /// True if nothing was applied to it.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }

    /// Adds a batch.
    pub fn apply(&mut self, batch: &ApplyBatch) {
        for mutation in &batch.mutations {
            let (key, version) = (&mutation.key, &mutation.version);
            self.bytes += CHANGE_BYTES + key.len() + version.value.as_ref().map_or(0, Bytes::len);
            self.order.insert(Position::of(version), key.clone());
            match self.keys.entry(key.clone()) {
                Entry::Occupied(mut chain) => {
                    let newest = Position::of(&chain.get().newest);
                    assert!(
                        newest < Position::of(version),
                        "key {} changes at revision {} after revision {}",
                        printable(key),
                        version.mod_revision,
                        newest.revision
                    );
                    chain.get_mut().push(version.clone());
                }
                Entry::Vacant(place) => {
                    place.insert(Chain { newest: version.clone(), older: Vec::new() });
                }
            }
            if mutation.prev_lease != 0 && mutation.prev_lease != version.lease {
                self.leases.insert((mutation.prev_lease, key.clone()), false);
            }
            if version.lease != 0 && mutation.prev_lease != version.lease {
                self.leases.insert((version.lease, key.clone()), true);
            }
        }
        for row in &batch.system {
            self.bytes += CHANGE_BYTES + row.key.len() + row.value.as_ref().map_or(0, Bytes::len);
            self.system.insert((batch.range, row.key.clone()), row.value.clone());
        }
        self.bytes += BATCH_BYTES;
        self.applied.insert(batch.range, batch.applied);
    }

    /// Keys of `span` at or after `from`, with their versions.
    pub fn range<'a>(
        &'a self,
        from: &[u8],
        end: Option<&'a Bytes>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Chain)> {
        self.keys
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(key, _)| end.is_none_or(|end| *key < end))
    }

    /// Changes at or after `from` and up to `to`, in order.
    pub fn changes(
        &self,
        from: Position,
        to: Revision,
    ) -> impl Iterator<Item = (Position, &Bytes, &Version)> {
        let to = Position { revision: to, sub: u32::MAX };
        let range = if from <= to { Some(self.order.range(from..=to)) } else { None };
        range.into_iter().flatten().map(|(position, key)| {
            let version = self.keys.get(key).and_then(|chain| chain.exactly(*position));
            (*position, key, version.expect("keys and order change together"))
        })
    }

    /// Keys of `span` that this table attaches to `lease` (`true`) or detaches from it.
    pub fn lease_changes(&self, lease: LeaseId, span: &Span) -> Vec<(Bytes, bool)> {
        self.leases
            .range((lease, span.start.clone())..)
            .take_while(|((of, key), _)| *of == lease && span.contains(key))
            .map(|((_, key), attached)| (key.clone(), *attached))
            .collect()
    }

    /// System rows of `range` that this table changes; `None` is deleted.
    pub fn system_changes(&self, range: RangeId) -> Vec<(Bytes, Option<Bytes>)> {
        self.system
            .range((range, Bytes::new())..)
            .take_while(|((of, _), _)| *of == range)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }
}
