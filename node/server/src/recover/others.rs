//! What the other nodes say about ranges that are to be recovered from one node's disk.
//!
//! Invariant: nothing is recovered that somebody serves, that has a majority, or that another node
//! knows more of.

use crate::gateway::View;
use holdfast_core::descriptor::NodeState;
use holdfast_core::ids::{META_RANGE, NodeId, RangeId};
use holdfast_core::status::Status;
use std::collections::BTreeMap;

/// Why these ranges must not be recovered on the stopped node, as whose disk says `own`; `None` if
/// nothing speaks against it. `others`: what each other node says that answers.
pub fn objection(
    own: &Status,
    ranges: &[RangeId],
    others: &BTreeMap<NodeId, View>,
) -> Option<String> {
    let me = own.node;
    let there = |node: NodeId| node == me || others.contains_key(&node);
    let meta = own.ranges.iter().find(|range| range.descriptor.id == META_RANGE);
    let voters = meta.map(|meta| meta.descriptor.voters().filter(|voter| there(voter.node)));
    let there_of_meta = voters.map_or(0, Iterator::count);
    if meta.is_none_or(|meta| there_of_meta < meta.descriptor.quorum()) {
        return Some(format!(
            "only {there_of_meta} nodes that vote in the meta range are left: it has no majority \
             either. Start what is left, or recover the whole cluster (without --range)"
        ));
    }
    for range in ranges {
        let Some(known) = own.ranges.iter().find(|known| known.descriptor.id == *range) else {
            return Some(format!("there is no range {range}"));
        };
        let known = &known.descriptor;
        let mut counts = 0;
        for (node, view) in others {
            let copy = view.replicas.iter().find(|copy| copy.descriptor.id == *range);
            if copy.is_some_and(|copy| copy.leaseholder) {
                return Some(format!("{node} serves {range}: it has its majority"));
            }
            let told = view.directory.iter().chain(copy.map(|copy| &copy.descriptor));
            let told: Vec<_> = told.collect();
            let newer =
                told.iter().any(|told| told.id == *range && told.generation > known.generation);
            let unknown = told.iter().any(|told| {
                told.id != META_RANGE
                    && told.span.overlaps(&known.span)
                    && own.ranges.iter().all(|mine| mine.descriptor.id != told.id)
            });
            if unknown || newer {
                return Some(format!(
                    "{node} knows more of {range} than this disk: start this node, wait a minute, stop it"
                ));
            }
            counts += usize::from(known.voters().any(|voter| voter.node == *node));
            let mine = own.replicas.iter().find(|mine| mine.range == *range);
            let here = mine.map_or(0, |mine| mine.last_index);
            if let Some(copy) = copy.filter(|copy| copy.applied > here) {
                return Some(format!(
                    "{node} has more of {range}: entry {}, here it is {here}. Recover it there",
                    copy.applied
                ));
            }
        }
        counts += usize::from(known.voters().any(|voter| voter.node == me));
        if counts >= known.quorum() {
            return Some(format!(
                "{counts} of {} copies of {range} are there, with this node: that is a majority. Start it",
                known.voters().count()
            ));
        }
    }
    None
}

/// Nodes that are not gone for good, but this one, with their peer addresses.
pub fn addresses(own: &Status) -> Vec<(NodeId, String)> {
    let others = own
        .nodes
        .iter()
        .filter(|record| record.id != own.node && record.state != NodeState::Tombstoned);
    others.map(|record| (record.id, record.peer_address.clone())).collect()
}

#[cfg(test)]
mod tests;
