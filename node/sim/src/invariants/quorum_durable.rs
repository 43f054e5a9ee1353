//! What a client is told of is durable on a majority at that moment: every revision that an answer
//! names is looked for on the disks.

use super::{Invariant, Nodes, Sight};
use holdfast_core::command::Entry;
use holdfast_core::descriptor::RangeDescriptor;
use holdfast_core::effects::LogReads;
use holdfast_core::ids::{Index, NodeId, RangeId, Revision, Term};
use holdfast_core::replica::DESCRIPTOR_ROW;
use holdfast_core::replica::merging::absorbed_in;
use holdfast_core::state::{ApplyBatch, StateReads};
use std::collections::{BTreeMap, BTreeSet};

/// Where each revision is in a log.
#[derive(Debug, Default)]
pub struct QuorumDurable {
    /// With the smallest majority that the range's copies have had since.
    places: BTreeMap<Revision, (RangeId, Index, Term, usize)>,
    looked: BTreeMap<RangeId, Index>,
    /// Ranges that another took in: every replica had all of their logs, and they go.
    merged: BTreeSet<RangeId>,
    /// Found durable before: what is durable stays so, or log matching fails.
    settled: BTreeSet<Revision>,
}

impl QuorumDurable {
    /// The smallest majority of a range's copies before and after a batch: members may change in it.
    fn quorum(nodes: &Nodes, node: NodeId, batch: &ApplyBatch) -> usize {
        let read = |value: &[u8]| {
            let descriptor: RangeDescriptor =
                postcard::from_bytes(value).expect("what was written can be read");
            descriptor.quorum()
        };
        let rows = nodes[&node].state.system_rows(batch.range);
        let before = rows.iter().find(|(key, _)| key.as_ref() == DESCRIPTOR_ROW);
        let after = batch.system.iter().filter(|row| row.key.as_ref() == DESCRIPTOR_ROW);
        let after = after.filter_map(|row| row.value.as_deref());
        let all = before.map(|(_, value)| value.as_ref()).into_iter().chain(after);
        all.map(read).min().unwrap_or(1)
    }
}

impl Invariant for QuorumDurable {
    fn name(&self) -> &'static str {
        "quorum durable"
    }

    fn see(&mut self, nodes: &Nodes, sight: &Sight<'_>) -> Result<(), String> {
        match sight {
            Sight::Applying { node, batch } => {
                let Some(before) = nodes[node].state.memory().applied(batch.range) else {
                    return Ok(());
                };
                let looked = self.looked.entry(batch.range).or_default();
                let from = before.index.max(*looked) + 1;
                if from > batch.applied.index {
                    return Ok(());
                }
                *looked = batch.applied.index;
                let quorum = Self::quorum(nodes, *node, batch);
                let log = &nodes[node].log;
                self.merged.extend(batch.system.iter().flat_map(absorbed_in));
                if batch.system.iter().any(|row| row.key.as_ref() == DESCRIPTOR_ROW) {
                    // Who is a member no more need not keep what was written before: a majority of
                    // the others had it before they could agree on that.
                    let earlier = self.places.values_mut().filter(|place| place.0 == batch.range);
                    earlier.for_each(|place| place.3 = place.3.min(quorum));
                }
                for entry in log.entries(batch.range, from, batch.applied.index + 1, u64::MAX) {
                    let Ok(Entry::Commands(commands)) = Entry::decode(&entry.data) else {
                        continue;
                    };
                    for command in commands {
                        self.places.insert(
                            command.revision,
                            (batch.range, entry.index, entry.term, quorum),
                        );
                    }
                }
                Ok(())
            }
            Sight::Replied { node, result: Ok(response) } => {
                let Some(revision) = crate::oracle::header(response) else { return Ok(()) };
                let Some((range, index, term, quorum)) = self.places.get(&revision).copied() else {
                    return Ok(());
                };
                if self.settled.contains(&revision) || self.merged.contains(&range) {
                    return Ok(());
                }
                let holders = nodes
                    .values()
                    .filter(|holder| {
                        let applied = holder.state.durable().applied(range);
                        applied.is_some_and(|applied| applied.index >= index)
                            || holder.log.durable(|logs| {
                                logs.range(range).is_some_and(|log| log.holds(index, term))
                            })
                    })
                    .count();
                if holders < quorum {
                    return Err(format!(
                        "{node} answers with {revision} ({range} index {index} term {term}), \
                         durable on {holders} only"
                    ));
                }
                self.settled.insert(revision);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
