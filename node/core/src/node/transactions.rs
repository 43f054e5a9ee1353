//! Transactions that write to several ranges, as their gateway coordinates them.
//!
//! ```text
//!  lock the ranges ─► plan ─► commit in the meta log ─► answer ─► resolve the ranges
//!        └── moved, ended: abort all, start anew            └── this is the commit point
//! ```
//!
//! The first attempt locks all ranges at once, and gives up if one is locked already; the next ones
//! wait for each range in turn, in key order, so that no two wait for each other.
//!
//! Invariants: every attempt has an id of its own, and only its gateway asks for its commit, once
//! all its locks stand; from then on nothing but the meta log says what became of it; a range that
//! was sent a lock is sent the end of it, until it says that it knows (section 10 of
//! docs/protocol.md).

use super::routing::{Owner, Place};
use super::{Asked, Node};
use crate::command::{Change, Decision, MetaChange, MetaEntry};
use crate::effects::{ClientToken, Millis};
use crate::error::{Error, Misrouted};
use crate::eval::{self, PENDING_BASE};
use crate::ids::{LeaseId, META_RANGE, RangeId, RequestId, Revision};
use crate::key::Span;
use crate::leaseholder::Asker;
use crate::message::{
    InternalReply, LockedRead, LockedRows, MetaRequest, RangeRequest, SequencerItem,
    SequencerItemKind, Verdict, Want,
};
use crate::meta::NO_NUMBER;
use crate::request::{Op, OpResult, Response};
use crate::state::{Mutation, StateReads, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Pause before an attempt that was ended by others is made anew.
const AGAIN_MS: Millis = 10;
/// A lock that stands for so long is asked about, whoever coordinates it.
const PATIENCE_MS: Millis = 2_000;
/// How long a range waits for the answer before it asks again.
const ASK_AGAIN_MS: Millis = 1_000;
/// Transactions that happened and may not be carried out everywhere: with more, new ones wait.
const COMMITTED_MAX: usize = 4_096;
/// Bytes of changes in one decision: it is one entry of the meta range's log.
const DECISION_BYTES_MAX: usize = 8 << 20;
/// A decision that has not been carried out everywhere for so long is looked after by the meta
/// range's leader: its coordinator may be gone.
const SWEEP_MS: Millis = 5_000;

/// One of the ranges of a transaction.
#[derive(Debug)]
struct Part {
    range: RangeId,
    span: Span,
    reads: Vec<LockedRead>,
    /// It was asked for its lock.
    sent: bool,
    rows: Option<Vec<LockedRows>>,
    resolved: bool,
}

#[derive(Debug)]
enum Stage {
    /// Starts anew at this time.
    Paused(Millis),
    /// All parts are being locked at once, none of which waits for another transaction.
    Trying,
    /// This part is being locked, and waits for its turn.
    Locking(usize),
    /// Everything is locked: asks which revision that state is of.
    Locked,
    /// The meta range is asked to decide on this.
    Deciding { answer: OpResult, leases: Vec<(LeaseId, RangeId)>, parts: Vec<(RangeId, Change)> },
    /// What was decided is carried out.
    Resolving(Outcome),
}

#[derive(Debug)]
enum Outcome {
    Committed(Revision, Vec<(RangeId, Change)>),
    Aborted,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Transaction {
    client: Option<ClientToken>,
    deadline: Millis,
    op: Op,
    parts: Vec<Part>,
    stage: Stage,
}

impl Transaction {
    /// Nobody waits for the answer any more.
    pub(super) fn client_left(&mut self) {
        self.client = None;
    }

    /// Is the lock of this part awaited?
    fn is_locking(&self, place: usize) -> bool {
        match self.stage {
            Stage::Trying => true,
            Stage::Locking(now) => now == place,
            _ => false,
        }
    }
}

/// What is tried, and for whom.
struct Attempt {
    client: Option<ClientToken>,
    deadline: Millis,
    op: Op,
}

/// Decisions that the meta range's leader sees carried out.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    /// Since when it has known of each.
    since: BTreeMap<RequestId, Millis>,
    /// The ranges that have not said yet that they know.
    waiting: BTreeMap<RequestId, BTreeSet<RangeId>>,
}

impl Node {
    pub(super) fn start_transaction(&mut self, token: ClientToken, deadline: Millis, op: Op) {
        if (self.full || self.out_of_space()) && puts(&op) {
            self.router.client_told(token);
            return self.fail_client(token, Error::NoSpace);
        }
        let attempt = Attempt { client: Some(token), deadline, op };
        let sequence = self.router.number();
        self.begin(sequence, attempt, false);
    }

    fn begin(&mut self, sequence: u64, attempt: Attempt, patient: bool) {
        let Attempt { client, deadline, op } = attempt;
        if let Some(token) = client {
            self.router.client_waits(token, sequence);
        }
        let parts = self.divide(&op);
        let (all, stage) =
            if patient { (1, Stage::Locking(0)) } else { (parts.len(), Stage::Trying) };
        let transaction = Transaction { client, deadline, op, parts, stage };
        self.router.transactions.insert(sequence, transaction);
        for place in 0..all {
            self.lock(sequence, place, patient);
        }
    }

    /// The ranges of an operation, in key order, with what has to be known of each.
    fn divide(&self, op: &Op) -> Vec<Part> {
        let mut wanted = Vec::new();
        wants(op, true, &mut wanted);
        let mut parts: Vec<Part> = Vec::new();
        for read in wanted {
            for range in self.meta.ranges_in(&read.span) {
                let Some(span) = range.span.intersect(&read.span) else { continue };
                let read = LockedRead { span, ..read.clone() };
                match parts.iter_mut().find(|part| part.range == range.id) {
                    Some(part) => part.reads.push(read),
                    None => parts.push(Part {
                        range: range.id,
                        span: range.span,
                        reads: vec![read],
                        sent: false,
                        rows: None,
                        resolved: false,
                    }),
                }
            }
        }
        parts.sort_by(|a, b| a.span.start.cmp(&b.span.start));
        parts
    }

    // Locks.

    fn lock(&mut self, sequence: u64, place: usize, wait: bool) {
        let txn = self.request_id(sequence);
        let node = self.config.node;
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        let deadline = transaction.deadline;
        let Some(part) = transaction.parts.get_mut(place) else { return };
        part.sent = true;
        let (range, reads) = (part.range, part.reads.clone());
        self.internal_request_until(
            Owner::Lock(sequence, place),
            range,
            RangeRequest::Lock { txn, node, reads, wait },
            deadline,
        );
    }

    pub(super) fn lock_answered(&mut self, sequence: u64, place: usize, reply: InternalReply) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if !transaction.is_locking(place) {
            return;
        }
        let InternalReply::Locked(rows) = reply else {
            // Another transaction came first, or the range did not want to wait any more.
            return self.attempt_again(sequence);
        };
        transaction.parts[place].rows = Some(rows);
        if transaction.parts.iter().all(|part| part.rows.is_some()) {
            transaction.stage = Stage::Locked;
            let kind = SequencerItemKind::ReadLocked { txn: self.request_id(sequence) };
            let item = SequencerItem { range: META_RANGE, term: 0, generation: 0, kind };
            self.session.ask(item, Asked::Transaction(sequence));
        } else if let Stage::Locking(now) = &mut transaction.stage {
            *now += 1;
            self.lock(sequence, place + 1, true);
        }
    }

    /// A range was cut or is not where it was.
    pub(super) fn lock_moved(&mut self, sequence: u64, place: usize) {
        let transaction = self.router.transactions.get(&sequence);
        if transaction.is_some_and(|transaction| transaction.is_locking(place)) {
            self.attempt_again(sequence);
        }
    }

    /// A range cannot be locked: nothing has happened.
    pub(super) fn lock_failed(&mut self, sequence: u64, place: usize, error: Error) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if transaction.is_locking(place) {
            self.tell(sequence, Err(error));
            self.abort(sequence);
        }
    }

    /// Ends this attempt, and makes another one under a new id.
    fn attempt_again(&mut self, sequence: u64) {
        let now = self.now;
        let again = self.router.number();
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if let Some(token) = transaction.client.take() {
            let stage = Stage::Paused(now + AGAIN_MS);
            let (deadline, op) = (transaction.deadline, transaction.op.clone());
            let next = Transaction { client: Some(token), deadline, op, parts: Vec::new(), stage };
            self.router.transactions.insert(again, next);
            self.router.client_waits(token, again);
        }
        self.abort(sequence);
    }

    fn tell(&mut self, sequence: u64, answer: Result<Response, Error>) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if let Some(token) = transaction.client.take() {
            self.router.client_told(token);
            self.effects.replies.push((token, answer));
        }
    }

    // The plan and the decision.

    /// All ranges are locked, and nothing up to `known` has changed them since. 0: somebody has
    /// ended the transaction meanwhile.
    pub(super) fn transaction_at(&mut self, sequence: u64, known: Revision) {
        let waits = self.router.transactions.get(&sequence);
        if known == 0 && waits.is_some_and(|waits| matches!(waits.stage, Stage::Locked)) {
            return self.attempt_again(sequence);
        }
        let compacted = self.session.compacted();
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if !matches!(transaction.stage, Stage::Locked) {
            return;
        }
        let planned = plan(transaction, known, compacted);
        match planned {
            Err(error) => {
                self.tell(sequence, Err(error));
                self.abort(sequence);
            }
            Ok(Planned { changes, answer, .. }) if changes.is_empty() => {
                let response = Response::Kv { revision: known, result: answer };
                self.tell(sequence, Ok(response));
                self.abort(sequence);
            }
            Ok(Planned { changes, answer, leases }) => {
                transaction.stage = Stage::Deciding { answer, leases, parts: changes };
                self.ask_commit(sequence);
            }
        }
    }

    fn ask_commit(&mut self, sequence: u64) {
        let txn = self.request_id(sequence);
        let settled_below = self.router.settled_below();
        let Some(transaction) = self.router.transactions.get(&sequence) else { return };
        let Stage::Deciding { leases, parts, .. } = &transaction.stage else { return };
        let (leases, parts) = (leases.clone(), parts.clone());
        let request = MetaRequest::Commit { txn, settled_below, leases, parts };
        self.internal_request(Owner::Commit(sequence), META_RANGE, RangeRequest::Meta(request));
    }

    /// The meta range has not answered: it may have decided or not, so it is asked again.
    pub(super) fn commit_delayed(&mut self, sequence: u64, error: Error) {
        let now = self.now;
        if self.router.transactions.get(&sequence).is_some_and(|txn| txn.deadline <= now) {
            self.tell(sequence, Err(error));
        }
        self.ask_commit(sequence);
    }

    pub(super) fn decided(&mut self, sequence: u64, verdict: Verdict) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if !matches!(transaction.stage, Stage::Deciding { .. }) {
            return;
        }
        match verdict {
            Verdict::Committed(revision) => {
                let nothing = Stage::Resolving(Outcome::Aborted);
                let stage = std::mem::replace(&mut transaction.stage, nothing);
                let Stage::Deciding { mut answer, parts, .. } = stage else {
                    unreachable!("checked above")
                };
                eval::settle_answer(&mut answer, revision);
                let ranges: Vec<RangeId> = parts.iter().map(|(range, _)| *range).collect();
                transaction.stage = Stage::Resolving(Outcome::Committed(revision, parts));
                for range in ranges {
                    self.router.wrote(range, revision);
                }
                self.tell(sequence, Ok(Response::Kv { revision, result: answer }));
                self.resolve_all(sequence);
            }
            Verdict::Aborted => self.attempt_again(sequence),
            Verdict::LeaseNotFound => {
                self.tell(sequence, Err(Error::LeaseNotFound));
                self.abort(sequence);
            }
        }
    }

    // The end.

    fn abort(&mut self, sequence: u64) {
        if let Some(transaction) = self.router.transactions.get_mut(&sequence) {
            transaction.stage = Stage::Resolving(Outcome::Aborted);
            self.resolve_all(sequence);
        }
    }

    fn resolve_all(&mut self, sequence: u64) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        for part in &mut transaction.parts {
            part.resolved = !part.sent;
            part.rows = None;
        }
        for place in 0..transaction.parts.len() {
            self.send_resolve(sequence, place);
        }
        self.end_if_resolved(sequence);
    }

    pub(super) fn send_resolve(&mut self, sequence: u64, place: usize) {
        let txn = self.request_id(sequence);
        let settled_below = self.router.settled_below();
        let Some(transaction) = self.router.transactions.get(&sequence) else { return };
        let Stage::Resolving(outcome) = &transaction.stage else { return };
        let Some(part) = transaction.parts.get(place).filter(|part| !part.resolved) else { return };
        let range = part.range;
        let decision = match outcome {
            Outcome::Aborted => Decision::Aborted,
            // A range that was only read is told that it happened, and has nothing to change.
            Outcome::Committed(revision, parts) => {
                match parts.iter().find(|(of, _)| *of == range) {
                    Some((_, change)) => Decision::committed(*revision, change),
                    None => Decision::Aborted,
                }
            }
        };
        self.internal_request(
            Owner::Resolve(sequence, place),
            range,
            RangeRequest::Resolve { txn, settled_below, decision },
        );
    }

    pub(super) fn part_resolved(&mut self, sequence: u64, place: usize) {
        let Some(transaction) = self.router.transactions.get_mut(&sequence) else { return };
        if let Some(part) = transaction.parts.get_mut(place) {
            part.resolved = true;
        }
        self.end_if_resolved(sequence);
    }

    fn end_if_resolved(&mut self, sequence: u64) {
        let Some(transaction) = self.router.transactions.get(&sequence) else { return };
        if !transaction.parts.iter().all(|part| part.resolved) {
            return;
        }
        let Some(transaction) = self.router.transactions.remove(&sequence) else { return };
        if let Stage::Resolving(Outcome::Committed(..)) = transaction.stage {
            let txn = self.request_id(sequence);
            let settled_below = self.router.settled_below();
            let request = MetaRequest::Forget { txn, settled_below };
            self.internal_request(Owner::Nobody, META_RANGE, RangeRequest::Meta(request));
        }
    }

    // Time.

    pub(super) fn transactions_tick(&mut self) {
        let now = self.now;
        let no_sequencer = self.is_lost(META_RANGE);
        let mut late = Vec::new();
        let mut due = Vec::new();
        for (sequence, transaction) in &self.router.transactions {
            let over = transaction.deadline <= now || no_sequencer && transaction.client.is_some();
            match transaction.stage {
                Stage::Paused(_) | Stage::Trying | Stage::Locking(_) | Stage::Locked if over => {
                    late.push(*sequence);
                }
                Stage::Deciding { .. } if over => late.push(*sequence),
                Stage::Paused(until) if until <= now => due.push(*sequence),
                _ => {}
            }
        }
        for sequence in late {
            // Once the meta range is asked, only that says what became of it.
            let open = self
                .router
                .transactions
                .get(&sequence)
                .is_some_and(|txn| matches!(txn.stage, Stage::Deciding { .. }));
            let error = self.no_answer(&Place::Meta);
            self.tell(sequence, Err(error));
            if !open {
                self.abort(sequence);
            }
        }
        for sequence in due {
            let Some(transaction) = self.router.transactions.remove(&sequence) else { continue };
            let Transaction { client, deadline, op, .. } = transaction;
            if client.is_some() {
                self.begin(sequence, Attempt { client, deadline, op }, true);
            }
        }
        self.orphaned_locks();
    }

    /// Locks on ranges that this node leads, whose coordinator is gone or slow.
    fn orphaned_locks(&mut self) {
        let (now, me, own) = (self.now, self.config.node, self.config.incarnation);
        let mut ask = Vec::new();
        // A locked range does not sleep where it is led.
        for range in &self.awake {
            let Some(replica) = self.replicas.get_mut(range) else { continue };
            let Some(intent) = replica.intent.filter(|_| replica.holds_lease()) else {
                if let Some(seldom) = replica.seldom.there() {
                    seldom.intent_since = None;
                }
                continue;
            };
            let since = match replica.seldom.intent_since {
                Some((txn, since)) if txn == intent.txn => since,
                Some(_) | None => {
                    replica.seldom.intent_since = Some((intent.txn, now));
                    now
                }
            };
            let gone = if intent.node == me {
                own != intent.txn.gateway
                    || !self.router.transactions.contains_key(&intent.txn.sequence)
            } else {
                self.peers.get(&intent.node).is_none_or(|peer| {
                    peer.down || peer.incarnation != 0 && peer.incarnation != intent.txn.gateway
                })
            };
            if gone || now >= since + PATIENCE_MS {
                // Not again before it can have been answered.
                let next = now + ASK_AGAIN_MS;
                if since <= now {
                    replica.seldom.intent_since = Some((intent.txn, next));
                    ask.push((*range, intent.txn));
                }
            }
        }
        for (range, txn) in ask {
            self.internal_request(
                Owner::Settle(range, txn),
                META_RANGE,
                RangeRequest::Meta(MetaRequest::Settle { txn, range }),
            );
        }
    }

    /// The meta range has said what became of a transaction that has locked a range here.
    pub(super) fn settled(&mut self, range: RangeId, txn: RequestId, decision: Decision) {
        self.internal_request(
            Owner::Nobody,
            range,
            RangeRequest::Resolve { txn, settled_below: 0, decision },
        );
    }

    // The meta range's leader.

    pub(super) fn serve_commit(&mut self, asker: Asker, id: RequestId, request: MetaRequest) {
        let MetaRequest::Commit { txn, settled_below, leases, parts } = request else { return };
        let all = self.meta.transactions();
        if let Some(verdict) = all.decided(txn) {
            let reply = InternalReply::Decided(verdict);
            return self.outcome(asker, crate::message::Outcome::Internal(reply));
        }
        if self.service.waits_for(id, asker) {
            return;
        }
        let room = all.committed().len() < COMMITTED_MAX;
        // One that will be refused takes no number.
        let number = if self.meta.grants(&leases) {
            room.then(|| self.sequencer.take(&self.meta)).flatten()
        } else {
            Some(NO_NUMBER)
        };
        let Some(revision) = number else { return self.out.misrouted(asker, Misrouted::Busy) };
        let change = MetaChange::Commit { txn, settled_below, revision, leases, parts };
        self.change_for(asker, id, change);
    }

    /// Decisions whose coordinators do not see to them.
    pub(super) fn sweep(&mut self) {
        let now = self.now;
        let committed = self.meta.transactions().committed();
        let sweeper = &mut self.service.sweeper;
        sweeper.since.retain(|txn, _| committed.contains_key(txn));
        sweeper.waiting.retain(|txn, _| committed.contains_key(txn));
        let mut late = Vec::new();
        for (txn, record) in committed {
            let since = *sweeper.since.entry(*txn).or_insert(now);
            if now >= since + SWEEP_MS && !sweeper.waiting.contains_key(txn) {
                let ranges: BTreeSet<RangeId> =
                    record.parts.iter().map(|(range, _)| *range).collect();
                sweeper.waiting.insert(*txn, ranges.clone());
                late.extend(ranges.into_iter().map(|range| (*txn, range)));
            }
        }
        for (txn, range) in late {
            self.sweep_range(txn, range);
        }
    }

    pub(super) fn sweep_range(&mut self, txn: RequestId, range: RangeId) {
        let waits = self.service.sweeper.waiting.get(&txn);
        if !waits.is_some_and(|waiting| waiting.contains(&range)) {
            return;
        }
        let Some(record) = self.meta.transactions().committed().get(&txn) else { return };
        let decision = record.part(range);
        self.internal_request(
            Owner::Sweep(txn, range),
            range,
            RangeRequest::Resolve { txn, settled_below: 0, decision },
        );
    }

    pub(super) fn range_swept(&mut self, txn: RequestId, range: RangeId) {
        let Some(waiting) = self.service.sweeper.waiting.get_mut(&txn) else { return };
        waiting.remove(&range);
        if waiting.is_empty() {
            let change = MetaChange::Forget { txn, settled_below: 0 };
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }
}

