//! What nodes apply at an index of a range is the same entry everywhere (Raft, figure 3: State
//! Machine Safety), and it is on the node's own disk by then.

use super::{Invariant, Nodes, Sight};
use holdfast_core::effects::LogReads;
use holdfast_core::ids::{Index, NodeId, RangeId, Term};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// Entries applied so far, by place.
#[derive(Debug, Default)]
pub struct LogMatching {
    applied: BTreeMap<(RangeId, Index), (Term, u64, NodeId)>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        let Sight::Applying { node, batch } = sight else { return Ok(()) };
        let range = batch.range;
        let Some(before) = nodes[node].state.memory().applied(range) else { return Ok(()) };
        if batch.applied.index < before.index {
            return Err(format!("{node} goes back from {before:?} to {:?}", batch.applied));
        }
        let entries =
            nodes[node].log.entries(range, before.index + 1, batch.applied.index + 1, u64::MAX);
        for entry in entries {
            let mut hasher = DefaultHasher::new();
            entry.data.hash(&mut hasher);
            let seen = (entry.term, hasher.finish(), *node);
            let first = *self.applied.entry((range, entry.index)).or_insert(seen);
            if (first.0, first.1) != (seen.0, seen.1) {
                return Err(format!(
                    "{range} index {} is of term {} on {} and of term {} on {node}",
                    entry.index, first.0, first.2, entry.term
                ));
            }
        }
        Ok(())
    }
}
