//! What is left of a cluster when a majority is gone for good, by explicit consent: one stopped node
//! becomes the only member of the meta range and of the ranges that it has.
//!
//! ```text
//!  logs ─ replay to their ends ─► what there is ─ plan ─► terms (log) ─► everything else (one commit)
//! ```
//!
//! Invariants: nothing is decided here but by what the disk says; a plan changes nothing until it is
//! written; its log writes alone are harmless (a term is raised, nothing is forgotten), and its
//! batches are one commit, so that a crash leaves the node as it was or recovered; what was recovered
//! once is refused.
//!
//! What it gives up: entries that only the lost nodes had. What it may add: entries at the ends of
//! the logs that no majority had. Nobody was told that these had happened, nor that they had not.

use super::Node;
use crate::bootstrap::{START, initial_hard_state, initial_log};
use crate::descriptor::{NodeRecord, NodeState, RangeDescriptor, ReplicaDescriptor, ReplicaKind};
use crate::effects::{Input, LogWrite, ReplicaBoot};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId, Revision, Term};
use crate::key::{Span, printable};
use crate::meta::{EPOCH, MetaState, Remains};
use crate::planner::odd;
use crate::replica::{LEFT_ROW, REVISION_ROW, Replica, WANTED_ROW, descriptor_row, members_row};
use crate::state::{Applied, ApplyBatch, StateReads, SystemRow};
use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By how much the revision jumps at least: past what a sequencer may have granted unseen, many
/// times over.
pub const BUMP_MIN: Revision = 1_000_000;

/// By how much it jumps unless told otherwise, as etcd advises for a restored cluster.
pub const BUMP_DEFAULT: Revision = 1_000_000_000;

/// Turns without anything to apply after which a log counts as applied to its end.
const IDLE_TURNS: u32 = 3;

/// What is consented to.
#[derive(Clone, Copy, Debug)]
pub struct Consent {
    /// Revisions skipped, at least [`BUMP_MIN`].
    pub bump: Revision,
    /// Keys of which no copy is here become new, empty ranges.
    pub lost_ranges: bool,
}

/// A range that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The range.
    pub range: RangeId,
    /// Its keys.
    pub span: Span,
    /// The end of its log here: what the lost copies had beyond that is lost.
    pub last: Applied,
    /// Its newest revision here.
    pub revision: Revision,
    /// The nodes that had the other copies.
    pub gone: Vec<NodeId>,
    /// As many copies it gets again.
    pub copies: usize,
    /// The copy here did not count any more, or not yet: it may be old.
    pub uncounted: bool,
}

/// Keys of which there is no copy here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// They.
    pub span: Span,
    /// The ranges that held them, as far as is known.
    pub ranges: Vec<RangeId>,
    /// The nodes that had copies of these.
    pub nodes: Vec<NodeId>,
    /// The new, empty range in their place.
    pub anew: Option<RangeId>,
}

/// What a recovery keeps and gives up.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The node that is left.
    pub node: NodeId,
    /// The position of the meta range here.
    pub meta: Applied,
    /// Ranges that go on.
    pub kept: Vec<Kept>,
    /// Keys without a copy here.
    pub lost: Vec<Lost>,
    /// Nodes that are gone for ever.
    pub gone: Vec<NodeRecord>,
    /// The newest revision found.
    pub revision: Revision,
    /// All further revisions are above this, and history up to it is compacted.
    pub compacted: Revision,
}

/// What to write, in this order: `log` synced, then `state` in one durable commit, then `clean`.
#[derive(Debug)]
pub struct Recovery {
    /// For people.
    pub report: Report,
    /// To the log, synced.
    pub log: Vec<LogWrite>,
    /// To the state, all at once.
    pub state: Vec<ApplyBatch>,
    /// To the log: the ends of what is of no use any more.
    pub clean: Vec<LogWrite>,
}

/// What a disk says, prepared for [`Node::replay`]: everything in the logs counts.
///
/// With `ranges`, only in the logs of these: the others have majorities that decide.
pub fn to_the_end(boots: &[ReplicaBoot], ranges: Option<&[RangeId]>) -> Vec<ReplicaBoot> {
    let boots = boots.iter().map(|boot| {
        let mut hard_state = boot.hard_state.clone();
        if ranges.is_none_or(|ranges| ranges.contains(&boot.range)) {
            hard_state.commit = boot.last_index;
        }
        let ReplicaBoot { range, truncated, last_index, applied, removed, .. } = *boot;
        ReplicaBoot { range, hard_state, truncated, last_index, applied, removed }
    });
    boots.collect()
}

