//! What the holder of a range lease does with requests: evaluates them in arrival order through
//! an overlay of everything queued and proposed, asks for revisions, proposes in revision order,
//! answers when applied.
//!
//! ```text
//!   arrive ─► plan ─► ask the sequencer ─► granted ─► proposed ─► applied ─► answer
//!                └──► (no change) ask "current" ──────────────────► read at S ─► answer
//! ```
//!
//! Invariants: the order of planning is the order of questions to the sequencer, so revision order,
//! so log order; a read at S is given only when every command at or below S is applied; what was
//! planned on top of a command that is refused is planned again.

mod locks;

pub use locks::Lock;

use crate::command::{Change, Command, Entry};
use crate::dedup::{Dedup, Seen};
use crate::error::{Error, Misrouted};
use crate::eval::{self, LISTED_DELETES_MAX, Overlay, PENDING_BASE, Plan, PlanBase};
use crate::ids::{NodeId, RangeId, RequestId, Revision};
use crate::key::Span;
use crate::message::{InternalReply, Outcome, SequencerItemKind, SequencerReply};
use crate::read::ReadWork;
use crate::request::{Op, OpResult, Response};
use crate::seldom::{Empty, Seldom};
use crate::state::{Mutation, StateReads};
use locks::Locks;
use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

/// Commands of one range that are planned and not applied.
const PENDING_MAX: usize = 8192;
/// Their bytes.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// Requests that wait while the pipeline has to run dry.
const BLOCKED_MAX: usize = 8192;
/// Bytes of commands in one log entry.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// This node's router, under this sequence number.
    Local(u64),
    /// Another node's router.
    Remote {
        /// The node.
        node: NodeId,
        /// Its name for the request.
        token: u64,
    },
    /// Nobody.
    Nobody,
}

/// What an operation on a range comes down to here.
#[derive(Clone, Debug)]
pub enum Work {
    /// A client's operation.
    Op(Op),
    /// Delete the keys attached to a client lease.
    RevokeLease(i64),
    /// Lock the range for a transaction, whose id is the request's.
    Lock(Lock),
    /// Cut the range. Nothing may follow in the log that was planned before; what was proposed is
    /// answered first, since nobody knows of it who asks for it in another range.
    Cut {
        /// First key of the new range.
        key: bytes::Bytes,
        /// Its id.
        child: RangeId,
    },
    /// Put an entry into the log that changes what the range is, in the same way as a cut.
    Change(Box<Entry>),
}

/// A request being carried out.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asked.
    pub asker: Asker,
    /// For exactly-once.
    pub id: RequestId,
    /// As in the request.
    pub settled_below: u64,
    /// An earlier copy of it may still be under way.
    pub again: bool,
    /// What to do.
    pub work: Work,
}

/// Comes back from the sequencer's stream with the answer.
#[derive(Debug)]
pub enum Cookie {
    /// A revision for the command with this number.
    Write(u64),
    /// The current revision, to read at.
    Read(Asker, Op),
    /// The current revision, to plan again with.
    Probe(Asked),
    /// The current revision, as proof that a range without keys of a lease is still led here.
    Cleared(Asked),
    /// The current revision, as the range's watermark.
    Watermark,
}

/// What comes out; the node takes it after each call.
#[derive(Debug, Default)]
pub struct Out {
    /// Questions to the sequencer, in order.
    pub questions: Vec<(SequencerItemKind, Cookie)>,
    /// Answers.
    pub outcomes: Vec<(Asker, Outcome)>,
    /// Reads for the edge.
    pub reads: Vec<(Asker, ReadWork)>,
}

impl Out {
    fn done(&mut self, asker: Asker, result: Result<Response, Error>) {
        self.outcomes.push((asker, Outcome::Done(result)));
    }

    /// The request was not taken.
    pub fn misrouted(&mut self, asker: Asker, reason: Misrouted) {
        self.outcomes.push((asker, Outcome::Misrouted { reason, descriptors: Vec::new() }));
    }
}

