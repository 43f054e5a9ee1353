//! Removes what a compaction hides.
//!
//! A compaction at revision C hides each version that a newer one at or below C replaced, and each
//! tombstone below C (one exactly at C stays visible, as in etcd). Hidden versions are found by
//! walking the log once, from where the last walk ended to C: each row names the version that it
//! replaced.
//!
//! Invariants: reads at C or above never see the difference. No version above `Meta::pruned` was
//! ever removed. Up to `Meta::prune_done`, and before `Meta::prune_cursor`, nothing hidden is left
//! but tombstones at the target of the last walk.

use crate::error::Result;
use crate::state::State;
use crate::state::codec::{HEAD_LEN, LogRow, POSITION_LEN, Position, decode_head};
use crate::state::rows::{count_bytes, remove_versions};
use crate::state::tables::{HEADS, LOG, Meta};
use bytes::Bytes;
use holdfast_core::ids::Revision;
use holdfast_core::state::Version;
use parking_lot::Mutex;
use redb::{ReadableTable, WriteTransaction};
use std::collections::BTreeMap;

/// Revisions that running reads need.
#[derive(Debug, Default)]
pub struct Pins {
    counts: Mutex<BTreeMap<Revision, usize>>,
}

impl Pins {
    fn lowest(&self) -> Revision {
        self.counts.lock().keys().next().copied().unwrap_or(Revision::MAX)
    }
}

/// While it lives, reads at its revision or above stay possible, whatever is compacted meanwhile.
#[must_use = "the pin ends when it is dropped"]
pub struct RevisionPin {
    state: State,
    revision: Revision,
}

impl Drop for RevisionPin {
    fn drop(&mut self) {
        let mut counts = self.state.shared.pins.counts.lock();
        if let Some(count) = counts.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.revision);
            }
        }
    }
}

impl State {
    /// Keeps reads at `revision` possible. Take it where the revision is checked against the
    /// compaction, and keep it until the read is done.
    pub fn pin_revision(&self, revision: Revision) -> RevisionPin {
        *self.shared.pins.counts.lock().entry(revision).or_default() += 1;
        RevisionPin { state: self.clone(), revision }
    }

    /// Removes some of what a compaction at `compact_revision` hides, looking at no more than
    /// `budget` changes. True if nothing is left to do; call it again later if not, which is also
    /// the answer while a read or an install holds it back. Only what was flushed is removed.
    /// Blocks for a write; call it from a background thread.
    pub fn prune(&self, compact_revision: Revision, budget: usize) -> Result<bool> {
        let Some(_jobs) = self.shared.jobs.try_lock() else { return Ok(false) };
        let _writer = self.shared.writer.lock();
        self.check_usable()?;
        let target = compact_revision.min(self.shared.pins.lowest());
        let done = self.shared.inner.read().disk.meta().prune_done;
        let done = done >= target
            || self.change(|transaction| walk(transaction, target, budget), |_| {})?;
        Ok(done && target == compact_revision)
    }
}

/// The versions of one key that a compaction at `compact` leaves, of all its versions from the
/// newest to the oldest.
pub fn not_hidden(
    versions: impl Iterator<Item = Version>,
    compact: Revision,
) -> impl Iterator<Item = Version> {
    let mut replaced = false;
    versions.take_while(move |version| {
        if replaced {
            return false;
        }
        replaced = version.mod_revision <= compact;
        version.value.is_some() || version.mod_revision >= compact
    })
}

/// Makes the next walk come by `position`: a change may be written behind the cursor.
pub fn revisit(transaction: &WriteTransaction, position: Position) -> Result<(), redb::Error> {
    let mut meta = Meta::load(transaction)?;
    if position < meta.prune_cursor || position.revision <= meta.prune_done {
        meta.prune_cursor = meta.prune_cursor.min(position);
        meta.prune_done = meta.prune_done.min(position.revision - 1);
        meta.store(transaction)?;
    }
    Ok(())
}

/// One slice of the walk to `target`. True if it is there.
fn walk(
    transaction: &WriteTransaction,
    target: Revision,
    budget: usize,
) -> Result<bool, redb::Error> {
    let mut meta = Meta::load(transaction)?;
    let mut hidden = Vec::new();
    let mut tombstones = Vec::new();
    let mut last = None;
    {
        let log = transaction.open_table(LOG)?;
        let (low, high) =
            (meta.prune_cursor.encode(), Position { revision: target, sub: u32::MAX }.encode());
        for row in log.range::<&[u8; POSITION_LEN]>(&low..=&high)?.take(budget) {
            let (position, row) = row?;
            let position = Position::decode(position.value());
            let row = LogRow::decode(position, row.value());
            last = Some(position);
            let key = Bytes::copy_from_slice(row.key);
            if row.facts.tombstone && position.revision < target {
                hidden.push((position, key.clone()));
                tombstones.push((position, key.clone()));
            }
            if let Some(previous) = row.previous {
                hidden.push((previous, key));
            }
        }
        if let Some(position) = last
            && log.range::<&[u8; POSITION_LEN]>(&position.next().encode()..=&high)?.next().is_none()
        {
            last = None;
        }
    }
    remove_versions(transaction, hidden)?;
    remove_heads(transaction, tombstones)?;
    // `remove_versions` changed the size, so read again.
    meta = Meta { live_bytes: Meta::load(transaction)?.live_bytes, ..meta };
    meta.pruned = meta.pruned.max(target);
    if let Some(last) = last {
        meta.prune_cursor = last.next();
    } else {
        meta.prune_cursor = Position { revision: target, sub: 0 };
        meta.prune_done = target;
    }
    meta.store(transaction)?;
    Ok(last.is_none())
}

/// Removes the `heads` rows of keys whose newest version is one of these tombstones.
fn remove_heads(
    transaction: &WriteTransaction,
    mut tombstones: Vec<(Position, Bytes)>,
) -> Result<(), redb::Error> {
    tombstones.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    let mut heads = transaction.open_table(HEADS)?;
    let mut bytes = 0;
    for (position, key) in tombstones {
        let newest = heads.get(key.as_ref())?.map(|row| decode_head(&key, row.value()).position);
        if newest == Some(position) {
            heads.remove(key.as_ref())?;
            bytes -= (key.len() + HEAD_LEN) as i64;
        }
    }
    drop(heads);
    count_bytes(transaction, bytes)
}
