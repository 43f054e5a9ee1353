//! The router: key to range to leaseholder. The only place that retries.
//!
//! Invariants: a request keeps its id through every attempt, so it is carried out once; it ends
//! with an answer, an error, or at its deadline.

use super::Node;
use super::gather::{Collect, Gather, collect_reads};
use super::loading::Reason;
use super::shrinking::Weight;
use super::transactions::Transaction;
use crate::effects::{ClientToken, Millis};
use crate::error::{Error, Misrouted};
use crate::ids::{META_RANGE, NodeId, RangeId, RequestId, Revision};
use crate::key::Span;
use crate::leaseholder::Asker;
use crate::message::{InternalReply, Message, MetaRequest, Outcome, RangeRequest, RoutedRequest};
use crate::meta::Merge;
use crate::read::{Origin, ReadTask, ReadWork};
use crate::replica::Replica;
use crate::request::{AdminOp, Op, Request, Response};
use crate::state::StateReads;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Pause before a request that nobody took is tried again.
const RETRY_MS: Millis = 10;
/// Requests that wait at a replica for its lease.
const WAITING_MAX: usize = 10_000;
/// Immediate attempts on fresh hints, before pauses begin.
const EAGER_ATTEMPTS: u32 = 3;
/// Requests of this gateway under way.
const REQUESTS_MAX: usize = 100_000;
/// Internal requests give up after this, and whoever wants them asks anew.
const INTERNAL_MS: Millis = 10_000;

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Key(Bytes),
    Range(RangeId),
    Meta,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    Client(ClientToken),
    /// Part of a multi-range read.
    Gather(u64, u32),
    /// A registration of this node's replica.
    Register(RangeId),
    /// Deletion of a revoked lease's keys in one range.
    Revoke(i64, RangeId),
    /// Keys of a lease in one range.
    LeaseKeys(u64),
    /// A range id for a split by a client.
    SplitId(ClientToken, Bytes),
    /// A range id for cutting a range of this node, at this key.
    Cut(RangeId, Bytes, Reason),
    /// That cut.
    CutAt(RangeId, Reason),
    /// A range id for a cut at a bound of a placement policy.
    Bound(Bytes),
    /// A lock for a transaction of this gateway, by its place among the transaction's ranges.
    Lock(u64, usize),
    /// The decision on a transaction of this gateway.
    Commit(u64),
    /// The end of a lock of a transaction of this gateway.
    Resolve(u64, usize),
    /// The outcome of a transaction that has locked a range of this node.
    Settle(RangeId, RequestId),
    /// The end of a lock, asked for by the meta range's leader.
    Sweep(RequestId, RangeId),
    /// A step of a merge.
    Merging(Merge),
    /// How much a range holds and does, for the meta range's leader.
    Weigh(RangeId),
    /// Nobody waits.
    Nobody,
}

#[derive(Debug)]
struct Pending {
    owner: Owner,
    place: Place,
    body: RangeRequest,
    deadline: Millis,
    since: Millis,
    attempts: u32,
    sent_to: Option<NodeId>,
    retry_at: Option<Millis>,
    /// Names the last attempt: only its answer is taken.
    token: u64,
    /// That attempt is on its way or being served.
    out: bool,
    /// What became of an attempt before the last is not known: it may still be carried out.
    doubtful: bool,
    /// An attempt may have been carried out, which whoever has its keys now would know.
    uncertain: bool,
}

/// See the module.
pub(super) struct Router {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    tokens: BTreeMap<ClientToken, u64>,
    /// Later attempts, whose token is not the sequence number of their request.
    attempts: BTreeMap<u64, u64>,
    hints: BTreeMap<RangeId, NodeId>,
    pub(super) gathers: BTreeMap<u64, Gather>,
    pub(super) transactions: BTreeMap<u64, Transaction>,
    pub(super) collects: BTreeMap<u64, Collect>,
    proposing: BTreeSet<RangeId>,
    /// The newest write of each range that was answered through this gateway.
    answered: BTreeMap<RangeId, Revision>,
}

