//! Sessions and the sequencer: numbering, the quorum round, answers, registration, succession.
//!
//! Invariants of the right variant: a number leaves the sequencer only if a quorum round that was
//! begun after the numbering found it still leading; numbers come from blocks that are durable
//! before their first number is used; a session's answers arrive in the order of its items.

use super::scenario::BLOCK;
use super::state::{
    Answer, DELETION, Entry, Item, Outcome, Revision, Sequencer, Slot, Stage, Standing, State,
    TRANSACTION, events,
};
use super::{Action, Protocol, Variant, bit, leaders, nodes};

impl Protocol {
    pub(super) fn sequencer_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for node in nodes() {
            let stream = &state.nodes[node].stream;
            if self.may_number(state, node) {
                actions.push(Action::Number { node });
            }
            if self.may_begin_round(state, node) {
                actions.push(Action::Round { node });
            }
            if stream.first().is_some_and(|slot| self.deliverable(slot.stage)) {
                actions.push(Action::Deliver { node });
            }
            if !state.nodes[node].late.is_empty() {
                actions.push(Action::DeliverLate { node });
            }
            let behind = state.nodes[node].sequencer + 1 < state.sequencers.len();
            if behind || (state.budget.resets > 0 && !stream.is_empty()) {
                actions.push(Action::Reconnect { node });
            }
        }
        for sequencer in 0..state.sequencers.len() {
            let own = state.leads(sequencer) || self.is(Variant::ForwardedHandover);
            let first = !state.sequencers[sequencer].handed_over && state.meta.proposed.is_none();
            if state.budget.handovers > 0 && own && first {
                actions.push(Action::HandOver { sequencer });
            }
        }
        if state.budget.takeovers > 0 {
            actions.push(Action::Takeover { keeps_proposal: false });
            if state.meta.proposed.is_some() {
                actions.push(Action::Takeover { keeps_proposal: true });
            }
        }
    }

    /// A deposed sequencer goes on numbering. That is left out where nobody can see it, because
    /// its next quorum round fails and the answer never leaves.
    fn may_number(&self, state: &State, node: usize) -> bool {
        let here = &state.nodes[node];
        let waits = here.stream.iter().any(|slot| slot.stage == Stage::Sent);
        let stopped = state.sequencers[here.sequencer].handed_over;
        let numbers = match self.variant {
            Variant::RoundBeforeNumbering => here.round_first,
            Variant::StaleSequencerGrants => true,
            _ => state.leads(here.sequencer),
        };
        waits && numbers && (!stopped || self.is(Variant::GrantAfterHandover))
    }

    fn may_begin_round(&self, state: &State, node: usize) -> bool {
        let here = &state.nodes[node];
        match self.variant {
            Variant::RoundBeforeNumbering => state.leads(here.sequencer) && !here.round_first,
            Variant::StaleSequencerGrants => false,
            _ => here.stream.iter().any(|slot| matches!(slot.stage, Stage::Numbered(_))),
        }
    }

    fn deliverable(&self, stage: Stage) -> bool {
        match stage {
            Stage::Confirmed(_) => true,
            Stage::Numbered(_) => self.is(Variant::StaleSequencerGrants),
            Stage::Sent => false,
        }
    }

    /// Numbers everything that waits on the node's session, in order.
    pub(super) fn number(&self, state: &mut State, node: usize) {
        let index = state.nodes[node].sequencer;
        // Without a takeover to come, nothing can happen between numbering and the round.
        let certain = state.budget.takeovers == 0 && state.leads(index);
        let round_first = state.nodes[node].round_first;
        let confirmed = round_first || (certain && !self.is(Variant::StaleSequencerGrants));
        state.nodes[node].round_first = false;
        for slot in 0..state.nodes[node].stream.len() {
            let Slot { item, stage } = state.nodes[node].stream[slot];
            if stage != Stage::Sent {
                continue;
            }
            let Some(answer) = self.answer(state, index, item) else { break };
            state.nodes[node].stream[slot].stage =
                if confirmed { Stage::Confirmed(answer) } else { Stage::Numbered(answer) };
        }
    }

    /// The sequencer's answer to one item, or none while it has no number left.
    fn answer(&self, state: &mut State, index: usize, item: Item) -> Option<Answer> {
        let refuses = |range: usize, leader: usize| {
            let term = leader as u8 + 1;
            !self.is(Variant::NoFencing) && state.sequencers[index].registered[range] != term
        };
        match item {
            Item::Grant { range, leader, .. }
            | Item::ReadAt { range, leader, .. }
            | Item::Watermark { range, leader }
                if refuses(range, leader) =>
            {
                Some(Answer::Refused)
            }
            Item::Grant { range, write, .. } => {
                if !self.attach(state, range, write) {
                    return Some(Answer::LeaseGone);
                }
                Self::take_number(state, index).map(Answer::Granted)
            }
            Item::ReadAt { .. } | Item::Watermark { .. } => {
                Some(Answer::At(state.sequencers[index].next - 1))
            }
        }
    }

    /// Takes the next number; logs a new block first if the last one is used up, which only the
    /// meta group's real leader can do.
    pub(super) fn take_number(state: &mut State, index: usize) -> Option<Revision> {
        let leads = state.leads(index);
        let sequencer = &mut state.sequencers[index];
        if sequencer.next == sequencer.end {
            if !leads || sequencer.handed_over {
                return None;
            }
            state.meta.block_end += BLOCK;
            sequencer.end = state.meta.block_end;
        }
        sequencer.next += 1;
        Some(sequencer.next - 1)
    }

    /// Begins a quorum round. It will be confirmed if no newer leader was elected before; else the
    /// batch is never answered.
    pub(super) fn round(&self, state: &mut State, node: usize) {
        if self.is(Variant::RoundBeforeNumbering) {
            state.nodes[node].round_first = true;
            return;
        }
        let leads = state.leads(state.nodes[node].sequencer);
        for slot in &mut state.nodes[node].stream {
            slot.stage = match slot.stage {
                Stage::Numbered(answer) if leads => Stage::Confirmed(answer),
                // Unanswered for ever on this session, which is the same as not numbered.
                Stage::Numbered(_) => Stage::Sent,
                stage @ (Stage::Sent | Stage::Confirmed(_)) => stage,
            };
        }
    }

    pub(super) fn deliver(&self, state: &mut State, node: usize) {
        let Slot { item, stage } = state.nodes[node].stream.remove(0);
        let (Stage::Confirmed(answer) | Stage::Numbered(answer)) = stage else {
            unreachable!("only answered items are delivered");
        };
        self.accept(state, item, answer);
    }

    /// Wrong: takes the old session's answer for the item, which the new session asks again.
    pub(super) fn deliver_late(&self, state: &mut State, node: usize) {
        let Slot { item, stage } = state.nodes[node].late.remove(0);
        if let Stage::Confirmed(answer) = stage {
            self.accept(state, item, answer);
        }
    }

    fn accept(&self, state: &mut State, item: Item, answer: Answer) {
        match (item, answer) {
            (
                Item::Grant { range, leader, .. }
                | Item::ReadAt { range, leader, .. }
                | Item::Watermark { range, leader },
                Answer::Refused,
            ) => state.revoke(range, leader),
            (Item::Grant { range, leader, write }, Answer::Granted(revision)) => {
                let log = &mut state.ranges[range].leaders[leader].log;
                let again = |entry: &Entry| {
                    entry.write().is_some_and(|(known, _)| known.operation == write.operation)
                };
                // An item that was answered already is no longer waited for.
                if !self.is(Variant::SessionAnswersAcceptedLate) || !log.iter().any(again) {
                    log.push(Entry::Write(write, revision));
                }
                self.see(state, range, leader, revision);
            }
            (Item::Grant { range, leader, write }, Answer::LeaseGone) => {
                self.plan_again(state, range, leader, write.operation);
            }
            (Item::ReadAt { range, operation: DELETION, .. }, Answer::At(_)) => {
                state.lease.cleared |= bit(range);
            }
            (Item::ReadAt { range, leader, operation, base }, Answer::At(revision)) => {
                let log = &state.ranges[range].leaders[leader].log;
                state.misplaced |= events(log, 0, revision) & !TRANSACTION != base;
                Self::read_may_start(state, operation, range, leader, revision);
                self.see(state, range, leader, revision);
            }
            (Item::Watermark { range, leader }, Answer::At(revision)) => {
                self.see(state, range, leader, revision);
            }
            (Item::Grant { .. }, Answer::At(_))
            | (
                Item::ReadAt { .. } | Item::Watermark { .. },
                Answer::Granted(_) | Answer::LeaseGone,
            ) => {
                unreachable!("the answer fits the item")
            }
        }
    }

    /// The answer to an own question: by the order of the session, whatever was granted to this
    /// leader at or below the revision has arrived before; and at that revision it was registered.
    fn see(&self, state: &mut State, range: usize, leader: usize, revision: Revision) {
        if !self.scenario.watch && !self.scenario.transaction {
            return;
        }
        let node = state.ranges[range].leaders[leader].node;
        let borrows = self.is(Variant::WatermarkBorrowed);
        for (other, i) in leaders(state).collect::<Vec<_>>() {
            let other_leader = &mut state.ranges[other].leaders[i];
            let own = (other, i) == (range, leader);
            let registered = other_leader.standing == Standing::Registered;
            if own || (borrows && other_leader.node == node && registered) {
                other_leader.seen = other_leader.seen.max(revision);
            }
        }
    }

    /// A new session: unanswered items go again, in order.
    pub(super) fn reconnect(&self, state: &mut State, node: usize) {
        let newest = state.sequencers.len() - 1;
        let here = &mut state.nodes[node];
        if here.sequencer == newest {
            state.budget.resets -= 1;
        }
        here.sequencer = newest;
        here.round_first = false;
        here.late = Vec::new();
        if self.is(Variant::SessionAnswersAcceptedLate) {
            here.late = here.stream.clone();
            here.late.retain(|slot| matches!(slot.stage, Stage::Confirmed(_)));
        }
        here.stream.iter_mut().for_each(|slot| slot.stage = Stage::Sent);
        if self.is(Variant::ResendReordered) {
            here.stream.reverse();
        }
    }

    /// Logs the newest leader of the range; from here on the sequencer refuses those before.
    pub(super) fn register(state: &mut State, range: usize) {
        let term = state.ranges[range].leaders.len() as u8;
        state.meta.registered[range] = term;
        let newest = state.sequencers.len() - 1;
        state.sequencers[newest].registered[range] = term;
        state.ranges[range].current_mut().standing = Standing::Registered;
    }

    /// Logs the exact end of what was granted; nothing is granted after it.
    pub(super) fn hand_over(&self, state: &mut State, sequencer: usize) {
        state.budget.handovers -= 1;
        let sequencer = &mut state.sequencers[sequencer];
        state.meta.block_end = sequencer.next;
        sequencer.handed_over = true;
        if !self.is(Variant::GrantAfterHandover) {
            sequencer.end = sequencer.next;
        }
    }

    /// A new leader of the meta range, its own no-op applied: it knows everything that is logged.
    pub(super) fn takeover(&self, state: &mut State, keeps_proposal: bool) {
        state.budget.takeovers -= 1;
        let half = self.is(Variant::CoordinatorCrashCommitsHalf);
        if let Some(revision) = state.meta.proposed.filter(|_| !half) {
            state.meta.proposed = None;
            if keeps_proposal {
                state.meta.decision = Some(Outcome::Committed(revision));
            }
        }
        let end = state.meta.block_end;
        let inside = self.is(Variant::TakeoverInsideBlock) && !state.sequencer().handed_over;
        let next = if inside { end.saturating_sub(BLOCK).max(2) } else { end };
        let registered = state.meta.registered;
        state.sequencers.push(Sequencer { next, end, registered, handed_over: false });
    }
}

impl State {
    /// The meta range's newest leader.
    pub fn sequencer(&self) -> &Sequencer {
        self.sequencers.last().expect("there is a first sequencer")
    }

    /// This one is the newest.
    fn leads(&self, sequencer: usize) -> bool {
        sequencer + 1 == self.sequencers.len()
    }

    /// The leader stops being one; what it still asked for is dropped.
    pub(super) fn revoke(&mut self, range: usize, leader: usize) {
        let old = &mut self.ranges[range].leaders[leader];
        old.standing = Standing::Revoked;
        self.nodes[old.node].stream.retain(|slot| match slot.item {
            Item::Grant { range: r, leader: l, .. }
            | Item::ReadAt { range: r, leader: l, .. }
            | Item::Watermark { range: r, leader: l } => (r, l) != (range, leader),
        });
    }
}
