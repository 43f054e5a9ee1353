//! Ranges that were recovered from their last copies are to have as many as before; the planner sees to
//! it, as to what policies say, whichever is more.
//!
//! Invariant: the directory is told by the range, which remembers it, until it knows.

use super::Node;
use super::routing::Owner;
use crate::ids::{META_RANGE, RangeId};
use crate::message::{MetaRequest, RangeRequest};

impl Node {
    /// Ranges led here that were recovered from their last copies: the directory is told how many they
    /// had, until it knows.
    pub(super) fn want_copies(&mut self) {
        let led = self.replicas.values().filter(|replica| replica.holds_lease());
        let wants: Vec<(RangeId, u64)> = led
            .filter_map(|replica| Some((replica.range, replica.wanted?)))
            .filter(|(range, _)| self.meta.wanted(*range) == 0)
            .collect();
        for (range, copies) in wants {
            let body = RangeRequest::Meta(MetaRequest::Want { range, copies });
            self.internal_request(Owner::Nobody, META_RANGE, body);
        }
    }
}
