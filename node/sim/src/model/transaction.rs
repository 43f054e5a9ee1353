//! The transaction over both ranges: prepare, decide, resolve, and recovery by whoever waits.
//!
//! Invariant: the only commit point is the commit record in the meta log; whoever finds an intent
//! without one writes the abort into the same log, and the first record wins.

use super::state::{Entry, Leader, Outcome, RANGES, Standing, State};
use super::{Action, Protocol, Request, Variant, bit};

impl Protocol {
    pub(super) fn transaction_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for range in 0..RANGES {
            if self.may_prepare(state, range) {
                actions.push(Action::Prepare { range });
            }
            if self.outcome(state).is_some() && Self::may_resolve(state, range) {
                actions.push(Action::Resolve { range });
            }
        }
        let open = state.meta.decision.is_none() && state.meta.proposed.is_none();
        let half = self.is(Variant::CoordinatorCrashCommitsHalf);
        if state.transaction.alive && open && (0..RANGES).all(|range| Self::prepared(state, range))
        {
            actions.push(Action::Decide);
        }
        if state.meta.proposed.is_some() && !half {
            actions.push(Action::Logged);
        }
        let met = (0..RANGES).any(|range| {
            state.ranges[range].leaders.iter().any(|leader| leader.open_applied_intent().is_some())
        });
        let undecided = state.meta.decision.is_none() && (open || half);
        if met && undecided && (!half || !state.transaction.alive) {
            actions.push(Action::Abort);
        }
        // Once the end is logged, the coordinator's death changes nothing.
        let undecided = state.meta.decision.is_none();
        if state.transaction.begun && state.transaction.alive && undecided {
            actions.push(Action::Crash);
        }
    }

    /// A prepare takes its place behind every queued command on its keys.
    fn may_prepare(&self, state: &State, range: usize) -> bool {
        let index = state.ranges[range].leaders.len() - 1;
        let leader = state.ranges[range].current();
        let contended = |operation: usize| {
            matches!(self.scenario.requests[operation], Request::PutContended(_))
        };
        let unapplied = leader.log[leader.applied..].iter().filter_map(Entry::write);
        let latched = unapplied.map(|(write, _)| write.operation).any(contended)
            || state.queued(range, index).any(contended);
        state.transaction.alive
            && leader.standing == Standing::Registered
            && !leader.log.iter().any(|entry| entry.prepare().is_some())
            && (!latched || self.is(Variant::PrepareOvertakesQueued))
    }

    pub(super) fn prepare(&self, state: &mut State, range: usize) {
        if !state.transaction.begun {
            state.transaction.begun = true;
            state.transaction.before = state.finished();
        }
        let index = state.ranges[range].leaders.len() - 1;
        let saw = state
            .overlay(range, index)
            .filter(|&other| matches!(self.scenario.requests[other], Request::PutContended(_)))
            .fold(0, |mask, other| mask | bit(other));
        let leader = state.ranges[range].current_mut();
        leader.log.push(Entry::Prepare { seen: leader.seen, saw });
    }

    /// The participant has the intent in its applied state and says so.
    fn prepared(state: &State, range: usize) -> bool {
        let holds = |leader: &Leader| {
            let elected = leader.standing == Standing::Elected;
            !elected && leader.applied().iter().any(|entry| entry.prepare().is_some())
        };
        state.ranges[range].leaders.iter().any(holds)
    }

    pub(super) fn decide(state: &mut State) {
        let newest = state.sequencers.len() - 1;
        state.meta.proposed = Self::take_number(state, newest);
    }

    pub(super) fn logged(state: &mut State) {
        let Some(revision) = state.meta.proposed.take() else { return };
        state.meta.decision = Some(Outcome::Committed(revision));
        if state.transaction.alive {
            state.order_broken |= !state.in_order(state.transaction.before, revision, true);
            state.transaction.revision = revision;
            state.transaction.before = 0;
        }
    }

    pub(super) fn abort(state: &mut State) {
        state.meta.decision = Some(Outcome::Aborted);
    }

    /// What a participant can learn about the end of the transaction.
    fn outcome(&self, state: &State) -> Option<Outcome> {
        let half = self.is(Variant::CoordinatorCrashCommitsHalf) && state.transaction.alive;
        let told = state.meta.proposed.filter(|_| half).map(Outcome::Committed);
        state.meta.decision.or(told)
    }

    fn may_resolve(state: &State, range: usize) -> bool {
        let leader = state.ranges[range].current();
        leader.standing == Standing::Registered
            && leader.log.iter().any(|entry| entry.prepare().is_some())
            && !leader.log.iter().any(|entry| matches!(entry, Entry::Resolve(_)))
    }

    pub(super) fn resolve(&self, state: &mut State, range: usize) {
        let outcome = self.outcome(state).expect("an intent is resolved once its end is known");
        state.ranges[range].current_mut().log.push(Entry::Resolve(outcome));
    }
}