/// One replica that has data.
struct Own<'a> {
    replica: &'a Replica,
    descriptor: &'a RangeDescriptor,
}

impl Node {
    /// Rows and keys of replicas that have left, and that nobody needs any more: to be wiped before
    /// anything is planned.
    pub fn leftovers(&mut self) -> Vec<(RangeId, Span)> {
        self.departures.take_leftovers()
    }

    /// Applies the logs to their ends, of a node that was made from [`to_the_end`] and is not run
    /// otherwise. Gives what to make visible before the next call; `None` at the end.
    pub fn replay(&mut self, state: &dyn StateReads) -> Option<Vec<ApplyBatch>> {
        for _ in 0..IDLE_TURNS {
            let sequence = self.persist_sequence;
            self.step(self.now, Input::Persisted { sequence }, state);
            self.dirty.extend(self.replicas.keys().copied());
            let effects = self.effects(self.now, state);
            if !effects.apply.is_empty() {
                return Some(effects.apply);
            }
        }
        None
    }

    /// Plans the recovery, after [`Self::replay`]. `boots` is what the disk said.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn recover(&self, boots: &[ReplicaBoot], consent: Consent) -> Result<Recovery, String> {
        self.may_recover(consent)?;
        let own = self.own_ranges(|_| true)?;
        let meta = own.iter().find(|own| own.replica.range == META_RANGE);
        let meta = meta.ok_or("this node has no copy of the meta range: recover another one")?;
        let revisions = own.iter().map(|own| own.replica.revision);
        let granted = self.meta.block().end.max(self.meta.compacted());
        let newest = revisions.max().unwrap_or_default();
        let compacted = granted.max(newest) + consent.bump;
        let copies = self.usual_copies(&own);

