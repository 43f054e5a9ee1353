//! Ranges that have fewer copies than they are to have get more, one at a time.
//!
//! Invariant: a copy counts only once it has the data; one that is begun goes on before another one
//! begins. A range that grows from one copy to three has two for a while, and then needs both.

use super::Node;
use super::members::{Load, Step};
use super::routing::Owner;
use crate::descriptor::{RangeDescriptor, ReplicaDescriptor};
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

    /// The next step towards the copies that a range lacks, if it lacks any.
    pub(super) fn grow(
        &self,
        range: &RangeDescriptor,
        begun: Option<ReplicaDescriptor>,
        load: &mut Load,
    ) -> Option<Step> {
        if range.voters().count() >= self.meta.wanted(range.id) {
            return None;
        }
        let target = match begun {
            Some(begun) => begun.node,
            None => {
                let free = load.free(range)?;
                load.add(free);
                free
            }
        };
        let generation = range.generation;
        Some(Step { range: range.id, add: Some(target), remove: None, generation })
    }
}
