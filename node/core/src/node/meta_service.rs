//! What the meta range's leader does: sequencing, client leases, registrations, compaction,
//! alarms, joins.
//!
//! Invariants: what changes goes through the meta log; what is only read is answered after a
//! quorum round; expiry is decided by this node's clock but happens only through the log, so a
//! deposed leader expires nothing.

use super::Node;
use super::planning::Planning;
use super::routing::Owner;
use super::shrinking::Shaper;
use super::transactions::Sweeper;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::{NodeRecord, NodeState};
use crate::effects::Millis;
use crate::error::{Error, Misrouted};
use crate::ids::{LeaseId, META_RANGE, NodeId, RangeId, ReplicaId, RequestId, Revision, Term};
use crate::leaseholder::{Asker, Out};
use crate::level::Level;
use crate::message::{InternalReply, MetaRequest, Outcome, RangeRequest};
use crate::meta::{LeaseRecord, MetaAnswer, Move};
use crate::replica::Lease;
use crate::request::{AdminOp, AlarmAction, Request, Response};
use std::collections::{BTreeMap, BTreeSet};

/// Leases expired in one tick, so that a mass expiry does not crowd out everything else.
const EXPIRE_MAX: usize = 100;
/// etcd raises every time to live to at least one and a half election timeouts.
const MIN_TTL_S: i64 = 2;

/// A question that needs only a confirmed leadership.
#[derive(Debug)]
pub(super) enum Question {
    KeepAlive(Asker, LeaseId),
    TimeToLive(Asker, LeaseId, bool),
    Leases(Asker),
    Current(Asker),
    Compact(Asker, RequestId, Revision),
    Alarms(Asker),
    Expire(LeaseId),
}

impl Question {
    fn asker(&self) -> Asker {
        match self {
            Question::KeepAlive(asker, _)
            | Question::TimeToLive(asker, ..)
            | Question::Leases(asker)
            | Question::Current(asker)
            | Question::Compact(asker, ..)
            | Question::Alarms(asker) => *asker,
            Question::Expire(_) => Asker::Nobody,
        }
    }
}

/// A lease whose keys are being deleted.
#[derive(Debug, Default)]
struct Revoke {
    id: RequestId,
    waiting: BTreeSet<RangeId>,
    done: BTreeSet<RangeId>,
    revision: Revision,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MetaService {
    changes: Vec<MetaEntry>,
    /// Who waits for a change, with the revision that its answer names.
    waiting: BTreeMap<RequestId, (Asker, Revision)>,
    deadlines: BTreeMap<LeaseId, Millis>,
    expiring: BTreeSet<LeaseId>,
    revokes: BTreeMap<LeaseId, Revoke>,
    /// When a node is not drained any more.
    pub(super) drains: BTreeMap<NodeId, Millis>,
    pub(super) handing_over: Option<ReplicaId>,
    /// Term in which the first block was proposed.
    taking_over: Option<Term>,
    /// When the log last took no proposal, as it does not while the leadership is being handed over:
    /// not asked again before time has passed, or one turn would never end.
    refused_at: Option<Millis>,
    /// Transactions to be carried out everywhere.
    pub(super) sweeper: Sweeper,
}

impl MetaService {
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    pub(super) fn take_changes(&mut self) -> Vec<MetaEntry> {
        std::mem::take(&mut self.changes)
    }

    /// True if the change of this request is on its way already; its answer goes to whoever asked
    /// last.
    pub(super) fn waits_for(&mut self, id: RequestId, asker: Asker) -> bool {
        let waiting = self.waiting.get_mut(&id);
        waiting.map(|(first, _)| *first = asker).is_some()
    }

    pub(super) fn change(&mut self, entry: MetaEntry) {
        self.changes.push(entry);
    }

    /// The log did not take a proposal: whoever waits asks again.
    pub(super) fn proposal_refused(&mut self, now: Millis, out: &mut Out) {
        self.refused_at = Some(now);
        for (_, (asker, _)) in std::mem::take(&mut self.waiting) {
            out.misrouted(asker, Misrouted::Busy);
        }
        self.taking_over = None;
    }

