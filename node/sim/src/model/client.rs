//! Clients and the router: requests, retries, reads, and the order in real time of the answers.
//!
//! Invariants: a request is evaluated only by a leader that is registered as far as it knows; a
//! write is answered from the log of the leader that the client (or its router) asked; a read is
//! served at its revision once nothing at or below it is unfinished in the range.

use super::state::{
    Entry, Item, Leader, Mask, Operation, Outcome, RANGES, Revision, Slot, Stage, Standing, State,
    TRANSACTION, Write, events,
};
use super::{Action, Protocol, Request, Variant, bit, leaders};

impl Protocol {
    pub(super) fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (operation, request) in self.scenario.requests.iter().enumerate() {
            for (range, leader) in leaders(state) {
                if state.ranges[range].leaders[leader].standing != Standing::Registered {
                    continue;
                }
                if self.may_submit(state, operation, range, leader) {
                    actions.push(Action::Submit { operation, range, leader });
                }
                let copied = request.write_range() == Some(range)
                    && state.operations[operation].finished
                    && state.budget.copies > 0;
                if copied {
                    actions.push(Action::LateCopy { operation, range, leader });
                }
            }
            for range in 0..RANGES {
                if self.may_serve(state, operation, range) {
                    actions.push(Action::Serve { operation, range });
                }
            }
        }
    }

    fn may_submit(&self, state: &State, operation: usize, range: usize, leader: usize) -> bool {
        let request = self.scenario.requests[operation];
        let Operation { finished, tried, revision, served, ready, .. } =
            &state.operations[operation];
        if *finished || tried[range] & bit(leader) != 0 {
            return false;
        }
        // Sequence numbers are given in the order in which requests reach the gateway.
        let in_turn = state.operations[..operation].iter().all(|earlier| earlier.begun);
        if self.scenario.budget.copies > 0 && !in_turn {
            return false;
        }
        match request {
            Request::Put(at) | Request::PutAttached(at) => at == range,
            Request::PutContended(at) => {
                let locked = state.ranges[range].leaders[leader].open_intent().is_some();
                at == range && (!locked || self.is(Variant::IntentIgnored))
            }
            Request::Read(_) | Request::ReadAll => {
                // The first part takes the revision, the others are read at it.
                let ranges = request.read_ranges();
                let first = ranges.trailing_zeros() as usize == range;
                let open = served & bit(range) == 0 && ready[range].is_none();
                ranges & bit(range) != 0 && open && (first || *revision != 0)
            }
        }
    }

    pub(super) fn submit(&self, state: &mut State, operation: usize, range: usize, leader: usize) {
        if !state.operations[operation].begun {
            state.operations[operation].begun = true;
            state.operations[operation].before = state.finished();
        }
        state.operations[operation].tried[range] |= bit(leader);
        if self.scenario.requests[operation].write_range().is_none() {
            let node = state.ranges[range].leaders[leader].node;
            let base = state.overlay(range, leader).fold(0, |mask, other| mask | bit(other));
            let item = Item::ReadAt { range, leader, operation, base };
            state.nodes[node].stream.push(Slot { item, stage: Stage::Sent });
            return;
        }
        let known = state.overlay(range, leader).any(|other| other == operation);
        if known && !self.is(Variant::RetryWithoutRecord) {
            if let Some(revision) = state.ranges[range].leaders[leader].executed(operation) {
                self.finish(state, operation, revision);
            }
            return;
        }
        let floor = if self.scenario.budget.copies > 0 {
            state.operations.iter().position(|other| other.begun && !other.finished).unwrap_or(0)
        } else {
            0
        };
        Self::enqueue(state, operation, range, leader, floor);
    }

    /// Evaluates a write on the overlay and asks for its revision.
    pub(super) fn enqueue(
        state: &mut State,
        operation: usize,
        range: usize,
        leader: usize,
        floor: usize,
    ) {
        let base = state.overlay(range, leader).fold(0, |mask, other| mask | bit(other));
        let write = Write { operation, base, floor };
        let node = state.ranges[range].leaders[leader].node;
        let item = Item::Grant { range, leader, write };
        state.nodes[node].stream.push(Slot { item, stage: Stage::Sent });
    }

    /// A copy of a finished write: answered from its record, or turned away once it is settled.
    pub(super) fn late_copy(
        &self,
        state: &mut State,
        operation: usize,
        range: usize,
        leader: usize,
    ) {
        state.budget.copies -= 1;
        let settled = operation < state.ranges[range].leaders[leader].floor();
        let known = state.overlay(range, leader).any(|other| other == operation);
        if settled && !self.is(Variant::SettledCopyExecuted) {
            state.copy_refused = true;
        } else if settled || !known {
            Self::enqueue(state, operation, range, leader, 0);
        }
    }

    /// The sequencer has answered a read's item.
    pub(super) fn read_may_start(
        state: &mut State,
        operation: usize,
        range: usize,
        leader: usize,
        revision: Revision,
    ) {
        let read = &mut state.operations[operation];
        if read.finished || read.served & bit(range) != 0 || read.ready[range].is_some() {
            return;
        }
        if read.revision == 0 {
            read.revision = revision;
        }
        // The range must have seen the read's revision; an answer below it does not say so.
        if revision >= read.revision {
            read.ready[range] = Some(leader);
        }
    }

    fn may_serve(&self, state: &State, operation: usize, range: usize) -> bool {
        let Operation { ready, revision, .. } = &state.operations[operation];
        let Some(leader) = ready[range] else { return false };
        let leader = &state.ranges[range].leaders[leader];
        let quiet = leader.oldest_pending().is_none_or(|pending| pending > *revision);
        let intent = leader.open_applied_intent().filter(|prepared_at| prepared_at < revision);
        let decided = intent.is_none() || state.meta.decision.is_some();
        quiet && (decided || self.is(Variant::IntentIgnored))
    }

    pub(super) fn serve(&self, state: &mut State, operation: usize, range: usize) {
        let request = self.scenario.requests[operation];
        let Operation { ready, revision, .. } = state.operations[operation];
        let leader = ready[range].expect("a part is served by the leader that is ready for it");
        let leader = &state.ranges[range].leaders[leader];
        let mut found = events(leader.applied(), 0, revision);
        // An intent that is decided and not yet resolved is read through.
        let read_through = leader.open_applied_intent().is_some();
        if read_through && !self.is(Variant::IntentIgnored) {
            found |= state.decided(revision);
        }
        let read = &mut state.operations[operation];
        read.found[range] = found;
        read.served |= bit(range);
        read.ready[range] = None;
        if read.served == request.read_ranges() {
            self.finish(state, operation, revision);
        }
    }

    /// Answers the client, and compares the answer with all that was answered before it asked.
    /// Revision 0 says that the request was refused.
    pub(super) fn finish(&self, state: &mut State, operation: usize, revision: Revision) {
        let writes = self.scenario.requests[operation].write_range().is_some();
        let before = state.operations[operation].before;
        if revision != 0 && !state.in_order(before, revision, writes) {
            state.order_broken = true;
        }
        let done = &mut state.operations[operation];
        done.revision = revision;
        done.finished = true;
        done.before = 0;
        done.tried = [0; RANGES];
        // A read that is answered has nothing left to ask.
        for node in &mut state.nodes {
            node.stream.retain(|slot| match slot.item {
                Item::ReadAt { operation: asks, .. } => asks != operation,
                Item::Grant { .. } | Item::Watermark { .. } => true,
            });
        }
    }
}

