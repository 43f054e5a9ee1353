//! Merging neighbours that are small: the right one is taken in by the left one.
//!
//! ```text
//!  same nodes ─► right: frozen ─► complete everywhere ─► left: Merge in its log ─► directory: gone
//!                     │                   │                       │ no more possible
//!                     └───────────────────┴── called off ─► left: next generation ─► right: thawed
//! ```
//!
//! The meta range's leader asks for one step after the other, and knows from what the two ranges say of
//! themselves where to go on; all it remembers on disk is that there is a merge, and from which
//! generations. No key is moved: both ranges' keys lie side by side in the state of each node.
//!
//! Invariants: the left range merges only from the generation in the directory, and the right one is
//! thawed only after the left one has said that this generation is over; what a node has of the right
//! range ends when its replica of the left one has taken it in, and its log only when that is durable.

use super::Node;
use super::routing::Owner;
use crate::command::{Entry, MetaChange, MetaEntry};
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaKind};
use crate::effects::{LogWrite, Millis};
use crate::error::Misrouted;
use crate::ids::{Index, META_RANGE, NodeId, RangeId, ReplicaId, RequestId};
use crate::key::Span;
use crate::leaseholder::{Asked, Asker, Work};
use crate::level::Level;
use crate::message::{InternalReply, Outcome, RangeRequest, RoutedRequest};
use crate::meta::{Merge, Move, policy_name};
use crate::replica::Replica;
use crate::replica::merging::{Legacy, merge_in};
use crate::state::{Applied, StateReads};
use raft::eraftpb::Entry as LogEntry;
use std::collections::{BTreeMap, BTreeSet};

/// A merge that has not happened after this is called off.
const GIVE_UP_MS: Millis = 5_000;
/// So is one whose copies did not come together.
const TOGETHER_MS: Millis = 120_000;
/// A step that nothing was heard of for so long is asked for again.
const STEP_MS: Millis = 1_000;
/// Merges under way at most.
const MERGES_MAX: usize = 4;
/// A replica that lacks no more entries than this follows.
const FOLLOWS: Index = 1_000;

/// The next step of a merge.
#[derive(Clone, Debug)]
enum Phase {
    /// Freeze the right range, and wait until every replica of it has everything.
    Freeze,
    /// Have the left range take it in.
    Merge(Box<RangeDescriptor>, Applied),
    /// See to it that the left range will not take it in.
    CallOff,
    /// Then the right range serves again.
    Thaw,
}

#[derive(Debug)]
struct Drive {
    merge: Merge,
    since: Millis,
    phase: Phase,
    asked: bool,
}

/// A replica that was taken in, and whose log has still to end.
#[derive(Debug)]
struct Ended {
    replica: ReplicaId,
    span: Span,
    /// The range that has its keys, and where in that one's log.
    left: RangeId,
    index: Index,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Merging {
    drives: BTreeMap<RangeId, Drive>,
    ended: BTreeMap<RangeId, Ended>,
    /// Ranges with entries that wait for another range.
    holding: BTreeSet<RangeId>,
}

impl Merging {
    /// Is its end here on its way?
    pub(super) fn is_ending(&self, range: RangeId) -> bool {
        self.ended.contains_key(&range)
    }

    pub(super) fn holding(&self) -> impl Iterator<Item = RangeId> + '_ {
        self.holding.iter().copied()
    }
}

impl Node {
    // The meta range's leader.

