//! Merging ranges that the cluster has cut by itself, and that are small and idle again.
//!
//! ```text
//!   the next range that begins at such a cut ─► it and its left neighbour: how large, how long quiet?
//!        ▲                                            │ small together, both quiet long enough
//!        └──── whatever came of it ◄──────────────────┴─► a merge, as by hand
//! ```
//!
//! The meta range's leader goes through them, one pair at a time, slowly. What it asks is answered from
//! memory, by ranges that sleep too; a range whose size is not known is measured, once for all that
//! was written to it since.
//!
//! Invariants: nothing that a person has cut is merged; no other merge is under way; every node is in
//! service and both ranges have all their copies; what is merged is far from being cut again, by size
//! and by load.

use super::Node;
use super::routing::Owner;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::RangeDescriptor;
use crate::effects::Millis;
use crate::error::Misrouted;
use crate::ids::{META_RANGE, RangeId, RequestId};
use crate::leaseholder::Asker;
use crate::level::Level;
use crate::message::{InternalReply, Outcome, RangeRequest};
use crate::meta::Merge;
use crate::read::{Origin, ReadTask, ReadWork};
use std::collections::BTreeSet;

/// Two ranges are small if together they hold less than this part of what one may.
const SMALL_PART: u64 = 4;
/// An answer that has not come by then does not count.
const ANSWER_MS: Millis = 1_000;
/// All pairs are gone through once in this part of the time for which they have to be quiet.
const ROUND_PART: Millis = 4;

/// What a range says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    bytes: Option<u64>,
    quiet_ms: Millis,
}

/// A pair that is being asked.
#[derive(Debug)]
struct Pair {
    left: RangeId,
    right: RangeId,
    until: Millis,
    weights: [Option<Weight>; 2],
}

/// Where the meta range's leader is in shaping the ranges.
#[derive(Debug, Default)]
pub(super) struct Shaper {
    /// The next look at ranks.
    pub(super) rank_at: Millis,
    /// The next look at ranks by load; 0: not known yet.
    pub(super) loads_at: Millis,
    /// Ranges that are to stay, as the log is about to say.
    pub(super) pinned: BTreeSet<RangeId>,
    /// The last range looked at.
    last: RangeId,
    pair_at: Millis,
    round_ends: Millis,
    pair: Option<Pair>,
}

/// Are both small and idle enough to be one range? `limit`: bytes above which one is cut; 0 is never.
fn belong_together(weights: [Weight; 2], limit: u64, quiet_for: Millis) -> bool {
    let quiet = weights.iter().all(|weight| weight.quiet_ms >= quiet_for);
    let bytes: Option<u64> = weights.iter().map(|weight| weight.bytes).sum();
    quiet && (limit == 0 || bytes.is_some_and(|bytes| bytes < limit / SMALL_PART))
}

impl Node {
    /// Goes on with the next pair.
    pub(super) fn shrinking_tick(&mut self) {
        let quiet_for = self.config.shaping.merge_after_ms;
        let known = self.meta.level() >= Level::SHAPING;
        if quiet_for == 0 || !known || self.now < self.shaper.pair_at {
            return;
        }
        self.shaper.pair_at = self.now + self.config.tick_ms;
        if self.shaper.pair.as_ref().is_some_and(|pair| self.now < pair.until) {
            return;
        }
        self.shaper.pair = None;
        let Some(right) = self.meta.automatic_after(self.shaper.last) else {
            // Not sooner than the round was to take, and then from the first again.
            self.shaper.last = RangeId::default();
            self.shaper.pair_at = self.shaper.round_ends.max(self.shaper.pair_at);
            self.shaper.round_ends = self.shaper.pair_at + quiet_for / ROUND_PART;
            return;
        };
        self.shaper.last = right;
        let Some(left) = self.pair_with(right) else { return };
        let until = self.now + ANSWER_MS;
        self.shaper.pair = Some(Pair { left, right, until, weights: [None, None] });
        for range in [left, right] {
            self.internal_request_until(Owner::Weigh(range), range, RangeRequest::Weigh, until);
        }
    }

