//! What a client is told of is durable on a majority at that moment: every revision that an answer
//! names is looked for on the disks.

use super::{Invariant, Nodes, Sight};
use holdfast_core::command::Entry;
use holdfast_core::effects::LogReads;
use holdfast_core::ids::{Index, RangeId, Revision, Term};
use holdfast_core::replica::merging::absorbed_in;
use std::collections::{BTreeMap, BTreeSet};

/// Where each revision is in a log.
#[derive(Debug)]
pub struct QuorumDurable {
    quorum: usize,
    places: BTreeMap<Revision, (RangeId, Index, Term)>,
    looked: BTreeMap<RangeId, Index>,
    /// Ranges that another took in: every replica had all of their logs, and they go.
    merged: BTreeSet<RangeId>,
    /// Found durable before: what is durable stays so, or log matching fails.
    settled: BTreeSet<Revision>,
}

impl QuorumDurable {
    /// For ranges with so many copies.
    pub fn new(copies: usize) -> Self {
        Self {
            quorum: copies / 2 + 1,
            places: BTreeMap::new(),
            looked: BTreeMap::new(),
            merged: BTreeSet::new(),
            settled: BTreeSet::new(),
        }
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
                let log = &nodes[node].log;
                self.merged.extend(batch.system.iter().flat_map(absorbed_in));
                for entry in log.entries(batch.range, from, batch.applied.index + 1, u64::MAX) {
                    let Ok(Entry::Commands(commands)) = Entry::decode(&entry.data) else {
                        continue;
                    };
                    for command in commands {
                        self.places
                            .insert(command.revision, (batch.range, entry.index, entry.term));
                    }
                }
                Ok(())
            }
            Sight::Replied { node, result: Ok(response) } => {
                let Some(revision) = crate::oracle::header(response) else { return Ok(()) };
                let Some((range, index, term)) = self.places.get(&revision).copied() else {
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
                if holders < self.quorum {
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
