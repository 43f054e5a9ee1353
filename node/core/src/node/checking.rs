//! Consistency checks of the ranges led here: one at a time, each now and then, and on command.
//!
//! ```text
//!  due or asked ─► watermark known ─► checkpoint in the log ─► hashes come ─► compare ─► meta range
//! ```
//!
//! Invariants: a check is given up, and judges nobody, when the lease goes; a replica that is away or
//! says nothing is not waited for; only a difference, or the end of one, is written to the meta range.

use super::routing::Owner;
use super::{Asked, Node};
use crate::check::{
    CheckReport, Checkpoint, Divergence, Finding, Fingerprint, Found, HashTask, Verdict, compare,
};
use crate::command::Entry;
use crate::descriptor::ReplicaDescriptor;
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{Index, META_RANGE, NodeId, RangeId, ReplicaId, RequestId, Revision};
use crate::leaseholder::{Asker, Cookie};
use crate::message::{
    Message, MetaRequest, Outcome, RangeRequest, SequencerItem, SequencerItemKind,
};
use crate::request::Response;
use std::collections::{BTreeMap, VecDeque};

/// A replica that has not begun after this is not waited for.
const SILENT_MS: Millis = 10_000;
/// A check ends after this, whoever is still at work.
const CHECK_MS: Millis = 30 * 60_000;
/// A checkpoint that is not applied here after this is lost.
const APPLY_MS: Millis = 30_000;
/// Attempts with a later compaction, if some replica has less history than was asked for.
const ATTEMPTS_MAX: u32 = 5;
/// Ranges that wait to be checked on command.
const WAITING_MAX: usize = 1_000;
/// Between two checks that nobody asked for.
const PAUSE_MS: Millis = 100;
/// Before the next look if no range was due: a node may lead thousands.
const NONE_DUE_MS: Millis = 1_000;

/// Checks led by this node.
#[derive(Debug, Default)]
pub(super) struct Checks {
    running: Option<Running>,
    /// Asked for and not begun.
    waiting: VecDeque<(RangeId, Vec<Asker>)>,
    /// When a range led here is due.
    due: BTreeMap<RangeId, Millis>,
    /// No check that nobody asked for begins before this.
    rest_until: Millis,
    /// Numbers checkpoints.
    last: u64,
}

/// The one that runs.
#[derive(Debug)]
struct Running {
    range: RangeId,
    since: Millis,
    attempts: u32,
    /// Some replica has no history up to here any more.
    compacted: Revision,
    askers: Vec<Asker>,
    sent: Option<Sent>,
}

/// A checkpoint that was proposed.
#[derive(Debug)]
struct Sent {
    id: RequestId,
    at: Millis,
    revision: Revision,
    applied: Option<(Index, Vec<ReplicaDescriptor>)>,
    said: BTreeMap<ReplicaId, Finding>,
}

impl Node {
    /// A check on command: begins as soon as no other is under way.
    pub(super) fn serve_check(&mut self, asker: Asker, range: RangeId) {
        if let Some(running) = &mut self.checks.running
            && running.range == range
            && running.sent.is_none()
        {
            return running.askers.push(asker);
        }
        let waiting = &mut self.checks.waiting;
        if let Some((_, askers)) = waiting.iter_mut().find(|(waits, _)| *waits == range) {
            askers.push(asker);
        } else if waiting.len() < WAITING_MAX {
            waiting.push_back((range, vec![asker]));
        } else {
            let error = Error::Refused("too many ranges wait to be checked: later".to_owned());
            self.outcome(asker, Outcome::Done(Err(error)));
        }
        self.check_tick();
    }

    /// Begins, goes on with or ends a check.
    pub(super) fn check_tick(&mut self) {
        if self.checks.running.is_none() {
            self.begin_check();
        }
        let Some(running) = &self.checks.running else { return };
        let range = running.range;
        if !self.leads_check(range) {
            return self.give_up_check(range);
        }
        match &running.sent {
            None => self.propose_checkpoint(range),
            Some(sent) if sent.applied.is_none() => {
                if self.now > sent.at + APPLY_MS {
                    self.give_up_check(range);
                }
            }
            Some(_) => {
                if self.has_heard_all() || self.now > running.since + CHECK_MS {
                    self.end_check();
                }
            }
        }
    }