    /// Every lease gets its full time again (a new leader, or a pause of this process).
    pub(super) fn extend_leases(&mut self, now: Millis, leases: &BTreeMap<LeaseId, LeaseRecord>) {
        self.drains.clear();
        if self.deadlines.is_empty() && self.taking_over.is_none() {
            return;
        }
        self.deadlines =
            leases.iter().map(|(id, lease)| (*id, now + lease.ttl as u64 * 1000)).collect();
        self.expiring.clear();
    }
}

impl Node {
    /// Follows the role of the meta range's replica on this node.
    pub(super) fn meta_role(&mut self, leads: bool) {
        self.follow_sequencer();
        let Some(replica) = self.replicas.get_mut(&META_RANGE) else { return };
        let term = replica.group.term();
        if !leads {
            if self.service.taking_over.is_some() || self.sequencer.is_engaged() {
                let (send, left) = self.sequencer.deactivate();
                for (to, message) in send {
                    self.send(to, message);
                }
                let hint = self.meta_leader();
                let reason = Misrouted::NotLeaseholder { hint };
                for question in left {
                    self.out.misrouted(question.asker(), reason.clone());
                }
                for (_, (asker, _)) in std::mem::take(&mut self.service.waiting) {
                    self.out.misrouted(asker, reason.clone());
                }
                self.service = MetaService::default();
                self.shaper = Shaper::default();
            }
            return;
        }
        let engaged = self.sequencer.is_active() || self.sequencer.is_stopped();
        let refused = self.service.refused_at == Some(self.now);
        if self.service.taking_over != Some(term) && !engaged && !refused {
            self.counters.elections += 1;
            self.take_over(term);
        }
    }

    fn take_over(&mut self, term: Term) {
        self.service.taking_over = Some(term);
        self.sequencer.expect();
        self.service.change(MetaEntry {
            id: RequestId::default(),
            change: MetaChange::Takeover { term, size: crate::sequencer::BLOCK },
        });
    }

    /// A takeover is in the log: that of this term starts the sequencer.
    fn taken_over(&mut self, of: Term, first: Revision) {
        let Some(replica) = self.replicas.get_mut(&META_RANGE) else { return };
        let term = replica.group.term();
        if !replica.group.is_leader() || of != term || self.sequencer.is_active() {
            return;
        }
        self.sequencer.activate(term, first);
        for (asker, request) in replica.take_waiting() {
            self.again(asker, request);
        }
        let now = self.now;
        self.service.extend_leases(now, self.meta.leases());
        let revoking: Vec<LeaseId> = self
            .meta
            .leases()
            .iter()
            .filter(|(_, lease)| lease.revoking)
            .map(|(id, _)| *id)
            .collect();
        for id in revoking {
            self.start_revoke(id, RequestId::default());
        }
        self.retry_waiting();
    }

    pub(super) fn sequencer_housekeeping(&mut self) {
        if let Some(end) = self.sequencer.take_reserve(&self.meta) {
            self.service.change(MetaEntry {
                id: RequestId::default(),
                change: MetaChange::Reserve { end },
            });
        }
        for (id, range) in self.sequencer.take_attaching() {
            self.service.change(MetaEntry {
                id: RequestId::default(),
                change: MetaChange::LeaseAttach { id, range },
            });
        }
    }

    pub(super) fn hints(&mut self) {
        for (to, message) in self.sequencer.take_hints() {
            self.send(to, message);
        }
    }