struct Planned {
    changes: Vec<(RangeId, Change)>,
    leases: Vec<(LeaseId, RangeId)>,
    answer: OpResult,
}

/// What a transaction does on what its ranges hold.
fn plan(transaction: &Transaction, known: Revision, compacted: Revision) -> Result<Planned, Error> {
    if let Op::Delete(delete) = &transaction.op
        && !delete.prev_kv
    {
        return Ok(plan_deletion(transaction));
    }
    let state = Locked::of(transaction);
    let write = eval::transact(&transaction.op, known, compacted, &state)?;
    let mut changes: BTreeMap<RangeId, Vec<Mutation>> = BTreeMap::new();
    let mut leases: BTreeSet<(LeaseId, RangeId)> = BTreeSet::new();
    let mut size = 0;
    for mutation in write.mutations {
        let range = transaction
            .parts
            .iter()
            .find(|part| part.span.contains(&mutation.key))
            .map(|part| part.range)
            .expect("only keys of its parts are changed");
        size += mutation.key.len() + mutation.version.value.as_ref().map_or(0, Bytes::len) + 48;
        if mutation.version.lease != 0 {
            leases.insert((mutation.version.lease, range));
        }
        changes.entry(range).or_default().push(mutation);
    }
    if size > DECISION_BYTES_MAX {
        return Err(Error::TooLarge);
    }
    // A lease that is named must exist, even if its keys are deleted again by what follows.
    leases.retain(|(lease, _)| write.leases.contains(lease));
    for lease in write.leases {
        if !leases.iter().any(|(attached, _)| *attached == lease)
            && let Some(range) = changes.keys().next()
        {
            leases.insert((lease, *range));
        }
    }
    Ok(Planned {
        changes: changes.into_iter().map(|(range, all)| (range, Change::Keys(all))).collect(),
        leases: leases.into_iter().collect(),
        answer: write.answer.expect("a transaction's answer is complete"),
    })
}

