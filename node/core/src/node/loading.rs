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
use crate::ids::META_RANGE;
use crate::key::Span;
use crate::level::Level;
use crate::load::Division;
use crate::message::{MetaRequest, RangeRequest};
use crate::replica::Replica;
use crate::request::Op;

/// How the cluster shapes its ranges by itself, but for their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaping {
    /// Requests a second of one range above which it is cut in two; 0 is never.
    pub split_load: u64,
    /// For so long, in milliseconds.
    pub load_lasts_ms: Millis,
    /// A load that could not be divided is left alone for so long, in milliseconds.
    pub load_rests_ms: Millis,
    /// Requests a second below which a range has next to no load; 0: whatever it has.
    pub quiet_load: u64,
    /// A range that the cluster has cut off is merged with its left neighbour when both have been small
    /// and had next to no load for so long, in milliseconds; 0 is never.
    pub merge_after_ms: Millis,
    /// Between two looks at who should lead which range, in milliseconds; 0 is never, and so it is with
    /// neither cuts by load nor merges.
    pub rank_every_ms: Millis,
    /// Leaders that are even by number are spread by load when nothing has changed who leads for so
    /// long, in milliseconds: the averages have to follow first. 0 is never.
    pub ranks_loads_after_ms: Millis,
}

impl Default for Shaping {
    fn default() -> Self {
        Self {
            split_load: 0,
            load_lasts_ms: 10_000,
            load_rests_ms: 60_000,
            quiet_load: 0,
            merge_after_ms: 300_000,
            rank_every_ms: 1_000,
            ranks_loads_after_ms: 20_000,
        }
        .cut_at(10_000)
    }
}

impl Shaping {
    /// Nothing but cuts by size.
    pub const NONE: Self = Self {
        split_load: 0,
        load_lasts_ms: 0,
        load_rests_ms: 0,
        quiet_load: 0,
        merge_after_ms: 0,
        rank_every_ms: 0,
        ranks_loads_after_ms: 0,
    };

    /// The same with cuts at so many requests a second; 0 is never. Two ranges that do next to nothing
    /// have less than a quarter of that together, so that what is merged is far from being cut.
    #[must_use]
    pub fn cut_at(self, split_load: u64) -> Self {
        const QUIET_PART: u64 = 8;
        Self { split_load, quiet_load: split_load.div_ceil(QUIET_PART), ..self }
    }

    /// Is anything of it done at all?
    pub fn counts(&self) -> bool {
        self.split_load > 0 || self.merge_after_ms > 0
    }
}

/// Why a range is cut by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Size,
    Load,
}

impl Replica {
    /// A range led here has taken a request.
    pub(super) fn note_load(&mut self, body: &RangeRequest) {
        let load = &mut self.growth.load;
        let high = match body {
            RangeRequest::Kv(op) | RangeRequest::KvAgain(op) => load.note(|| Op::spans(op)),
            RangeRequest::Lock { reads, .. } => {
                let spans =
                    || -> Vec<Span> { reads.iter().map(|read| read.span.clone()).collect() };
                load.note(spans)
            }
            _ => return,
        };
        if high {
            // Reads alone would let it fall asleep, and be woken up again, all the time.
            self.idle_ticks = 0;
        }
    }
}

impl Node {
    /// Brings the loads of the ranges led here up to date, and looks for those to be cut.
    pub(super) fn loading_tick(&mut self) {
        let shaping = self.config.shaping;
        if !shaping.counts() {
            return;
        }
        let now = self.now;
        let mut leaders = self.meta.nodes().values().filter(|record| record.state.may_lead());
        // Nobody else could lead one of the pieces.
        let alone = leaders.nth(1).is_none();
        // Not every node could read of them.
        let unknown = self.meta.level() < Level::SHAPING;
        let mut cuts = Vec::new();
        // A range with load does not sleep.
        for range in &self.awake {
            let Some(replica) = self.replicas.get_mut(range) else { continue };
            if *range == META_RANGE || !replica.holds_lease() {
                continue;
            }
            let growth = &mut replica.growth;
            growth.load.roll(now, shaping.split_load, shaping.quiet_load);
            if alone
                || unknown
                || now < growth.busy_until
                || !growth.load.is_hot(now, shaping.load_lasts_ms)
            {
                continue;
            }
            if let Division::At(key) = growth.load.divide(now, shaping.load_rests_ms) {
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