    fn leads_check(&self, range: RangeId) -> bool {
        self.replicas.get(&range).is_some_and(|replica| {
            if range == META_RANGE {
                replica.group.is_leader() && self.sequencer.is_active()
            } else {
                replica.holds_lease()
            }
        })
    }

    fn begin_check(&mut self) {
        let (range, askers) = match self.checks.waiting.pop_front() {
            Some(asked) => asked,
            None => match self.range_due() {
                Some(range) => (range, Vec::new()),
                None => return,
            },
        };
        self.checks.running =
            Some(Running { range, since: self.now, attempts: 0, compacted: 0, askers, sent: None });
    }

    /// The range led here that has waited longest beyond its time.
    fn range_due(&mut self) -> Option<RangeId> {
        let every = self.config.check_every_ms;
        if every == 0 || self.now < self.checks.rest_until || self.stopping {
            return None;
        }
        self.checks.rest_until = self.now + PAUSE_MS;
        let led: Vec<RangeId> =
            self.replicas.keys().copied().filter(|range| self.leads_check(*range)).collect();
        let now = self.now;
        let due = &mut self.checks.due;
        due.retain(|range, _| led.binary_search(range).is_ok());
        for range in led {
            // Spread over the time, so that not all come at once.
            due.entry(range).or_insert_with(|| now + spread(range) % every);
        }
        let (at, range) = due.iter().map(|(range, at)| (*at, *range)).min()?;
        if at > now {
            self.checks.rest_until = now + NONE_DUE_MS;
            return None;
        }
        Some(range)
    }

    /// The range must be complete up to the revision that is hashed, and no compaction may have taken
    /// more than what is not hashed: so a watermark at or above the compaction is needed. The
    /// leaseholder's own is one, whatever else holds it back.
    fn propose_checkpoint(&mut self, range: RangeId) {
        let floor = self.checks.running.as_ref().map_or(0, |running| running.compacted);
        let compacted = self.session.compacted().max(self.meta.compacted()).max(floor);
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let (revision, compacted) = if range == META_RANGE {
            (0, 0)
        } else {
            let Some(descriptor) = &replica.descriptor else { return };
            let watermark = replica.leaseholder.watermark();
            if watermark < compacted.max(1) {
                if !std::mem::replace(&mut replica.asking_watermark, true) {
                    let item = SequencerItem {
                        range,
                        term: replica.group.term(),
                        generation: descriptor.generation,
                        kind: SequencerItemKind::Read,
                    };
                    self.session.ask(item, Asked::Range(Cookie::Watermark));
                }
                return;
            }
            (watermark, compacted)
        };
        self.checks.last += 1;
        let id = RequestId { gateway: self.config.incarnation, sequence: self.checks.last };
        let checkpoint = Checkpoint { id, leader: self.config.node, revision, compacted };
        if !replica.group.propose(Entry::Checkpoint(checkpoint).encode()) {
            return;
        }
        replica.wake(&mut self.awake);
        self.dirty.insert(range);
        if let Some(running) = &mut self.checks.running {
            let (at, said) = (self.now, BTreeMap::new());
            running.sent = Some(Sent { id, at, revision, applied: None, said });
        }
    }

    /// A checkpoint was applied here: this replica begins to hash.
    pub(super) fn checkpoint_applied(&mut self, task: HashTask) {
        let replicas = self.replicas.get(&task.range).and_then(|replica| {
            replica.descriptor.as_ref().map(|descriptor| descriptor.replicas.clone())
        });
        if let Some(running) = &mut self.checks.running
            && let Some(sent) = &mut running.sent
            && sent.id == task.checkpoint.id
        {
            sent.at = self.now;
            sent.applied = Some((task.index, replicas.unwrap_or_default()));
        }
        self.send(task.checkpoint.leader, Message::Checked(task.found(Finding::Working)));
        self.effects.hashes.push(task);
    }

