//! Cutting ranges that have grown too large.
//!
//! The leaseholder counts what it applies. When that is a good part of what a range may hold, it has
//! the range measured, and cuts it in the middle if it is too large. The pieces spread by the
//! ordinary means: another node is first in rank for each, and copies move to nodes with fewer.
//!
//! Invariants: one measurement and one cut of a range at a time; nothing is remembered on disk, so a
//! crash at any point costs at most that it is measured again later.

use super::Node;
use super::loading::Reason;
use super::routing::Owner;
use crate::effects::Millis;
use crate::ids::{META_RANGE, RangeId};
use crate::level::Level;
use crate::load::Load;
use crate::measure::Measure;
use crate::message::{MetaRequest, RangeRequest};
use crate::read::{Origin, ReadTask, ReadWork};
use crate::state::Mutation;
use bytes::Bytes;

/// A range is measured again when it was written to by this part of what it may hold.
const MEASURE_PART: u64 = 8;
/// After this, a measurement or a cut that nothing was heard of counts as failed.
const GIVE_UP_MS: Millis = 60_000;
/// A cut that was refused or found nothing to cut is not tried again for so long.
const PAUSE_MS: Millis = 5_000;

/// What a replica knows of the size of its range.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    /// Bytes applied since the last measurement.
    pub written: u64,
    /// Bytes of live data, when measured last, with what was written since.
    pub size: Option<u64>,
    /// Nothing more is undertaken before this time.
    pub(super) busy_until: Millis,
    /// What is asked of it.
    pub load: Load,
}

impl Growth {
    /// Changes were applied.
    pub fn applied(&mut self, mutations: &[Mutation]) {
        let bytes: usize = mutations
            .iter()
            .map(|change| change.key.len() + change.version.value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.written += bytes as u64;
    }

    /// It is being measured or cut: nothing else is begun meanwhile.
    pub(super) fn begin(&mut self, now: Millis) {
        self.busy_until = now + GIVE_UP_MS;
    }

    /// The range is another one now.
    pub fn cut(&mut self) {
        *self = Self::default();
    }
}

impl Node {
    /// Looks for ranges that may have grown too large.
    pub(super) fn splitting_tick(&mut self) {
        let limit = self.config.split_bytes;
        if limit == 0 {
            return;
        }
        let now = self.now;
        // A range that grows does not sleep.
        for range in &self.awake {
            let Some(replica) = self.replicas.get_mut(range) else { continue };
            if *range == META_RANGE
                || replica.growth.written < limit.div_ceil(MEASURE_PART)
                || now < replica.growth.busy_until
                || !replica.holds_lease()
            {
                continue;
            }
            let Some(descriptor) = &replica.descriptor else { continue };
            replica.growth.begin(now);
            replica.growth.written = 0;
            let (span, generation) = (descriptor.span.clone(), descriptor.generation);
            let work = ReadWork::Measure { range: *range, generation, span };
            self.effects.reads.push(ReadTask { origin: Origin::None, work });
        }
    }

    pub(super) fn measured(&mut self, range: RangeId, generation: u64, measure: Measure) {
        let (now, limit) = (self.now, self.config.split_bytes);
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        let current = replica.descriptor.as_ref().is_some_and(|own| own.generation == generation);
        if !current {
            replica.growth.busy_until = now;
            return;
        }
        replica.growth.size = Some(measure.bytes);
        let too_large = limit > 0 && measure.bytes > limit && replica.holds_lease();
        let Some(key) = measure.middle.filter(|_| too_large) else {
            replica.growth.busy_until = now + PAUSE_MS;
            return;
        };
        self.internal_request(
            Owner::Cut(range, key, Reason::Size),
            META_RANGE,
            RangeRequest::Meta(self.allocate_cut()),
        );
    }

    /// Asks for the id of a range that is cut off by itself; older versions do not know that such cuts
    /// are told from others.
    fn allocate_cut(&self) -> MetaRequest {
        if self.meta.level() < Level::SHAPING {
            MetaRequest::AllocateRange
        } else {
            MetaRequest::AllocateCut
        }
    }

    /// There is an id for the new range.
    pub(super) fn cut_at(&mut self, range: RangeId, key: Bytes, child: RangeId, why: Reason) {
        self.internal_request(Owner::CutAt(range, why), range, RangeRequest::Split { key, child });
    }

    /// A cut happened.
    pub(super) fn cut_done(&mut self, why: Reason) {
        match why {
            Reason::Size => self.counters.cuts_by_size += 1,
            Reason::Load => self.counters.cuts_by_load += 1,
        }
    }

    /// A cut ended, one way or the other: if the range is still too large, it is looked at again.
    pub(super) fn cut_ended(&mut self, range: RangeId) {
        let (now, limit) = (self.now, self.config.split_bytes);
        if let Some(replica) = self.replicas.get_mut(&range) {
            replica.growth.busy_until = now + PAUSE_MS;
            replica.growth.written = limit;
        }
    }
}