#[derive(Debug)]
struct Pending {
    number: u64,
    asked: Asked,
    /// Others that ask the same (a repeated delivery).
    also: Vec<Asker>,
    change: Change,
    answer: Option<OpResult>,
    revision: Option<Revision>,
    proposed: bool,
    size: usize,
}

/// A read at S that waits for commands at or below S.
#[derive(Debug)]
struct WaitingRead {
    after: u64,
    revision: Revision,
    asker: Asker,
    op: Op,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Leaseholder {
    /// Of the next command. Never used again, whatever else is forgotten: late answers name it.
    next_number: u64,
    /// The newest revision that answered one of this range's questions.
    watermark: Revision,
    /// Most ranges have nothing to do.
    busy: Seldom<Busy>,
}

/// What is under way.
#[derive(Debug, Default)]
struct Busy {
    pending: VecDeque<Pending>,
    bytes: usize,
    by_id: BTreeMap<RequestId, u64>,
    overlay: Overlay,
    /// Revisions of the latest granted commands, for placeholders in later ones.
    granted: BTreeMap<u64, Revision>,
    reads: VecDeque<WaitingRead>,
    /// Requests that wait for an empty pipeline, the first of which needs it.
    blocked: VecDeque<Asked>,
    /// Transactions over several ranges.
    locks: Locks,
    /// A cut whose turn has come.
    cut: Option<Asked>,
}

impl Empty for Busy {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Busy> = LazyLock::new(Busy::default);
        &EMPTY
    }
}

/// What a leaseholder needs to see while it works.
pub struct View<'a> {
    /// The applied state.
    pub state: &'a dyn StateReads,
    /// What the range has carried out.
    pub dedup: &'a Dedup,
    /// The range's keys.
    pub span: &'a Span,
    /// The newest revision heard of.
    pub known: Revision,
    /// History below this is gone.
    pub compacted: Revision,
    /// This node is out of room.
    pub full: bool,
}

impl Leaseholder {
    /// Number of commands not applied yet.
    pub fn pending(&self) -> usize {
        self.busy.pending.len()
    }

