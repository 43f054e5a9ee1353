//! The meta range's copies: every node has one, since it is its directory, and some of them count.
//!
//! Invariants: a node's copy is the last that it loses; a voter that is moved for failure domains keeps
//! its copy, as a learner; each such change makes the number of voters in the fullest failure domain that
//! has too many smaller, so there is an end; the leader is not the one that stops counting.

use super::{Board, RangeSight, Step, Why};
use crate::bootstrap::meta_voters;
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaDescriptor, ReplicaKind, Room};
use crate::ids::{META_RANGE, NodeId};

fn learners(range: &RangeDescriptor) -> impl Iterator<Item = ReplicaDescriptor> + '_ {
    range.replicas.iter().copied().filter(|replica| replica.kind == ReplicaKind::Learner)
}

impl Board<'_> {
    /// Voters in the failure domain of a node, but for the one on `without`.
    fn voters_beside(
        &self,
        range: &RangeDescriptor,
        node: NodeId,
        without: Option<NodeId>,
    ) -> usize {
        let domain = |node| self.places.get(&node).map(|place| place.domain);
        let voters = range.voters().filter(|voter| Some(voter.node) != without);
        voters.filter(|voter| domain(voter.node) == domain(node)).count()
    }

    fn room(&self, node: NodeId) -> Room {
        self.places.get(&node).map_or(Room::Little, |place| place.sight.facts.room)
    }

    /// The next step so that every node has a copy, and enough of them count.
    pub(super) fn plan_meta(&self, range: &RangeSight<'_>) -> Option<Step> {
        let descriptor = range.descriptor;
        let step = |add: Option<NodeId>, remove: Option<NodeId>, why: Why| {
            Some(Step::of(descriptor, add, remove, why))
        };
        let holds_data = |node: NodeId| self.places.get(&node).is_some_and(|own| own.copies > 0);
        let back = |node: NodeId| {
            let place = self.places.get(&node);
            place.is_some_and(|place| place.sight.state != NodeState::Tombstoned)
        };
        // Also one that is being drained: it is a gateway, and must know where ranges are.
        let stays = |node: NodeId| !self.loses(node) && self.answers(node);
        let mut nodes = self.places.keys().copied();
        let without = nodes.find(|node| stays(*node) && descriptor.replica_on(*node).is_none());
        let gone = descriptor.replicas.iter().find(|replica| self.loses(replica.node)).copied();
        let begun = |gone: Option<NodeId>| {
            let up = learners(descriptor).map(|own| own.node).filter(|node| self.is_up(*node));
            up.min_by_key(|node| (self.voters_beside(descriptor, *node, gone), *node))
        };
        if let Some(gone) = gone.filter(|gone| !(back(gone.node) && holds_data(gone.node))) {
            let state = self.places.get(&gone.node).map(|place| place.sight.state);
            let why = Why::Leaves(gone.node, state);
            return match (gone.kind, begun(Some(gone.node)), without) {
                (ReplicaKind::Voter, Some(begun), _) => step(Some(begun), Some(gone.node), why),
                (ReplicaKind::Voter, None, Some(new)) => step(Some(new), None, why),
                _ => step(None, Some(gone.node), why),
            };
        }
        let stay = self.places.values().filter(|place| place.sight.stays()).count();
        let (has, wanted) =
            (descriptor.voters().count(), meta_voters(stay, self.survey.copies_max));
        match begun(None) {
            Some(begun) if has < wanted => step(Some(begun), None, Why::TooFew { has, wanted }),
            Some(_) | None => step(Some(without?), None, Why::Directory),
        }
    }

    /// A voter that had better be in another failure domain, where a learner takes its place. Only while
    /// all of them answer: a change of voters needs a majority of the old ones and of the new ones.
    pub(super) fn spread_voters(&self) -> Option<Step> {
        let meta = |range: &&RangeSight<'_>| range.descriptor.id == META_RANGE;
        let range = self.survey.ranges.iter().find(meta).filter(|_| self.survey.swaps)?;
        let (descriptor, leader) = (range.descriptor, range.leader?);
        if !descriptor.voters().all(|voter| self.is_up(voter.node)) {
            return None;
        }
        let beside = |node: NodeId| self.voters_beside(descriptor, node, None);
        // Of two that share a failure domain one does not lead.
        let voters = descriptor.voters().map(|voter| voter.node).filter(|node| *node != leader);
        let from = voters.max_by_key(|node| (beside(*node), self.room(*node), *node))?;
        let may = |node: &NodeId| self.is_up(*node) && self.room(*node) != Room::Little;
        let to = learners(descriptor).map(|learner| learner.node).filter(may);
        let to = to.min_by_key(|node| (beside(*node), self.room(*node), *node))?;
        // Else as many would share the other one, and so to and fro.
        if beside(to) + 1 >= beside(from) {
            return None;
        }
        let why = Why::Voters { from: self.name(from), to: self.name(to) };
        Some(Step { swap: true, ..Step::of(descriptor, Some(to), Some(from), why) })
    }
}