    /// The left neighbour of a range that begins at an automatic cut, if the two may merge now.
    fn pair_with(&self, right: RangeId) -> Option<RangeId> {
        let descriptor = self.meta.ranges().get(&right)?;
        let left = self.meta.left_of(descriptor)?;
        let whole = |range: &RangeDescriptor| {
            let copies = self.meta.copies_of(range);
            copies.is_none_or(|copies| range.voters().count() >= copies)
        };
        let may = self.meta.is_automatic(right)
            && !self.shaper.pinned.contains(&right)
            && self.meta.merges().under_way().is_empty()
            && self.all_in_service()
            && whole(descriptor)
            && whole(left)
            && self.may_merge(left.id).is_ok_and(|merge| merge.right == right);
        may.then_some(left.id)
    }

    /// A range has said what it holds and does, or (with `None`) not.
    pub(super) fn weighed(&mut self, range: RangeId, weight: Option<Weight>) {
        let Some(pair) = &mut self.shaper.pair else { return };
        let Some(weight) = weight else {
            if [pair.left, pair.right].contains(&range) {
                self.shaper.pair = None;
            }
            return;
        };
        if range == pair.left {
            pair.weights[0] = Some(weight);
        } else if range == pair.right {
            pair.weights[1] = Some(weight);
        }
        let (left, right) = (pair.left, pair.right);
        let [Some(ours), Some(theirs)] = pair.weights else { return };
        self.shaper.pair = None;
        let (limit, quiet_for) = (self.config.split_bytes, self.config.shaping.merge_after_ms);
        // It may have changed since they were asked.
        let may = self.sequencer.is_active() && self.pair_with(right) == Some(left);
        if may && belong_together([ours, theirs], limit, quiet_for) {
            let merge = Merge { left, right, generations: None };
            self.counters.merges_begun += 1;
            let change = MetaChange::Merge(merge);
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }

    /// How large and how busy is a range that is led here? It is not woken up for that.
    pub(super) fn serve_weigh(&mut self, asker: Asker, range: RangeId) {
        let (now, limit, shaping) = (self.now, self.config.split_bytes, self.config.shaping);
        let Some(replica) = self.replicas.get_mut(&range) else {
            return self.out.misrouted(asker, Misrouted::NoReplica);
        };
        if !replica.holds_lease() || range == META_RANGE {
            let hint = replica.leader_node().filter(|node| *node != self.config.node);
            return self.out.misrouted(asker, Misrouted::NotLeaseholder { hint });
        }
        let Some(descriptor) = &replica.descriptor else { return };
        let growth = &mut replica.growth;
        growth.load.roll(now, shaping.split_load, shaping.quiet_load);
        let quiet_ms = growth.load.quiet_ms(now);
        let bytes = growth.size.map(|size| size + growth.written);
        let small = bytes.is_some_and(|bytes| bytes < limit / SMALL_PART);
        // Deletions make it smaller, which only a new look can show.
        let stale = growth.size.is_none() || (!small && growth.written > 0);
        if limit > 0 && stale && quiet_ms >= shaping.merge_after_ms && now >= growth.busy_until {
            let (span, generation) = (descriptor.span.clone(), descriptor.generation);
            growth.begin(now);
            growth.written = 0;
            let work = ReadWork::Measure { range, generation, span };
            self.effects.reads.push(ReadTask { origin: Origin::None, work });
        }
        let reply = InternalReply::Weight { bytes, quiet_ms };
        self.outcome(asker, Outcome::Internal(reply));
    }
}

impl Weight {
    pub(super) fn new(bytes: Option<u64>, quiet_ms: Millis) -> Self {
        Self { bytes, quiet_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_000;
    const QUIET: Millis = 300;

    fn weight(bytes: u64, quiet_ms: Millis) -> Weight {
        Weight::new(Some(bytes), quiet_ms)
    }

    #[test]
    fn only_small_and_idle_ranges_belong_together() {
        let together = |ours, theirs| belong_together([ours, theirs], LIMIT, QUIET);
        assert!(together(weight(100, QUIET), weight(149, QUIET)));
        assert!(
            !together(weight(100, QUIET), weight(150, QUIET)),
            "half a step from a cut by size"
        );
        assert!(!together(weight(1, QUIET - 1), weight(1, QUIET)));
        assert!(!together(weight(1, QUIET), weight(1, 0)));
        assert!(!together(weight(1, QUIET), Weight::new(None, QUIET)), "unknown is not small");
        let unknown = Weight::new(None, QUIET);
        assert!(belong_together([unknown, unknown], 0, QUIET), "size does not matter");
    }
}