    /// True if nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.pending.is_empty()
            && self.busy.reads.is_empty()
            && self.busy.blocked.is_empty()
            && self.busy.locks.are_idle()
    }

    /// True if requests wait for the pipeline to run dry.
    pub fn has_blocked(&self) -> bool {
        !self.busy.blocked.is_empty()
    }

    /// A request.
    pub fn ask(&mut self, asked: Asked, view: &View<'_>, out: &mut Out) {
        if self.lock_again(&asked, view, out) {
            return;
        }
        if !self.busy.blocked.is_empty() || self.is_barred() {
            if self.busy.blocked.len() >= BLOCKED_MAX {
                return out.misrouted(asked.asker, Misrouted::Busy);
            }
            self.busy.blocked.push_back(asked);
            return;
        }
        self.admit(asked, false, view, out);
    }

    fn admit(&mut self, asked: Asked, confirmed: bool, view: &View<'_>, out: &mut Out) {
        let op = match &asked.work {
            Work::Op(op) => op,
            Work::RevokeLease(_) => return self.plan_revoke(asked, view, out),
            Work::Lock(_) => return self.plan_lock(asked, view, out),
            Work::Cut { .. } | Work::Change(_) => return self.plan_cut(asked),
        };
        if !op.spans().iter().all(|span| view.span.covers(span)) {
            return out.misrouted(asked.asker, Misrouted::RangeMoved);
        }
        if op.is_read_only() {
            let Work::Op(op) = asked.work else { unreachable!("matched above") };
            out.questions.push((SequencerItemKind::Read, Cookie::Read(asked.asker, op)));
            return;
        }
        match view.dedup.seen(asked.id) {
            Seen::Done(revision) => {
                let Work::Op(op) = asked.work else { unreachable!("matched above") };
                let compacted = view.compacted;
                out.reads.push((asked.asker, ReadWork::Replay { op, revision, compacted }));
                return;
            }
            // Nobody waits for it any more.
            Seen::Stale => return,
            Seen::New => {}
        }
        if let Some(index) = self.busy.by_id.get(&asked.id).and_then(|number| self.index(*number)) {
            self.busy.pending[index].also.push(asked.asker);
            return;
        }
        if self.busy.pending.len() >= PENDING_MAX || self.busy.bytes > PENDING_BYTES_MAX {
            return out.misrouted(asked.asker, Misrouted::Busy);
        }
        self.plan(asked, confirmed, LISTED_DELETES_MAX, view, out);
    }

    fn plan(
        &mut self,
        asked: Asked,
        confirmed: bool,
        listed_max: usize,
        view: &View<'_>,
        out: &mut Out,
    ) {
        let Work::Op(op) = &asked.work else { unreachable!("lease deletions have their own plan") };
        let base = PlanBase {
            placeholder: PENDING_BASE + self.next_number as Revision,
            known: view.known,
            confirmed,
            compacted: view.compacted,
            overlay: &self.busy.overlay,
            listed_max,
        };
        match eval::plan(op, base, view.state) {
            Ok(Plan::Write(planned)) => {
                let refused = view.full && grows(&planned.mutations);
                if refused && !confirmed {
                    // That there is room again may be known already to whoever asks, and not here:
                    // it is by the time that the sequencer has answered.
                    out.questions.push((SequencerItemKind::Read, Cookie::Probe(asked)));
                    return;
                }
                if refused {
                    // "No space" says that nothing happened. An earlier copy may still happen.
                    return if asked.again {
                        out.misrouted(asked.asker, Misrouted::Busy);
                    } else {
                        out.done(asked.asker, Err(Error::NoSpace));
                    };
                }
                self.push(
                    asked,
                    Change::Keys(planned.mutations),
                    planned.answer,
                    planned.leases,
                    out,
                );
            }
            // A command without changes: it only leaves the request's id in the log.
            Ok(Plan::NoChange) | Err(_) if asked.again => {
                self.push(asked, Change::Keys(Vec::new()), None, Vec::new(), out);
            }
            // A refusal depends on the state as much as a read does, so it is decided at a
            // confirmed revision too.
            Ok(Plan::NoChange) | Err(_) => {
                let Work::Op(op) = asked.work else { unreachable!("matched above") };
                out.questions.push((SequencerItemKind::Read, Cookie::Read(asked.asker, op)));
            }
            Ok(Plan::Park) => {
                out.questions.push((SequencerItemKind::Read, Cookie::Probe(asked)));
            }
            Ok(Plan::TooManyDeletes) => {
                if !self.busy.pending.is_empty() {
                    self.busy.blocked.push_back(asked);
                } else if let Op::Delete(delete) = op {
                    // With an empty pipeline, a large deletion goes into the log as its span.
                    let span = Span::from_etcd(&delete.key, &delete.range_end);
                    self.push(asked, Change::DeleteSpan(span), None, Vec::new(), out);
                } else if listed_max < eval::TXN_DELETES_MAX {
                    self.plan(asked, confirmed, eval::TXN_DELETES_MAX, view, out);
                } else {
                    out.done(asked.asker, Err(Error::TooLarge));
                }
            }
        }
    }

    fn plan_cut(&mut self, asked: Asked) {
        if self.busy.pending.is_empty() {
            self.busy.cut = Some(asked);
        } else {
            self.busy.blocked.push_back(asked);
        }
    }

    /// A cut to be proposed now. Whoever takes it gives up the lease.
    pub fn take_cut(&mut self) -> Option<Asked> {
        self.busy.cut.take()
    }

    fn plan_revoke(&mut self, asked: Asked, view: &View<'_>, out: &mut Out) {
        let Work::RevokeLease(lease) = asked.work else { unreachable!("called for these only") };
        match view.dedup.seen(asked.id) {
            Seen::Done(revision) => {
                return out.done(asked.asker, Ok(Response::LeaseRevoke { revision }));
            }
            Seen::Stale => return,
            Seen::New => {}
        }
        if self.busy.by_id.contains_key(&asked.id) {
            return;
        }
        // Pending commands may attach or detach keys: let them be applied first.
        if !self.busy.pending.is_empty() {
            self.busy.blocked.push_back(asked);
            return;
        }
        let revision = PENDING_BASE + self.next_number as Revision;
        let mut mutations: Vec<Mutation> = Vec::new();
        for key in view.state.lease_keys(lease, view.span) {
            if let Some(version) = view.state.latest(&key).filter(|v| v.value.is_some()) {
                let sub = mutations.len() as u32;
                mutations.push(eval::tombstone(key, &version, revision, sub));
            }
        }
        if mutations.is_empty() {
            // A deposed leaseholder may not see keys that its successor has.
            out.questions.push((SequencerItemKind::Read, Cookie::Cleared(asked)));
            return;
        }
        self.push(asked, Change::Keys(mutations), None, Vec::new(), out);
    }

    fn push(
        &mut self,
        asked: Asked,
        change: Change,
        answer: Option<OpResult>,
        leases: Vec<i64>,
        out: &mut Out,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        let size = change_size(&change);
        if let Change::Keys(mutations) = &change {
            self.busy.overlay.insert(mutations);
        }
        self.busy.bytes += size;
        self.busy.by_id.insert(asked.id, number);
        self.busy.pending.push_back(Pending {
            number,
            asked,
            also: Vec::new(),
            change,
            answer,
            revision: None,
            proposed: false,
            size,
        });
        out.questions.push((SequencerItemKind::Grant { leases }, Cookie::Write(number)));
    }

    /// The sequencer answered one of this range's questions (of the current term).
    pub fn answered(
        &mut self,
        cookie: Cookie,
        reply: SequencerReply,
        view: &View<'_>,
        out: &mut Out,
    ) {
        if self.busy.locks.stand() {
            return self.put_aside(cookie, reply, out);
        }
        // A lock is on its way: nothing is planned any more, not even what was asked for before.
        if let (true, Cookie::Probe(asked)) =
            (self.busy.locks.bar() || self.busy.cut.is_some(), &cookie)
        {
            self.busy.blocked.push_front(asked.clone());
            return;
        }
        match (cookie, reply) {
            (Cookie::Write(number), SequencerReply::Granted(revision)) => {
                self.grant(number, revision);
            }
            (Cookie::Write(number), SequencerReply::LeaseNotFound) => {
                self.refuse(number, view, out);
            }
            (Cookie::Read(asker, op), SequencerReply::Current(revision)) => {
                self.watermark = revision;
                self.read_at(asker, op, revision, view, out);
            }
            (Cookie::Probe(asked), SequencerReply::Current(_)) => {
                self.admit(asked, true, view, out);
            }
            (Cookie::Cleared(asked), SequencerReply::Current(revision)) => {
                // At this revision the keys are gone; at the one before a late detachment they
                // may not have been.
                out.done(asked.asker, Ok(Response::LeaseRevoke { revision }));
            }
            (Cookie::Watermark, SequencerReply::Current(revision)) => self.watermark = revision,
            // Fenced: another leader is registered; the node takes the lease away.
            (_, _) => {}
        }
    }

    fn grant(&mut self, number: u64, revision: Revision) {
        let Some(index) = self.index(number) else { return };
        let busy = &mut *self.busy;
        let pending = &mut busy.pending[index];
        let placeholder = PENDING_BASE + number as Revision;
        if let Change::Keys(mutations) = &mut pending.change {
            for mutation in mutations.iter_mut() {
                mutation.version.mod_revision = revision;
                if mutation.version.create_revision >= PENDING_BASE {
                    let creator = (mutation.version.create_revision - PENDING_BASE) as u64;
                    mutation.version.create_revision = if creator == number {
                        revision
                    } else {
                        *busy.granted.get(&creator).expect("grants come in the order of planning")
                    };
                }
            }
            busy.overlay.settle(placeholder, mutations, revision);
        }
        if let Some(answer) = &mut pending.answer {
            eval::settle_answer(answer, revision);
        }
        pending.revision = Some(revision);
        self.watermark = revision;
        busy.granted.insert(number, revision);
        while busy.granted.len() > 2 * PENDING_MAX {
            busy.granted.pop_first();
        }
    }

    /// A command was refused: what was planned after it has to be planned again.
    fn refuse(&mut self, number: u64, view: &View<'_>, out: &mut Out) {
        let Some(index) = self.index(number) else { return };
        let busy = &mut *self.busy;
        let mut again: Vec<Pending> = busy.pending.drain(index..).collect();
        let refused = again.remove(0);
        busy.overlay.clear();
        for pending in &busy.pending {
            if let Change::Keys(mutations) = &pending.change {
                busy.overlay.insert(mutations);
            }
        }
        // Numbers of dropped commands are not used again: late answers do not find them.
        self.forget(&refused);
        for asker in refused.also.iter().copied().chain([refused.asked.asker]) {
            out.done(asker, Err(Error::LeaseNotFound));
        }
        for pending in &again {
            self.forget(pending);
        }
        for pending in again {
            // Whoever asked the same meanwhile still waits, and may be the only one who does.
            for asker in pending.also {
                self.admit(Asked { asker, ..pending.asked.clone() }, false, view, out);
            }
            self.admit(pending.asked, false, view, out);
        }
    }

    /// Where the command with this number is. Numbers grow, but dropped ones leave gaps.
    fn index(&self, number: u64) -> Option<usize> {
        self.busy.pending.binary_search_by_key(&number, |pending| pending.number).ok()
    }

    /// True while a command is pending whose changes the overlay cannot show.
    fn is_barred(&self) -> bool {
        let last = self.busy.pending.back();
        last.is_some_and(|last| matches!(last.change, Change::DeleteSpan(_)))
            || self.busy.locks.bar()
            || self.busy.cut.is_some()
    }

    fn forget(&mut self, pending: &Pending) {
        self.busy.bytes -= pending.size;
        self.busy.by_id.remove(&pending.asked.id);
    }

    fn read_at(
        &mut self,
        asker: Asker,
        op: Op,
        revision: Revision,
        view: &View<'_>,
        out: &mut Out,
    ) {
        let last_granted =
            self.busy.pending.iter().rev().find(|p| p.revision.is_some()).map(|p| p.number);
        match last_granted {
            Some(after) => {
                self.busy.reads.push_back(WaitingRead { after, revision, asker, op });
            }
            None => {
                out.reads.push((
                    asker,
                    ReadWork::At { op, revision, compacted: view.compacted, unleased: Vec::new() },
                ));
            }
        }
    }

    /// Commands to propose now, in revision order, grouped into entries.
    pub fn take_proposals(&mut self) -> Vec<Vec<Command>> {
        let mut entries: Vec<Vec<Command>> = Vec::new();
        let mut bytes = usize::MAX;
        let start = self.busy.pending.partition_point(|pending| pending.proposed);
        for pending in self.busy.pending.range_mut(start..) {
            let Some(revision) = pending.revision else { break };
            pending.proposed = true;
            if bytes.saturating_add(pending.size) > ENTRY_BYTES_MAX {
                entries.push(Vec::new());
                bytes = 0;
            }
            bytes += pending.size;
            entries.last_mut().expect("pushed above").push(Command {
                id: pending.asked.id,
                settled_below: pending.asked.settled_below,
                revision,
                change: pending.change.clone(),
            });
        }
        entries
    }

    /// A command of this term was applied; `mutations` is what it changed.
    pub fn applied(
        &mut self,
        revision: Revision,
        mutations: &[Mutation],
        view: &View<'_>,
        out: &mut Out,
    ) {
        if self.busy.pending.front().is_none_or(|first| first.revision != Some(revision)) {
            return;
        }
        let done = self.busy.pending.pop_front().expect("checked above");
        self.forget(&done);
        self.busy.overlay.remove_applied(mutations);
        for asker in done.also.iter().copied().chain([done.asked.asker]) {
            match (&done.asked.work, &done.answer) {
                (Work::RevokeLease(_), _) => {
                    out.done(asker, Ok(Response::LeaseRevoke { revision }));
                }
                (Work::Op(_), Some(answer)) => {
                    out.done(asker, Ok(Response::Kv { revision, result: answer.clone() }));
                }
                (Work::Op(Op::Delete(delete)), None) if !delete.prev_kv => {
                    let result =
                        OpResult::Delete { deleted: mutations.len() as i64, prev_kvs: Vec::new() };
                    out.done(asker, Ok(Response::Kv { revision, result }));
                }
                (Work::Lock(_) | Work::Cut { .. } | Work::Change(_), _) => {
                    unreachable!("it is no command")
                }
                (Work::Op(op), None) => {
                    let (op, compacted) = (op.clone(), view.compacted);
                    out.reads.push((asker, ReadWork::Replay { op, revision, compacted }));
                }
            }
        }
        while self.busy.reads.front().is_some_and(|read| read.after <= done.number) {
            let read = self.busy.reads.pop_front().expect("checked above");
            out.reads.push((
                read.asker,
                ReadWork::At {
                    op: read.op,
                    revision: read.revision,
                    compacted: view.compacted,
                    unleased: Vec::new(),
                },
            ));
        }
    }

    /// Requests that waited for an empty pipeline. To be called after the state shows what was
    /// applied.
    pub fn unblock(&mut self, view: &View<'_>, out: &mut Out) {
        while self.busy.pending.is_empty() && !self.is_barred() {
            let Some(asked) = self.busy.blocked.pop_front() else { return };
            self.admit(asked, false, view, out);
        }
        // Others may follow as long as none needs the pipeline empty again.
        while self.busy.blocked.front().is_some_and(|asked| matches!(asked.work, Work::Op(_)))
            && self.busy.pending.len() < PENDING_MAX
            && !self.is_barred()
        {
            let asked = self.busy.blocked.pop_front().expect("checked above");
            let waiting = self.busy.blocked.len();
            self.admit(asked, false, view, out);
            if self.busy.blocked.len() > waiting {
                // It went to the back; it belongs to the front.
                self.busy.blocked.rotate_right(1);
                return;
            }
        }
    }

    /// The watermark: nothing at or below it will be written in this range any more.
    pub fn watermark(&self) -> Revision {
        match self.busy.pending.front().and_then(|first| first.revision) {
            Some(oldest) => self.watermark.min(oldest - 1),
            None => self.watermark,
        }
    }

    /// The lease is gone: everybody has to ask elsewhere.
    pub fn abandon(&mut self, hint: Option<NodeId>, out: &mut Out) {
        self.watermark = 0;
        let mut busy = self.busy.take();
        let reason = Misrouted::NotLeaseholder { hint };
        for pending in busy.pending.drain(..) {
            let proposed = pending.proposed.then_some(Misrouted::Abandoned { hint });
            let reason = proposed.unwrap_or_else(|| reason.clone());
            for asker in pending.also.iter().copied().chain([pending.asked.asker]) {
                out.misrouted(asker, reason.clone());
            }
        }
        for read in busy.reads.drain(..) {
            out.misrouted(read.asker, reason.clone());
        }
        for asked in busy.blocked.drain(..) {
            out.misrouted(asked.asker, reason.clone());
        }
        busy.locks.abandon(&reason, out);
        if let Some(asked) = busy.cut.take() {
            out.misrouted(asked.asker, reason.clone());
        }
    }

    /// Gives back memory, if nothing is under way.
    pub fn rest(&mut self) {
        if self.is_idle() && self.busy.cut.is_none() && self.busy.locks.are_told() {
            drop(self.busy.take());
        }
    }
}