    /// May a range take in its right neighbour? Gives the merge.
    ///
    /// # Errors
    /// The reason why not, and what to do.
    pub(super) fn may_merge(&self, left: RangeId) -> Result<Merge, String> {
        let Some(descriptor) = self.meta.ranges().get(&left) else {
            return Err(match self.meta.merges().way(left).last() {
                Some(into) => format!("{left} is a part of {into}"),
                None => format!("there is no range {left}"),
            });
        };
        if left == META_RANGE {
            return Err(format!("{left} is the directory: it has no neighbours"));
        }
        let right = descriptor.span.end.as_ref().and_then(|end| self.meta.range_of(end));
        let Some(right) = right.filter(|right| right.id != left) else {
            return Err(format!("{left} is the last range: name its left neighbour"));
        };
        let merge = Merge { left, right: right.id, generations: None };
        self.check_level(Level::SHAPING)?;
        if descriptor.span.end.as_ref() != Some(&right.span.start) {
            return Err(format!("{left} is being cut: try again"));
        }
        if let Some(known) = self.meta.merges().under_way().get(&left) {
            return Ok(*known);
        }
        if let Some(prefix) = self.meta.policies().bound(&right.span.start) {
            let (prefix, right) = (policy_name(prefix), right.id);
            return Err(format!(
                "between {left} and {right} the placement policy of {prefix} begins or ends: they would \
                 be cut there again (see `placement list`)"
            ));
        }
        if self.meta.merges().under_way().len() >= MERGES_MAX {
            return Err(format!("{MERGES_MAX} merges are under way: try again when one is done"));
        }
        for range in [descriptor, right] {
            let id = range.id;
            if self.meta.merges().of(id).is_some() {
                return Err(format!("{id} takes part in another merge: try again"));
            }
            if self.meta.moves().contains_key(&id) {
                return Err(format!("a copy of {id} is being moved: try again when it is done"));
            }
            if let Some(voter) = range.voters().find(|voter| !self.answers(voter.node)) {
                let node = voter.node;
                return Err(format!("{node} does not answer, and has a copy of {id}"));
            }
            if range.replicas.iter().any(|other| other.kind == ReplicaKind::Learner) {
                return Err(format!("a copy of {id} is being made: try again when it is done"));
            }
        }
        let (ours, theirs) = (descriptor.voters().count(), right.voters().count());
        if ours != theirs {
            let right = right.id;
            return Err(format!("{left} has {ours} copies and {right} has {theirs}"));
        }
        Ok(merge)
    }

    /// What brings the copies of two ranges that are to merge together: add there, remove here.
    pub(super) fn together_step(&self, right: &RangeDescriptor) -> Option<Move> {
        let merge = self.meta.merges().of(right.id)?;
        if merge.right != right.id || merge.generations.is_some() {
            return None;
        }
        let left = self.meta.ranges().get(&merge.left)?;
        let up = |node: &NodeId| {
            self.meta.nodes().get(node).is_some_and(|record| record.state == NodeState::Up)
        };
        let wanted: Vec<NodeId> = left.voters().map(|voter| voter.node).filter(up).collect();
        // One that was begun goes on.
        let to = wanted
            .iter()
            .find(|node| {
                right.replica_on(**node).is_some_and(|own| own.kind == ReplicaKind::Learner)
            })
            .or_else(|| wanted.iter().find(|node| right.replica_on(**node).is_none()))
            // An only copy goes by way of two: the old one has still to go.
            .or_else(|| wanted.iter().find(|node| right.replica_on(**node).is_some()))?;
        let to = *to;
        let from = right.voters().find(|voter| left.replica_on(voter.node).is_none())?.node;
        Some(Move { from, to })
    }

    /// Asks for the next step of every merge.
    pub(super) fn merging_tick(&mut self) {
        let under_way = self.meta.merges().under_way();
        self.merging.drives.retain(|left, drive| under_way.get(left) == Some(&drive.merge));
        let fresh: Vec<Merge> = under_way
            .values()
            .filter(|merge| !self.merging.drives.contains_key(&merge.left))
            .copied()
            .collect();
        for merge in fresh {
            let drive = Drive { merge, since: self.now, phase: Phase::Freeze, asked: false };
            self.merging.drives.insert(merge.left, drive);
        }
        let lefts: Vec<RangeId> = self.merging.drives.keys().copied().collect();
        for left in lefts {
            self.drive(left);
        }
    }

