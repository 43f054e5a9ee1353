//! Cutting ranges that serve too much for one leader.
//!
//! The leaseholder counts the requests that it takes. When there have been too many for some time, it
//! looks for a key that divides them, and cuts the range there, in the way in which it cuts one that has
//! grown too large. The pieces have leaders on other nodes: see [`super::ranking`].
//!
//! Invariants: one cut of a range at a time, whatever the reason; a range that does nothing is neither
//! woken up nor has a sample of requests; with both limits at 0 nothing is counted.

use super::Node;
use super::routing::Owner;
use crate::effects::Millis;
use crate::ids::{META_RANGE, RangeId};
use crate::key::Span;
use crate::load::Division;
use crate::message::{MetaRequest, RangeRequest};
use crate::request::Op;

/// How the cluster shapes its ranges by itself, but for their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaping {
    /// Requests a second of one range above which it is cut in two; 0 is never.
    pub split_load: u64,
    /// For so long, in milliseconds.
    pub load_lasts_ms: Millis,
    /// A range that the cluster has cut off is merged with its left neighbour when both have been small
    /// and had next to no load for so long, in milliseconds; 0 is never.
    pub merge_after_ms: Millis,
    /// Between two looks at who should lead which range, in milliseconds; 0 is never.
    pub rank_every_ms: Millis,
}

impl Default for Shaping {
    fn default() -> Self {
        Self {
            split_load: 2_500,
            load_lasts_ms: 10_000,
            merge_after_ms: 300_000,
            rank_every_ms: 1_000,
        }
    }
}

impl Shaping {
    /// Nothing but cuts by size.
    pub const NONE: Self =
        Self { split_load: 0, load_lasts_ms: 0, merge_after_ms: 0, rank_every_ms: 0 };

    fn counts(&self) -> bool {
        self.split_load > 0 || self.merge_after_ms > 0
    }
}

/// Why a range is cut by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Size,
    Load,
}

impl Node {
    /// A range led here has taken a request.
    pub(super) fn note_load(&mut self, range: RangeId, body: &RangeRequest) {
        if !self.config.shaping.counts() || range == META_RANGE {
            return;
        }
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let high = match body {
            RangeRequest::Kv(op) | RangeRequest::KvAgain(op) => {
                replica.growth.load.note(|| Op::spans(op))
            }
            RangeRequest::Lock { reads, .. } => {
                let spans =
                    || -> Vec<Span> { reads.iter().map(|read| read.span.clone()).collect() };
                replica.growth.load.note(spans)
            }
            _ => return,
        };
        if high {
            // Reads alone would let it fall asleep, and be woken up again, all the time.
            replica.idle_ticks = 0;
        }
    }

    /// Brings the loads of the ranges led here up to date, and looks for those to be cut.
    pub(super) fn loading_tick(&mut self) {
        let shaping = self.config.shaping;
        if !shaping.counts() {
            return;
        }
        let now = self.now;
        let mut cuts = Vec::new();
        // A range with load does not sleep.
        for range in &self.awake {
            let Some(replica) = self.replicas.get_mut(range) else { continue };
            if *range == META_RANGE || !replica.holds_lease() {
                continue;
            }
            let growth = &mut replica.growth;
            growth.load.roll(now, shaping.split_load);
            if now < growth.busy_until || !growth.load.is_hot(now, shaping.load_lasts_ms) {
                continue;
            }
            if let Division::At(key) = growth.load.divide(now) {
                growth.begin(now);
                cuts.push((*range, key));
            }
        }
        for (range, key) in cuts {
            let owner = Owner::Cut(range, key, Reason::Load);
            self.internal_request(owner, META_RANGE, RangeRequest::Meta(MetaRequest::AllocateCut));
        }
    }
}
