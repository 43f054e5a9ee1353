//! A replica's part in a change of ranks: who of the members should lead.
//!
//! Invariant: only the order of the members in the descriptor changes, and its generation.

use super::{AppliedEntries, Replica, descriptor_row};
use crate::ids::ReplicaId;
use std::sync::Arc;

impl Replica {
    pub(super) fn apply_rank(
        &mut self,
        generation: u64,
        first: ReplicaId,
        done: &mut AppliedEntries,
    ) {
        if self.intent.is_some() || self.merging.frozen.is_some() {
            return;
        }
        let Some(descriptor) = self.descriptor.as_mut().map(Arc::make_mut) else { return };
        let place = descriptor.replicas.iter().position(|replica| replica.replica == first);
        let Some(place) = place.filter(|_| descriptor.generation == generation) else { return };
        descriptor.generation += 1;
        descriptor.replicas[..=place].rotate_right(1);
        done.changed = true;
        done.batch.system.push(descriptor_row(descriptor));
    }
}