impl Router {
    /// `first`: where this run starts to count, so that late answers to an earlier run of this node
    /// are not taken for its own.
    pub(super) fn new(first: u64) -> Self {
        Self {
            next: first,
            pending: BTreeMap::new(),
            tokens: BTreeMap::new(),
            attempts: BTreeMap::new(),
            hints: BTreeMap::new(),
            gathers: BTreeMap::new(),
            transactions: BTreeMap::new(),
            collects: BTreeMap::new(),
            proposing: BTreeSet::new(),
            answered: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len() + self.gathers.len() + self.transactions.len()
    }

    /// The client does not wait any more; what it asked may still happen.
    pub(super) fn abandon(&mut self, token: ClientToken) {
        if let Some(sequence) = self.tokens.remove(&token) {
            self.remove(sequence);
            self.gathers.remove(&sequence);
            if let Some(transaction) = self.transactions.get_mut(&sequence) {
                transaction.client_left();
            }
        }
    }

    /// The request whose last attempt this is.
    fn request_of(&self, token: u64) -> Option<u64> {
        let sequence = self.attempts.get(&token).copied().unwrap_or(token);
        self.pending.get(&sequence).filter(|pending| pending.token == token).map(|_| sequence)
    }

    /// Ranges whose leaseholders may have something to propose.
    pub(super) fn take_proposing(&mut self) -> Vec<RangeId> {
        std::mem::take(&mut self.proposing).into_iter().collect()
    }

    pub(super) fn proposing(&mut self, range: RangeId) {
        self.proposing.insert(range);
    }

    pub(super) fn settled_below(&self) -> u64 {
        let pending = self.pending.first_key_value().map_or(self.next, |(sequence, _)| *sequence);
        let transaction = self.transactions.first_key_value();
        transaction.map_or(pending, |(sequence, _)| pending.min(*sequence))
    }

    /// The next number for something of this gateway.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn wrote(&mut self, range: RangeId, revision: Revision) {
        let newest = self.answered.entry(range).or_default();
        *newest = (*newest).max(revision);
    }

    pub(super) fn client_waits(&mut self, token: ClientToken, sequence: u64) {
        self.tokens.insert(token, sequence);
    }

    pub(super) fn client_told(&mut self, token: ClientToken) {
        self.tokens.remove(&token);
    }

    fn remove(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.attempts.remove(&pending.token);
        if let Owner::Client(token) | Owner::SplitId(token, _) = &pending.owner {
            self.tokens.remove(token);
        }
        Some(pending)
    }

    /// The edge will answer: nothing is left to route.
    pub(super) fn read_started(&mut self, token: u64) -> Option<Origin> {
        let sequence = self.request_of(token)?;
        match self.remove(sequence)?.owner {
            Owner::Client(token) => Some(Origin::Client(token)),
            Owner::Gather(gather, part) => Some(Origin::Gather { gather, part }),
            Owner::Register(_)
            | Owner::Revoke(..)
            | Owner::LeaseKeys(_)
            | Owner::SplitId(..)
            | Owner::Cut(..)
            | Owner::CutAt(..)
            | Owner::Bound(_)
            | Owner::Lock(..)
            | Owner::Commit(_)
            | Owner::Resolve(..)
            | Owner::Settle(..)
            | Owner::Sweep(..)
            | Owner::Merging(_)
            | Owner::Weigh(_)
            | Owner::Nobody => None,
        }
    }

    /// The leaseholder of a range is another one now.
    pub(super) fn moved(&mut self, range: RangeId) {
        self.hints.remove(&range);
    }
}

impl Node {
    pub(super) fn client_request(
        &mut self,
        token: ClientToken,
        deadline: Millis,
        request: Request,
        state: &dyn StateReads,
    ) {
        if self.router.pending.len() >= REQUESTS_MAX {
            return self.fail_client(token, Error::TooManyRequests);
        }
        match request {
            Request::Kv(op) => self.client_op(token, deadline, op, state),
            Request::CurrentRevision => {
                let sequence = self.enqueue(
                    Owner::Client(token),
                    Place::Meta,
                    RangeRequest::Meta(MetaRequest::Client(Request::CurrentRevision)),
                    deadline,
                );
                self.dispatch(sequence, state);
            }
            Request::Admin(op) => self.admin_request(token, deadline, op, state),
            request @ (Request::Compact { .. }
            | Request::LeaseGrant { .. }
            | Request::LeaseRevoke { .. }
            | Request::LeaseKeepAlive { .. }
            | Request::LeaseTimeToLive { .. }
            | Request::LeaseList
            | Request::Alarm { .. }) => {
                let body = RangeRequest::Meta(MetaRequest::Client(request));
                let sequence = self.enqueue(Owner::Client(token), Place::Meta, body, deadline);
                self.dispatch(sequence, state);
            }
        }
    }

