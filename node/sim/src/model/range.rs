//! A range's Raft group, abstracted: committed entries stay, unfinished tails may survive.
//!
//! Invariants kept by construction (they are Raft's own): a new leader has every committed entry;
//! an old leader commits nothing once a new one is elected; logs that share a prefix agree on it.

use super::state::{DELETION, Entry, Item, Leader, RANGES, Standing, State};
use super::{Action, Protocol, Variant, leaders};

impl Protocol {
    pub(super) fn range_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for range in 0..RANGES {
            let current = state.ranges[range].current();
            if current.committed < current.log.len() {
                actions.push(Action::Commit { range });
            }
            if state.budget.elections[range] > 0 {
                for survivors in 0..=current.log.len() - current.committed {
                    actions.push(Action::Elect { range, survivors });
                }
            }
            if current.standing == Standing::Elected {
                actions.push(Action::Register { range });
            }
        }
        for (range, leader) in leaders(state) {
            let Leader { log, committed, applied, .. } = &state.ranges[range].leaders[leader];
            let limit = if self.is(Variant::AckBeforeDurable) { log.len() } else { *committed };
            if *applied < limit {
                actions.push(Action::Apply { range, leader });
            }
        }
    }

    /// Applies the next entry; its client waits for it if it was sent to this very leader.
    pub(super) fn apply(&self, state: &mut State, range: usize, leader: usize) {
        let here = &mut state.ranges[range].leaders[leader];
        let entry = here.log[here.applied];
        here.applied += 1;
        if let Some((write, revision)) = entry.write() {
            self.lease_after_apply(state, range, write);
            if write.operation == DELETION {
                return;
            }
            let operation = &state.operations[write.operation];
            if !operation.finished && operation.tried[range] & super::bit(leader) != 0 {
                self.finish(state, write.operation, revision);
            }
        }
    }

    /// The other node wins an election and establishes itself: its no-op, and with it all its log,
    /// is committed and applied. Nothing it does before could be seen from outside.
    pub(super) fn elect(state: &mut State, range: usize, survivors: usize) {
        state.budget.elections[range] -= 1;
        let old = state.ranges[range].current();
        let node = 1 - old.node;
        let mut log = old.log[..old.committed + survivors].to_vec();
        log.push(Entry::NoOp);
        let end = log.len();
        // A process that leads again knows that its earlier term is over.
        for earlier in 0..state.ranges[range].leaders.len() {
            if state.ranges[range].leaders[earlier].node == node {
                state.revoke(range, earlier);
            }
        }
        state.ranges[range].leaders.push(Leader {
            log,
            committed: end,
            applied: end,
            standing: Standing::Elected,
            ..Leader::first(node)
        });
    }
}

impl State {
    /// The writes that a leader's next evaluation sees: its log, then what waits on its session.
    pub(super) fn overlay(&self, range: usize, leader: usize) -> impl Iterator<Item = usize> + '_ {
        let here = &self.ranges[range].leaders[leader];
        let logged = here.log.iter().filter_map(|entry| Some(entry.write()?.0.operation));
        logged.chain(self.queued(range, leader))
    }

    /// The writes of a leader that wait for their grant.
    pub(super) fn queued(&self, range: usize, leader: usize) -> impl Iterator<Item = usize> + '_ {
        let node = self.ranges[range].leaders[leader].node;
        self.nodes[node].stream.iter().filter_map(move |slot| match slot.item {
            Item::Grant { range: r, leader: l, write } if (r, l) == (range, leader) => {
                Some(write.operation)
            }
            Item::Grant { .. } | Item::ReadAt { .. } | Item::Watermark { .. } => None,
        })
    }
}