/// A deletion alone is carried out by each range for itself: it may be of any number of keys.
fn plan_deletion(transaction: &Transaction) -> Planned {
    let mut deleted = 0;
    let mut changes = Vec::new();
    for part in &transaction.parts {
        for (read, found) in part.reads.iter().zip(part.rows.iter().flatten()) {
            if found.count > 0 {
                let first = u32::try_from(deleted).unwrap_or(u32::MAX);
                changes.push((part.range, Change::DeletePart(read.span.clone(), first)));
            }
            deleted += found.count;
        }
    }
    let answer = OpResult::Delete { deleted: deleted as i64, prev_kvs: Vec::new() };
    Planned { changes, leases: Vec::new(), answer }
}

/// What has to be known of the keys that an operation names.
fn wants(op: &Op, alone: bool, wanted: &mut Vec<LockedRead>) {
    let mut want = |span: Span, revision: Revision, want: Want| {
        if !span.is_empty() {
            wanted.push(LockedRead { span, revision, want });
        }
    };
    match op {
        Op::Range(read) => {
            let span = Span::from_etcd(&read.key, &read.range_end);
            want(span, read.revision.max(0), Want::Values);
        }
        Op::Put(put) => want(Span::key(&put.key), 0, Want::Values),
        Op::Delete(delete) => {
            let how = match (delete.prev_kv, alone) {
                (true, _) => Want::Values,
                (false, true) => Want::Count,
                (false, false) => Want::Keys,
            };
            want(Span::from_etcd(&delete.key, &delete.range_end), 0, how);
        }
        Op::Txn(txn) => {
            for compare in &txn.compare {
                want(Span::from_etcd(&compare.key, &compare.range_end), 0, Want::Values);
            }
            for op in txn.success.iter().chain(&txn.failure) {
                wants(op, false, wanted);
            }
        }
    }
}