    fn admin_request(
        &mut self,
        token: ClientToken,
        deadline: Millis,
        op: AdminOp,
        state: &dyn StateReads,
    ) {
        let sequence = match op {
            AdminOp::Split { key } => self.enqueue(
                Owner::SplitId(token, key),
                Place::Meta,
                RangeRequest::Meta(MetaRequest::AllocateRange),
                deadline,
            ),
            AdminOp::Transfer { range, to } => self.enqueue(
                Owner::Client(token),
                if range == META_RANGE { Place::Meta } else { Place::Range(range) },
                RangeRequest::Transfer { to },
                deadline,
            ),
            AdminOp::Check { range } => self.enqueue(
                Owner::Client(token),
                if range == META_RANGE { Place::Meta } else { Place::Range(range) },
                RangeRequest::Check,
                deadline,
            ),
            op @ (AdminOp::Drain { .. }
            | AdminOp::Undrain { .. }
            | AdminOp::Leave { .. }
            | AdminOp::Move { .. }
            | AdminOp::Merge { .. }
            | AdminOp::DrainFor { .. }
            | AdminOp::Facts { .. }
            | AdminOp::SetPolicy { .. }
            | AdminOp::RemovePolicy { .. }
            | AdminOp::Reprotect { .. }) => self.enqueue(
                Owner::Client(token),
                Place::Meta,
                RangeRequest::Meta(MetaRequest::Client(Request::Admin(op))),
                deadline,
            ),
        };
        self.dispatch(sequence, state);
    }

    fn client_op(&mut self, token: ClientToken, deadline: Millis, op: Op, state: &dyn StateReads) {
        let spans = op.spans();
        if op.is_serializable() && self.serve_stale(token, &op, &spans) {
            return;
        }
        let mut ranges: BTreeSet<RangeId> = BTreeSet::new();
        for span in &spans {
            if let (Some(key), 1) = (span.single(), spans.len()) {
                ranges.extend(self.meta.range_of(key).map(|range| range.id));
            } else {
                ranges.extend(self.meta.ranges_in(span).iter().map(|range| range.id));
            }
        }
        if ranges.len() > 1 {
            if !op.is_read_only() {
                return self.start_transaction(token, deadline, op);
            }
            return self.start_gather(token, deadline, op);
        }
        // An empty interval touches no range, but its answer has a header all the same.
        let key = spans.first().map(|span| span.start.clone()).unwrap_or_default();
        let sequence =
            self.enqueue(Owner::Client(token), Place::Key(key), RangeRequest::Kv(op), deadline);
        self.dispatch(sequence, state);
    }

    /// A read that may be stale, from what this node has. Its header must be exact all the same:
    /// clients start watches from it. So it is a revision up to which the replica here has
    /// everything. What lies in several ranges is old as the oldest of them, so that is read in
    /// the ordinary way as long as there is a sequencer.
    fn serve_stale(&mut self, token: ClientToken, op: &Op, spans: &[Span]) -> bool {
        let mut ranges: BTreeMap<RangeId, Revision> = BTreeMap::new();
        for span in spans {
            for range in self.meta.ranges_in(span) {
                let part = range.span.intersect(span).unwrap_or_else(|| range.span.clone());
                let Some(replica) = self.replicas.get(&range.id) else { return false };
                if !replica.descriptor.as_ref().is_some_and(|own| own.span.covers(&part)) {
                    return false;
                }
                let complete = if replica.holds_lease() {
                    replica.leaseholder.watermark().max(replica.revision)
                } else {
                    replica.revision
                };
                ranges.insert(range.id, complete.max(1));
            }
        }
        let compacted = self.meta.compacted();
        let Some(revision) = ranges.values().min().copied() else { return false };
        if ranges.len() > 1 && (self.session.sequencer().is_some() || revision < compacted) {
            return false;
        }
        // Who has written through this gateway expects to see it, as long as the leaders can be
        // asked.
        let behind = ranges.iter().any(|(range, complete)| {
            self.router.answered.get(range).is_some_and(|newest| newest > complete)
        });
        if behind && self.session.sequencer().is_some() {
            return false;
        }
        let mut reads = Vec::new();
        collect_reads(op, &mut reads);
        if reads.iter().any(|read| read.revision > revision) {
            return false;
        }
        let unleased = ranges.into_keys().collect();
        self.effects.reads.push(ReadTask {
            origin: Origin::Client(token),
            work: ReadWork::At { op: op.clone(), revision, compacted, unleased },
        });
        true
    }

