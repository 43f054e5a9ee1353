//! Which replicas live on this node: they come with a message or a cut, and go once and for all.
//!
//! ```text
//!  message, cut ─► runs ─► a majority says "removed" ─► state durable ─► log ends, for ever
//!                                                                             └─► state goes
//! ```
//!
//! Invariants: a replica never loses what it promised and goes on: with its log it keeps its votes
//! and what it acknowledged, and if its state is gone it asks for another; a replica that was
//! removed never comes back under its id; its log goes before its state, and not before the ranges
//! that were cut off it are safe without it.

use super::Node;
use crate::descriptor::RangeDescriptor;
use crate::effects::{LogWrite, ReplicaBoot, SnapshotEffect};
use crate::group::Group;
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId};
use crate::key::Span;
use crate::message::Message;
use crate::replica::Replica;
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Replicas that have left this node, or are about to.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Found removed, to be taken away between two turns: for each range the last one.
    doomed: BTreeMap<RangeId, ReplicaId>,
    /// Taken away, in the log for ever. Neither these nor any before them may come back.
    graves: BTreeMap<RangeId, ReplicaId>,
    /// The end of the log is being written, under this number; then these keys go.
    ending: BTreeMap<RangeId, (u64, Vec<Span>)>,
    /// Keys that a replica left behind which is not here any more.
    leftovers: Vec<(RangeId, Span)>,
}

impl Departures {
    /// What the log says of a range at start.
    pub fn remember(&mut self, range: RangeId, removed: ReplicaId) {
        if removed > ReplicaId::default() {
            self.graves.insert(range, removed);
        }
    }

    /// Was this replica removed from this node?
    pub fn includes(&self, range: RangeId, replica: ReplicaId) -> bool {
        self.graves.get(&range).is_some_and(|removed| replica <= *removed)
    }

    /// Rows of a range, and keys, that nobody here needs any more.
    pub fn leave(&mut self, range: RangeId, span: Span) {
        self.leftovers.push((range, span));
    }

    /// Hands these over to whoever clears them away.
    pub fn take_leftovers(&mut self) -> Vec<(RangeId, Span)> {
        std::mem::take(&mut self.leftovers)
    }

    /// True if there are keys to clear away.
    pub fn has_leftovers(&self) -> bool {
        !self.leftovers.is_empty()
    }

    /// The log of this replica ends with the write of that number; then these keys go.
    pub fn end(&mut self, range: RangeId, replica: ReplicaId, ending: (u64, Vec<Span>)) {
        self.ending.insert(range, ending);
        self.graves.insert(range, replica);
    }

    /// True while rows of a range, or keys in `span`, wait for the end of a log.
    pub fn occupies(&self, range: RangeId, span: &Span) -> bool {
        self.ending
            .iter()
            .any(|(of, (_, clear))| *of == range || clear.iter().any(|own| own.overlaps(span)))
    }
}

impl Node {
    /// A message for a replica that is not here: if the directory says that it should be, it is
    /// being added, and a raft snapshot will fill it.
    pub(super) fn create_replica(&mut self, range: RangeId, replica: ReplicaId) {
        let known = range == META_RANGE && self.replicas.is_empty()
            || self
                .meta
                .ranges()
                .get(&range)
                .and_then(|descriptor| descriptor.replica(replica))
                .is_some_and(|found| found.node == self.config.node);
        let gone = self.departures.includes(range, replica)
            || self.departures.ending.contains_key(&range)
            || self.merging.is_ending(range)
            || self.meta.is_gone(range);
        if !known || gone || self.comes_back(range) {
            return;
        }
        // What is in the log counts: votes and acknowledgements were given for it. It may be all
        // there is of a range that was cut off another, of which a later raft snapshot came.
        let boot = match self.orphans.remove(&range) {
            Some(orphan) => ReplicaBoot { applied: orphan.truncated, ..orphan },
            None => ReplicaBoot { range, ..ReplicaBoot::default() },
        };
        let applied = boot.applied;
        let members = ConfState::default();
        let election_ticks = self.config.election_ticks();
        let group = Group::new(replica, boot, members, self.reader.clone(), election_ticks);
        let created =
            Replica::new(range, group, applied, &[]).expect("no rows, nothing to misread");
        self.replicas.insert(range, created);
    }

    /// Will the range that this one was cut off apply the cut again, and find its log?
    fn comes_back(&self, range: RangeId) -> bool {
        self.orphans.get(&range).is_some_and(|orphan| orphan.truncated.index > 0)
            && self.meta.ranges().get(&range).is_some_and(|descriptor| {
                self.replicas.values().any(|other| {
                    let own = other.descriptor.as_ref();
                    own.is_some_and(|own| own.span.overlaps(&descriptor.span))
                })
            })
    }

    /// This node's replicas of a range up to this one were removed. What is left of them goes
    /// between two turns.
    fn tombstone(&mut self, range: RangeId, replica: ReplicaId) {
        if !self.departures.includes(range, replica) {
            let doomed = self.departures.doomed.entry(range).or_insert(replica);
            *doomed = (*doomed).max(replica);
        }
    }