        let mut report = Report {
            node: self.config.node,
            meta: meta.replica.applied,
            kept: Vec::new(),
            lost: Vec::new(),
            gone: self.others(),
            revision: newest,
            compacted,
        };
        let mut remains = Remains {
            node: self.config.node,
            ranges: BTreeMap::new(),
            wanted: BTreeMap::new(),
            revision: compacted,
            next_range: self.meta.free_range(),
        };
        let mut log = Vec::new();
        let mut state = Vec::new();
        for own in &own {
            let range = own.replica.range;
            let descriptor = self.sole(own);
            let term = self.new_term(own.replica);
            log.push(raise(boots, own.replica, term));
            let kept = self.kept(own, copies);
            state.push(sole_batch(own.replica, &descriptor, kept.copies, Some(compacted)));
            remains.wanted.insert(range, kept.copies);
            if range != META_RANGE {
                report.kept.push(kept);
            }
            remains.ranges.insert(range, (descriptor, term));
        }
        report.lost = self.lost(&own);
        for lost in &mut report.lost {
            let range = RangeId(remains.next_range);
            remains.next_range += 1;
            lost.anew = consent.lost_ranges.then_some(range);
            let descriptor = self.empty(range, lost.span.clone());
            log.push(LogWrite { destroy: true, ..initial_log(range, HardState::default()) });
            state.push(empty_batch(&descriptor, copies, Some(compacted)));
            remains.wanted.insert(range, copies);
            let term = initial_hard_state(HardState::default()).term;
            remains.ranges.insert(range, (descriptor, term));
        }
        // Logs of copies that were never complete.
        let stale =
            boots.iter().filter(|boot| boot.has_log() && !remains.ranges.contains_key(&boot.range));
        let end = |boot: &ReplicaBoot| LogWrite {
            range: boot.range,
            destroy: true,
            ..LogWrite::default()
        };
        let clean = stale.map(end).collect();
        let mut directory: MetaState = self.meta.clone();
        let batch = state.iter_mut().find(|batch| batch.range == META_RANGE);
        directory.rebuild(&remains, &mut batch.expect("it is here").system);
        Ok(Recovery { report, log, state, clean })
    }

    /// Plans the recovery of single ranges, of which only the copy here is left, or none. The meta
    /// range has its majority, and goes on: from there the revisions come, and it takes the new
    /// descriptor from the range's leader, as always. `boots` is what the disk said.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn recover_ranges(
        &self,
        boots: &[ReplicaBoot],
        ranges: &[RangeId],
        consent: Consent,
    ) -> Result<Recovery, String> {
        let me = self.config.node;
        // What was cut off them at the ends of their logs, and nobody has heard of.
        let unheard = self.replicas.values().filter(|replica| {
            let cut_off = replica.parent.is_some_and(|(parent, _)| ranges.contains(&parent));
            cut_off && !self.meta.is_logged(replica.range)
        });
        let unheard = unheard.map(|replica| replica.range);
        let ranges: &Vec<RangeId> = &ranges.iter().copied().chain(unheard).collect();
        let own = self.own_ranges(|range| ranges.contains(&range))?;
        let copies = self.usual_copies(&own);
        let mut report = Report {
            node: me,
            meta: self.replicas.get(&META_RANGE).map(|meta| meta.applied).unwrap_or_default(),
            kept: Vec::new(),
            lost: Vec::new(),
            gone: Vec::new(),
            revision: own.iter().map(|own| own.replica.revision).max().unwrap_or_default(),
            compacted: 0,
        };
        let (mut log, mut state) = (Vec::new(), Vec::new());
        for range in ranges {
            if *range == META_RANGE {
                return Err(
                    "the meta range is recovered with all that its node has: no --range".to_owned()
                );
            }
            let known = self.meta.ranges().get(range);
            let known = known.ok_or_else(|| format!("there is no range {range}"))?;
            let span = self.span_of(known)?;
            // What was recovered here the directory may not know yet.
            let here = own.iter().find(|own| own.replica.range == *range);
            let newest =
                here.map(|own| own.descriptor).filter(|own| own.generation > known.generation);
            if newest.unwrap_or(known).voters().all(|voter| voter.node == me) {
                return Err(format!(
                    "{me} alone is the majority of {range}: there is nothing to recover; start it"
                ));
            }
            if let Some(own) = here {
                let mut descriptor = self.sole(own);
                // What was cut off it serves elsewhere, even if the copy here has not heard of it.
                let part = descriptor.span.intersect(&span);
                descriptor.span = part.ok_or_else(|| format!("{range} has no keys here"))?;
                let term = self.new_term(own.replica);
                let kept = Kept { span: descriptor.span.clone(), ..self.kept(own, copies) };
                log.push(raise(boots, own.replica, term));
                state.push(sole_batch(own.replica, &descriptor, kept.copies, None));
                report.kept.push(kept);
            } else {
                let mut lost = self.lost_span(span.clone());
                lost.ranges = vec![*range];
                lost.nodes = known.voters().map(|voter| voter.node).collect();
                lost.anew = consent.lost_ranges.then_some(*range);
                let replica = known.next_replica + EPOCH;
                let descriptor = RangeDescriptor {
                    id: *range,
                    span,
                    generation: self.newest_generation(known) + EPOCH,
                    replicas: vec![self.only(ReplicaId(replica))],
                    next_replica: replica + 1,
                };
                let registered = self.meta.registration(*range).map_or(0, |held| held.term);
                let term = registered.max(START.term) + EPOCH;
                let hard_state = initial_hard_state(HardState { term, ..HardState::default() });
                log.push(LogWrite { destroy: true, ..initial_log(*range, hard_state) });
                state.push(empty_batch(&descriptor, odd(known.voters().count()), None));
                report.lost.push(lost);
            }
        }
        // Cuts at the ends of those logs: what they made needs a log of its own.
        let made = self.replicas.values().filter(|replica| {
            replica.descriptor.is_some()
                && !ranges.contains(&replica.range)
                && !boots.iter().any(|boot| boot.range == replica.range && boot.has_log())
        });
        log.extend(made.map(|replica| initial_log(replica.range, HardState::default())));
        Ok(Recovery { report, log, state, clean: Vec::new() })
    }

    /// Whether the copies here are the only voters of all these ranges, as after a recovery.
    pub fn is_sole(&self, ranges: &[RangeId]) -> bool {
        let me = self.config.node;
        ranges.iter().all(|range| {
            let own = self.replicas.get(range).and_then(|own| own.descriptor.as_ref());
            own.is_some_and(|own| {
                own.voters().count() > 0 && own.voters().all(|voter| voter.node == me)
            })
        })
    }

    /// The keys of a range as everybody has to see them: those of ranges that start inside it belong to
    /// these.
    fn span_of(&self, known: &RangeDescriptor) -> Result<Span, String> {
        let all = self.meta.ranges_in(&known.span);
        let same = all.into_iter().find(|range| range.id == known.id);
        let own = same.and_then(|range| range.span.intersect(&known.span));
        own.ok_or_else(|| format!("{} has no keys", known.id))
    }

    fn newest_generation(&self, known: &RangeDescriptor) -> u64 {
        let registered = self.meta.registration(known.id).map_or(0, |held| held.generation);
        known.generation.max(registered)
    }

    fn may_recover(&self, consent: Consent) -> Result<(), String> {
        if consent.bump < BUMP_MIN {
            return Err(format!("the revision must jump by at least {BUMP_MIN}"));
        }
        let me = self.config.node;
        let own = self.meta.nodes().get(&me);
        if own.is_some_and(|own| own.state == NodeState::Tombstoned) {
            return Err(format!("{me} is gone for good itself: its data was made anew elsewhere"));
        }
        if self.replicas.values().any(|replica| replica.group.is_installing()) {
            return Err("a raft snapshot is being installed: start the node once before".to_owned());
        }
        if self.is_sole(&[META_RANGE]) {
            return Err(format!(
                "{me} alone is the majority of the meta range: there is nothing to recover; start it"
            ));
        }
        Ok(())
    }

    /// The replicas with data, applied to the ends of their logs.
    fn own_ranges(&self, wanted: impl Fn(RangeId) -> bool) -> Result<Vec<Own<'_>>, String> {
        let mut own = Vec::new();
        for replica in self.replicas.values().filter(|replica| wanted(replica.range)) {
            let Some(descriptor) = &replica.descriptor else { continue };
            let last = replica.group.last_index();
            if replica.applied.index != last {
                return Err(format!(
                    "the log of {} cannot be applied beyond {}, and ends at {last}: this disk is \
                     damaged",
                    replica.range, replica.applied.index
                ));
            }
            own.push(Own { replica, descriptor });
        }
        Ok(own)
    }

    fn others(&self) -> Vec<NodeRecord> {
        let nodes = self.meta.nodes().values();
        let others = nodes.filter(|record| {
            record.id != self.config.node && record.state != NodeState::Tombstoned
        });
        others.cloned().collect()
    }

    /// As many copies as most ranges have.
    fn usual_copies(&self, own: &[Own<'_>]) -> usize {
        let data = own.iter().filter(|own| own.replica.range != META_RANGE);
        data.map(|own| self.copies(own)).max().unwrap_or(1)
    }

    fn copies(&self, own: &Own<'_>) -> usize {
        let voters = odd(own.descriptor.voters().count());
        voters.max(self.meta.wanted(own.replica.range)).max(1)
    }

    /// A range with the only copy here, later than anything that was said of it.
    fn sole(&self, own: &Own<'_>) -> RangeDescriptor {
        let known = self.meta.ranges().get(&own.replica.range);
        let newest = |of: &dyn Fn(&RangeDescriptor) -> u64| {
            known.map_or(0, |known| of(known)).max(of(own.descriptor)) + EPOCH
        };
        RangeDescriptor {
            id: own.replica.range,
            span: own.descriptor.span.clone(),
            generation: newest(&|descriptor| self.newest_generation(descriptor)),
            replicas: vec![self.only(own.replica.group.me())],
            next_replica: newest(&|descriptor| descriptor.next_replica),
        }
    }

    fn empty(&self, range: RangeId, span: Span) -> RangeDescriptor {
        let replicas = vec![self.only(ReplicaId(1))];
        RangeDescriptor { id: range, span, generation: 1, replicas, next_replica: 2 }
    }

    fn only(&self, replica: ReplicaId) -> ReplicaDescriptor {
        ReplicaDescriptor { replica, node: self.config.node, kind: ReplicaKind::Voter }
    }

    /// Above every term of the range that anybody may have led in.
    fn new_term(&self, replica: &Replica) -> Term {
        let registered = self.meta.registration(replica.range).map_or(0, |known| known.term);
        replica.group.term().max(registered) + EPOCH
    }

    fn kept(&self, own: &Own<'_>, usual: usize) -> Kept {
        let me = self.config.node;
        let known = self.meta.ranges().get(&own.replica.range).map(Arc::as_ref);
        let newest = known.filter(|known| known.generation > own.descriptor.generation);
        let newest = newest.unwrap_or(own.descriptor);
        let counts = |of: &RangeDescriptor| of.voters().any(|voter| voter.node == me);
        let gone = newest.replicas.iter().map(|replica| replica.node).filter(|node| *node != me);
        Kept {
            range: own.replica.range,
            span: own.descriptor.span.clone(),
            last: own.replica.applied,
            revision: own.replica.revision,
            gone: gone.collect(),
            copies: if counts(newest) { self.copies(own) } else { usual },
            uncounted: !counts(newest) || !counts(own.descriptor),
        }
    }

    /// The keys that no replica here has.
    fn lost(&self, own: &[Own<'_>]) -> Vec<Lost> {
        let data = own.iter().filter(|own| own.replica.range != META_RANGE);
        let mut spans: Vec<&Span> = data.map(|own| &own.descriptor.span).collect();
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut gaps = Vec::new();
        let mut covered = Some(Bytes::new());
        for span in spans {
            if let Some(start) = covered.take().filter(|upto| *upto < span.start) {
                gaps.push(Span { start, end: Some(span.start.clone()) });
            }
            covered.clone_from(&span.end);
            if covered.is_none() {
                break;
            }
        }
        gaps.extend(covered.map(|start| Span { start, end: None }));
        gaps.into_iter().map(|span| self.lost_span(span)).collect()
    }

    fn lost_span(&self, span: Span) -> Lost {
        let known = self.meta.ranges_in(&span);
        let mut nodes: Vec<NodeId> =
            known.iter().flat_map(RangeDescriptor::voters).map(|voter| voter.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let ranges = known.iter().map(|range| range.id).collect();
        Lost { span, ranges, nodes, anew: None }
    }
}

impl Report {
    /// Why nothing may be written, if keys are lost and nobody has consented to that.
    pub fn objection(&self) -> Option<String> {
        let lost = self.lost.iter().find(|lost| lost.anew.is_none())?;
        let end = lost.span.end.as_ref().map_or("the end".to_owned(), |end| printable(end));
        Some(format!(
            "there is no copy of the keys from {} to {end} here (nodes {} had them)",
            printable(&lost.span.start),
            lost.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ))
    }
}

/// Raises the term of a range, and lets its log begin where the state ends if it does not reach that.
fn raise(boots: &[ReplicaBoot], replica: &Replica, term: Term) -> LogWrite {
    let applied = replica.applied;
    let hard_state = HardState { term, vote: 0, commit: applied.index, ..HardState::default() };
    let reaches = boots.iter().any(|boot| {
        boot.range == replica.range && boot.has_log() && boot.last_index == applied.index
    });
    LogWrite {
        range: replica.range,
        hard_state: Some(hard_state),
        truncate: (!reaches).then_some(applied),
        destroy: !reaches,
        ..LogWrite::default()
    }
}

fn sole_batch(
    replica: &Replica,
    own: &RangeDescriptor,
    copies: usize,
    revision: Option<Revision>,
) -> ApplyBatch {
    let mut members = ConfState::default();
    members.set_voters(own.voters().map(|voter| voter.replica.0).collect());
    let nobody: Vec<ReplicaDescriptor> = Vec::new();
    let mut system = vec![
        descriptor_row(own),
        members_row(&members),
        SystemRow { key: Bytes::from_static(LEFT_ROW), value: Some(encode(&nobody)) },
    ];
    if replica.range != META_RANGE {
        system.push(wanted_row(copies));
        // What a transaction has locked may still change at the revision that was decided on.
        system.extend(revision.filter(|_| replica.intent.is_none()).map(revision_row));
    }
    ApplyBatch { range: replica.range, applied: replica.applied, mutations: Vec::new(), system }
}

fn empty_batch(own: &RangeDescriptor, copies: usize, revision: Option<Revision>) -> ApplyBatch {
    let mut system = Replica::initial_rows(own);
    system.push(wanted_row(copies));
    system.extend(revision.map(revision_row));
    ApplyBatch { range: own.id, applied: START, mutations: Vec::new(), system }
}

fn wanted_row(copies: usize) -> SystemRow {
    let value = Some(encode(&(copies as u64)));
    SystemRow { key: Bytes::from_static(WANTED_ROW), value }
}

fn revision_row(revision: Revision) -> SystemRow {
    SystemRow { key: Bytes::from_static(REVISION_ROW), value: Some(encode(&revision)) }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_stdvec(value).expect("a system row can be encoded").into()
}
