//! A hash of what can be read, to compare nodes by.
//!
//! Invariant: two nodes with the same visible changes have the same hash, whatever either has
//! flushed or pruned and in whatever order: it is the sum of a hash of each change.

use crate::state::State;
use crate::state::codec::{Facts, Position};
use crate::state::memtable::Memtable;
use crate::state::prune::not_hidden;
use bytes::Bytes;
use holdfast_core::check::Fingerprint;
use holdfast_core::ids::Revision;
use holdfast_core::key::{Span, successor};
use holdfast_core::state::Version;
use std::collections::BTreeSet;

/// Keys looked at under one lock.
const CHUNK: usize = 256;

/// What was hashed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Of the hashes of all changes.
    pub hash: u64,
    /// Keys and values.
    pub bytes: u64,
}

impl State {
    /// Hashes all changes to keys in `spans` at or below `revision` that a compaction at
    /// `compact_revision` leaves. The spans do not overlap.
    pub fn hash(&self, spans: &[Span], revision: Revision, compact_revision: Revision) -> u64 {
        let _pin = self.pin_revision(compact_revision);
        let mut sum = Sum::default();
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let mut from = span.start.clone();
            while let Some(last) =
                self.hash_chunk(&from, span, revision, compact_revision, &mut sum)
            {
                from = successor(&last);
            }
        }
        sum.hash
    }

    /// Adds the hashes of some keys from `from` on; returns the last one, or `None` at the end.
    pub(super) fn hash_chunk(
        &self,
        from: &Bytes,
        span: &Span,
        revision: Revision,
        compact: Revision,
        sum: &mut Sum,
    ) -> Option<Bytes> {
        let keys_of = |table: &Memtable| -> Vec<Bytes> {
            table.range(from, span.end.as_ref()).take(CHUNK).map(|(key, _)| key.clone()).collect()
        };
        let (active, flushing, disk) = {
            let inner = self.shared.inner.read();
            (keys_of(&inner.active), inner.flushing.clone(), inner.disk.clone())
        };
        let sealed = flushing.as_ref().map_or_else(Vec::new, |table| keys_of(table));
        let heads = disk.heads(from, span.end.as_ref(), CHUNK);
        let heads_keys: Vec<Bytes> = heads.into_iter().map(|(key, _)| key).collect();
        let lists = [active, sealed, heads_keys];
        let last = lists.iter().filter(|list| list.len() == CHUNK).filter_map(|list| list.last());
        let last = last.min().cloned();
        let keys: BTreeSet<&Bytes> = lists.iter().flatten().collect();
        for key in keys.into_iter().take_while(|key| last.as_ref().is_none_or(|last| *key <= last))
        {
            self.each_version(key, &mut |versions| {
                let seen = versions.skip_while(|version| version.mod_revision > revision);
                for version in not_hidden(seen, compact) {
                    sum.hash = sum.hash.wrapping_add(hash_change(key, &version));
                    sum.bytes += (key.len() + version.value.as_ref().map_or(0, Bytes::len)) as u64;
                }
            });
        }
        last
    }

    /// Hands all versions of a key, newest first, to `visit`.
    fn each_version(&self, key: &[u8], visit: &mut dyn FnMut(&mut dyn Iterator<Item = Version>)) {
        let newest_first = |table: &Memtable| -> Vec<Version> {
            let chain = table.keys.get(key);
            let mut versions: Vec<Version> =
                chain.into_iter().flat_map(|chain| chain.iter().cloned()).collect();
            versions.reverse();
            versions
        };
        let (active, flushing, disk) = {
            let inner = self.shared.inner.read();
            (newest_first(&inner.active), inner.flushing.clone(), inner.disk.clone())
        };
        let sealed = flushing.map_or_else(Vec::new, |table| newest_first(&table));
        let head = disk.head(key);
        let below = head.iter().flat_map(|head| disk.versions(key, head));
        visit(&mut active.into_iter().chain(sealed).chain(below));
    }
}

fn hash_change(key: &[u8], version: &Version) -> u64 {
    let Facts { position, create_revision, version: count, lease, tombstone } = Facts::of(version);
    let Position { revision, sub } = position;
    let mut hash = Fingerprint::default();
    hash.bytes(key);
    for number in [revision as u64, u64::from(sub), create_revision as u64, count as u64] {
        hash.number(number);
    }
    hash.number(lease as u64);
    hash.number(u64::from(tombstone));
    hash.bytes(version.value.as_deref().unwrap_or_default());
    hash.finish()
}