impl Leader {
    /// The revision at which an operation was applied.
    fn executed(&self, operation: usize) -> Option<Revision> {
        let writes = self.applied().iter().filter_map(Entry::write);
        writes.filter(|(write, _)| write.operation == operation).map(|(_, at)| at).next()
    }

    /// Sequence numbers below this one are settled, as far as the range has been told.
    fn floor(&self) -> usize {
        let writes = self.applied().iter().filter_map(Entry::write);
        writes.map(|(write, _)| write.floor).max().unwrap_or(0)
    }
}

impl State {
    /// Everything that has been answered.
    pub(super) fn finished(&self) -> Mask {
        let operations = self.operations.iter().enumerate();
        let finished = operations.filter(|(_, operation)| operation.finished);
        let transaction = if self.transaction.revision == 0 { 0 } else { TRANSACTION };
        finished.fold(transaction, |mask, (index, _)| mask | bit(index))
    }

    /// An answer at `revision` is in order if everything answered before the request was sent has
    /// a lower revision; a read may share the revision.
    pub(super) fn in_order(&self, before: Mask, revision: Revision, writes: bool) -> bool {
        let mut earlier = (0..self.operations.len())
            .filter(|&index| before & bit(index) != 0)
            .map(|index| self.operations[index].revision)
            .chain((before & TRANSACTION != 0).then_some(self.transaction.revision));
        earlier.all(|other| if writes { other < revision } else { other <= revision })
    }

    /// The transaction, if it is decided and visible at `revision`.
    pub(super) fn decided(&self, revision: Revision) -> Mask {
        match self.meta.decision {
            Some(Outcome::Committed(at)) if at <= revision => TRANSACTION,
            Some(Outcome::Committed(_) | Outcome::Aborted) | None => 0,
        }
    }
}