    fn drive(&mut self, left: RangeId) {
        let now = self.now;
        let Some(drive) = self.merging.drives.get_mut(&left) else { return };
        let merge = drive.merge;
        let Some((ours, theirs)) = merge.generations else { return self.bring_together(left) };
        if drive.asked {
            return;
        }
        let late = now > drive.since + GIVE_UP_MS;
        if late && matches!(drive.phase, Phase::Freeze | Phase::Merge(..)) {
            drive.phase = Phase::CallOff;
        }
        let (range, body) = match &drive.phase {
            Phase::Freeze => (merge.right, RangeRequest::Freeze { left, generation: theirs }),
            Phase::Merge(right, at) => {
                let (right, at) = (RangeDescriptor::clone(right), *at);
                (left, RangeRequest::Merge { generation: ours, right, at })
            }
            Phase::CallOff => (left, RangeRequest::Thaw { generation: ours }),
            Phase::Thaw => (merge.right, RangeRequest::Thaw { generation: theirs }),
        };
        drive.asked = true;
        self.internal_request_until(Owner::Merging(merge), range, body, now + STEP_MS);
    }

    /// Nothing has begun yet: the copies go to the same nodes, or not.
    fn bring_together(&mut self, left: RangeId) {
        let Some(drive) = self.merging.drives.get(&left) else { return };
        let (merge, late) = (drive.merge, self.now > drive.since + TOGETHER_MS);
        let ranges = self.meta.ranges();
        let both = ranges.get(&left).zip(ranges.get(&merge.right));
        let change = match both {
            // A policy was set meanwhile: they would be cut there again.
            Some((_, theirs)) if self.meta.policies().is_bound(&theirs.span.start) => {
                MetaChange::MergeEnded(merge)
            }
            Some((ours, theirs)) if are_together(ours, theirs) => {
                let generations = Some((ours.generation, theirs.generation));
                MetaChange::Merge(Merge { generations, ..merge })
            }
            Some(_) if !late => return,
            Some(_) | None => MetaChange::MergeEnded(merge),
        };
        self.service.change(MetaEntry { id: RequestId::default(), change });
    }

    /// A range has answered to a step of a merge.
    pub(super) fn merging_answered(&mut self, merge: Merge, reply: InternalReply) {
        let Some(drive) = self.merging.drives.get_mut(&merge.left) else { return };
        let Some((ours, theirs)) = merge.generations.filter(|_| drive.merge == merge) else {
            return;
        };
        drive.asked = false;
        drive.phase = match (&drive.phase, reply) {
            (Phase::Freeze, InternalReply::Frozen { descriptor, at, everywhere: true }) => {
                Phase::Merge(Box::new(descriptor), at)
            }
            (Phase::Freeze, InternalReply::Stands { .. }) => Phase::CallOff,
            (Phase::Merge(..) | Phase::CallOff, InternalReply::Stands { generation, absorbed }) => {
                if absorbed.contains(&merge.right) {
                    // Its leader tells the directory, and that ends it.
                    return;
                }
                if generation > ours { Phase::Thaw } else { Phase::CallOff }
            }
            (Phase::Thaw, InternalReply::Stands { generation, .. }) if generation > theirs => {
                let change = MetaChange::MergeEnded(merge);
                self.service.change(MetaEntry { id: RequestId::default(), change });
                return;
            }
            // Not yet.
            (_, _) => return,
        };
        self.drive(merge.left);
    }

    /// Nothing was heard of a step.
    pub(super) fn merging_failed(&mut self, merge: Merge) {
        if let Some(drive) = self.merging.drives.get_mut(&merge.left) {
            drive.asked = false;
        }
    }

    // The leaders of the two ranges.

