//! Consistency checks: do the replicas of a range hold the same?
//!
//! ```text
//!  leader: checkpoint into the log ─► every replica, where it applies it: hash ─► leader: compare
//! ```
//!
//! Invariants: a checkpoint changes nothing. What is hashed is the same on all replicas whatever each
//! has flushed, pruned or applied since: changes at or below a revision below which the range was
//! complete before the checkpoint, without those that a compaction at or below it hides. What cannot
//! be known (no answer, history that is gone) is never taken for a difference.

use crate::descriptor::{ReplicaDescriptor, ReplicaKind};
use crate::ids::{Index, NodeId, RangeId, ReplicaId, RequestId, Revision};
use crate::key::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How hashes are made. Those of two formats say nothing about each other.
pub const FORMAT: u8 = 1;

/// In the log of a range: every replica hashes what it has here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Names the check.
    pub id: RequestId,
    /// The node that compares.
    pub leader: NodeId,
    /// The range is complete up to here: what is newer is not hashed.
    pub revision: Revision,
    /// What a compaction at this revision hides is not hashed; at most `revision`.
    pub compacted: Revision,
}

/// What one replica is to hash. The edge keeps the history above `compacted` from the moment at
/// which it gets this until it has hashed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTask {
    /// The range.
    pub range: RangeId,
    /// The replica.
    pub replica: ReplicaId,
    /// Where the checkpoint is in the log.
    pub index: Index,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The keys of the range at the checkpoint.
    pub span: Span,
    /// Hash of what the range knows besides keys: descriptor, requests carried out, and the whole
    /// directory of the meta range.
    pub bookkeeping: u64,
}

impl HashTask {
    /// The message to the node that compares.
    pub fn found(&self, finding: Finding) -> Found {
        Found { range: self.range, replica: self.replica, id: self.checkpoint.id, finding }
    }
}

/// What a replica says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The range.
    pub range: RangeId,
    /// The replica.
    pub replica: ReplicaId,
    /// Names the check.
    pub id: RequestId,
    /// What it found.
    pub finding: Finding,
}

/// What one replica found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// It has begun, and will say more.
    Working,
    /// The hashes.
    Hash {
        /// See [`FORMAT`].
        format: u8,
        /// Of all changes.
        keys: u64,
        /// Of everything else; see [`HashTask::bookkeeping`].
        bookkeeping: u64,
    },
    /// History up to here is gone already: a checkpoint must not want more.
    Pruned(Revision),
    /// The replica was replaced or removed meanwhile, or its node has too much to do.
    Disturbed,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every voter has answered, and all have the same.
    Equal,
    /// These differ from the majority of those that answered; or all that answered, if there is
    /// no majority.
    Diverged(Vec<ReplicaDescriptor>),
    /// Those that answered have the same; some voter has not.
    Incomplete,
}

/// A finished check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The range.
    pub range: RangeId,
    /// Where in the log.
    pub index: Index,
    /// Changes up to here were hashed.
    pub revision: Revision,
    /// How it ended.
    pub verdict: Verdict,
    /// Every replica at the checkpoint, with what it said.
    pub replicas: Vec<(ReplicaDescriptor, Option<Finding>)>,
}

/// Replicas that differ, as the meta range remembers them until a check finds that they do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The range.
    pub range: RangeId,
    /// Where in its log.
    pub index: Index,
    /// Changes up to here were hashed.
    pub revision: Revision,
    /// Replicas that differ from the majority; all that answered if there is none. Empty: all
    /// voters have the same.
    pub replicas: Vec<ReplicaDescriptor>,
}

