//! The start of a cluster: every node computes the same initial ranges and writes its part.
//!
//! Invariant: a pure function of its arguments; the logs start after position [`START`], so that a
//! replica with an empty log always needs a raft snapshot and never guesses the initial state.

use crate::descriptor::{NodeRecord, RangeDescriptor, ReplicaDescriptor, ReplicaKind};
use crate::effects::{LogWrite, Persist};
use crate::ids::{META_RANGE, NodeId, RangeId, ReplicaId};
use crate::key::Span;
use crate::meta::MetaState;
use crate::replica::Replica;
use crate::state::{Applied, ApplyBatch};
use bytes::Bytes;
use raft::eraftpb::HardState;

/// Where every log starts.
pub const START: Applied = Applied { index: 5, term: 5 };

/// Voters of the meta range at most, unless ranges have more copies; further nodes get learners.
pub const META_VOTERS_MAX: usize = 5;

/// Copies of a range at most: more would slow down every write for failures that never come together.
pub const REPLICAS_MAX: usize = 7;

/// Does this number of copies make sense with so many nodes?
///
/// # Errors
/// One line: the rule that it breaks, to follow the name of the flag.
pub fn check_replicas(replicas: usize, nodes: usize) -> Result<(), String> {
    if replicas.is_multiple_of(2) {
        return Err(format!(
            "{replicas} must be odd: an even number tolerates no more failures than one less"
        ));
    }
    if replicas > REPLICAS_MAX {
        return Err(format!(
            "{replicas} must be at most {REPLICAS_MAX}, which survives {} failures at once",
            REPLICAS_MAX / 2
        ));
    }
    if replicas > nodes {
        return Err(format!(
            "{replicas} is more than the {nodes} nodes that form the cluster: each copy needs its own"
        ));
    }
    Ok(())
}

/// What a new cluster looks like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster's identity.
    pub cluster: u64,
    /// All nodes, ids from 1.
    pub nodes: Vec<NodeRecord>,
    /// Copies of each range.
    pub replicas: usize,
    /// Where the first ranges are cut, in any order.
    pub split_keys: Vec<Bytes>,
}

impl Plan {
    /// The initial ranges: the meta range, then the user key space.
    pub fn ranges(&self) -> Vec<RangeDescriptor> {
        let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let meta_replicas = nodes
            .iter()
            .enumerate()
            .map(|(place, node)| ReplicaDescriptor {
                replica: ReplicaId(place as u64 + 1),
                node: *node,
                kind: if place < meta_voters(nodes.len(), self.replicas) {
                    ReplicaKind::Voter
                } else {
                    ReplicaKind::Learner
                },
            })
            .collect();
        let mut ranges = vec![RangeDescriptor {
            id: META_RANGE,
            span: Span { start: Bytes::new(), end: Some(Bytes::new()) },
            generation: 1,
            replicas: meta_replicas,
            next_replica: nodes.len() as u64 + 1,
        }];
        let mut keys: Vec<Bytes> =
            self.split_keys.iter().filter(|key| !key.is_empty()).cloned().collect();
        keys.sort();
        keys.dedup();
        let starts = std::iter::once(Bytes::new()).chain(keys.iter().cloned());
        let ends = keys.iter().cloned().map(Some).chain([None]);
        let copies = self.replicas.min(nodes.len());
        for (place, (start, end)) in starts.zip(ends).enumerate() {
            // Ranks rotate, so that leaders are spread evenly; the second range starts at the
            // second node, and the first shares the sequencer's.
            let replicas = (0..copies)
                .map(|rank| ReplicaDescriptor {
                    replica: ReplicaId(rank as u64 + 1),
                    node: nodes[(place + rank) % nodes.len()],
                    kind: ReplicaKind::Voter,
                })
                .collect();
            ranges.push(RangeDescriptor {
                id: RangeId(place as u64 + 2),
                span: Span { start, end },
                generation: 1,
                replicas,
                next_replica: copies as u64 + 1,
            });
        }
        ranges
    }

    /// What `node` has to write before its first start.
    pub fn initial_state(&self, node: NodeId) -> (Persist, Vec<ApplyBatch>) {
        let ranges = self.ranges();
        let mut persist = Persist { sequence: 0, sync: true, writes: Vec::new() };
        let mut batches = Vec::new();
        for range in ranges.iter().filter(|range| range.replica_on(node).is_some()) {
            persist.writes.push(initial_log(range.id, HardState::default()));
            let mut system = Replica::initial_rows(range);
            if range.id == META_RANGE {
                let meta = MetaState::initial(self.cluster, self.nodes.clone(), ranges.clone());
                system.extend(meta.all_rows());
            }
            batches.push(ApplyBatch {
                range: range.id,
                applied: START,
                mutations: Vec::new(),
                system,
            });
        }
        (persist, batches)
    }
}

/// How many of `nodes` vote in the meta range: an odd number, so that none is in vain, and as many as
/// ranges have copies at least, since no range serves without the meta range.
pub fn meta_voters(nodes: usize, copies: usize) -> usize {
    let voters = nodes.min(META_VOTERS_MAX.max(copies));
    if voters.is_multiple_of(2) && voters > 2 { voters - 1 } else { voters }
}

/// The log of a range that starts now. A vote given before by this replica is kept.
pub fn initial_log(range: RangeId, before: HardState) -> LogWrite {
    LogWrite {
        range,
        entries: Vec::new(),
        hard_state: Some(initial_hard_state(before)),
        truncate: Some(START),
        destroy: false,
        removed: None,
    }
}

/// The hard state of a range that starts now.
pub fn initial_hard_state(before: HardState) -> HardState {
    let mut hard_state = before;
    if hard_state.term < START.term {
        hard_state.term = START.term;
        hard_state.vote = 0;
    }
    hard_state.commit = START.index;
    hard_state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_range_survives_what_every_range_survives() {
        let voters =
            [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 3), (9, 5), (7, 7), (9, 7), (5, 7)];
        let voters = voters.map(|(nodes, copies)| meta_voters(nodes, copies));
        assert_eq!(voters, [1, 2, 3, 3, 5, 5, 5, 7, 7, 5]);
    }

    #[test]
    fn copies_that_make_no_sense_are_refused_with_the_rule() {
        for replicas in [1, 3, 5, 7] {
            assert_eq!(check_replicas(replicas, 7), Ok(()));
        }
        for (replicas, nodes, part) in [
            (0, 3, "odd"),
            (2, 3, "odd"),
            (9, 11, "at most 7"),
            (3, 2, "more than the 2 nodes"),
            (5, 3, "more than the 3 nodes"),
        ] {
            let why = check_replicas(replicas, nodes).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
