//! The leaseholder's side of a transaction over several ranges: the range is locked for it, and
//! until it is resolved nothing else is planned, and nothing at a later revision is read.
//!
//! Invariants: a lock is proposed only when nothing is pending; while one is proposed or stands, no
//! command is planned; while one stands, what the sequencer answers is put aside, so that no read
//! and no watermark at or above the transaction's revision leaves before its changes are in the
//! state (I20 and I21 of docs/protocol.md, with the range as the unit that is locked).

use super::{Asked, Asker, Cookie, Leaseholder, Out, View, Work};
use crate::command::{Decision, Entry};
use crate::dedup::Seen;
use crate::error::Misrouted;
use crate::ids::{NodeId, RequestId, Revision};
use crate::message::{InternalReply, LockedRead, LockedRows, Outcome, SequencerReply, Want};
use crate::read::ReadWork;
use crate::state::{REVISION_MAX, StateReads};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

/// Transactions whose end is on its way to the log.
const RESOLVING_MAX: usize = 4096;
/// Answers of the sequencer that are put aside while a lock stands. Each belongs to a request that
/// was taken before, and there are no more of those than gateways may have under way.
const ASIDE_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// A lock on its way through the log.
    locking: Option<Asked>,
    /// The transaction whose lock stands.
    held: Option<RequestId>,
    /// What the sequencer answered meanwhile.
    aside: VecDeque<(Cookie, SequencerReply)>,
    /// The newest revision among those answers.
    newest: Revision,
    /// Ends of locks on their way through the log, with those who wait.
    resolving: BTreeMap<RequestId, Vec<Asker>>,
    /// For the log.
    entries: Vec<Entry>,
}

/// What is locked, and what is read under the lock.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The coordinator.
    pub node: NodeId,
    /// What it wants to know.
    pub reads: Vec<LockedRead>,
    /// Wait for another transaction's lock, rather than be refused.
    pub wait: bool,
}

impl Locks {
    pub(super) fn are_idle(&self) -> bool {
        self.held.is_none() && self.locking.is_none() && self.resolving.is_empty()
    }

    /// True if nothing waits for the log or for the end of a lock.
    pub(super) fn are_told(&self) -> bool {
        self.entries.is_empty() && self.aside.is_empty() && self.newest == 0
    }

    /// True if nothing may be planned.
    pub(super) fn bar(&self) -> bool {
        self.held.is_some() || self.locking.is_some()
    }

    /// True if nothing may be read that was asked for now.
    pub(super) fn stand(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    pub(super) fn abandon(&mut self, reason: &Misrouted, out: &mut Out) {
        let this = std::mem::take(self);
        if let Some(asked) = this.locking {
            out.misrouted(asked.asker, reason.clone());
        }
        for (cookie, _) in this.aside {
            super::refuse_cookie(cookie, reason.clone(), out);
        }
        for asker in this.resolving.into_values().flatten() {
            out.misrouted(asker, reason.clone());
        }
    }
}

impl Leaseholder {
    /// True if the range is locked, or about to be.
    pub fn is_locked(&self) -> bool {
        self.busy.locks.bar()
    }

    /// Entries for the log that are no commands.
    pub fn take_entries(&mut self) -> Vec<Entry> {
        self.busy.locks.take_entries()
    }

