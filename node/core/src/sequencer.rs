//! The sequencer: gives out revisions in one total order. Runs on the leader of the meta range.
//!
//! A batch is numbered, *then* a quorum round confirms that this is still the leader, *then* the
//! answers go out. Numbers come from a block whose end is already in the meta log, so a successor
//! that never heard of them starts above.
//!
//! Invariants: no number is given twice; a number is given out only after a round that began when
//! it was already assigned; nothing is granted to a range leader that is not the registered one.

use crate::ids::{LeaseId, META_RANGE, NodeId, RangeId, Revision, Term};
use crate::message::{Message, SequencerItem, SequencerItemKind, SequencerReply, SessionId};
use crate::meta::MetaState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Revisions reserved at a time. After an unplanned failover the numbering jumps by at most twice
/// this; a block lasts far longer than the round that reserves the next.
pub const BLOCK: Revision = 20_000;

/// Quorum rounds under way at a time. More gains nothing: each carries all that is queued.
const ROUNDS_MAX: usize = 4;

/// Answers of one batch for one node.
#[derive(Debug)]
struct Share {
    node: NodeId,
    session: SessionId,
    first: u64,
    answers: Vec<SequencerReply>,
}

/// A numbered batch whose round is under way.
#[derive(Debug)]
struct Round<T> {
    number: u64,
    shares: Vec<Share>,
    /// Questions that need only the confirmation: with the revision at numbering.
    confirmations: Vec<T>,
    revision: Revision,
}

#[derive(Debug, Default)]
struct Stream {
    session: SessionId,
    /// Number of the first queued item.
    first: u64,
    queued: VecDeque<SequencerItem>,
}

/// What a confirmed batch brings.
#[derive(Debug)]
pub struct Confirmed<T> {
    /// Messages to the asking nodes.
    pub send: Vec<(NodeId, Message)>,
    /// Questions confirmed, each with the revision at that time.
    pub confirmations: Vec<(T, Revision)>,
}

/// See the module.
#[derive(Debug)]
pub struct Sequencer<T> {
    /// The meta leader's term while active.
    active: Option<Term>,
    /// Stopped for a hand-over.
    stopped: bool,
    /// The takeover is on its way to the log: questions may come, and wait for it.
    expecting: bool,
    next: Revision,
    reserving: bool,
    streams: BTreeMap<NodeId, Stream>,
    rounds: VecDeque<Round<T>>,
    round_number: u64,
    confirmations: Vec<T>,
    attaching: Vec<(LeaseId, RangeId)>,
    attach_logged: BTreeSet<(LeaseId, RangeId)>,
    hints: BTreeMap<NodeId, Revision>,
}

impl<T> Sequencer<T> {
    /// Not active.
    pub fn new() -> Self {
        Self {
            active: None,
            stopped: false,
            expecting: false,
            next: 0,
            reserving: false,
            streams: BTreeMap::new(),
            rounds: VecDeque::new(),
            round_number: 0,
            confirmations: Vec::new(),
            attaching: Vec::new(),
            attach_logged: BTreeSet::new(),
            hints: BTreeMap::new(),
        }
    }

    /// True while this node gives out revisions.
    pub fn is_active(&self) -> bool {
        self.active.is_some() && !self.stopped
    }

    /// True if there is anything to give up when the leadership goes.
    pub fn is_engaged(&self) -> bool {
        self.active.is_some() || self.expecting
    }

    /// The last revision given out (or the end of the last block before a takeover).
    pub fn current(&self) -> Revision {
        self.next - 1
    }

    /// The leader has proposed its takeover.
    pub fn expect(&mut self) {
        self.expecting = true;
    }

    /// True from the proposal of the takeover until it is applied.
    pub fn is_expecting(&self) -> bool {
        self.expecting
    }

    /// Starts: the leader's takeover is logged and applied.
    pub fn activate(&mut self, term: Term, next: Revision) {
        self.active = Some(term);
        self.stopped = false;
        self.expecting = false;
        self.next = next;
        self.reserving = false;
    }

    /// True if it stopped for a hand-over that has not happened yet.
    pub fn is_stopped(&self) -> bool {
        self.active.is_some() && self.stopped
    }

    /// Stops for a hand-over; gives the next revision, for the log.
    pub fn stop(&mut self) -> Option<Revision> {
        self.active?;
        if self.stopped {
            return None;
        }
        self.stopped = true;
        Some(self.next)
    }

    /// The leadership is gone. Gives the refusals to send and the questions left over.
    pub fn deactivate(&mut self) -> (Vec<(NodeId, Message)>, Vec<T>) {
        let send = self
            .streams
            .iter()
            .map(|(node, stream)| (*node, Message::SequencerRefused { session: stream.session }))
            .collect();
        let mut left: Vec<T> = std::mem::take(&mut self.confirmations);
        for round in self.rounds.drain(..) {
            left.extend(round.confirmations);
        }
        self.active = None;
        self.stopped = false;
        self.expecting = false;
        self.streams.clear();
        self.attaching.clear();
        self.attach_logged.clear();
        self.reserving = false;
        (send, left)
    }

    /// Questions from a node's stream. False: this is not the sequencer (nor about to be), or items
    /// are missing.
    pub fn ask(
        &mut self,
        node: NodeId,
        session: SessionId,
        first: u64,
        items: Vec<SequencerItem>,
    ) -> bool {
        if !self.is_active() && !self.expecting {
            return false;
        }
        let stream = self.streams.entry(node).or_default();
        let same_process = session.incarnation == stream.session.incarnation;
        if same_process && session.number < stream.session.number {
            return true;
        }
        if session != stream.session {
            *stream = Stream { session, first: 0, queued: VecDeque::new() };
        }
        if first != stream.first + stream.queued.len() as u64 {
            return false;
        }
        stream.queued.extend(items);
        true
    }

