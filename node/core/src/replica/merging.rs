//! A replica's part in the merge of its range with a neighbour.
//!
//! ```text
//!   right:  serves ── Freeze ── frozen (serves nothing) ──────────► ends where the left merges
//!   left:   serves ───────────────────────────────── Merge ── serves both spans
//! ```
//!
//! Invariants: a frozen range changes nothing but by [`Entry::Thaw`]; a [`Entry::Merge`] has effect
//! only while the left range has the generation that it names, and every way to call a merge off
//! begins by making that impossible; a replica merges only when the right range's replica on this
//! node has everything that the right range ever had.

use super::{AppliedEntries, Replica, descriptor_row, encode};
use crate::command::Entry;
use crate::dedup::Dedup;
use crate::descriptor::RangeDescriptor;
use crate::ids::{RangeId, Revision};
use crate::seldom::Empty;
use crate::state::{Applied, SystemRow};
use bytes::Bytes;
use raft::eraftpb::Entry as LogEntry;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

/// Key of the system row that says that the range is frozen.
pub const FROZEN_ROW: &[u8] = b"frozen";
/// Key of the system row with the ranges that this one has taken in.
pub const ABSORBED_ROW: &[u8] = b"absorbed";

/// Ranges taken in that are remembered. It matters only for replicas of them that are still on some
/// node, which a later one can but follow.
const ABSORBED_MAX: usize = 1024;

/// A range that waits to be taken in by its left neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The neighbour.
    pub left: RangeId,
    /// The generation at which it was frozen.
    pub generation: u64,
    /// Where that is in the log: nothing comes after it.
    pub at: Applied,
}

/// What the left range takes over of the right one, besides the keys, which lie where they are.
#[derive(Clone, Debug)]
pub struct Legacy {
    /// What the right range had carried out.
    pub dedup: Dedup,
    /// Its newest revision.
    pub revision: Revision,
    /// What it had taken in itself.
    pub absorbed: Vec<RangeId>,
}

/// A replica's memory of merges.
#[derive(Debug, Default)]
pub struct Merging {
    /// It waits to be taken in.
    pub frozen: Option<Frozen>,
    /// Ranges that this one has taken in, and those that they had, oldest first.
    pub absorbed: Vec<RangeId>,
    /// Committed entries that wait: the first is a merge whose right range is not far enough here,
    /// or follows one that was just carried out.
    pub held: VecDeque<LogEntry>,
    /// For the merge that is the next entry.
    pub legacy: Option<Box<Legacy>>,
}

impl Empty for Merging {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Merging> = LazyLock::new(Merging::default);
        &EMPTY
    }
}

impl Merging {
    pub(super) fn is_empty(&self) -> bool {
        let Self { frozen, absorbed, held, legacy } = self;
        frozen.is_none() && absorbed.is_empty() && held.is_empty() && legacy.is_none()
    }

    /// From system rows.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub(super) fn load(rows: &[(Bytes, Bytes)]) -> Result<Self, String> {
        let mut found = Self::default();
        for (key, value) in rows {
            if key.as_ref() == FROZEN_ROW {
                found.frozen = Some(
                    postcard::from_bytes(value)
                        .map_err(|error| format!("malformed row of a freeze: {error}"))?,
                );
            } else if key.as_ref() == ABSORBED_ROW {
                found.absorbed = postcard::from_bytes(value)
                    .map_err(|error| format!("malformed row of ranges taken in: {error}"))?;
            }
        }
        Ok(found)
    }
}

/// The ranges in a system row of this kind; none if it is of another.
pub fn absorbed_in(row: &SystemRow) -> Vec<RangeId> {
    let value = row.value.as_ref().filter(|_| row.key == ABSORBED_ROW);
    value.and_then(|value| postcard::from_bytes(value).ok()).unwrap_or_default()
}

/// The merge in an entry of a log, if it is one.
pub fn merge_in(entry: &LogEntry) -> Option<(u64, RangeDescriptor, Applied)> {
    if entry.data.is_empty() || entry.get_entry_type() != raft::eraftpb::EntryType::EntryNormal {
        return None;
    }
    match Entry::decode(&entry.data) {
        Ok(Entry::Merge { generation, right, at }) => Some((generation, right, at)),
        Ok(_) | Err(_) => None,
    }
}

impl Replica {
    /// Would a merge that names this generation be carried out as the next entry?
    pub fn would_merge(&self, generation: u64, right: &RangeDescriptor) -> bool {
        self.intent.is_none()
            && self.merging.frozen.is_none()
            && self.descriptor.as_ref().is_some_and(|own| {
                own.generation == generation && own.span.end.as_ref() == Some(&right.span.start)
            })
    }

    pub(super) fn apply_freeze(
        &mut self,
        left: RangeId,
        generation: u64,
        done: &mut AppliedEntries,
    ) {
        let current = self.descriptor.as_ref().map(|own| own.generation);
        if self.intent.is_some() || current != Some(generation) || self.merging.frozen.is_some() {
            return;
        }
        let frozen = Frozen { left, generation, at: self.applied };
        self.merging.frozen = Some(frozen);
        let value = Some(encode(&frozen));
        done.batch.system.push(SystemRow { key: Bytes::from_static(FROZEN_ROW), value });
    }

    pub(super) fn apply_thaw(&mut self, generation: u64, done: &mut AppliedEntries) {
        let Some(descriptor) = self.descriptor.as_mut().map(Arc::make_mut) else { return };
        if descriptor.generation != generation {
            return;
        }
        descriptor.generation += 1;
        done.changed = true;
        done.batch.system.push(descriptor_row(descriptor));
        if self.merging.frozen.take().is_some() {
            let key = Bytes::from_static(FROZEN_ROW);
            done.batch.system.push(SystemRow { key, value: None });
        }
    }

    pub(super) fn apply_merge(
        &mut self,
        generation: u64,
        right: &RangeDescriptor,
        done: &mut AppliedEntries,
    ) {
        if !self.would_merge(generation, right) {
            return;
        }
        let legacy = self.merging.legacy.take();
        let legacy = legacy.expect("a merge is held until the right range is there");
        let Some(descriptor) = self.descriptor.as_mut().map(Arc::make_mut) else { return };
        descriptor.generation += 1;
        descriptor.span.end.clone_from(&right.span.end);
        done.changed = true;
        done.batch.system.push(descriptor_row(descriptor));
        self.dedup.absorb(&legacy.dedup);
        self.revision = self.revision.max(legacy.revision);
        self.growth.cut();
        let absorbed = &mut self.merging.absorbed;
        absorbed.extend(legacy.absorbed);
        absorbed.push(right.id);
        let excess = absorbed.len().saturating_sub(ABSORBED_MAX);
        absorbed.drain(..excess);
        let value = Some(encode(absorbed));
        done.batch.system.push(SystemRow { key: Bytes::from_static(ABSORBED_ROW), value });
        done.merged.push(right.id);
    }

    /// True if the left neighbour can take this one in: all up to `at` is in its state, and no raft
    /// snapshot is on its way there, which would come after that all the same, over what is written
    /// from then on.
    pub fn may_be_taken_in(&self, at: Applied) -> bool {
        self.descriptor.is_some() && self.applied.index >= at.index && !self.group.has_snapshot()
    }

    /// What the left neighbour takes over.
    pub fn legacy(&self) -> Legacy {
        Legacy {
            dedup: self.dedup.clone(),
            revision: self.revision,
            absorbed: self.merging.absorbed.clone(),
        }
    }
}
