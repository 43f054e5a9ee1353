//! Replicas that have applied the same index have the same state (Raft, figure 3: State Machine
//! Safety), the range's own rows included.

use super::{Invariant, Nodes, Sight};
use crate::world::SimNode;
use holdfast_core::ids::{Index, NodeId, RangeId};
use holdfast_core::state::StateReads;
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Rows are compared at every so-manieth index: they are many.
const ROWS_EVERY: Index = 8;

/// Fingerprints by place.
#[derive(Debug, Default)]
pub struct StatesAgree {
    seen: BTreeMap<(RangeId, Index), (u64, NodeId)>,
    rows: BTreeMap<(RangeId, Index), (u64, NodeId)>,
}

/// A fingerprint of a range's own rows on a node.
pub fn rows_of(node: &SimNode, range: RangeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.state.system_rows(range).hash(&mut hasher);
    hasher.finish()
}

impl Invariant for StatesAgree {
    fn name(&self) -> &'static str {
        "states agree"
    }

    fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        let Sight::Applied { node, range } = sight else { return Ok(()) };
        let files = nodes[node].state.memory();
        let Some(applied) = files.applied(*range) else { return Ok(()) };
        let place = (*range, applied.index);
        let digest = files.digest(*range);
        let first = *self.seen.entry(place).or_insert((digest, *node));
        if first.0 != digest {
            return Err(format!("{range} at {} differs on {} and {node}", applied.index, first.1));
        }
        if applied.index.is_multiple_of(ROWS_EVERY) {
            let rows = rows_of(&nodes[node], *range);
            let first = *self.rows.entry(place).or_insert((rows, *node));
            if first.0 != rows {
                return Err(format!(
                    "rows of {range} at {} differ on {} and {node}",
                    applied.index, first.1
                ));
            }
        }
        Ok(())
    }
}