    pub(super) fn enqueue(
        &mut self,
        owner: Owner,
        place: Place,
        body: RangeRequest,
        deadline: Millis,
    ) -> u64 {
        let sequence = self.router.next;
        self.router.next += 1;
        if let Owner::Client(token) | Owner::SplitId(token, _) = &owner {
            self.router.tokens.insert(*token, sequence);
        }
        let since = self.now;
        self.router.pending.insert(
            sequence,
            Pending {
                owner,
                place,
                body,
                deadline,
                since,
                attempts: 0,
                sent_to: None,
                retry_at: None,
                token: sequence,
                out: false,
                doubtful: false,
                uncertain: false,
            },
        );
        sequence
    }

    /// A request of this node itself. It is sent with the next tick or event.
    pub(super) fn internal_request(&mut self, owner: Owner, range: RangeId, body: RangeRequest) {
        self.internal_request_until(owner, range, body, self.now + INTERNAL_MS);
    }

    /// As [`Self::internal_request`], given up at `deadline`.
    pub(super) fn internal_request_until(
        &mut self,
        owner: Owner,
        range: RangeId,
        body: RangeRequest,
        deadline: Millis,
    ) {
        let place = if range == META_RANGE { Place::Meta } else { Place::Range(range) };
        let sequence = self.enqueue(owner, place, body, deadline);
        if let Some(pending) = self.router.pending.get_mut(&sequence) {
            pending.retry_at = Some(self.now);
        }
        self.dispatch_remote_or_loop(sequence);
    }

    /// Sends a request to where it seems to belong; requests for this node are served at once.
    fn dispatch(&mut self, sequence: u64, state: &dyn StateReads) {
        if let Some((to, request)) = self.prepare(sequence) {
            if to == self.config.node {
                self.serve(Asker::Local(request.token), request, state);
            } else {
                self.counters.forwarded += 1;
                self.send(to, Message::Request(Box::new(request)));
            }
        }
    }

    /// As [`Self::dispatch`], but requests for this node go through the loop-back queue.
    pub(super) fn dispatch_remote_or_loop(&mut self, sequence: u64) {
        if let Some((to, request)) = self.prepare(sequence) {
            self.send(to, Message::Request(Box::new(request)));
        }
    }

    fn prepare(&mut self, sequence: u64) -> Option<(NodeId, RoutedRequest)> {
        self.follow_merge(sequence);
        let settled_below = self.router.settled_below();
        let id = self.request_id(sequence);
        let pending = self.router.pending.get(&sequence)?;
        let range = match &pending.place {
            Place::Key(key) => self.meta.range_of(key).map(|range| range.id),
            Place::Range(range) => Some(*range),
            Place::Meta => Some(META_RANGE),
        };
        let target = range.and_then(|range| self.leaseholder_of(range));
        let reachable = target.filter(|target| {
            *target == self.config.node
                || self.peers.get(target).is_some_and(|peer| peer.connected && !peer.down)
        });
        let now = self.now;
        let pending = self.router.pending.get_mut(&sequence)?;
        pending.attempts += 1;
        let (Some(range), Some(target)) = (range, reachable) else {
            pending.sent_to = None;
            pending.retry_at = Some(now + RETRY_MS);
            return None;
        };
        pending.sent_to = Some(target);
        pending.retry_at = None;
        let mut body = pending.body.clone();
        if std::mem::replace(&mut pending.out, true) {
            pending.doubtful = true;
            self.router.attempts.remove(&pending.token);
            pending.token = self.router.next;
            self.router.next += 1;
            self.router.attempts.insert(pending.token, sequence);
        }
        if pending.doubtful
            && let RangeRequest::Kv(op) = body
        {
            body = RangeRequest::KvAgain(op);
        }
        Some((target, RoutedRequest { token: pending.token, range, id, settled_below, body }))
    }

    /// What is asked of a range that is gone goes to the one that took it in, or has ended.
    fn follow_merge(&mut self, sequence: u64) {
        let Some(pending) = self.router.pending.get_mut(&sequence) else { return };
        let Place::Range(range) = &mut pending.place else { return };
        let Some(into) = self.meta.merges().way(*range).last() else { return };
        match &pending.body {
            RangeRequest::RevokeLease { .. } | RangeRequest::LeaseKeys { .. } => *range = into,
            // No lock stood when it was frozen: whatever was decided was carried out, or has no part
            // in it.
            RangeRequest::Resolve { .. } => {
                if let Some(pending) = self.router.remove(sequence) {
                    let (owner, deadline) = (pending.owner, pending.deadline);
                    self.finish_internal(owner, deadline, InternalReply::Ok);
                }
            }
            RangeRequest::Lock { .. } => self.start_over(sequence),
            _ => {
                let error = Error::Refused(format!("{range} is a part of {into} now"));
                if let Some(pending) = self.router.remove(sequence) {
                    self.finish(pending.owner, Err(error));
                }
            }
        }
    }