    /// A question that needs only the confirmation of leadership and the current revision.
    pub fn confirm(&mut self, question: T) {
        self.confirmations.push(question);
    }

    /// A node wants (or does not want) to hear when the counter moves.
    pub fn want_hints(&mut self, node: NodeId, wanted: bool) {
        if wanted {
            // What it was told before may have been lost with a connection.
            self.hints.insert(node, 0);
        } else {
            self.hints.remove(&node);
        }
    }

    /// Hints to send: at most one a node and turn, only if the counter moved.
    pub fn take_hints(&mut self) -> Vec<(NodeId, Message)> {
        if !self.is_active() {
            return Vec::new();
        }
        let current = self.current();
        let mut send = Vec::new();
        for (node, told) in &mut self.hints {
            if *told < current {
                *told = current;
                send.push((*node, Message::SequencerHint { revision: current }));
            }
        }
        send
    }

    /// The end of the next block, if it is time to log it.
    pub fn take_reserve(&mut self, meta: &MetaState) -> Option<Revision> {
        if !self.is_active() || self.reserving || meta.block().end - self.next >= BLOCK / 2 {
            return None;
        }
        self.reserving = true;
        Some(meta.block().end.max(self.next) + BLOCK)
    }

    /// A block was applied.
    pub fn reserved(&mut self) {
        self.reserving = false;
    }

    /// (lease, range) pairs that must be logged before their grants can go on.
    pub fn take_attaching(&mut self) -> Vec<(LeaseId, RangeId)> {
        std::mem::take(&mut self.attaching)
    }

    /// An attachment was applied.
    pub fn attached(&mut self, lease: LeaseId, range: RangeId) {
        self.attach_logged.remove(&(lease, range));
    }

    /// Numbers what is queued. Gives the number of the round to start, if one is needed.
    pub fn number(&mut self, meta: &MetaState) -> Option<u64> {
        if !self.is_active() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        let mut batch = Vec::new();
        let mut streams = std::mem::take(&mut self.streams);
        for (node, stream) in &mut streams {
            let mut answers = Vec::new();
            while let Some(item) = stream.queued.front() {
                let Some(answer) = self.number_item(item, meta) else { break };
                answers.push(answer);
                stream.queued.pop_front();
            }
            if !answers.is_empty() {
                let first = stream.first;
                stream.first += answers.len() as u64;
                batch.push(Share { node: *node, session: stream.session, first, answers });
            }
        }
        self.streams = streams;
        if batch.is_empty() && self.confirmations.is_empty() {
            return None;
        }
        self.round_number += 1;
        self.rounds.push_back(Round {
            number: self.round_number,
            shares: batch,
            confirmations: std::mem::take(&mut self.confirmations),
            revision: self.current(),
        });
        Some(self.round_number)
    }

    /// `None` if the item (and what follows on its stream) has to wait.
    fn number_item(&mut self, item: &SequencerItem, meta: &MetaState) -> Option<SequencerReply> {
        if item.range != META_RANGE {
            match meta.registration(item.range) {
                Some(registered) if registered.term == item.term => {
                    if item.generation < registered.generation {
                        return Some(SequencerReply::Fenced);
                    }
                }
                Some(registered) if registered.term < item.term => return None,
                Some(_) | None => return Some(SequencerReply::Fenced),
            }
        }
        match &item.kind {
            SequencerItemKind::Read => Some(SequencerReply::Current(self.current())),
            // A lock ends before its time only by a decision that is applied here.
            SequencerItemKind::ReadLocked { txn } => {
                let stands = meta.transactions().decided(*txn).is_none();
                let current = SequencerReply::Current(self.current());
                Some(if stands { current } else { SequencerReply::Fenced })
            }
            SequencerItemKind::Grant { leases } => {
                let mut wait = false;
                for lease in leases {
                    match meta.leases().get(lease) {
                        Some(record) if !record.revoking => {
                            if !record.ranges.contains(&item.range) {
                                wait = true;
                                if self.attach_logged.insert((*lease, item.range)) {
                                    self.attaching.push((*lease, item.range));
                                }
                            }
                        }
                        Some(_) | None => return Some(SequencerReply::LeaseNotFound),
                    }
                }
                if wait || self.next > meta.block().end {
                    return None;
                }
                let revision = self.next;
                self.next += 1;
                Some(SequencerReply::Granted(revision))
            }
        }
    }

    /// A number for something that is a decision of the meta log itself: being committed there
    /// confirms it, so that it needs no round. `None`: not now.
    pub fn take(&mut self, meta: &MetaState) -> Option<Revision> {
        if !self.is_active() || self.next > meta.block().end {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// The round with this number (and all before) is confirmed.
    pub fn confirmed(&mut self, number: u64, compacted: Revision) -> Confirmed<T> {
        let mut out = Confirmed { send: Vec::new(), confirmations: Vec::new() };
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            let round = self.rounds.pop_front().expect("checked above");
            for Share { node, session, first, answers } in round.shares {
                out.send
                    .push((node, Message::SequencerAnswer { session, first, answers, compacted }));
            }
            let revision = round.revision;
            out.confirmations
                .extend(round.confirmations.into_iter().map(|question| (question, revision)));
        }
        out
    }

    /// The last round started and not confirmed, to be asked again (a round can get lost).
    pub fn pending_round(&self) -> Option<u64> {
        self.rounds.back().map(|round| round.number)
    }
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self::new()
    }
}