/// Would it need room?
fn puts(op: &Op) -> bool {
    match op {
        Op::Put(_) => true,
        Op::Range(_) | Op::Delete(_) => false,
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(puts),
    }
}

/// What the ranges of a transaction hold, as far as it wanted to know.
struct Locked {
    /// By revision; the latest under 0.
    rows: BTreeMap<Revision, BTreeMap<Bytes, Version>>,
}

impl Locked {
    fn of(transaction: &Transaction) -> Self {
        let mut rows: BTreeMap<Revision, BTreeMap<Bytes, Version>> = BTreeMap::new();
        for part in &transaction.parts {
            for (read, found) in part.reads.iter().zip(part.rows.iter().flatten()) {
                let known = rows.entry(read.revision).or_default();
                for (key, version) in &found.rows {
                    // Another read of the same key may have left the value out.
                    if read.want == Want::Values || !known.contains_key(key) {
                        known.insert(key.clone(), version.clone());
                    }
                }
            }
        }
        Self { rows }
    }
}

impl StateReads for Locked {
    fn latest(&self, key: &[u8]) -> Option<Version> {
        self.rows.get(&0)?.get(key).cloned()
    }

    fn at(&self, key: &[u8], revision: Revision) -> Option<Version> {
        self.rows.get(&revision)?.get(key).cloned()
    }

    fn scan(
        &self,
        span: &Span,
        revision: Revision,
        _values: bool,
        visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
        let revision = if revision >= PENDING_BASE { 0 } else { revision };
        let Some(rows) = self.rows.get(&revision) else { return };
        for (key, version) in rows.range(span.start.clone()..) {
            if !span.contains(key) || visit(key.clone(), version.clone()).is_break() {
                return;
            }
        }
    }

    fn history(
        &self,
        _span: &Span,
        _from: Revision,
        _to: Revision,
        _visit: &mut dyn FnMut(Bytes, Version) -> ControlFlow<()>,
    ) {
    }

    fn lease_keys(&self, _lease: LeaseId, _span: &Span) -> Vec<Bytes> {
        Vec::new()
    }

    fn system_rows(&self, _range: RangeId) -> Vec<(Bytes, Bytes)> {
        Vec::new()
    }
}
