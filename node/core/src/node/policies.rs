//! Cutting ranges where placement policies begin and end.
//!
//! The meta range's leader looks, and cuts by the ordinary means. Nothing is remembered but when it asked
//! last, so a crash at any point costs at most that it asks again.

use super::Node;
use super::routing::{Owner, Place};
use crate::effects::Millis;
use crate::ids::{META_RANGE, RangeId};
use crate::message::{MetaRequest, RangeRequest};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A cut that was asked for is not asked for again for so long.
const PAUSE_MS: Millis = 2_000;
/// A cut that was not made by then is given up, and asked for anew.
const GIVE_UP_MS: Millis = 5_000;

impl Node {
    /// Asks for the cuts that policies need, one of a range at a time.
    pub(super) fn cut_at_bounds(&mut self) {
        let now = self.now;
        let bounds = self.meta.policies().bounds();
        self.bounds_asked.retain(|key, at| *at + PAUSE_MS > now && bounds.contains(key));
        let mut busy: BTreeSet<RangeId> = BTreeSet::new();
        for key in self.bounds_asked.keys() {
            busy.extend(self.meta.range_of(key).map(|range| range.id));
        }
        for key in bounds {
            let Some(range) = self.meta.range_of(&key) else { continue };
            if range.span.start == key || !busy.insert(range.id) {
                continue;
            }
            self.bounds_asked.insert(key.clone(), now);
            let body = RangeRequest::Meta(MetaRequest::AllocateRange);
            self.internal_request(Owner::Bound(key), META_RANGE, body);
        }
    }

    /// There is an id for the new range.
    pub(super) fn cut_at_bound(&mut self, key: Bytes, child: RangeId) {
        let body = RangeRequest::Split { key: key.clone(), child };
        let deadline = self.now + GIVE_UP_MS;
        let sequence = self.enqueue(Owner::Nobody, Place::Key(key), body, deadline);
        self.dispatch_remote_or_loop(sequence);
    }
}
