//! Reads over the memtables and the file, merged.
//!
//! Invariants: a table above answers before one below. A long read goes in chunks, each over one
//! consistent set of tables, and holds no lock while it visits. Since versions never change and
//! nothing at or below the read's revision is still to come, the chunks fit together.

use crate::state::codec::{Facts, LogRow, Position};
use crate::state::memtable::{Chain, Memtable};
use crate::state::tables::DiskView;
use crate::state::{Inner, State};
use bytes::Bytes;
use holdfast_core::ids::{LeaseId, RangeId, Revision};
use holdfast_core::key::{Span, successor};
use holdfast_core::state::{REVISION_MAX, StateReads, Version};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Keys or changes in the first chunk of a long read: most stop early.
const CHUNK_FIRST: usize = 32;
/// Keys or changes in a chunk at most: bounds how long one holds the lock.
const CHUNK_MAX: usize = 512;

/// The tables below the active one.
struct Below {
    flushing: Option<Arc<Memtable>>,
    disk: Arc<DiskView>,
}

impl Inner {
    fn below(&self) -> Below {
        Below { flushing: self.flushing.clone(), disk: self.disk.clone() }
    }
}

impl State {
    /// The newest version of `key` without its value: what evaluating most commands needs.
    pub fn facts(&self, key: &[u8]) -> Option<Facts> {
        let below = {
            let inner = self.shared.inner.read();
            if let Some(chain) = inner.active.keys.get(key) {
                return Some(Facts::of(chain.newest()));
            }
            inner.below()
        };
        let sealed = below.flushing.as_ref().and_then(|table| table.keys.get(key));
        match sealed {
            Some(chain) => Some(Facts::of(chain.newest())),
            None => below.disk.head(key),
        }
    }
}

impl StateReads for State {
    fn latest(&self, key: &[u8]) -> Option<Version> {
        self.at(key, REVISION_MAX)
    }

    fn at(&self, key: &[u8], revision: Revision) -> Option<Version> {
        let below = {
            let inner = self.shared.inner.read();
            let found = inner.active.keys.get(key).and_then(|chain| chain.at(revision));
            if let Some(version) = found {
                return Some(version.clone());
            }
            inner.below()
        };
        let sealed = below.flushing.as_ref().and_then(|table| table.keys.get(key));
        if let Some(version) = sealed.and_then(|chain| chain.at(revision)) {
            return Some(version.clone());
        }
        let head = below.disk.head(key)?;
        below.disk.at(key, &head, revision, true)
    }

    fn scan(
        &self,
        span: &Span,
        revision: Revision,
        values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        if span.is_empty() {
            return;
        }
        if let Some(key) = span.single() {
            if let Some(mut version) = self.at(key, revision).filter(|found| found.value.is_some())
            {
                if !values {
                    version.value = Some(Bytes::new());
                }
                // There is no second key to stop before.
                if visit(key.clone(), version).is_break() {}
            }
            return;
        }
        let mut from = span.start.clone();
        let mut limit = CHUNK_FIRST;
        loop {
            let chunk = self
                .key_chunk(&from, span.end.as_ref(), limit, |chain| chain.at(revision).cloned());
            for (key, found) in chunk.keys {
                let version = match found {
                    Found::Memory(mut version) => {
                        if !values && version.value.is_some() {
                            version.value = Some(Bytes::new());
                        }
                        Some(version)
                    }
                    Found::Disk(head) => chunk.below.disk.at(&key, &head, revision, values),
                };
                let Some(version) = version.filter(|version| version.value.is_some()) else {
                    continue;
                };
                if visit(key, version).is_break() {
                    return;
                }
            }
            match chunk.next {
                Some(next) => from = next,
                None => return,
            }
            limit = (limit * 2).min(CHUNK_MAX);
        }
    }

    fn history(
        &self,
        span: &Span,
        from: Revision,
        to: Revision,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        let mut from = Position { revision: from.max(0), sub: 0 };
        if span.is_empty() {
            return;
        }
        let mut limit = CHUNK_FIRST;
        loop {
            let (changes, next) = self.change_chunk(span, from, to, limit);
            for (_, (key, version)) in changes {
                if visit(key, version).is_break() {
                    return;
                }
            }
            match next {
                Some(next) => from = next,
                None => return,
            }
            limit = (limit * 2).min(CHUNK_MAX);
        }
    }

    fn lease_keys(&self, lease: LeaseId, span: &Span) -> Vec<Bytes> {
        let (active, below) = {
            let inner = self.shared.inner.read();
            (inner.active.lease_changes(lease, span), inner.below())
        };
        let mut keys = below.disk.lease_keys(lease, span);
        let sealed = below.flushing.map(|table| table.lease_changes(lease, span));
        for (key, attached) in sealed.into_iter().flatten().chain(active) {
            if attached {
                keys.insert(key);
            } else {
                keys.remove(&key);
            }
        }
        keys.into_iter().collect()
    }

