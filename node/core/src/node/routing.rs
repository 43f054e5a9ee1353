//! The router: key to range to leaseholder. The only place that retries.
//!
//! Invariants: a request keeps its id through every attempt, so it is carried out once; it ends
//! with an answer, an error, or at its deadline.

mod answers;
mod intake;
mod retries;

use super::Node;
use super::gather::{Collect, Gather};
use super::loading::Reason;
use super::transactions::Transaction;
use crate::effects::{ClientToken, Millis};
use crate::ids::{META_RANGE, NodeId, RangeId, RequestId, Revision};
use crate::leaseholder::Asker;
use crate::message::{Message, RangeRequest, RoutedRequest};
use crate::meta::Merge;
use crate::read::Origin;
use crate::replica::Replica;
use crate::state::StateReads;
use bytes::Bytes;
use retries::RETRY_MS;
use std::collections::{BTreeMap, BTreeSet};

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

    pub(super) fn range_at(&self, place: &Place) -> Option<RangeId> {
        match place {
            Place::Key(key) => self.meta.range_of(key).map(|range| range.id),
            Place::Range(range) => Some(*range),
            Place::Meta => Some(META_RANGE),
        }
    }
}