    /// The node that should serve a range, as far as this gateway knows.
    pub(super) fn leaseholder_of(&self, range: RangeId) -> Option<NodeId> {
        if let Some(replica) = self.replicas.get(&range)
            && replica.group.is_leader()
        {
            return Some(self.config.node);
        }
        if range == META_RANGE {
            return self.replicas.get(&META_RANGE).and_then(Replica::leader_node);
        }
        if let Some(hint) = self.router.hints.get(&range) {
            return Some(*hint);
        }
        let local = self.replicas.get(&range).and_then(Replica::leader_node);
        local.or_else(|| self.meta.registration(range).map(|registered| registered.node)).or_else(
            || {
                let descriptor = self.meta.ranges().get(&range)?;
                descriptor.voters().map(|voter| voter.node).next()
            },
        )
    }

    /// A request for a replica on this node.
    pub(super) fn serve(&mut self, asker: Asker, request: RoutedRequest, state: &dyn StateReads) {
        let range = request.range;
        if matches!(request.body, RangeRequest::Meta(_))
            && !self.sequencer.is_active()
            && self.sequencer.is_expecting()
            && let Some(replica) = self.replicas.get_mut(&META_RANGE)
            && replica.waiting.len() < WAITING_MAX
        {
            replica.waiting.push((asker, request));
            return;
        }
        if let RangeRequest::Meta(meta) = request.body {
            return self.serve_meta(asker, request.id, meta);
        }
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        if let RangeRequest::Transfer { to } = request.body {
            return self.serve_transfer(asker, range, to);
        }
        if matches!(request.body, RangeRequest::Weigh) {
            return self.serve_weigh(asker, range);
        }
        if let RangeRequest::Freeze { .. }
        | RangeRequest::Thaw { .. }
        | RangeRequest::Merge { .. } = request.body
        {
            return self.serve_merging(asker, request, state);
        }
        let serves =
            if range == META_RANGE { self.sequencer.is_active() } else { replica.holds_lease() };
        if !serves {
            if replica.may_lead_soon() && replica.waiting.len() < WAITING_MAX {
                replica.waiting.push((asker, request));
                return;
            }
            let hint = replica.leader_node().filter(|node| *node != self.config.node);
            if replica.asleep {
                replica.wake(&mut self.awake);
            }
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let RoutedRequest { id, settled_below, body, .. } = request;
        let again = matches!(body, RangeRequest::KvAgain(_));
        if range != META_RANGE && self.config.shaping.counts() {
            replica.note_load(&body);
        }
        match body {
            RangeRequest::Kv(op) | RangeRequest::KvAgain(op) => {
                let asked = crate::leaseholder::Asked {
                    asker,
                    id,
                    settled_below,
                    again,
                    work: crate::leaseholder::Work::Op(op),
                };
                self.with_leaseholder(range, state, |holder, view, out| {
                    holder.ask(asked, view, out);
                });
                self.router.proposing.insert(range);
            }
            RangeRequest::RevokeLease { lease } => {
                let asked = crate::leaseholder::Asked {
                    asker,
                    id,
                    settled_below,
                    again,
                    work: crate::leaseholder::Work::RevokeLease(lease),
                };
                self.with_leaseholder(range, state, |holder, view, out| {
                    holder.ask(asked, view, out);
                });
                self.router.proposing.insert(range);
            }
            // What the transaction changes may be decided already.
            RangeRequest::LeaseKeys { .. } if replica.intent.is_some() => {
                self.out.misrouted(asker, Misrouted::Busy);
            }
            RangeRequest::LeaseKeys { lease } => {
                let span = replica.descriptor.as_ref().map(|own| own.span.clone());
                let keys = span.map_or_else(Vec::new, |span| state.lease_keys(lease, &span));
                self.outcome(asker, Outcome::Internal(InternalReply::Keys(keys)));
            }
            RangeRequest::Lock { txn, node, reads, wait } => {
                let asked = crate::leaseholder::Asked {
                    asker,
                    id: txn,
                    settled_below,
                    again,
                    work: crate::leaseholder::Work::Lock(crate::leaseholder::Lock {
                        node,
                        reads,
                        wait,
                    }),
                };
                self.with_leaseholder(range, state, |holder, view, out| {
                    holder.ask(asked, view, out);
                });
                self.router.proposing.insert(range);
            }
            RangeRequest::Resolve { txn, settled_below, decision } => {
                self.with_leaseholder(range, state, |holder, view, out| {
                    holder.resolve((txn, settled_below), decision, asker, view, out);
                });
                self.router.proposing.insert(range);
            }
            RangeRequest::Split { key, child } => {
                self.serve_split(asker, id, range, (key, child), state);
            }
            RangeRequest::ChangeReplicas { add, remove, generation } => {
                self.serve_change_replicas(asker, id, range, (add, remove), generation);
            }
            RangeRequest::Check => self.serve_check(asker, range),
            RangeRequest::Rank { first, generation } => {
                self.serve_rank(asker, id, range, (first, generation), state);
            }
            RangeRequest::Stale(_)
            | RangeRequest::Weigh
            | RangeRequest::Transfer { .. }
            | RangeRequest::Freeze { .. }
            | RangeRequest::Thaw { .. }
            | RangeRequest::Merge { .. }
            | RangeRequest::Meta(_) => {
                self.out.misrouted(asker, Misrouted::NoReplica);
            }
        }
    }

    /// A routed request ended, or has to go elsewhere.
    pub(super) fn routed_outcome(&mut self, token: u64, outcome: Outcome) {
        let Some(sequence) = self.router.request_of(token) else { return };
        match outcome {
            Outcome::Done(result) => {
                if let Some(pending) = self.router.remove(sequence) {
                    if let (RangeRequest::Kv(op), Ok(Response::Kv { revision, .. })) =
                        (&pending.body, &result)
                        && !op.is_read_only()
                        && let Some(range) = self.range_at(&pending.place)
                    {
                        self.router.wrote(range, *revision);
                    }
                    self.finish(pending.owner, result);
                }
            }
            Outcome::Internal(reply) => {
                if let Some(pending) = self.router.remove(sequence) {
                    self.finish_internal(pending.owner, pending.deadline, reply);
                }
            }
            Outcome::Misrouted { reason, descriptors } => {
                for descriptor in &descriptors {
                    self.learn(descriptor);
                }
                self.try_again(sequence, &reason);
            }
        }
    }

    fn try_again(&mut self, sequence: u64, reason: &Misrouted) {
        self.counters.retried += 1;
        if *reason == Misrouted::RangeMoved && self.is_several_now(sequence) {
            return self.start_over(sequence);
        }
        let now = self.now;
        let me = self.config.node;
        let Some(pending) = self.router.pending.get_mut(&sequence) else { return };
        let range = match &pending.place {
            Place::Key(key) => self.meta.range_of(key).map(|range| range.id),
            Place::Range(range) => Some(*range),
            Place::Meta => None,
        };
        let from = pending.sent_to.take();
        // Whoever says so has not carried it out, and will not.
        pending.out = false;
        let mut eager = false;
        pending.uncertain |= matches!(reason, Misrouted::Abandoned { .. });
        match reason {
            Misrouted::NotLeaseholder { hint } | Misrouted::Abandoned { hint } => {
                if let Some(range) = range {
                    match hint {
                        Some(hint) if Some(*hint) != from && *hint != me => {
                            self.router.hints.insert(range, *hint);
                            eager = pending.attempts <= EAGER_ATTEMPTS;
                        }
                        _ => {
                            self.router.hints.remove(&range);
                        }
                    }
                }
            }
            Misrouted::RangeMoved => eager = pending.attempts <= EAGER_ATTEMPTS,
            Misrouted::NoReplica => {
                if let Some(range) = range {
                    self.router.hints.remove(&range);
                }
            }
            Misrouted::Busy => {}
        }
        pending.retry_at = Some(if eager { now } else { now + RETRY_MS });
        if eager {
            self.dispatch_remote_or_loop(sequence);
        }
    }

    /// Were the keys of a request in one range when it was sent, and are in several now?
    fn is_several_now(&self, sequence: u64) -> bool {
        let Some(pending) = self.router.pending.get(&sequence) else { return false };
        match (&pending.owner, &pending.body) {
            (Owner::Client(_) | Owner::Gather(..), RangeRequest::Kv(op)) => self.is_in_several(op),
            // Its range is another one now, whatever that holds.
            (Owner::Lock(..), _) => true,
            (_, _) => false,
        }
    }

    fn is_in_several(&self, op: &Op) -> bool {
        let spans = op.spans();
        let ranges = spans.iter().flat_map(|span| self.meta.ranges_in(span));
        ranges.map(|range| range.id).collect::<BTreeSet<_>>().len() > 1
    }

    /// A range was cut on the way: the request is divided anew.
    fn start_over(&mut self, sequence: u64) {
        let Some(pending) = self.router.remove(sequence) else { return };
        match (pending.owner, pending.body) {
            (Owner::Client(token), RangeRequest::Kv(op)) if op.is_read_only() => {
                self.start_gather(token, pending.deadline, op);
            }
            // What an earlier attempt did, no transaction with another id can know.
            (owner @ Owner::Client(_), RangeRequest::Kv(_))
                if pending.doubtful || pending.uncertain =>
            {
                self.finish(owner, Err(Error::TimedOut));
            }
            (Owner::Client(token), RangeRequest::Kv(op)) => {
                self.start_transaction(token, pending.deadline, op);
            }
            (Owner::Gather(gather, _), _) => self.gather_again(gather),
            (Owner::Lock(transaction, part), _) => self.lock_moved(transaction, part),
            (_, _) => {}
        }
    }

    fn finish(&mut self, owner: Owner, result: Result<Response, Error>) {
        match owner {
            Owner::Client(token) | Owner::SplitId(token, _) => {
                self.effects.replies.push((token, result));
            }
            Owner::Gather(gather, part) => self.gathered(gather, part, result),
            Owner::Revoke(lease, range) => match result {
                Ok(Response::LeaseRevoke { revision }) => self.revoked_in(lease, range, revision),
                // Only a range that says so has deleted the keys.
                Ok(_) | Err(_) => self.revoke_in(lease, range),
            },
            Owner::LeaseKeys(collect) => self.collected(collect, Vec::new()),
            Owner::Lock(transaction, part) => {
                let error = result.err().unwrap_or(Error::TimedOut);
                self.lock_failed(transaction, part, error);
            }
            Owner::Commit(transaction) => {
                let error = result.err().unwrap_or(Error::TimedOut);
                self.commit_delayed(transaction, error);
            }
            Owner::Resolve(transaction, part) => self.send_resolve(transaction, part),
            Owner::Sweep(txn, range) => self.sweep_range(txn, range),
            Owner::Cut(range, ..) => self.cut_ended(range),
            Owner::CutAt(range, why) => {
                if result.is_ok() {
                    self.cut_done(why);
                }
                self.cut_ended(range);
            }
            Owner::Weigh(range) => self.weighed(range, None),
            Owner::Merging(merge) => self.merging_failed(merge),
            // Whoever needs it asks again.
            Owner::Settle(..) | Owner::Register(_) | Owner::Bound(_) | Owner::Nobody => {}
        }
    }

    fn finish_internal(&mut self, owner: Owner, deadline: Millis, reply: InternalReply) {
        match (owner, reply) {
            (Owner::LeaseKeys(collect), InternalReply::Keys(keys)) => {
                self.collected(collect, keys);
            }
            (Owner::Lock(transaction, part), reply) => self.lock_answered(transaction, part, reply),
            (Owner::Bound(key), InternalReply::Range(child)) => self.cut_at_bound(key, child),
            (Owner::Cut(range, key, why), InternalReply::Range(child)) => {
                self.cut_at(range, key, child, why);
            }
            (Owner::Weigh(range), InternalReply::Weight { bytes, quiet_ms }) => {
                self.weighed(range, Some(Weight::new(bytes, quiet_ms)));
            }
            (Owner::Commit(transaction), InternalReply::Decided(verdict)) => {
                self.decided(transaction, verdict);
            }
            (Owner::Resolve(transaction, part), InternalReply::Ok) => {
                self.part_resolved(transaction, part);
            }
            (Owner::Settle(range, txn), InternalReply::Settled(decision)) => {
                self.settled(range, txn, decision);
            }
            (Owner::Sweep(txn, range), InternalReply::Ok) => self.range_swept(txn, range),
            (Owner::SplitId(token, key), InternalReply::Range(child)) => {
                let body = RangeRequest::Split { key: key.clone(), child };
                let sequence = self.enqueue(Owner::Client(token), Place::Key(key), body, deadline);
                self.dispatch_remote_or_loop(sequence);
            }
            (Owner::Merging(merge), reply) => self.merging_answered(merge, reply),
            (Owner::Client(token), InternalReply::Joined { cluster, node, peers }) => {
                let peers: Vec<String> =
                    peers.iter().map(|(id, address)| format!("{}={address}", id.0)).collect();
                let message = format!("{cluster} {} {}", node.0, peers.join(","));
                self.effects.replies.push((token, Ok(Response::Admin { message })));
            }
            (Owner::Client(token), _) => {
                let message = "done".to_owned();
                self.effects.replies.push((token, Ok(Response::Admin { message })));
            }
            (_, _) => {}
        }
    }

    /// Requests whose time has come to be tried again, or to fail.
    pub(super) fn router_tick(&mut self) {
        let now = self.now;
        let no_sequencer = self.is_lost(META_RANGE);
        if no_sequencer {
            self.fail_gathers();
        }
        let mut again = Vec::new();
        let mut expired = Vec::new();
        for (sequence, pending) in &self.router.pending {
            let Pending { owner, place, since, .. } = pending;
            if pending.deadline <= now {
                expired.push(*sequence);
            } else if pending.retry_at.is_some_and(|at| at <= now) {
                if self.gives_up(owner, place, *since) {
                    expired.push(*sequence);
                } else {
                    again.push(*sequence);
                }
            } else if no_sequencer && self.gives_up_revision(owner, *since) {
                expired.push(*sequence);
            }
        }
        for sequence in expired {
            let Some(pending) = self.router.remove(sequence) else { continue };
            let error = self.no_answer(&pending.place);
            match pending.owner {
                // A registration is needed as long as the replica leads.
                Owner::Register(range) => {
                    if let Some(replica) = self.replicas.get_mut(&range)
                        && matches!(replica.lease, crate::replica::Lease::Registering(_))
                    {
                        replica.lease = crate::replica::Lease::None;
                        self.dirty.insert(range);
                    }
                }
                Owner::Revoke(lease, range) => self.revoke_in(lease, range),
                owner => self.finish(owner, Err(error)),
            }
        }
        for sequence in again {
            self.dispatch_remote_or_loop(sequence);
        }
        let late: Vec<u64> = self
            .router
            .gathers
            .iter()
            .filter(|(_, gather)| gather.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(gather) = self.router.gathers.remove(&id) {
                self.router.tokens.remove(&gather.token);
                let error = self.no_answer(&Place::Meta);
                self.fail_client(gather.token, error);
            }
        }
        self.transactions_tick();
    }

    pub(super) fn range_at(&self, place: &Place) -> Option<RangeId> {
        match place {
            Place::Key(key) => self.meta.range_of(key).map(|range| range.id),
            Place::Range(range) => Some(*range),
            Place::Meta => Some(META_RANGE),
        }
    }

    /// Requests sent to a node that cannot answer any more are sent anew.
    pub(super) fn resend_from(&mut self, node: NodeId) {
        let now = self.now;
        for pending in self.router.pending.values_mut() {
            if pending.sent_to == Some(node) {
                pending.sent_to = None;
                pending.retry_at = Some(now);
            }
        }
        self.router.hints.retain(|_, hint| *hint != node);
    }

    /// A range is led by `node` now: what was sent to another one, which may never answer, is sent
    /// anew.
    pub(super) fn range_moved(&mut self, range: RangeId, node: NodeId) {
        self.router.moved(range);
        let now = self.now;
        let mut stale = Vec::new();
        for (sequence, pending) in &self.router.pending {
            if pending.sent_to.is_some_and(|to| to != node)
                && self.range_at(&pending.place) == Some(range)
            {
                stale.push(*sequence);
            }
        }
        for sequence in stale {
            if let Some(pending) = self.router.pending.get_mut(&sequence) {
                pending.sent_to = None;
                pending.retry_at = Some(now);
            }
            self.dispatch_remote_or_loop(sequence);
        }
    }

    /// A range has another leader: what waits to be sent to it may go now.
    pub(super) fn retry_range(&mut self, range: RangeId) {
        let now = self.now;
        self.retry(|node, pending| {
            pending.retry_at.is_some_and(|at| at > now)
                && node.range_at(&pending.place) == Some(range)
        });
    }

    /// The lease of a range changed hands: what waits for it may go now.
    pub(super) fn retry_waiting(&mut self) {
        self.retry(|_, pending| pending.retry_at.is_some());
    }

    /// Sends those that wait to be sent and are wanted.
    fn retry(&mut self, wanted: impl Fn(&Self, &Pending) -> bool) {
        let pending = self.router.pending.iter();
        let waiting: Vec<u64> = pending
            .filter(|(_, pending)| pending.sent_to.is_none() && wanted(self, pending))
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in waiting {
            self.dispatch_remote_or_loop(sequence);
        }
    }
}