    /// A repeated delivery of the lock that stands or is on its way. False: it is not one.
    pub(super) fn lock_again(&mut self, asked: &Asked, view: &View<'_>, out: &mut Out) -> bool {
        let Work::Lock(lock) = &asked.work else { return false };
        if self.busy.locks.held == Some(asked.id) {
            out.locked(asked.asker, lock, view);
            return true;
        }
        let barred = self.busy.locks.bar();
        match &mut self.busy.locks.locking {
            // Its gateway takes the answer to the last delivery only.
            Some(first) if first.id == asked.id => {
                first.asker = asked.asker;
                true
            }
            Some(_) | None if barred && !lock.wait => {
                out.refuse_lock(asked.asker);
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn plan_lock(&mut self, asked: Asked, view: &View<'_>, out: &mut Out) {
        let Work::Lock(lock) = &asked.work else { unreachable!("called for these only") };
        if !lock.reads.iter().all(|read| view.span.covers(&read.span)) {
            return out.misrouted(asked.asker, Misrouted::RangeMoved);
        }
        match view.dedup.seen(asked.id) {
            Seen::New => {}
            Seen::Done(_) => return out.refuse_lock(asked.asker),
            Seen::Stale => return,
        }
        if !self.busy.pending.is_empty() {
            self.busy.blocked.push_back(asked);
            return;
        }
        self.busy.locks.entries.push(Entry::Lock { txn: asked.id, node: lock.node });
        self.busy.locks.locking = Some(asked);
        // Those that must not wait for a lock wait no longer.
        self.busy.blocked.retain(|other| match &other.work {
            Work::Lock(lock) if !lock.wait => {
                out.refuse_lock(other.asker);
                false
            }
            Work::Lock(_)
            | Work::Op(_)
            | Work::RevokeLease(_)
            | Work::Cut { .. }
            | Work::Change(_) => true,
        });
    }

    /// The end of a transaction's lock, or of one that never came.
    pub fn resolve(
        &mut self,
        (txn, settled_below): (RequestId, u64),
        decision: Decision,
        asker: Asker,
        view: &View<'_>,
        out: &mut Out,
    ) {
        let held = self.busy.locks.held == Some(txn);
        // What has ended needs no further end; of what never began here, only that it was aborted
        // has to be remembered.
        if !held && (view.dedup.seen(txn) != Seen::New || decision != Decision::Aborted) {
            out.outcomes.push((asker, Outcome::Internal(InternalReply::Ok)));
            return;
        }
        if let Some(waiting) = self.busy.locks.resolving.get_mut(&txn) {
            waiting.push(asker);
            return;
        }
        if self.busy.locks.resolving.len() >= RESOLVING_MAX {
            return out.misrouted(asker, Misrouted::Busy);
        }
        self.busy.locks.resolving.insert(txn, vec![asker]);
        self.busy.locks.entries.push(Entry::Resolve { txn, settled_below, decision });
    }

    /// The range lease begins with this lock, if any.
    pub fn begin(&mut self, held: Option<RequestId>) {
        self.busy.locks.held = held;
    }

    /// Entries were applied; `held` is who has locked the range after them, and `resolved` are the
    /// transactions that ended.
    pub fn locks_applied(
        &mut self,
        held: Option<RequestId>,
        resolved: &[RequestId],
        view: &View<'_>,
        out: &mut Out,
    ) {
        for txn in resolved {
            for asker in self.busy.locks.resolving.remove(txn).into_iter().flatten() {
                out.outcomes.push((asker, Outcome::Internal(InternalReply::Ok)));
            }
        }
        self.busy.locks.held = held;
        if let Some(asked) = self.busy.locks.locking.take() {
            let Work::Lock(lock) = &asked.work else { unreachable!("only locks are put there") };
            if held == Some(asked.id) {
                out.locked(asked.asker, lock, view);
            } else if held.is_none() && view.dedup.seen(asked.id) == Seen::New {
                self.busy.locks.locking = Some(asked);
            } else {
                // It came too late: the transaction had ended here.
                out.misrouted(asked.asker, Misrouted::Busy);
            }
        }
        if self.busy.locks.stand() {
            return;
        }
        self.watermark = self.watermark.max(std::mem::take(&mut self.busy.locks.newest));
        let mut again = VecDeque::new();
        for (cookie, reply) in std::mem::take(&mut self.busy.locks.aside) {
            match (cookie, reply) {
                (Cookie::Read(asker, op), SequencerReply::Current(revision)) => {
                    let compacted = view.compacted;
                    out.reads.push((
                        asker,
                        ReadWork::At { op, revision, compacted, unleased: Vec::new() },
                    ));
                }
                // The state has changed since: they are planned anew, before what came later.
                (Cookie::Probe(asked) | Cookie::Cleared(asked), _) => again.push_back(asked),
                (_, _) => {}
            }
        }
        again.append(&mut self.busy.blocked);
        self.busy.blocked = again;
    }

    /// Puts an answer aside while a lock stands.
    pub(super) fn put_aside(&mut self, cookie: Cookie, reply: SequencerReply, out: &mut Out) {
        if let SequencerReply::Current(revision) = reply {
            self.busy.locks.newest = self.busy.locks.newest.max(revision);
        }
        if matches!(cookie, Cookie::Watermark) {
            return;
        }
        if self.busy.locks.aside.len() >= ASIDE_MAX {
            return super::refuse_cookie(cookie, Misrouted::Busy, out);
        }
        self.busy.locks.aside.push_back((cookie, reply));
    }
}

impl Out {
    fn refuse_lock(&mut self, asker: Asker) {
        self.outcomes.push((asker, Outcome::Internal(InternalReply::Ended)));
    }

    /// The range is locked: answers with what is wanted of it.
    fn locked(&mut self, asker: Asker, lock: &Lock, view: &View<'_>) {
        let rows = lock.reads.iter().map(|read| rows(read, view.state)).collect();
        self.outcomes.push((asker, Outcome::Internal(InternalReply::Locked(rows))));
    }
}

fn rows(read: &LockedRead, state: &dyn StateReads) -> LockedRows {
    let revision = if read.revision > 0 { read.revision } else { REVISION_MAX };
    let mut found = LockedRows::default();
    if let (Some(key), Want::Values) = (read.span.single(), read.want) {
        let version =
            if revision == REVISION_MAX { state.latest(key) } else { state.at(key, revision) };
        let version = version.filter(|version| version.value.is_some());
        found.rows.extend(version.map(|version| (key.clone(), version)));
        found.count = found.rows.len() as u64;
        return found;
    }
    state.scan(&read.span, revision, read.want == Want::Values, &mut |key, version| {
        found.count += 1;
        if read.want != Want::Count {
            found.rows.push((key, version));
        }
        ControlFlow::Continue(())
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::Dedup;
    use crate::key::Span;
    use crate::request::{Op, PutOp, RangeOp};
    use crate::state::tests::Rows;
    use bytes::Bytes;

    fn op(sequence: u64, op: Op) -> Asked {
        let id = RequestId { gateway: 7, sequence };
        let asker = Asker::Local(sequence);
        Asked { asker, id, settled_below: 0, again: false, work: Work::Op(op) }
    }

    fn put(sequence: u64) -> Asked {
        op(sequence, Op::Put(PutOp { key: Bytes::from_static(b"k"), ..PutOp::default() }))
    }

    fn get(sequence: u64) -> Asked {
        op(sequence, Op::Range(RangeOp { key: Bytes::from_static(b"k"), ..RangeOp::default() }))
    }

    fn lock(sequence: u64, wait: bool) -> Asked {
        let read = LockedRead {
            span: Span::key(&Bytes::from_static(b"k")),
            revision: 0,
            want: Want::Count,
        };
        let work = Work::Lock(Lock { node: NodeId(1), reads: vec![read], wait });
        Asked { work, ..put(sequence) }
    }

    fn told(out: &mut Out) -> Vec<(Asker, Outcome)> {
        std::mem::take(&mut out.outcomes)
    }

    fn asked(out: &mut Out) -> Vec<Cookie> {
        out.questions.drain(..).map(|(_, cookie)| cookie).collect()
    }

    /// What is under way comes first; what comes later, answers that come later included, waits.
    #[test]
    fn a_lock_waits_for_those_before_it_and_holds_up_those_after_it() {
        let span = Span::all();
        let mut dedup = Dedup::default();
        let rows = Rows::default();
        let (mut holder, mut out) = (Leaseholder::default(), Out::default());
        let txn = lock(2, true).id;
        macro_rules! view {
            () => {
                View {
                    state: &rows,
                    dedup: &dedup,
                    span: &span,
                    known: 0,
                    compacted: 0,
                    full: false,
                }
            };
        }
        for request in [put(1), lock(2, true), put(3), lock(4, false)] {
            holder.ask(request, &view!(), &mut out);
        }
        holder.answered(asked(&mut out).remove(0), SequencerReply::Granted(10), &view!(), &mut out);
        assert_eq!(holder.take_proposals().len(), 1);
        assert!(holder.take_entries().is_empty(), "not before the first is applied");
        holder.applied(10, &[], &view!(), &mut out);
        told(&mut out);
        holder.unblock(&view!(), &mut out);
        assert_eq!(holder.take_entries(), [Entry::Lock { txn, node: NodeId(1) }]);
        let ended = Outcome::Internal(InternalReply::Ended);
        assert_eq!(told(&mut out), [(Asker::Local(4), ended)], "who must not wait is refused");

        holder.locks_applied(Some(txn), &[], &view!(), &mut out);
        let found = LockedRows { rows: Vec::new(), count: 0 };
        let locked = Outcome::Internal(InternalReply::Locked(vec![found]));
        assert_eq!(told(&mut out), [(Asker::Local(2), locked.clone())]);
        holder.ask(lock(2, true), &view!(), &mut out);
        assert_eq!(told(&mut out), [(Asker::Local(2), locked)], "asked again, it stands");
        holder.ask(get(5), &view!(), &mut out);
        assert!(asked(&mut out).is_empty() && out.reads.is_empty());

        let decision = Decision::Aborted;
        holder.resolve((txn, 0), decision.clone(), Asker::Local(6), &view!(), &mut out);
        assert_eq!(holder.take_entries(), [Entry::Resolve { txn, settled_below: 0, decision }]);
        dedup.record(txn, 0, 10);
        holder.locks_applied(None, &[txn], &view!(), &mut out);
        assert_eq!(told(&mut out).len(), 1);
        holder.unblock(&view!(), &mut out);
        assert!(matches!(asked(&mut out)[..], [Cookie::Write(_), Cookie::Read(..)]));
        holder.ask(lock(2, true), &view!(), &mut out);
        assert!(!holder.is_locked(), "a late copy finds that it has ended");
    }

    /// A read whose revision comes while the range is locked may lie above the transaction's.
    #[test]
    fn an_answer_of_the_sequencer_is_put_aside_while_a_lock_stands() {
        let (span, dedup, rows) = (Span::all(), Dedup::default(), Rows::default());
        let view =
            View { state: &rows, dedup: &dedup, span: &span, known: 0, compacted: 0, full: false };
        let (mut holder, mut out) = (Leaseholder::default(), Out::default());
        holder.ask(get(1), &view, &mut out);
        let cookie = asked(&mut out).remove(0);
        let txn = lock(2, true).id;
        holder.begin(Some(txn));
        holder.answered(Cookie::Watermark, SequencerReply::Current(20), &view, &mut out);
        holder.answered(cookie, SequencerReply::Current(21), &view, &mut out);
        assert!(out.reads.is_empty());
        assert_eq!(holder.watermark(), 0);
        holder.locks_applied(None, &[txn], &view, &mut out);
        assert_eq!(out.reads.len(), 1);
        assert_eq!(holder.watermark(), 21);
    }
}
