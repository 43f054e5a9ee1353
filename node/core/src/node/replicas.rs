//! The replicas of a node, by their range.
//!
//! Each is in a box of its own: a replica is large, and a map keeps room for more entries than it
//! has, which with thousands of ranges would be as much memory again as half of them take.

use crate::ids::RangeId;
use crate::replica::Replica;
use std::collections::BTreeMap;

/// A node's replicas in the order of their ranges' ids.
#[derive(Default)]
pub struct Replicas(BTreeMap<RangeId, Box<Replica>>);

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the methods of a map, as it has them")]
impl Replicas {
    /// The replica of a range.
    pub fn get(&self, range: &RangeId) -> Option<&Replica> {
        self.0.get(range).map(Box::as_ref)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, range: &RangeId) -> Option<&mut Replica> {
        self.0.get_mut(range).map(Box::as_mut)
    }

    /// Whether the range has a replica here.
    pub fn contains_key(&self, range: &RangeId) -> bool {
        self.0.contains_key(range)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the replica of a range, in place of an earlier one.
    pub fn insert(&mut self, range: RangeId, replica: Replica) {
        self.0.insert(range, Box::new(replica));
    }

    /// Takes a replica out.
    pub fn remove(&mut self, range: &RangeId) -> Option<Replica> {
        self.0.remove(range).map(|replica| *replica)
    }

    /// The ranges that have a replica here.
    pub fn keys(&self) -> impl Iterator<Item = &RangeId> {
        self.0.keys()
    }

    /// All replicas.
    pub fn values(&self) -> impl Iterator<Item = &Replica> {
        self.0.values().map(Box::as_ref)
    }

    /// All replicas, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.0.values_mut().map(Box::as_mut)
    }

    /// All ranges with their replicas.
    pub fn iter(&self) -> impl Iterator<Item = (&RangeId, &Replica)> {
        self.0.iter().map(|(range, replica)| (range, replica.as_ref()))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&RangeId, &mut Replica)> {
        self.0.iter_mut().map(|(range, replica)| (range, replica.as_mut()))
    }
}