/// Compares what the replicas of a range said.
pub fn compare(replicas: &[ReplicaDescriptor], said: &BTreeMap<ReplicaId, Finding>) -> Verdict {
    let hash_of = |replica: &ReplicaDescriptor| match said.get(&replica.replica) {
        Some(Finding::Hash { format: FORMAT, keys, bookkeeping }) => Some((*keys, *bookkeeping)),
        _ => None,
    };
    let mut groups: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for hash in replicas.iter().filter_map(hash_of) {
        *groups.entry(hash).or_default() += 1;
    }
    let answers: usize = groups.values().sum();
    if groups.len() > 1 {
        let most = groups.iter().find(|(_, count)| **count * 2 > answers).map(|(hash, _)| *hash);
        let differs =
            |replica: &&ReplicaDescriptor| hash_of(replica).is_some_and(|hash| Some(hash) != most);
        return Verdict::Diverged(replicas.iter().filter(differs).copied().collect());
    }
    let mut voters = replicas.iter().filter(|replica| replica.kind == ReplicaKind::Voter);
    if voters.all(|voter| hash_of(voter).is_some()) { Verdict::Equal } else { Verdict::Incomplete }
}

/// A hash of numbers and byte strings that is the same in every version of this program, since
/// nodes of two versions are compared during an upgrade. Against accidents, not against attackers.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x5851_f42d_4c95_7f2d)
    }
}

impl Fingerprint {
    /// Takes a number in.
    pub fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    /// Takes a byte string in.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.number(u64::from_le_bytes(word));
        }
    }

    /// Takes plain data in, as it is encoded.
    pub fn value<T: Serialize>(&mut self, value: &T) {
        self.bytes(&postcard::to_stdvec(value).expect("plain data can be encoded"));
    }

    /// The hash.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        self.number(0);
        self.number(0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: u64, kind: ReplicaKind) -> ReplicaDescriptor {
        ReplicaDescriptor { replica: ReplicaId(id), node: NodeId(10 + id), kind }
    }

    fn hash(keys: u64) -> Finding {
        Finding::Hash { format: FORMAT, keys, bookkeeping: 1 }
    }

    #[test]
    fn the_minority_differs_and_silence_says_nothing() {
        use Finding::{Disturbed, Pruned, Working};
        let other = Finding::Hash { format: FORMAT + 1, keys: 9, bookkeeping: 9 };
        let rows = Finding::Hash { format: FORMAT, keys: 7, bookkeeping: 2 };
        for (said, wanted) in [
            (vec![Some(hash(7)), Some(hash(7)), Some(hash(7))], Ok(vec![])),
            (vec![Some(hash(7)), Some(hash(8)), Some(hash(7))], Ok(vec![2])),
            (vec![Some(hash(7)), Some(rows), Some(hash(7))], Ok(vec![2])),
            (vec![Some(hash(7)), Some(hash(8)), Some(hash(9))], Ok(vec![1, 2, 3])),
            (vec![Some(hash(7)), Some(hash(8)), None], Ok(vec![1, 2])),
            (vec![Some(hash(7)), Some(hash(7)), None], Err(())),
            (vec![Some(hash(7)), Some(hash(7)), Some(Pruned(4))], Err(())),
            (vec![Some(hash(7)), Some(Working), Some(Disturbed)], Err(())),
            (vec![Some(hash(7)), Some(hash(7)), Some(other)], Err(())),
            (vec![None, None, None], Err(())),
        ] {
            let replicas: Vec<_> = (1..=3).map(|id| replica(id, ReplicaKind::Voter)).collect();
            let answers =
                said.iter().zip(1..).filter_map(|(one, id)| Some((ReplicaId(id), (*one)?)));
            let verdict = compare(&replicas, &answers.collect());
            let wanted = match wanted {
                Ok(differ) if differ.is_empty() => Verdict::Equal,
                Ok(differ) => Verdict::Diverged(
                    differ.into_iter().map(|id| replica(id, ReplicaKind::Voter)).collect(),
                ),
                Err(()) => Verdict::Incomplete,
            };
            assert_eq!(verdict, wanted, "{said:?}");
        }
    }

    #[test]
    fn a_learner_is_compared_and_not_waited_for() {
        let replicas = [replica(1, ReplicaKind::Voter), replica(2, ReplicaKind::Learner)];
        let mut said = BTreeMap::from([(ReplicaId(1), hash(7))]);
        assert_eq!(compare(&replicas, &said), Verdict::Equal);
        said.insert(ReplicaId(2), hash(8));
        assert_eq!(compare(&replicas, &said), Verdict::Diverged(replicas.to_vec()));
    }
}