    pub(super) fn serve_meta(&mut self, asker: Asker, id: RequestId, request: MetaRequest) {
        if !self.sequencer.is_active() {
            let hint = self.meta_leader().filter(|node| *node != self.config.node);
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        if let Some(answer) = self.meta.answered(id).cloned() {
            return self.meta_answer(asker, answer, self.sequencer.current());
        }
        match request {
            MetaRequest::Client(request) => self.serve_meta_client(asker, id, request),
            MetaRequest::Register { descriptor, term, node, parent, cut_off } => {
                let change = MetaChange::Register { descriptor, term, node, parent, cut_off };
                self.change_for(asker, id, change);
            }
            MetaRequest::Join { name, peer_address, client_address, http_address, nonce } => {
                let record = NodeRecord {
                    id: NodeId(0),
                    name,
                    peer_address,
                    client_address,
                    http_address,
                    state: NodeState::Up,
                };
                self.change_for(asker, id, MetaChange::Join { record, nonce });
            }
            MetaRequest::Announce { node, name, peer_address, client_address, http_address } => {
                let record = NodeRecord {
                    id: node,
                    name,
                    peer_address,
                    client_address,
                    http_address,
                    state: NodeState::Up,
                };
                self.change_for(asker, id, MetaChange::Announce(record));
            }
            MetaRequest::Absorb { descriptor, term, node, gone } => {
                let change = MetaChange::Absorb { descriptor, term, node, gone };
                self.change_for(asker, id, change);
            }
            MetaRequest::AllocateRange => self.change_for(asker, id, MetaChange::AllocateRange),
            // As older versions know it: the cut stays.
            MetaRequest::AllocateCut if self.meta.level() < Level::SHAPING => {
                self.change_for(asker, id, MetaChange::AllocateRange);
            }
            MetaRequest::AllocateCut => self.change_for(asker, id, MetaChange::AllocateCut),
            request @ MetaRequest::Commit { .. } => self.serve_commit(asker, id, request),
            MetaRequest::Settle { txn, range } => {
                self.change_for(asker, id, MetaChange::Settle { txn, range });
            }
            MetaRequest::Forget { txn, settled_below } => {
                self.change_for(asker, id, MetaChange::Forget { txn, settled_below });
            }
            MetaRequest::Checked(divergence) => {
                self.change_for(asker, id, MetaChange::Checked(divergence));
            }
            MetaRequest::Want { range, copies } => {
                self.change_for(asker, id, MetaChange::Want { range, copies });
            }
        }
    }

    fn serve_meta_client(&mut self, asker: Asker, id: RequestId, request: Request) {
        match request {
            Request::LeaseGrant { id: lease, ttl } => {
                let ttl = ttl.max(MIN_TTL_S);
                self.change_for(asker, id, MetaChange::LeaseGrant { id: lease, ttl });
            }
            Request::LeaseRevoke { id: lease } => self.revoke(asker, id, lease),
            Request::LeaseKeepAlive { id: lease } => {
                self.sequencer.confirm(Question::KeepAlive(asker, lease));
            }
            Request::LeaseTimeToLive { id: lease, keys } => {
                self.sequencer.confirm(Question::TimeToLive(asker, lease, keys));
            }
            Request::LeaseList => self.sequencer.confirm(Question::Leases(asker)),
            Request::CurrentRevision => self.sequencer.confirm(Question::Current(asker)),
            Request::Compact { revision } => {
                self.sequencer.confirm(Question::Compact(asker, id, revision));
            }
            Request::Alarm { action: AlarmAction::Get, .. } => {
                self.sequencer.confirm(Question::Alarms(asker));
            }
            Request::Alarm { action, member, alarm } => {
                self.change_for(asker, id, MetaChange::Alarm { action, member, alarm });
            }
            Request::Admin(AdminOp::Drain { node }) => {
                self.set_node_state(asker, id, node, NodeState::Draining);
            }
            Request::Admin(AdminOp::Undrain { node }) => {
                self.set_node_state(asker, id, node, NodeState::Up);
            }
            Request::Admin(AdminOp::Leave { node }) => match self.may_lose(node) {
                Ok(()) => self.set_node_state(asker, id, node, NodeState::Leaving),
                Err(reason) => self.outcome(asker, Outcome::Done(Err(Error::Refused(reason)))),
            },
            Request::Admin(AdminOp::DrainFor { node, replicas, ttl_ms }) => {
                self.serve_drain_for(asker, id, node, (replicas, ttl_ms));
            }
            Request::Admin(AdminOp::Move { range, from, to }) => {
                let way = Move { from, to };
                match self.may_move(range, way) {
                    Ok(()) => self.change_for(asker, id, MetaChange::Move { range, way }),
                    Err(reason) => {
                        self.outcome(asker, Outcome::Done(Err(Error::Refused(reason))));
                    }
                }
            }
            Request::Admin(AdminOp::Merge { range }) => match self.may_merge(range) {
                Ok(merge) => self.change_for(asker, id, MetaChange::Merge(merge)),
                Err(reason) => self.outcome(asker, Outcome::Done(Err(Error::Refused(reason)))),
            },
            Request::Admin(AdminOp::Facts { node, facts }) => {
                self.change_for(asker, id, MetaChange::Facts { node, facts });
            }
            Request::Admin(AdminOp::Domain { node, domain }) => {
                self.change_for(asker, id, MetaChange::Domain { node, domain });
            }
            Request::Admin(AdminOp::Room { node, room }) => {
                self.change_for(asker, id, MetaChange::Room { node, room });
            }
            Request::Admin(AdminOp::SetPolicy { prefix, copies, fewer }) => {
                self.change_for(asker, id, MetaChange::SetPolicy { prefix, copies, fewer });
            }
            Request::Admin(AdminOp::RemovePolicy { prefix }) => {
                self.change_for(asker, id, MetaChange::RemovePolicy { prefix });
            }
            Request::Admin(AdminOp::Reprotect { node, operation, epoch }) => {
                match self.may_reprotect(node) {
                    Ok(()) => {
                        let change = MetaChange::Condemn { node, operation, epoch };
                        self.change_for(asker, id, change);
                    }
                    Err(reason) => {
                        self.outcome(asker, Outcome::Done(Err(Error::Refused(reason))));
                    }
                }
            }
            Request::Admin(AdminOp::Split { key }) => self.serve_pin(asker, id, &key),
            Request::Admin(AdminOp::Transfer { .. } | AdminOp::Check { .. }) | Request::Kv(_) => {
                let error = Error::Refused("not a request for the meta range".to_owned());
                self.outcome(asker, Outcome::Done(Err(error)));
            }
        }
    }

    /// Somebody wants a cut where the cluster has made one by itself.
    fn serve_pin(&mut self, asker: Asker, id: RequestId, key: &[u8]) {
        let range = self.meta.range_of(key).filter(|range| range.span.start == key);
        let found = self.check_level(Level::SHAPING).and_then(|()| match range {
            Some(range) if self.meta.is_automatic(range.id) => Ok(range.id),
            _ => Err(format!(
                "the cluster has not cut at {} by itself, or not any more: try again",
                crate::key::printable(key)
            )),
        });
        match found {
            Ok(range) => {
                self.shaper.pinned.insert(range);
                self.change_for(asker, id, MetaChange::Pin { range });
            }
            Err(reason) => self.outcome(asker, Outcome::Done(Err(Error::Refused(reason)))),
        }
    }

    fn set_node_state(&mut self, asker: Asker, id: RequestId, node: NodeId, state: NodeState) {
        if self.meta.nodes().contains_key(&node) {
            self.change_for(asker, id, MetaChange::SetNodeState { node, state });
        } else {
            let error = Error::Refused(format!("there is no node {node}"));
            self.outcome(asker, Outcome::Done(Err(error)));
        }
    }

    pub(super) fn change_for(&mut self, asker: Asker, id: RequestId, change: MetaChange) {
        let revision = self.sequencer.current();
        if self.service.waiting.insert(id, (asker, revision)).is_none() {
            self.service.change(MetaEntry { id, change });
        }
    }

    /// A meta entry was applied (on any node).
    pub(super) fn meta_applied(&mut self, entry: &MetaEntry, answer: MetaAnswer) {
        if Planning::concerns(&entry.change) {
            self.planning.changed();
        }
        match &entry.change {
            MetaChange::Reserve { .. } => self.sequencer.reserved(),
            MetaChange::Takeover { term, .. } => {
                if let MetaAnswer::Internal(InternalReply::First(first)) = &answer {
                    self.taken_over(*term, *first);
                }
            }
            MetaChange::Register { descriptor, .. } => {
                let range = descriptor.id;
                if let Some(registered) = self.meta.registration(range) {
                    self.range_moved(range, registered.node);
                    self.watch_range_moved(range, registered.node);
                }
                if self.stopping {
                    self.hand_over_all();
                }
            }
            MetaChange::Absorb { descriptor, .. } => {
                let range = descriptor.id;
                if let Some(registered) = self.meta.registration(range) {
                    self.range_moved(range, registered.node);
                    self.watch_range_moved(range, registered.node);
                }
                self.retry_waiting();
            }
            MetaChange::Pin { range } => {
                self.shaper.pinned.remove(range);
            }
            MetaChange::LeaseAttach { id, range } => self.sequencer.attached(*id, *range),
            MetaChange::LeaseGrant { id, ttl } if self.sequencer.is_active() => {
                if matches!(answer, MetaAnswer::Client(Ok(_))) {
                    self.service.deadlines.insert(*id, self.now + *ttl as u64 * 1000);
                }
            }
            MetaChange::LeaseRevoking { id } if self.sequencer.is_active() => {
                self.start_revoke(*id, entry.id);
            }
            MetaChange::LeaseRemoved { id } => {
                self.service.deadlines.remove(id);
                self.service.expiring.remove(id);
                self.service.revokes.remove(id);
            }
            // Its ranges may have to be led by others now, or may come back.
            MetaChange::DrainFor { node, .. } => {
                self.drain_renewed(*node);
                self.wake_ranges_with(*node);
            }
            MetaChange::SetNodeState { node, .. }
            | MetaChange::DrainExpired { node, .. }
            | MetaChange::Condemn { node, .. }
            | MetaChange::Retire { node } => self.wake_ranges_with(*node),
            _ => {}
        }
        // "Revoking" is answered when the keys are gone.
        if matches!(entry.change, MetaChange::LeaseRevoking { .. }) {
            return;
        }
        if let Some((asker, revision)) = self.service.waiting.remove(&entry.id) {
            self.meta_answer(asker, answer, revision);
        }
    }

    fn meta_answer(&mut self, asker: Asker, answer: MetaAnswer, revision: Revision) {
        let outcome = match answer {
            MetaAnswer::Client(Ok(Response::Compact { .. })) => {
                Outcome::Done(Ok(Response::Compact { revision }))
            }
            MetaAnswer::Client(Ok(Response::LeaseRevoke { revision: 0 })) => {
                Outcome::Done(Ok(Response::LeaseRevoke { revision }))
            }
            MetaAnswer::Client(result) => Outcome::Done(result),
            MetaAnswer::Internal(reply) => Outcome::Internal(reply),
        };
        self.outcome(asker, outcome);
    }

    /// A quorum round came back.
    pub(super) fn round_confirmed(&mut self, round: u64) {
        let confirmed = self.sequencer.confirmed(round, self.meta.compacted());
        for (to, message) in confirmed.send {
            self.send(to, message);
        }
        for (question, revision) in confirmed.confirmations {
            self.confirmed(question, revision);
        }
    }

    fn confirmed(&mut self, question: Question, current: Revision) {
        match question {
            Question::KeepAlive(asker, id) => {
                let ttl = match self.meta.leases().get(&id) {
                    Some(lease) if !lease.revoking && !self.service.expiring.contains(&id) => {
                        self.service.deadlines.insert(id, self.now + lease.ttl as u64 * 1000);
                        lease.ttl
                    }
                    Some(_) | None => 0,
                };
                self.outcome(asker, Outcome::Done(Ok(Response::LeaseKeepAlive { id, ttl })));
            }
            Question::TimeToLive(asker, id, keys) => self.time_to_live(asker, id, keys),
            Question::Leases(asker) => {
                let mut ids: Vec<(Millis, LeaseId)> = self
                    .meta
                    .leases()
                    .iter()
                    .filter(|(_, lease)| !lease.revoking)
                    .map(|(id, _)| (self.service.deadlines.get(id).copied().unwrap_or(0), *id))
                    .collect();
                ids.sort_unstable();
                let ids = ids.into_iter().map(|(_, id)| id).collect();
                self.outcome(asker, Outcome::Done(Ok(Response::LeaseList { ids })));
            }
            Question::Current(asker) => {
                let response = Response::CurrentRevision { revision: current };
                self.outcome(asker, Outcome::Done(Ok(response)));
            }
            Question::Compact(asker, id, revision) => {
                let error = if revision <= self.meta.compacted() {
                    Error::Compacted
                } else if revision > current {
                    Error::FutureRevision
                } else {
                    return self.change_for(asker, id, MetaChange::Compact { revision });
                };
                self.outcome(asker, Outcome::Done(Err(error)));
            }
            Question::Alarms(asker) => {
                let alarms = self.meta.alarms().iter().copied().collect();
                self.outcome(asker, Outcome::Done(Ok(Response::Alarm { alarms })));
            }
            Question::Expire(id) => {
                let due = self.service.deadlines.get(&id).is_none_or(|at| *at <= self.now);
                if due && self.meta.leases().get(&id).is_some_and(|lease| !lease.revoking) {
                    self.service.change(MetaEntry {
                        id: RequestId::default(),
                        change: MetaChange::LeaseRevoking { id },
                    });
                } else {
                    self.service.expiring.remove(&id);
                }
            }
        }
    }

    fn time_to_live(&mut self, asker: Asker, id: LeaseId, keys: bool) {
        let Some(lease) = self.meta.leases().get(&id).filter(|lease| !lease.revoking) else {
            let gone = Response::LeaseTimeToLive { id, ttl: -1, granted_ttl: 0, keys: Vec::new() };
            return self.outcome(asker, Outcome::Done(Ok(gone)));
        };
        let left = self.service.deadlines.get(&id).map_or(0, |at| at.saturating_sub(self.now));
        let (ttl, granted_ttl) = ((left / 1000) as i64, lease.ttl);
        if keys && !lease.ranges.is_empty() {
            let ranges = lease.ranges.clone();
            return self.collect_lease_keys(asker, id, (ttl, granted_ttl), &ranges);
        }
        let response = Response::LeaseTimeToLive { id, ttl, granted_ttl, keys: Vec::new() };
        self.outcome(asker, Outcome::Done(Ok(response)));
    }

    // Revocation and expiry.

    fn revoke(&mut self, asker: Asker, id: RequestId, lease: LeaseId) {
        let Some(record) = self.meta.leases().get(&lease) else {
            return self.outcome(asker, Outcome::Done(Err(Error::LeaseNotFound)));
        };
        let revoking = record.revoking;
        let revision = self.sequencer.current();
        match self.service.revokes.get_mut(&lease) {
            // Under way without anybody waiting (expiry, or a former leader's): join it.
            Some(revoke) if revoke.id == RequestId::default() || revoke.id == id => {
                revoke.id = id;
                self.service.waiting.insert(id, (asker, revision));
            }
            Some(_) => self.outcome(asker, Outcome::Done(Err(Error::LeaseNotFound))),
            None => {
                self.service.waiting.insert(id, (asker, revision));
                self.service.revokes.insert(lease, Revoke { id, ..Revoke::default() });
                if revoking {
                    self.start_revoke(lease, id);
                } else {
                    // The change has no request id of its own: the removal carries it.
                    let change = MetaChange::LeaseRevoking { id: lease };
                    self.service.change(MetaEntry { id: RequestId::default(), change });
                }
            }
        }
    }

    fn start_revoke(&mut self, lease: LeaseId, id: RequestId) {
        let Some(record) = self.meta.leases().get(&lease) else { return };
        let ranges = record.ranges.clone();
        let revoke =
            self.service.revokes.entry(lease).or_insert_with(|| Revoke { id, ..Revoke::default() });
        if !revoke.waiting.is_empty() {
            return;
        }
        revoke.waiting.clone_from(&ranges);
        if ranges.is_empty() {
            return self.finish_revoke(lease);
        }
        for range in ranges {
            self.revoke_in(lease, range);
        }
    }

    /// Asks a range (or what it was cut into) to delete the keys of a lease.
    pub(super) fn revoke_in(&mut self, lease: LeaseId, range: RangeId) {
        if self.service.revokes.contains_key(&lease) {
            self.internal_request(
                Owner::Revoke(lease, range),
                range,
                RangeRequest::RevokeLease { lease },
            );
        }
    }

    pub(super) fn revoked_in(&mut self, lease: LeaseId, range: RangeId, revision: Revision) {
        let Some(revoke) = self.service.revokes.get_mut(&lease) else { return };
        revoke.waiting.remove(&range);
        revoke.done.insert(range);
        revoke.revision = revoke.revision.max(revision);
        if !revoke.waiting.is_empty() {
            return;
        }
        // Ranges that were cut off those asked at first may hold keys as well; the directory knows
        // of them since before their parents answered.
        if let Some(record) = self.meta.leases().get(&lease) {
            revoke.waiting = record.ranges.difference(&revoke.done).copied().collect();
        }
        let rest = revoke.waiting.clone();
        if rest.is_empty() {
            return self.finish_revoke(lease);
        }
        for range in rest {
            self.revoke_in(lease, range);
        }
    }

    fn finish_revoke(&mut self, lease: LeaseId) {
        let Some(revoke) = self.service.revokes.get(&lease) else { return };
        let (id, revision) = (revoke.id, revoke.revision);
        if let Some((_, told)) = self.service.waiting.get_mut(&id) {
            *told = revision.max(*told);
        }
        self.service.change(MetaEntry { id, change: MetaChange::LeaseRemoved { id: lease } });
    }

    pub(super) fn meta_tick(&mut self) {
        if self.stopping {
            self.hand_over_all();
        }
        self.resume_sequencer();
        if !self.sequencer.is_active() {
            return;
        }
        self.raise_level();
        self.expire_drains();
        self.plan_members();
        self.merging_tick();
        self.shrinking_tick();
        self.ranking_tick();
        self.sweep();
        let now = self.now;
        let due: Vec<LeaseId> = self
            .service
            .deadlines
            .iter()
            .filter(|(id, at)| **at <= now && !self.service.expiring.contains(id))
            .map(|(id, _)| *id)
            .take(EXPIRE_MAX)
            .collect();
        for id in due {
            self.service.expiring.insert(id);
            self.sequencer.confirm(Question::Expire(id));
        }
        // A round can get lost with a message: ask once more.
        if let Some(round) = self.sequencer.pending_round()
            && let Some(replica) = self.replicas.get_mut(&META_RANGE)
        {
            replica.group.confirm(round);
            self.dirty.insert(META_RANGE);
        }
    }

    /// A hand-over of the sequencer that did not happen: it goes on here, with a new block.
    fn resume_sequencer(&mut self) {
        if !self.sequencer.is_stopped() {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&META_RANGE) else { return };
        if self.now < self.resume_at || !replica.group.is_leader() {
            return;
        }
        if replica.group.is_transferring() {
            replica.group.abort_transfer();
        }
        self.resume_at = self.now + 2 * self.config.election_ms;
        let term = replica.group.term();
        self.take_over(term);
    }

    /// The meta state changed: leases, addresses, registrations may concern this node.
    pub(super) fn meta_changed(&mut self) {
        let me = self.config.node;
        let peers: Vec<(NodeId, String)> = self
            .meta
            .nodes()
            .values()
            .filter(|record| record.id != me)
            .map(|record| (record.id, record.peer_address.clone()))
            .collect();
        if peers != self.known_peers {
            self.known_peers.clone_from(&peers);
            self.effects.peers = peers;
        }
        let held: Vec<RangeId> = self
            .replicas
            .iter()
            .filter(|(range, replica)| match replica.lease {
                // That of an older generation is of an earlier lease, or says too little.
                Lease::Registering(term) => {
                    let generation =
                        replica.descriptor.as_ref().map_or(0, |descriptor| descriptor.generation);
                    self.meta.registration(**range).is_some_and(|registered| {
                        registered.term == term
                            && registered.node == me
                            && registered.generation >= generation
                    })
                }
                Lease::None | Lease::Held(_) => false,
            })
            .map(|(range, _)| *range)
            .collect();
        for range in held {
            self.lease_held(range);
        }
    }
}
