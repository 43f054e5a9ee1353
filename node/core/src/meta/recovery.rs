//! The directory after a majority was given up: one node, the ranges that it has, and nothing of
//! those that are gone but the memory that they are.
//!
//! Invariants: a node that was there is never let in again under its id; no id of a node, range or
//! replica that the lost ones may have given is given again; no revision either.

use super::{MetaState, row};
use crate::descriptor::{GrantBlock, NodeState, RangeDescriptor, Registration};
use crate::ids::{META_RANGE, NodeId, RangeId, Revision, Term};
use crate::state::SystemRow;
use std::collections::BTreeMap;

/// By how much terms, generations and replica ids jump: past everything that those who are gone may
/// have reached unseen, so that nothing of theirs is ever taken for newer.
pub const EPOCH: u64 = 1 << 20;

/// Node ids skipped: more nodes than may have joined unseen by the one that is left.
const NODES_SKIPPED: u64 = 100;
/// Range ids skipped: more cuts than may have happened unseen.
pub const RANGES_SKIPPED: u64 = 10_000;

/// What is left of a cluster.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The only node.
    pub node: NodeId,
    /// All ranges, the meta range too, each with its only copy there, and the term below which
    /// nobody may serve it.
    pub ranges: BTreeMap<RangeId, (RangeDescriptor, Term)>,
    /// How many copies each range is to have again.
    pub wanted: BTreeMap<RangeId, usize>,
    /// No revision up to this one is given any more, and no history up to it is told.
    pub revision: Revision,
    /// The first range id that is free.
    pub next_range: u64,
}

impl MetaState {
    /// The first range id that nobody has been given, as far as anybody may have got.
    pub fn free_range(&self) -> u64 {
        self.scalars.next_range + RANGES_SKIPPED
    }

    /// How many copies a range is to get by itself, at least.
    pub fn wanted(&self, range: RangeId) -> usize {
        self.wanted.get(&range).copied().unwrap_or(0)
    }

    /// All of these.
    pub fn all_wanted(&self) -> &BTreeMap<RangeId, usize> {
        &self.wanted
    }

    /// What was cut off a range is to have as many copies.
    pub(super) fn inherit_wanted(&mut self, from: RangeId, to: RangeId, rows: &mut Vec<SystemRow>) {
        if let Some(copies) = self.wanted.get(&from).copied()
            && !self.wanted.contains_key(&to)
        {
            self.want(to, copies, rows);
        }
    }

    /// A range is to have so many copies at least.
    pub(super) fn want(&mut self, range: RangeId, copies: usize, rows: &mut Vec<SystemRow>) {
        self.wanted.insert(range, copies);
        row(rows, b'W', range.0, Some(&(copies as u64)));
    }

    /// Becomes the directory of what remains.
    pub fn rebuild(&mut self, remains: &Remains, rows: &mut Vec<SystemRow>) {
        for record in self.nodes.values_mut() {
            let own = record.id == remains.node;
            record.state = if own { NodeState::Up } else { NodeState::Tombstoned };
            row(rows, b'N', record.id.0, Some(&*record));
        }
        self.rebuild_ranges(remains, rows);
        let data = || remains.ranges.keys().filter(|range| **range != META_RANGE).copied();
        for (id, lease) in &mut self.leases {
            // Where keys were attached last may be known to the lost ones alone.
            lease.ranges = data().collect();
            row(rows, b'L', *id as u64, Some(&*lease));
        }
        self.transactions.keep_parts(&data().collect(), rows);
        for range in std::mem::take(&mut self.moves).into_keys() {
            row::<u64>(rows, b'M', range.0, None);
        }
        for range in std::mem::take(&mut self.divergences).into_keys() {
            row::<u64>(rows, b'D', range.0, None);
        }
        for node in std::mem::take(&mut self.drains).into_keys() {
            row::<u64>(rows, b'E', node.0, None);
        }
        let gone = self.facts.keys().copied().filter(|node| *node != remains.node);
        for node in gone.collect::<Vec<_>>() {
            self.forget_facts(node, rows);
        }
        self.scalars.block = GrantBlock { end: remains.revision, handover: None };
        self.scalars.compacted = remains.revision;
        self.scalars.next_node += NODES_SKIPPED;
        self.scalars.next_range = remains.next_range;
        // Whose alarm it was cannot end it, and who was let in must ask again, for another id.
        self.scalars.alarms.clear();
        self.scalars.joins.clear();
        self.scalars_row(rows);
    }

    fn rebuild_ranges(&mut self, remains: &Remains, rows: &mut Vec<SystemRow>) {
        for range in self.ranges.keys().filter(|range| !remains.ranges.contains_key(range)) {
            row::<u64>(rows, b'R', range.0, None);
            row::<u64>(rows, b'G', range.0, None);
            row::<u64>(rows, b'W', range.0, None);
            self.automatic.forget(*range, rows);
        }
        self.ranges.clear();
        self.logged.clear();
        self.by_start.clear();
        self.registrations.clear();
        self.wanted.clone_from(&remains.wanted);
        for (id, copies) in &remains.wanted {
            row(rows, b'W', id.0, Some(&(*copies as u64)));
        }
        for (id, (descriptor, term)) in &remains.ranges {
            row(rows, b'R', id.0, Some(descriptor));
            self.logged.insert(*id, descriptor.generation);
            self.set_range(descriptor.clone());
            let generation = descriptor.generation;
            let registration = Registration { term: *term, node: remains.node, generation };
            row(rows, b'G', id.0, Some(&registration));
            self.registrations.insert(*id, registration);
        }
    }
}