    /// The meta range is hashed as it is after so many of the changes applied in this turn.
    pub(super) fn hash_meta(&self, tasks: &mut [(usize, HashTask)], applied: usize) {
        for (_, task) in tasks.iter_mut().filter(|(after, _)| *after == applied) {
            let mut hash = Fingerprint::default();
            hash.number(task.bookkeeping);
            hash.number(self.meta.fingerprint());
            task.bookkeeping = hash.finish();
        }
    }

    /// A replica said something.
    pub(super) fn checked(&mut self, from: NodeId, found: Found) {
        let Some(running) = &mut self.checks.running else { return };
        let Some(sent) = &mut running.sent else { return };
        let of_there = |(_, replicas): &(Index, Vec<ReplicaDescriptor>)| {
            replicas.iter().any(|own| own.replica == found.replica && own.node == from)
        };
        if sent.id != found.id || sent.applied.as_ref().is_some_and(|applied| !of_there(applied)) {
            return;
        }
        sent.said.insert(found.replica, found.finding);
        if sent.applied.is_some() && self.has_heard_all() {
            self.end_check();
        }
    }

    /// Everybody who can be expected to say something has.
    fn has_heard_all(&self) -> bool {
        let Some(sent) = self.checks.running.as_ref().and_then(|running| running.sent.as_ref())
        else {
            return false;
        };
        let Some((_, replicas)) = &sent.applied else { return false };
        replicas.iter().all(|own| match sent.said.get(&own.replica) {
            Some(Finding::Working) => !self.is_here(own.node),
            Some(_) => true,
            None => !self.is_here(own.node) || self.now > sent.at + SILENT_MS,
        })
    }

    fn is_here(&self, node: NodeId) -> bool {
        node == self.config.node
            || self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.down)
    }

    fn end_check(&mut self) {
        let Some(mut running) = self.checks.running.take() else { return };
        let Some(Sent { revision, applied: Some((index, replicas)), said, .. }) =
            running.sent.take()
        else {
            return;
        };
        let range = running.range;
        let verdict = compare(&replicas, &said);
        let pruned = said.values().filter_map(|finding| match finding {
            Finding::Pruned(upto) => Some(*upto),
            _ => None,
        });
        let pruned = pruned.max().unwrap_or(0);
        running.attempts += 1;
        if verdict == Verdict::Incomplete && pruned > 0 && running.attempts < ATTEMPTS_MAX {
            running.compacted = running.compacted.max(pruned);
            self.checks.running = Some(running);
            return self.propose_checkpoint(range);
        }
        self.counters.checks += 1;
        let known = self.meta.divergences().get(&range);
        let found = match &verdict {
            Verdict::Equal => Some(Vec::new()),
            Verdict::Diverged(replicas) => Some(replicas.clone()),
            Verdict::Incomplete => {
                self.counters.checks_incomplete += 1;
                None
            }
        };
        if let Some(replicas) = found
            && known.map_or(&[][..], |known| &known.replicas) != replicas
        {
            let divergence = Divergence { range, index, revision, replicas };
            let body = RangeRequest::Meta(MetaRequest::Checked(divergence));
            self.internal_request(Owner::Nobody, META_RANGE, body);
        }
        if self.config.check_every_ms > 0 {
            self.checks.due.insert(range, self.now + self.config.check_every_ms);
        }
        let replicas = replicas.iter().map(|own| (*own, said.get(&own.replica).copied())).collect();
        let report = CheckReport { range, index, revision, verdict, replicas };
        for asker in running.askers {
            let response = Response::Check { report: Box::new(report.clone()) };
            self.outcome(asker, Outcome::Done(Ok(response)));
        }
    }

    fn give_up_check(&mut self, range: RangeId) {
        let Some(running) = self.checks.running.take() else { return };
        let leader = self.replicas.get(&range).and_then(crate::replica::Replica::leader_node);
        let hint = leader.filter(|node| *node != self.config.node);
        for asker in running.askers {
            self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
    }
}

/// Some number that differs between ranges.
fn spread(range: RangeId) -> u64 {
    range.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}