    fn holds(&self, range: RangeId) -> bool {
        self.applied(range).is_some()
    }

    fn system_rows(&self, range: RangeId) -> Vec<(Bytes, Bytes)> {
        let (active, below) = {
            let inner = self.shared.inner.read();
            (inner.active.system_changes(range), inner.below())
        };
        let mut rows = below.disk.system(range);
        let sealed = below.flushing.map(|table| table.system_changes(range));
        for (key, value) in sealed.into_iter().flatten().chain(active) {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        rows.into_iter().collect()
    }
}

/// Where a key's visible version is.
enum Found<T> {
    /// Picked from a memtable.
    Memory(T),
    /// In the file, at or below this newest version.
    Disk(Facts),
}

/// A part of a scan.
struct KeyChunk<T> {
    keys: BTreeMap<Bytes, Found<T>>,
    below: Below,
    /// Where the next part starts.
    next: Option<Bytes>,
}

impl State {
    /// Some keys of `[from, end)`, in order and without gaps. `pick` chooses what a memtable
    /// answers for a key, or nothing.
    fn key_chunk<T>(
        &self,
        from: &Bytes,
        end: Option<&Bytes>,
        limit: usize,
        pick: impl Fn(&Chain) -> Option<T>,
    ) -> KeyChunk<T> {
        let gather = |table: &Memtable| -> Vec<(Bytes, Option<T>)> {
            table
                .range(from, end)
                .take(limit)
                .map(|(key, chain)| (key.clone(), pick(chain)))
                .collect()
        };
        let (active, below) = {
            let inner = self.shared.inner.read();
            let below = inner.below();
            (gather(&inner.active), below)
        };
        let sealed = below.flushing.as_ref().map_or_else(Vec::new, |table| gather(table));
        let heads = below.disk.heads(from, end, limit);
        // Beyond the last key of a table that had more, this chunk knows nothing.
        let last = [
            (active.len() == limit).then(|| &active[limit - 1].0),
            (sealed.len() == limit).then(|| &sealed[limit - 1].0),
            (heads.len() == limit).then(|| &heads[limit - 1].0),
        ]
        .into_iter()
        .flatten()
        .min()
        .cloned();
        let within = |key: &Bytes| last.as_ref().is_none_or(|last| key <= last);
        let mut keys: BTreeMap<Bytes, Found<T>> = heads
            .into_iter()
            .take_while(|(key, _)| within(key))
            .map(|(key, head)| (key, Found::Disk(head)))
            .collect();
        for (key, found) in sealed.into_iter().chain(active) {
            if let Some(found) = found
                && within(&key)
            {
                keys.insert(key, Found::Memory(found));
            }
        }
        KeyChunk { keys, below, next: last.map(|last| successor(&last)) }
    }

    /// Some changes in `span`, in order and without gaps, and where to go on.
    fn change_chunk(
        &self,
        span: &Span,
        from: Position,
        to: Revision,
        limit: usize,
    ) -> (BTreeMap<Position, (Bytes, Version)>, Option<Position>) {
        let mut changes = BTreeMap::new();
        let mut last: Option<Position> = None;
        // Looks at `limit` changes of a table and notes where it stopped.
        let mut gather = |table: &Memtable| {
            let mut looked = 0;
            for (position, key, version) in table.changes(from, to).take(limit) {
                looked += 1;
                if span.contains(key) {
                    changes.insert(position, (key.clone(), version.clone()));
                }
                if looked == limit {
                    last = Some(last.map_or(position, |last| last.min(position)));
                }
            }
        };
        let below = {
            let inner = self.shared.inner.read();
            gather(&inner.active);
            inner.below()
        };
        if let Some(flushing) = &below.flushing {
            gather(flushing);
        }
        let mut looked = 0;
        for (position, row) in below.disk.changes(from, to).take(limit) {
            if last.is_some_and(|last| position > last) {
                break;
            }
            looked += 1;
            let row = LogRow::decode(position, row.value());
            if span.contains(row.key) {
                let key = Bytes::copy_from_slice(row.key);
                changes.insert(position, (key, below.disk.whole(&row)));
            }
            if looked == limit {
                last = Some(last.map_or(position, |last| last.min(position)));
            }
        }
        match last {
            Some(last) => {
                changes.split_off(&last.next());
                (changes, Some(last.next()))
            }
            None => (changes, None),
        }
    }
}
