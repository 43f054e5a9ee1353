//! The end of a client lease: revoking is logged, each range that may hold its keys deletes them,
//! the removal is logged.
//!
//! Invariants of the right variant: a range is added to the lease, durably, before the first grant
//! for a key attached to it; a deletion sees everything that was granted for the lease before.

use super::state::{DELETION, Entry, Item, LeaseStage, Mask, Slot, Stage, Standing, State, Write};
use super::{Action, Protocol, Request, Variant, bit, leaders};

impl Protocol {
    pub(super) fn client_lease_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.lease.stage {
            LeaseStage::Held => actions.push(Action::Revoke),
            LeaseStage::Revoking if state.lease.attached & !state.lease.cleared == 0 => {
                actions.push(Action::Remove);
            }
            LeaseStage::Revoking => {
                for (range, leader) in leaders(state) {
                    if self.may_delete(state, range, leader) {
                        actions.push(Action::DeleteAttached { range, leader });
                    }
                }
            }
            LeaseStage::Removed => {}
        }
    }

    fn is_attached(&self, operation: usize) -> bool {
        matches!(self.scenario.requests.get(operation), Some(Request::PutAttached(_)))
    }

    /// Adds the range to the lease before its first grant. False: the lease is gone.
    pub(super) fn attach(&self, state: &mut State, range: usize, write: Write) -> bool {
        if !self.is_attached(write.operation) {
            return true;
        }
        if state.lease.stage != LeaseStage::Held {
            return false;
        }
        if !self.is(Variant::AttachedAfterGrant) {
            state.lease.attached |= bit(range);
        }
        true
    }

    /// The request goes to whoever is believed to lead, also to one that no longer does. It waits
    /// there until everything queued is applied, because that may attach keys.
    fn may_delete(&self, state: &State, range: usize, leader: usize) -> bool {
        let here = &state.ranges[range].leaders[leader];
        let wanted = state.lease.attached & !state.lease.cleared & bit(range) != 0;
        let asked = state.nodes[here.node].stream.iter().any(|slot| {
            matches!(slot.item,
                Item::ReadAt { range: r, leader: l, operation: DELETION, .. }
                    if (r, l) == (range, leader))
        });
        let quiet = here.oldest_pending().is_none() && state.queued(range, leader).next().is_none();
        let deleting = state.overlay(range, leader).any(|operation| operation == DELETION)
            && self.attached_keys(here.applied()) != 0;
        wanted
            && here.standing == Standing::Registered
            && !asked
            && !deleting
            && (quiet || self.is(Variant::DeletionOvertakesQueued))
    }

    pub(super) fn delete_attached(&self, state: &mut State, range: usize, leader: usize) {
        let here = &state.ranges[range].leaders[leader];
        if self.attached_keys(here.applied()) != 0 {
            Self::enqueue(state, DELETION, range, leader, 0);
            return;
        }
        if self.is(Variant::ClearedUnfenced) {
            state.lease.cleared |= bit(range);
            return;
        }
        let base = state.overlay(range, leader).fold(0, |mask, other| mask | bit(other));
        let item = Item::ReadAt { range, leader, operation: DELETION, base };
        state.nodes[here.node].stream.push(Slot { item, stage: Stage::Sent });
    }

    /// Keys attached to the lease that are there after `entries`.
    pub(super) fn attached_keys(&self, entries: &[Entry]) -> Mask {
        let writes = entries.iter().filter_map(Entry::write).map(|(write, _)| write);
        writes.fold(0, |keys, write| match write.operation {
            DELETION => keys & !write.base,
            operation if self.is_attached(operation) => keys | bit(operation),
            _ => keys,
        })
    }

    pub(super) fn lease_after_apply(&self, state: &mut State, range: usize, write: Write) {
        if write.operation == DELETION {
            state.lease.cleared |= bit(range);
        } else if self.is(Variant::AttachedAfterGrant)
            && self.is_attached(write.operation)
            && state.lease.stage == LeaseStage::Held
        {
            state.lease.attached |= bit(range);
        }
    }

    /// A command was refused: its client is told, and what was evaluated on top of it is evaluated
    /// again, in order. Its grants are void.
    pub(super) fn plan_again(
        &self,
        state: &mut State,
        range: usize,
        leader: usize,
        refused: usize,
    ) {
        let node = state.ranges[range].leaders[leader].node;
        let again: Vec<usize> = state.queued(range, leader).collect();
        let void = again.iter().fold(bit(refused), |mask, other| mask | bit(*other));
        state.nodes[node].stream.retain_mut(|slot| match &mut slot.item {
            Item::Grant { range: r, leader: l, .. } => (*r, *l) != (range, leader),
            // A read is evaluated at its revision, whatever was expected there.
            Item::ReadAt { range: r, leader: l, base, .. } => {
                if (*r, *l) == (range, leader) {
                    *base &= !void;
                }
                true
            }
            Item::Watermark { .. } => true,
        });
        if !state.operations[refused].finished {
            self.finish(state, refused, 0);
        }
        for operation in again {
            Self::enqueue(state, operation, range, leader, 0);
        }
    }
}
