//! Moving one copy of a range on command: learner, catch-up, one joint change. An only copy goes by way
//! of two: the new one counts first, then leads, and then the old one goes.
//!
//! The meta range remembers what was asked for until it is done, so that a crash of any leader on the
//! way loses nothing; its leader asks the range for the next step again and again (`members`).
//!
//! Invariants: a move never leaves a range with fewer copies than before; what is about to lose or
//! gain copies for another reason is not moved.

use super::Node;
use crate::command::{MetaChange, MetaEntry};
use crate::descriptor::{NodeState, RangeDescriptor, ReplicaKind};
use crate::effects::Millis;
use crate::ids::{META_RANGE, NodeId, RangeId, RequestId};
use crate::meta::Move;
use crate::planner;

/// Moves that are under way at most: each takes a raft snapshot.
const MOVES_MAX: usize = 16;
/// A move to a node that has not answered for so long is given up.
const GIVE_UP_MS: Millis = 60_000;

impl Node {
    /// May a copy of `range` go from one node to another?
    ///
    /// # Errors
    /// The reason why not, and what to do.
    pub(super) fn may_move(&self, range: RangeId, way: Move) -> Result<(), String> {
        let Move { from, to } = way;
        let Some(descriptor) = self.meta.ranges().get(&range) else {
            return Err(format!("there is no range {range}"));
        };
        if range == META_RANGE {
            return Err(format!("{range} is the directory: every node has a copy of it"));
        }
        if from == to {
            return Err(format!("the copy of {range} is on {from} already"));
        }
        if self.meta.moves().get(&range) == Some(&way) {
            return Ok(());
        }
        let state = |node: NodeId| self.meta.nodes().get(&node).map(|record| record.state);
        match state(to) {
            None | Some(NodeState::Tombstoned) => return Err(format!("there is no node {to}")),
            Some(NodeState::Up) if self.answers(to) => {}
            Some(NodeState::Up) => return Err(format!("{to} does not answer")),
            Some(state) => return Err(format!("{to} is {state:?}: it takes no copies")),
        }
        let Some(own) = descriptor.replica_on(from) else {
            return Err(format!("{from} has no copy of {range}: see `ranges`"));
        };
        if state(from).is_none_or(NodeState::loses_replicas) {
            return Err(format!("{from} gives all its copies away already"));
        }
        if descriptor.replica_on(to).is_some() {
            return Err(format!("{to} has a copy of {range} already"));
        }
        if self.meta.merges().of(range).is_some() {
            return Err(format!("{range} takes part in a merge: try again when it is done"));
        }
        let changing = descriptor.replicas.iter().any(|other| other.kind == ReplicaKind::Learner);
        if changing || own.kind == ReplicaKind::Learner || self.meta.moves().contains_key(&range) {
            return Err(format!(
                "another copy of {range} is being made: try again when it is done"
            ));
        }
        let here = descriptor.voters().filter(|voter| self.answers(voter.node)).count();
        if here < descriptor.quorum() {
            return Err(format!("{range} has no majority: {here} of its copies are reachable"));
        }
        if self.meta.moves().len() >= MOVES_MAX {
            return Err(format!("{MOVES_MAX} moves are under way: try again when one is done"));
        }
        planner::would_stay(&self.survey(), &self.sight(descriptor), way)
    }

    /// What a move needs next: add there, remove here. Nothing if the range is not being moved.
    pub(super) fn move_step(&self, range: &RangeDescriptor) -> Option<Move> {
        let way = *self.meta.moves().get(&range.id)?;
        (!self.is_over(range, way)).then_some(way)
    }

    /// Forgets moves that are done, or cannot be.
    pub(super) fn end_moves(&mut self) {
        let over: Vec<RangeId> = self
            .meta
            .moves()
            .iter()
            .filter(|(range, way)| {
                let known = self.meta.ranges().get(range);
                known.is_none_or(|descriptor| self.is_over(descriptor, **way))
            })
            .map(|(range, _)| *range)
            .collect();
        for range in over {
            let change = MetaChange::MoveEnded { range };
            self.service.change(MetaEntry { id: RequestId::default(), change });
        }
    }

    fn is_over(&self, range: &RangeDescriptor, way: Move) -> bool {
        let arrived = range.voters().any(|voter| voter.node == way.to);
        let left = range.replica_on(way.from).is_none();
        // Of an only copy there are two for a moment; the old one has still to go.
        if arrived && !left && range.voters().count() > self.meta.copies_meant(range) {
            return false;
        }
        let up = self.meta.nodes().get(&way.to).map(|record| record.state) == Some(NodeState::Up);
        let lost = self
            .peers
            .get(&way.to)
            .is_some_and(|peer| peer.down && self.now > peer.down_since + GIVE_UP_MS);
        arrived || left || !up || lost
    }
}