    /// Takes away the replicas that were found removed. Only between two turns: what a turn writes
    /// to a log and applies has its place before the end of both.
    ///
    /// That they were is remembered on disk. A member that slept through the change may still ask
    /// for their votes, and the directory as this node knows it may be older than the change: made
    /// again, with an empty log, such a replica would vote for anybody.
    pub(super) fn remove_doomed(&mut self) {
        self.end_taken_in();
        for (range, span) in std::mem::take(&mut self.departures.leftovers) {
            // Another range may have them by now.
            let clear = self.unowned(&span);
            self.effects.snapshots.push(SnapshotEffect::Destroy { range, clear });
        }
        let mut writes = Vec::new();
        for (range, removed) in std::mem::take(&mut self.departures.doomed) {
            let replica = self.replicas.get(&range).filter(|own| own.group.me() <= removed);
            let mut write = LogWrite { range, removed: Some(removed), ..LogWrite::default() };
            if let Some(replica) = replica {
                if !may_go(replica) {
                    self.departures.doomed.insert(range, removed);
                    continue;
                }
                let span = replica.descriptor.as_ref().map(|own| own.span.clone());
                self.lease_lost(range);
                self.replicas.remove(&range);
                let clear = span.map_or_else(Vec::new, |span| self.unowned(&span));
                self.departures.ending.insert(range, (self.persist_sequence + 1, clear));
                write.destroy = true;
            }
            self.departures.graves.insert(range, removed);
            writes.push(write);
        }
        self.write_log(true, writes);
    }

    /// True if a replica was found removed that can be taken away.
    pub(super) fn has_departures(&self) -> bool {
        self.departures.doomed.keys().any(|range| self.replicas.get(range).is_none_or(may_go))
    }

    /// Logs that ended are gone for good: so may the states be. The other way round, a log without
    /// a state would be found after a loss of power, and nothing that says that it is over.
    pub(super) fn departures_written(&mut self, sequence: u64) {
        let effects = &mut self.effects.snapshots;
        self.departures.ending.retain(|range, (number, clear)| {
            let written = *number <= sequence;
            if written {
                let (range, clear) = (*range, std::mem::take(clear));
                effects.push(SnapshotEffect::Destroy { range, clear });
            }
            !written
        });
    }

    // Who was removed is told by those who know for good, again when it asks.

    /// A member says that a replica of this node was removed.
    ///
    /// One member is not enough. While only it knows that the change is over, the others need the
    /// votes of those that left to find out, should it be gone; a majority always has one that knows.
    pub(super) fn told_removed(&mut self, from: NodeId, range: RangeId, removed: ReplicaId) {
        if let Some(own) = self.replicas.get_mut(&range)
            && own.group.me() <= removed
        {
            own.seldom.told_removed.insert(from);
            let promised = own.descriptor.is_some() || own.group.last_index() > 0;
            if promised && !self.is_told_by_majority(range) {
                return;
            }
        }
        self.tombstone(range, removed);
    }

    fn is_told_by_majority(&self, range: RangeId) -> bool {
        let Some(own) = self.replicas.get(&range) else { return false };
        self.newest_descriptor(range).is_some_and(|newest| {
            let told =
                newest.voters().filter(|voter| own.seldom.told_removed.contains(&voter.node));
            told.count() >= newest.quorum()
        })
    }

    /// The directory's or the replica's own, whichever knows more.
    fn newest_descriptor(&self, range: RangeId) -> Option<&RangeDescriptor> {
        let own = self.replicas.get(&range).and_then(|own| own.descriptor.as_deref());
        let known = self.meta.ranges().get(&range).map(Arc::as_ref);
        own.into_iter().chain(known).max_by_key(|descriptor| descriptor.generation)
    }

    /// A replica wants to know, or speaks as if it did not know.
    pub(super) fn asked_removed(&mut self, from: NodeId, range: RangeId, replica: ReplicaId) {
        if self.replicas.get(&range).is_some_and(|own| own.has_removed(replica)) {
            self.send(from, Message::Tombstone { range, replica });
        }
    }

    /// Replicas that were removed while nobody could tell them ask those who know.
    pub(super) fn ask_removed(&mut self) {
        self.find_taken_in();
        for (range, replica) in self.stranded() {
            self.tombstone(range, replica);
        }
        let mut questions = Vec::new();
        for (range, own) in self.replicas.iter() {
            let Some(newest) = self.newest_descriptor(*range) else { continue };
            let replica = own.group.me();
            // An id below the next one was given; not there any more, it was removed.
            if newest.replica(replica).is_none() && replica.0 < newest.next_replica {
                let voters = newest.voters().filter(|voter| voter.node != self.config.node);
                let range = *range;
                questions.extend(
                    voters.map(|voter| (voter.node, Message::AmIRemoved { range, replica })),
                );
            }
        }
        for (node, question) in questions {
            self.send(node, question);
        }
    }
}

/// The state is at rest, and safe without the log: with it, after a loss of power, would go what
/// has to be applied again, the cuts of other ranges above all.
fn may_go(replica: &Replica) -> bool {
    !replica.group.is_installing() && replica.durable >= replica.applied.index
}

#[cfg(test)]
mod tests;