/// An answer that nothing can be done with: whoever asked has to ask again.
pub fn refuse_cookie(cookie: Cookie, reason: Misrouted, out: &mut Out) {
    match cookie {
        Cookie::Read(asker, _) => out.misrouted(asker, reason),
        Cookie::Probe(asked) | Cookie::Cleared(asked) => out.misrouted(asked.asker, reason),
        // Its asker was told when the lease went.
        Cookie::Write(_) | Cookie::Watermark => {}
    }
}

/// An internal "done" for an asker.
pub fn ok(asker: Asker) -> (Asker, Outcome) {
    (asker, Outcome::Internal(InternalReply::Ok))
}

fn change_size(change: &Change) -> usize {
    match change {
        Change::Keys(mutations) => mutations
            .iter()
            .map(|m| m.key.len() + m.version.value.as_ref().map_or(0, bytes::Bytes::len) + 48)
            .sum(),
        Change::DeleteSpan(_) | Change::DeletePart(..) => 64,
    }
}

/// True if it writes any value, so that a full disk must refuse it.
fn grows(mutations: &[Mutation]) -> bool {
    mutations.iter().any(|mutation| mutation.version.value.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PutOp;
    use crate::state::tests::Rows;
    use bytes::Bytes;

    fn put(sequence: u64, asker: u64, lease: i64) -> Asked {
        let key = Bytes::from_static(b"k");
        Asked {
            asker: Asker::Local(asker),
            id: RequestId { gateway: 7, sequence },
            settled_below: 0,
            again: false,
            work: Work::Op(Op::Put(PutOp { key, lease, ..PutOp::default() })),
        }
    }

    /// A repeated delivery is the one whose answer its gateway takes.
    #[test]
    fn a_repeated_request_is_answered_though_one_before_it_is_refused() {
        let span = Span { start: Bytes::new(), end: None };
        let dedup = Dedup::default();
        let (state, known, compacted, full) = (&Rows::default(), 0, 0, false);
        let view = View { state, dedup: &dedup, span: &span, known, compacted, full };
        let (mut holder, mut out) = (Leaseholder::default(), Out::default());
        for asked in [put(1, 1, 5), put(2, 2, 0), put(2, 3, 0)] {
            holder.ask(asked, &view, &mut out);
        }
        let mut asked = out.questions.drain(..).map(|(_, cookie)| cookie).collect::<Vec<_>>();
        assert_eq!(asked.len(), 2, "the repeated one is not a command of its own");
        holder.answered(asked.remove(0), SequencerReply::LeaseNotFound, &view, &mut out);
        assert!(matches!(
            &out.outcomes[..],
            [(Asker::Local(1), Outcome::Done(Err(Error::LeaseNotFound)))]
        ));
        // The second's number is void: what it saw of the first has never been.
        holder.answered(asked.remove(0), SequencerReply::Granted(10), &view, &mut out);
        assert!(holder.take_proposals().is_empty());
        let (_, again) = out.questions.pop().expect("planned anew");
        assert!(out.questions.is_empty());
        holder.answered(again, SequencerReply::Granted(11), &view, &mut out);
        assert_eq!(holder.take_proposals().len(), 1);
        out.outcomes.clear();
        holder.applied(11, &[], &view, &mut out);
        let mut answered = out.outcomes.iter().map(|(asker, _)| *asker).collect::<Vec<_>>();
        answered.sort();
        assert_eq!(answered, [Asker::Local(2), Asker::Local(3)]);
    }
}
