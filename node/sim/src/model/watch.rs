//! Feeds with watermarks, and the gateway that merges them.
//!
//! Invariant of the right variant: a watermark W of a range is a promise that every event of the
//! range at or below W has been fed, and that none will follow.

use super::state::{Item, Leader, Revision, Slot, Stage, Standing, State, events};
use super::{Action, Protocol, Variant, leaders};

impl Protocol {
    pub(super) fn watch_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (range, leader) in leaders(state) {
            let feed = &state.ranges[range].leaders[leader];
            if state.budget.watermarks > 0 && Self::wants_watermark(state, range, leader) {
                actions.push(Action::AskWatermark { range, leader });
            }
            if self.watermark(feed) > state.watch.watermark[range] {
                actions.push(Action::Pull { range, leader });
            }
        }
    }

    /// Asking for the current revision is of use only if it moves the watermark.
    fn wants_watermark(state: &State, range: usize, leader: usize) -> bool {
        let asker = &state.ranges[range].leaders[leader];
        let node = &state.nodes[asker.node];
        let asks = Item::Watermark { range, leader };
        asker.standing == Standing::Registered
            && asker.seen < state.sequencers[node.sequencer].next - 1
            && !node.stream.iter().any(|slot| slot.item == asks)
    }

    pub(super) fn ask_watermark(state: &mut State, range: usize, leader: usize) {
        state.budget.watermarks -= 1;
        let node = state.ranges[range].leaders[leader].node;
        let item = Item::Watermark { range, leader };
        state.nodes[node].stream.push(Slot { item, stage: Stage::Sent });
    }

    /// The range's watermark, as its leader knows it. A revoked leader's promise stays true, it
    /// only does not move any more.
    fn watermark(&self, leader: &Leader) -> Revision {
        if leader.standing == Standing::Elected {
            return 0;
        }
        let mut watermark = leader.seen;
        if !self.is(Variant::WatermarkIgnoresGrant) {
            watermark =
                leader.oldest_pending().map_or(watermark, |pending| watermark.min(pending - 1));
        }
        if !self.is(Variant::IntentIgnored) {
            watermark =
                leader.open_intent().map_or(watermark, |prepared_at| watermark.min(prepared_at));
        }
        watermark
    }

    /// The gateway receives what a feed adds to what it has from the range, any leader's feed.
    pub(super) fn pull(&self, state: &mut State, range: usize, leader: usize) {
        let feed = &state.ranges[range].leaders[leader];
        let watermark = self.watermark(feed);
        let new = events(feed.applied(), state.watch.watermark[range], watermark);
        state.watch.events[range] |= new;
        state.watch.watermark[range] = watermark;
    }
}

impl State {
    /// Everything up to here has been sent to the watcher; what a progress notification states.
    pub fn released(&self) -> Revision {
        self.watch.watermark.into_iter().min().unwrap_or(0)
    }
}