    /// A step of a merge, for a range on this node.
    pub(super) fn serve_merging(
        &mut self,
        asker: Asker,
        request: RoutedRequest,
        state: &dyn StateReads,
    ) {
        let range = request.range;
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let Some(own) = replica.descriptor.as_ref() else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        let (RangeRequest::Freeze { generation, .. }
        | RangeRequest::Thaw { generation }
        | RangeRequest::Merge { generation, .. }) = request.body
        else {
            return;
        };
        let stands = Outcome::Internal(InternalReply::Stands {
            generation: own.generation,
            absorbed: replica.merging.absorbed.clone(),
        });
        // What a replica has applied is so, whoever leads.
        if own.generation > generation {
            return self.outcome(asker, stands);
        }
        replica.wake(&mut self.awake);
        let Some(own) = replica.descriptor.as_ref() else { return };
        if !replica.group.is_leader() || own.generation < generation {
            if replica.may_lead_soon() && !replica.group.is_leader() {
                replica.seldom.waiting.push((asker, request));
                return;
            }
            let hint = replica.leader_node().filter(|node| *node != self.config.node);
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let entry = match (&request.body, replica.merging.frozen) {
            (RangeRequest::Freeze { left, .. }, Some(frozen)) if frozen.left == *left => {
                let reply = InternalReply::Frozen {
                    descriptor: RangeDescriptor::clone(own),
                    at: frozen.at,
                    everywhere: is_everywhere(replica, own, frozen.at.index),
                };
                return self.outcome(asker, Outcome::Internal(reply));
            }
            (RangeRequest::Thaw { .. }, Some(_)) => {
                // Nothing else is proposed to a frozen range: once is enough.
                let quiet = replica.group.last_index() == replica.applied.index;
                if replica.has_settled() && quiet {
                    replica.group.propose(Entry::Thaw { generation }.encode());
                    self.dirty.insert(range);
                }
                return self.out.misrouted(asker, Misrouted::Busy);
            }
            // One that is to be taken in takes nothing in.
            (_, Some(_)) => return self.outcome(asker, stands),
            (RangeRequest::Freeze { left, .. }, None) => Entry::Freeze { left: *left, generation },
            (RangeRequest::Merge { right, at, .. }, None) => {
                if !are_together(own, right) || own.span.end.as_ref() != Some(&right.span.start) {
                    return self.outcome(asker, stands);
                }
                let last = replica.group.last_index();
                let follows = |matched: Index| matched > 0 && matched + FOLLOWS >= last;
                let progress = replica.group.progress();
                if !progress.iter().all(|(_, matched, ..)| follows(*matched)) {
                    return self.out.misrouted(asker, Misrouted::Busy);
                }
                Entry::Merge { generation, right: right.clone(), at: *at }
            }
            (_, None) => Entry::Thaw { generation },
        };
        if !replica.holds_lease() {
            replica.seldom.waiting.push((asker, request));
            return;
        }
        if replica.group.is_changing() || replica.group.is_joint() {
            return self.out.misrouted(asker, Misrouted::Busy);
        }
        let work = Work::Change(Box::new(entry));
        let asked = Asked { asker, id: request.id, settled_below: 0, again: false, work };
        self.ask_leaseholder(range, asked, state);
    }

    /// The turn of an entry has come that changes what a range is: nothing is under way in it. Whoever
    /// asked asks again, and sees what became of it.
    pub(super) fn propose_change(&mut self, range: RangeId, asker: Asker, entry: &Entry) {
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let current = replica.descriptor.as_ref().map(|own| own.generation);
        let (Entry::Freeze { generation, .. }
        | Entry::Thaw { generation }
        | Entry::Rank { generation, .. }
        | Entry::Merge { generation, .. }) = entry
        else {
            return;
        };
        if current == Some(*generation) && !replica.is_being_changed() {
            replica.group.propose(entry.encode());
        }
        // Nothing may follow it in this log that was planned before it.
        self.lease_lost(range);
        self.out.misrouted(asker, Misrouted::Busy);
        self.dirty.insert(range);
    }

    // Applying.

    /// Of the committed entries of a range, those that may be applied now. What begins with a merge
    /// waits until this node has all of the right range; what comes after one waits for the next turn,
    /// when the state shows both.
    pub(super) fn hold_merges(&mut self, range: RangeId, entries: Vec<LogEntry>) -> Vec<LogEntry> {
        let Some(replica) = self.replicas.get_mut(&range) else {
            self.merging.holding.remove(&range);
            return Vec::new();
        };
        let is_merge = |entry: &LogEntry| Entry::is_merge(&entry.data);
        if replica.merging.held.is_empty() && !entries.iter().any(is_merge) {
            // A raft snapshot may have come instead of what waited.
            self.merging.holding.remove(&range);
            return entries;
        }
        let mut queue = std::mem::take(&mut replica.merging.held);
        queue.extend(entries);
        let later = |from: usize| queue.iter().skip(from).position(is_merge).map(|at| from + at);
        let upto = match queue.front().and_then(merge_in) {
            None => later(0).unwrap_or(queue.len()),
            // Without effect.
            Some((generation, right, _)) if !replica.would_merge(generation, &right) => {
                later(1).unwrap_or(queue.len())
            }
            Some((_, right, at)) => {
                let legacy = self.legacy_of(right.id, at);
                let ready = usize::from(legacy.is_some());
                let stateless = |own: &Replica| own.descriptor.is_none();
                let lost = self.meta.is_gone(right.id)
                    && self.replicas.get(&right.id).is_none_or(stateless);
                if let Some(replica) = self.replicas.get_mut(&range) {
                    replica.merging.legacy = legacy.map(Box::new);
                    if lost && ready == 0 {
                        // A raft snapshot from after the merge goes on without it.
                        replica.group.want_state();
                    }
                }
                ready
            }
        };
        let Some(replica) = self.replicas.get_mut(&range) else { return Vec::new() };
        replica.merging.held = queue.split_off(upto);
        if replica.merging.held.is_empty() {
            self.merging.holding.remove(&range);
        } else {
            self.merging.holding.insert(range);
        }
        queue.into()
    }

    /// What there is to take over of a range, if its replica here has everything. If it only has it in
    /// its log, it may apply it: whoever merges knows that it is committed.
    fn legacy_of(&mut self, right: RangeId, at: Applied) -> Option<Legacy> {
        let replica = self.replicas.get_mut(&right)?;
        if replica.may_be_taken_in(at) {
            return Some(replica.legacy());
        }
        if replica.descriptor.is_some() && replica.group.commit_to(at) {
            self.dirty.insert(right);
        }
        None
    }

    /// Entries that waited may go on.
    pub(super) fn has_ready_merges(&self) -> bool {
        self.merging.holding.iter().any(|range| {
            let Some(replica) = self.replicas.get(range) else { return false };
            let Some(next) = replica.merging.held.front() else { return false };
            match merge_in(next) {
                Some((generation, right, at)) if replica.would_merge(generation, &right) => {
                    let right = self.replicas.get(&right.id);
                    right.is_some_and(|right| right.may_be_taken_in(at))
                }
                Some(_) | None => true,
            }
        })
    }

    /// The range's replica here has taken in that of another, or is about to be replaced by a state
    /// that has.
    pub(super) fn taken_in(&mut self, left: RangeId, right: RangeId, index: Index) {
        self.lease_lost(right);
        let Some(replica) = self.replicas.remove(&right) else { return };
        self.merging.holding.remove(&right);
        let span = replica.descriptor.map_or_else(Span::all, |own| own.span.clone());
        let ended = Ended { replica: replica.group.me(), span, left, index };
        self.merging.ended.insert(right, ended);
        self.router.moved(right);
    }

    /// What was taken in before may still have a state and a log: at start, and where a cut that was
    /// applied late has made it again.
    pub(super) fn find_taken_in(&mut self) {
        let known: Vec<(RangeId, RangeId, Index)> = self
            .replicas
            .values()
            .flat_map(|left| {
                let index = left.applied.index;
                left.merging.absorbed.iter().map(move |right| (left.range, *right, index))
            })
            .filter(|(_, right, _)| self.replicas.contains_key(right))
            .collect();
        for (left, right, index) in known {
            self.taken_in(left, right, index);
        }
    }

    /// Ends the logs of replicas that were taken in, where that is durable.
    pub(super) fn end_taken_in(&mut self) {
        let over = |ended: &Ended| match self.replicas.get(&ended.left) {
            Some(left) => !left.group.is_installing() && left.durable >= ended.index,
            None => !self.merging.ended.contains_key(&ended.left),
        };
        let ready: Vec<RangeId> = self
            .merging
            .ended
            .iter()
            .filter(|(_, ended)| over(ended))
            .map(|(range, _)| *range)
            .collect();
        let mut writes = Vec::new();
        for range in ready {
            let Some(Ended { replica, span, .. }) = self.merging.ended.remove(&range) else {
                continue;
            };
            let clear = self.unowned(&span);
            self.departures.end(range, replica, (self.persist_sequence + 1, clear));
            writes.push(LogWrite {
                range,
                removed: Some(replica),
                destroy: true,
                ..LogWrite::default()
            });
        }
        self.write_log(true, writes);
    }

    /// The keys of a span that no replica here has, and none that is on its way.
    pub(super) fn unowned(&self, span: &Span) -> Vec<Span> {
        let owned = self
            .replicas
            .values()
            .filter(|replica| replica.range != META_RANGE)
            .filter_map(|replica| replica.descriptor.as_ref().map(|own| &own.span))
            .chain(self.staged.values().map(|(_, coming)| &coming.span))
            .chain(self.installing.values());
        owned.fold(vec![span.clone()], |rest, own| {
            rest.iter().flat_map(|span| span.without(own)).collect()
        })
    }

    /// Are all these replicas of ranges that `range` has taken in since? Then a raft snapshot of it
    /// replaces them as well.
    pub(super) fn replaces(&self, range: RangeId, others: &[RangeId]) -> bool {
        let merges = self.meta.merges();
        others.iter().all(|other| merges.way(*other).any(|into| into == range))
    }

    /// Replicas here, but for that of `range`, that have keys of `span`.
    pub(super) fn overlapping(&self, range: RangeId, span: &Span) -> Vec<RangeId> {
        let others = self.replicas.values().filter(|other| {
            other.range != range
                && other.range != META_RANGE
                && range != META_RANGE
                && other.descriptor.as_ref().is_some_and(|own| own.span.overlaps(span))
        });
        others.map(|other| other.range).collect()
    }

    /// Is a replica there of a range that is gone, on a node that has nothing to do with what took it
    /// in? It may come of a cut that was applied too late, and there is nobody of its range to ask.
    pub(super) fn is_left_over(&self, node: NodeId, range: RangeId) -> bool {
        let Some(into) = self.meta.merges().way(range).last() else { return false };
        let known = self.meta.ranges().get(&into);
        known.is_some_and(|into| into.replica_on(node).is_none())
    }

    /// Replicas of ranges that are gone, and that nothing here will take in.
    pub(super) fn stranded(&self) -> Vec<(RangeId, ReplicaId)> {
        let merges = self.meta.merges();
        let here = |range: RangeId| {
            self.replicas.contains_key(&range)
                || self.orphans.contains_key(&range)
                || self.merging.ended.contains_key(&range)
        };
        let found = self.replicas.values().filter(|replica| {
            let Some(into) = merges.way(replica.range).last() else { return false };
            // It was not a member any more, or never got a state: nobody merges with it, and nobody
            // is left who could tell it so.
            let own = replica.descriptor.as_ref();
            if own.is_none_or(|own| own.replica(replica.group.me()).is_none()) {
                return true;
            }
            let known = self.meta.ranges().get(&into);
            // The directory may be older than the end of a replica here.
            let ours = known.is_none_or(|known| {
                let own = known.replica_on(self.config.node);
                own.is_some_and(|own| !self.departures.includes(into, own.replica))
            });
            !ours && !merges.way(replica.range).any(here)
        });
        found.map(|replica| (replica.range, replica.group.me())).collect()
    }
}

/// Do both ranges have copies on the same nodes, all of them voters?
fn are_together(left: &RangeDescriptor, right: &RangeDescriptor) -> bool {
    let nodes = |range: &RangeDescriptor| -> BTreeSet<NodeId> {
        range.replicas.iter().map(|replica| replica.node).collect()
    };
    let all = left.replicas.iter().chain(&right.replicas);
    nodes(left) == nodes(right) && all.into_iter().all(|own| own.kind == ReplicaKind::Voter)
}

/// Have all replicas of a range its whole log up to here, on their disks?
fn is_everywhere(replica: &Replica, own: &RangeDescriptor, index: Index) -> bool {
    let progress = replica.group.progress();
    replica.group.is_leader()
        && !replica.group.is_joint()
        && own.replicas.iter().all(|member| {
            let mut known = progress.iter().filter(|(id, ..)| *id == member.replica);
            known.next().is_some_and(|(_, matched, ..)| *matched >= index)
        })
}
