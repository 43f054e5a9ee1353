//! What is left of making copies: for nodes that are to lose theirs, and for learners.
//!
//! Invariant: a range whose size nobody has measured counts as one of the usual size, so that what is
//! told is about right and never nothing while a copy is missing.

use super::super::progress::Left;
use super::{Cluster, Range};
use holdfast_core::descriptor::ReplicaKind;
use holdfast_core::ids::META_RANGE;

impl Cluster {
    /// Ranges that are to get copies, and the bytes of these.
    pub(in super::super) fn left(&self) -> Left {
        let ranges = self.ranges.iter().filter(|range| self.copies_to_make(range) > 0);
        ranges.fold(Left::default(), |left, range| Left {
            ranges: left.ranges + 1,
            bytes: left.bytes + self.bytes_remaining(range),
        })
    }

    /// About how many bytes the copies of a range still lack.
    pub(super) fn bytes_remaining(&self, range: &Range) -> u64 {
        let view = range.leaseholder.as_ref().map(|(_, view)| view);
        let copies = self.copies_to_make(range) as u64;
        if copies == 0 {
            return view.map_or(0, |view| view.bytes_remaining);
        }
        let size = view.and_then(|view| view.size).unwrap_or_else(|| self.usual_size());
        (copies * size).saturating_sub(view.map_or(0, |view| view.sent))
    }

    /// Copies that are under way, or are to be made and have a place.
    fn copies_to_make(&self, range: &Range) -> usize {
        let descriptor = &range.descriptor;
        let learners =
            descriptor.replicas.iter().filter(|replica| replica.kind == ReplicaKind::Learner);
        let lost = if descriptor.id != META_RANGE && self.is_moving(range) {
            let losing = self.nodes.iter().filter(|node| node.state.loses_replicas());
            losing.filter(|node| descriptor.replica_on(node.id).is_some()).count()
        } else {
            0
        };
        learners.count().max(lost)
    }

    /// Bytes of data on the nodes that answer, for each copy there.
    fn usual_size(&self) -> u64 {
        let data: u64 = self.disks.values().map(|(_, data)| data).sum();
        let copies = self.ranges.iter().flat_map(|range| &range.descriptor.replicas);
        let copies = copies.filter(|replica| self.disks.contains_key(&replica.node)).count();
        data / (copies as u64).max(1)
    }
}
